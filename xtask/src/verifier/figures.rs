//! The stored figures, and what has become of them.

use std::{collections::BTreeMap, fmt};

use anyhow::{Context as _, Result, bail};

use super::{
    UPDATE,
    verdict::{State, Verdicts},
};

const HEAD: &str = "\
# The size of each kernel program, by kernel: instructions as the kernel keeps them (translated), and as
# many as the verifier followed, which gives up at 1000000; - where the kernel does not tell (before 5.16).
# A check fails where a figure grows by more than a fifth, or a program is refused. Written by
# `cargo xtask verifier --update`, but for the lines `refused`: a person writes those, where a kernel
# lacks what a program needs and agentwatch does without it, with the reason in the last column.
# kernel\tprogram\ttranslated\tverified
";

/// A kernel's series, like 6.1: figures are the same within it, by and large.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Series(u32, u32);

impl Series {
    /// The series of a release: `6.1.0-56-cloud-amd64` is of 6.1.
    pub fn of(release: &str) -> Option<Self> {
        let mut numbers = release.split(|c: char| !c.is_ascii_digit());
        let mut next = || numbers.next().and_then(|number| number.parse().ok());
        Some(Self(next()?, next()?))
    }
}

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // As one text, so that a width applies to it.
        f.pad(&format!("{}.{}", self.0, self.1))
    }
}

/// The size of one program on one kernel, instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Figure {
    /// As the kernel keeps them.
    pub xlated: u32,
    /// As the verifier followed them; `None` where the kernel does not tell.
    pub verified: Option<u32>,
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.verified {
            Some(verified) => write!(f, "{}/{verified}", self.xlated),
            None => write!(f, "{}/-", self.xlated),
        }
    }
}

/// What is stored of one program on one kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stored {
    Figure(Figure),
    /// Known not to be taken, for this reason.
    Refused(String),
}

/// All that is stored.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Figures(BTreeMap<(Series, String), Stored>);

/// How a kernel compares with what is stored of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Judgement {
    /// What is to be repaired, or stored.
    pub complaints: Vec<String>,
    /// What is to be known.
    pub notes: Vec<String>,
}

impl Figures {
    /// Reads a file that [`Figures`] was written to.
    pub fn parse(text: &str) -> Result<Self> {
        let mut figures = BTreeMap::new();
        for (number, line) in text.lines().enumerate() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (key, figure) = row(line).with_context(|| {
                format!(
                    "line {}: not kernel, program and two numbers: {line:?}",
                    number + 1
                )
            })?;
            if figures.insert(key, figure).is_some() {
                bail!("line {}: twice the same program: {line:?}", number + 1);
            }
        }
        Ok(Self(figures))
    }

    /// Takes over a kernel's figures, and forgets what was stored of it.
    pub fn store(&mut self, verdicts: &Verdicts) {
        self.0.retain(|(series, _), stored| {
            *series != verdicts.series || matches!(stored, Stored::Refused(_))
        });
        for verdict in &verdicts.programs {
            if let Some(figure) = verdict.figure() {
                let key = (verdicts.series, verdict.program.clone());
                self.0.insert(key, Stored::Figure(figure));
            }
        }
    }

    /// Compares a kernel with what is stored of it.
    pub fn compare(&self, verdicts: &Verdicts) -> Judgement {
        let mut judgement = Judgement::default();
        let series = verdicts.series;
        let is_known = self.0.keys().any(|(known, _)| *known == series);
        if !is_known {
            judgement.notes.push(format!(
                "no figures are stored of this kernel; `{UPDATE}` stores them"
            ));
        }
        // What is so for the same reason is said together.
        let mut left: BTreeMap<(&str, String), Vec<&str>> = BTreeMap::new();
        for verdict in &verdicts.programs {
            let name = verdict.program.as_str();
            let reason = in_one_line(verdict.reason.as_deref().unwrap_or("no reason given"));
            let stored = self.0.get(&(series, name.to_owned()));
            match verdict.state {
                State::Refused => match stored {
                    Some(Stored::Refused(why)) => left
                        .entry(("known to be refused", why.clone()))
                        .or_default()
                        .push(name),
                    _ => judgement
                        .complaints
                        .push(format!("{name} is refused: {reason}")),
                },
                State::Forbidden => left
                    .entry(("forbidden here", reason))
                    .or_default()
                    .push(name),
                State::Absent => left.entry(("absent here", reason)).or_default().push(name),
                State::Accepted => {}
            }
            let Some(new) = verdict.figure().filter(|_| is_known) else {
                continue;
            };
            match stored {
                Some(Stored::Refused(_)) => judgement.notes.push(format!(
                    "{name} ({new}) is stored as refused and is accepted; `{UPDATE}` stores that"
                )),
                None => judgement.complaints.push(format!(
                    "{name} ({new}) is not among the stored figures; `{UPDATE}` stores it"
                )),
                Some(Stored::Figure(old)) => {
                    let pairs = [
                        ("translated", Some(old.xlated), Some(new.xlated)),
                        ("verified", old.verified, new.verified),
                    ];
                    for (what, old, new) in pairs {
                        if let (Some(old), Some(new)) = (old, new)
                            && grew(old, new)
                        {
                            judgement.complaints.push(format!(
                                "{name} grew by more than a fifth: {old} instructions {what} are \
                                 stored, now {new}; if that is meant, `{UPDATE}` stores it"
                            ));
                        }
                    }
                }
            }
        }
        for ((what, reason), names) in left {
            judgement
                .notes
                .push(format!("{what}: {}: {reason}", names.join(", ")));
        }
        for (_, name) in self.0.keys().filter(|(known, _)| *known == series) {
            if !verdicts.programs.iter().any(|v| v.program == *name) {
                judgement.notes.push(format!(
                    "{name} is stored and is no program any more; `{UPDATE}` forgets it"
                ));
            }
        }
        judgement
    }
}

fn in_one_line(text: &str) -> String {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join(" | ")
}

/// By more than a fifth.
fn grew(old: u32, new: u32) -> bool {
    u64::from(new) * 5 > u64::from(old) * 6
}

fn row(line: &str) -> Option<((Series, String), Stored)> {
    let mut fields = line.split('\t');
    let (series, program) = (fields.next()?, fields.next()?);
    let (xlated, verified) = (fields.next()?, fields.next()?);
    let stored = if xlated == "refused" {
        Stored::Refused(verified.to_owned())
    } else {
        let verified = match verified {
            "-" => None,
            number => Some(number.parse().ok()?),
        };
        let xlated = xlated.parse().ok()?;
        Stored::Figure(Figure { xlated, verified })
    };
    let key = (Series::of(series)?, program.to_owned());
    fields.next().is_none().then_some((key, stored))
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HEAD)?;
        for ((series, program), stored) in &self.0 {
            write!(f, "{series}\t{program}\t")?;
            match stored {
                Stored::Refused(why) => writeln!(f, "refused\t{why}")?,
                Stored::Figure(Figure { xlated, verified }) => match verified {
                    Some(verified) => writeln!(f, "{xlated}\t{verified}")?,
                    None => writeln!(f, "{xlated}\t-")?,
                },
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Verdict, *};

    fn kernel(release: &str, programs: &[(&str, u32, u32)]) -> Verdicts {
        let verdicts = programs.iter().map(|(name, xlated, verified)| Verdict {
            program: (*name).to_owned(),
            state: State::Accepted,
            xlated: Some(*xlated),
            verified: Some(*verified),
            reason: None,
        });
        Verdicts::new(release, verdicts.collect()).unwrap()
    }

    fn stored() -> Figures {
        Figures::parse("# head\n6.1\texec\t1000\t5000\n5.10\texec\t100\t-\n6.1\tfork\t50\t60\n")
            .unwrap()
    }

    #[test]
    fn a_fifth_more_is_allowed() {
        let same = kernel("6.1.9", &[("exec", 1200, 6000), ("fork", 1, 1)]);
        assert_eq!(stored().compare(&same), Judgement::default());
    }

    #[test]
    fn more_than_a_fifth_is_not() {
        let larger = kernel("6.1.9", &[("exec", 1201, 6001), ("fork", 50, 60)]);
        let judgement = stored().compare(&larger);
        assert_eq!(judgement.complaints.len(), 2, "{judgement:?}");
        for (complaint, numbers) in judgement
            .complaints
            .iter()
            .zip([["1000", "1201"], ["5000", "6001"]])
        {
            assert!(complaint.starts_with("exec grew"), "{complaint}");
            assert!(complaint.contains("--update"), "{complaint}");
            for number in numbers {
                assert!(complaint.contains(number), "{complaint}");
            }
        }
    }

    #[test]
    fn a_new_program_and_one_that_is_refused_are_complaints() {
        let mut kernel = kernel("6.1.9", &[("exec", 1, 1), ("fork", 1, 1), ("new", 1, 1)]);
        kernel.programs[0].state = State::Refused;
        kernel.programs[0].reason = Some("back-edge".to_owned());
        let judgement = stored().compare(&kernel);
        let [refused, new] = &judgement.complaints[..] else {
            panic!("{judgement:?}");
        };
        assert_eq!(refused, "exec is refused: back-edge");
        assert!(
            new.starts_with("new (1/1) is not among the stored"),
            "{new}"
        );
    }

    #[test]
    fn what_the_host_forbids_and_what_a_kernel_lacks_is_only_said() {
        let mut kernel = kernel("6.1.9", &[("exec", 1, 1), ("fork", 1, 1)]);
        kernel.programs[0].state = State::Forbidden;
        kernel.programs[1].state = State::Absent;
        let judgement = stored().compare(&kernel);
        assert!(judgement.complaints.is_empty(), "{judgement:?}");
        assert_eq!(judgement.notes.len(), 2, "{judgement:?}");
    }

    #[test]
    fn a_known_refusal_is_only_said_and_is_kept() {
        let mut figures = Figures::parse("5.10\tsysctl\trefused\tlacks a helper\n").unwrap();
        let mut kernel = kernel("5.10.0", &[("sysctl", 1, 1)]);
        let accepted = figures.compare(&kernel);
        assert!(accepted.notes[0].contains("is accepted"), "{accepted:?}");

        kernel.programs[0].state = State::Refused;
        kernel.programs[0].xlated = None;
        let judgement = figures.compare(&kernel);
        assert_eq!(judgement.complaints, [""; 0]);
        assert_eq!(
            judgement.notes,
            ["known to be refused: sysctl: lacks a helper"]
        );
        let before = figures.to_string();
        figures.store(&kernel);
        assert_eq!(figures.to_string(), before);
    }

    #[test]
    fn a_kernel_without_figures_is_said_and_does_not_fail() {
        let judgement = stored().compare(&kernel("7.2.12+deb13", &[("exec", 1, 1)]));
        assert!(judgement.complaints.is_empty(), "{judgement:?}");
        assert_eq!(judgement.notes.len(), 1, "{judgement:?}");
    }

    #[test]
    fn a_kernel_that_tells_only_one_figure_is_compared_by_that() {
        let judgement = stored().compare(&kernel("5.10.0", &[("exec", 121, 9)]));
        assert_eq!(judgement.complaints.len(), 1, "{judgement:?}");
    }

    #[test]
    fn what_is_stored_is_read_again() {
        let mut figures = stored();
        figures.store(&kernel("6.1.9", &[("exec", 7, 8)]));
        let text = figures.to_string();
        assert_eq!(Figures::parse(&text).unwrap(), figures);
        // Old kernels first, by number; what is no program any more is forgotten.
        let rows: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            rows,
            ["5.10\texec\t100\t-", "6.1\texec\t7\t8"].map(|row| row)
        );
    }

    #[test]
    fn a_broken_file_is_told_by_line() {
        for text in ["6.1\texec\t7\n", "6.1\texec\t7\t8\t9\n", "x\texec\t7\t8\n"] {
            let error = Figures::parse(text).unwrap_err();
            assert!(error.to_string().starts_with("line 1: "), "{error:#}");
        }
        let twice = "6.1\texec\t7\t8\n6.1\texec\t7\t8\n";
        assert!(Figures::parse(twice).is_err());
    }
}
