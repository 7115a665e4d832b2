//! What kernels said of the programs, and the table of it.

use std::{collections::BTreeSet, fmt::Write as _};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use super::figures::{Figure, Series};

/// What became of a program, as `agentwatch verifier` prints it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// The verifier takes it.
    Accepted,
    /// It does not.
    Refused,
    /// The host's policy does not allow this type of program.
    Forbidden,
    /// The kernel does not have what it would be attached to.
    Absent,
}

/// One program on one kernel, as `agentwatch verifier` prints it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Verdict {
    /// The program's name in the object.
    pub program: String,
    /// What became of it.
    pub state: State,
    /// Instructions after the verifier has rewritten them.
    pub xlated: Option<u32>,
    /// Instructions that the verifier followed; `None` before Linux 5.16.
    pub verified: Option<u32>,
    /// Why it is not accepted.
    pub reason: Option<String>,
}

impl Verdict {
    /// The figures of an accepted program.
    pub fn figure(&self) -> Option<Figure> {
        let accepted = self.state == State::Accepted;
        accepted
            .then_some(self.xlated)
            .flatten()
            .map(|xlated| Figure {
                xlated,
                verified: self.verified,
            })
    }
}

/// All programs on one kernel.
#[derive(Debug, Clone)]
pub struct Verdicts {
    /// The kernel's release: `6.1.0-56-cloud-amd64`.
    pub release: String,
    /// Its series: 6.1.
    pub series: Series,
    /// The programs.
    pub programs: Vec<Verdict>,
}

impl Verdicts {
    /// Those of a kernel, by its release.
    pub fn new(release: &str, programs: Vec<Verdict>) -> Result<Self> {
        if programs.is_empty() {
            bail!("kernel {release} said nothing of any program");
        }
        let series = Series::of(release)
            .with_context(|| format!("{release:?} is no kernel's release, like 6.1.0"))?;
        Ok(Self {
            release: release.to_owned(),
            series,
            programs,
        })
    }
}

/// A table of programs and kernels, `translated/verified` in each cell.
pub fn table(kernels: &[Verdicts]) -> String {
    let names: BTreeSet<&str> = kernels
        .iter()
        .flat_map(|kernel| &kernel.programs)
        .map(|verdict| verdict.program.as_str())
        .collect();
    let width = names.iter().map(|name| name.len()).max().unwrap_or(0);
    let mut text = format!("{:width$}", "program");
    for kernel in kernels {
        let _ = write!(text, "  {:>14}", kernel.series.to_string());
    }
    text.push('\n');
    for name in names {
        let _ = write!(text, "{name:width$}");
        for kernel in kernels {
            let verdict = kernel.programs.iter().find(|v| v.program == name);
            let _ = write!(text, "  {:>14}", verdict.map_or_else(String::new, cell));
        }
        text.push('\n');
    }
    text + "(instructions as the kernel keeps them/as the verifier followed them)\n"
}

fn cell(verdict: &Verdict) -> String {
    match (verdict.figure(), verdict.state) {
        (Some(figure), _) => figure.to_string(),
        (None, State::Accepted) => "accepted".to_owned(),
        (None, State::Refused) => "REFUSED".to_owned(),
        (None, State::Forbidden) => "forbidden".to_owned(),
        (None, State::Absent) => "absent".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(program: &str, state: State, figures: Option<(u32, Option<u32>)>) -> Verdict {
        Verdict {
            program: program.to_owned(),
            state,
            xlated: figures.map(|figures| figures.0),
            verified: figures.and_then(|figures| figures.1),
            reason: None,
        }
    }

    #[test]
    fn a_program_has_a_row_and_a_kernel_a_column() {
        let old = [
            verdict("exec", State::Accepted, Some((1340, None))),
            verdict("path_unlink", State::Refused, None),
        ];
        let new = [
            verdict("exec", State::Accepted, Some((1341, Some(74_269)))),
            verdict("path_unlink", State::Forbidden, None),
            verdict("file_open", State::Absent, None),
        ];
        let kernels = [
            Verdicts::new("5.10.0-46-cloud-amd64", old.to_vec()).unwrap(),
            Verdicts::new("6.18.35", new.to_vec()).unwrap(),
        ];
        let words: Vec<Vec<String>> = table(&kernels)
            .lines()
            .map(|line| line.split_whitespace().map(str::to_owned).collect())
            .collect();
        assert_eq!(words[0], ["program", "5.10", "6.18"]);
        assert_eq!(words[1], ["exec", "1340/-", "1341/74269"]);
        assert_eq!(words[2], ["file_open", "absent"]);
        assert_eq!(words[3], ["path_unlink", "REFUSED", "forbidden"]);
    }

    #[test]
    fn a_kernel_that_says_nothing_is_an_error() {
        assert!(Verdicts::new("6.1.0", Vec::new()).is_err());
    }
}
