//! How a step of `cargo xtask test` can end, and the sum of all tests.

use std::fmt;

/// What became of a step that did not fail.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It ran, and all was well.
    Passed,
    /// It could not run here, for this reason.
    Skipped(String),
}

/// Numbers of tests, added up over the summary lines of test programs.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Tally {
    /// Tests that passed.
    pub passed: u64,
    /// Tests, or whole steps, that failed.
    pub failed: u64,
    /// Tests, or whole steps, that could not run.
    pub skipped: u64,
}

impl Tally {
    /// Adds what a line says, if it is a summary: `test result: ok. 12 passed; 0 failed; 1
    /// ignored; …`, as libtest and libtest-mimic print it.
    pub fn read_line(&mut self, line: &str) {
        let Some((_, summary)) = line.split_once("test result: ") else {
            return;
        };
        let words: Vec<&str> = summary.split_whitespace().collect();
        for pair in words.windows(2) {
            let Ok(number) = pair[0].parse::<u64>() else {
                continue;
            };
            match pair[1].trim_end_matches(';') {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.skipped += number,
                _ => {}
            }
        }
    }

    /// Adds another tally.
    pub fn add(&mut self, other: &Self) {
        let Self {
            passed,
            failed,
            skipped,
        } = other;
        self.passed += passed;
        self.failed += failed;
        self.skipped += skipped;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            passed,
            failed,
            skipped,
        } = self;
        write!(f, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

#[cfg(test)]
mod tests {
    use super::Tally;

    #[test]
    fn sums_summary_lines_only() {
        let mut tally = Tally::default();
        for line in [
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.00s",
            "test some::test ... ok",
            "5 passed, 7 failed",
            "\u{1b}[0mtest result: FAILED. 2 passed; 3 failed; 4 ignored; 0 measured; 0 filtered out",
        ] {
            tally.read_line(line);
        }
        assert_eq!(tally.to_string(), "14 passed, 3 failed, 5 skipped");
    }
}
