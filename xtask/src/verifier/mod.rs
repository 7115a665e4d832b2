//! `cargo xtask verifier`: how large each kernel program is, and how much of it the verifier follows,
//! on this kernel and on others, beside the figures that are stored.
//!
//! The verifier gives up at a million instructions, on kernels that this machine does not have too; a
//! program that grows is seen here first.

mod figures;
mod verdict;

use std::{
    fs,
    path::PathBuf,
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result};

pub use verdict::{Verdict, Verdicts};

use crate::{
    build,
    outcome::Tally,
    setup,
    vm::{self, Cell, Lsm, Matrix},
    workspace,
};
use figures::Figures;

/// The stored figures, in the checkout.
const FILE: &str = "agentwatch-ebpf/verifier.tsv";
/// This machine's kernel, for `--kernel`.
const HOST: &str = "host";
/// What stores new figures.
const UPDATE: &str = "cargo xtask verifier --update";

/// What `verifier` can be told.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A kernel: `host` for this machine's, or one that `cargo xtask vm` boots (5.10, 6.1, 6.12, 7);
    /// `all` for all of these. Can be given more than once.
    #[arg(long, default_value = "all")]
    kernel: Vec<String>,
    /// Store the figures of these kernels.
    #[arg(long)]
    update: bool,
}

/// Asks each kernel, prints the table, and compares or stores the figures.
pub fn run(args: &Args) -> Result<ExitCode> {
    if let Err(error) = setup::ensure(&[setup::Group::Bpf, setup::Group::Vm]) {
        eprintln!("setup: {error:#}");
    }
    let mut tally = Tally::default();
    let mut verdicts = Vec::new();
    let (host, others): (Vec<String>, Vec<String>) =
        args.kernel.iter().cloned().partition(|word| word == HOST);
    if !host.is_empty() || others.iter().any(|word| word == "all") {
        verdicts.extend(of_host(&mut tally)?);
    }
    let versions = vm::versions(&others);
    if !versions.is_empty()
        && let Some(matrix) = Matrix::build()?.or_skip(&mut tally)
    {
        for version in versions {
            let cell = Cell {
                version,
                lsm: Lsm::With,
            };
            verdicts.extend(matrix.figures(&cell, &mut tally));
        }
    }
    if args.update {
        update(&verdicts)?;
    }
    judge(&verdicts, &mut tally)?;
    println!("{tally}");
    Ok(if tally.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// What this machine's kernel says. Where it cannot be asked, says so and counts it as skipped.
pub fn of_host(tally: &mut Tally) -> Result<Option<Verdicts>> {
    if !workspace::is_root()? {
        println!("verifier skipped on this machine: programs are loaded as root");
        tally.skipped += 1;
        return Ok(None);
    }
    let printed = workspace::output(Command::new(build::agentwatch(false)?).arg("verifier"))?;
    let verdicts = printed
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("reading {line:?}")))
        .collect::<Result<Vec<Verdict>>>()?;
    let release = workspace::output(Command::new("uname").arg("-r"))?;
    Verdicts::new(release.trim(), verdicts).map(Some)
}

/// Prints the table, and counts each kernel as a test: it fails where a program is refused, or is not
/// in the stored figures, or is more than a fifth larger than there.
pub fn judge(verdicts: &[Verdicts], tally: &mut Tally) -> Result<()> {
    if verdicts.is_empty() {
        return Ok(());
    }
    let stored = stored()?;
    print!("\n{}", verdict::table(verdicts));
    for verdicts in verdicts {
        let judgement = stored.compare(verdicts);
        for note in &judgement.notes {
            println!("verifier {}: {note}", verdicts.series);
        }
        for complaint in &judgement.complaints {
            println!("verifier {}: {complaint}", verdicts.series);
        }
        let ok = judgement.complaints.is_empty();
        println!(
            "test verifier {} ({}) ... {}",
            verdicts.series,
            verdicts.release,
            if ok { "ok" } else { "FAILED" }
        );
        if ok {
            tally.passed += 1;
        } else {
            tally.failed += 1;
        }
    }
    Ok(())
}

fn path() -> Result<PathBuf> {
    Ok(workspace::root()?.join(FILE))
}

fn stored() -> Result<Figures> {
    let path = path()?;
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    Figures::parse(&text).with_context(|| format!("{FILE}; `{UPDATE}` writes it anew"))
}

/// Stores the figures of these kernels; those of others stay.
fn update(verdicts: &[Verdicts]) -> Result<()> {
    let path = path()?;
    let mut figures = if path.exists() {
        stored()?
    } else {
        Figures::default()
    };
    for verdicts in verdicts {
        figures.store(verdicts);
    }
    fs::write(&path, figures.to_string()).with_context(|| format!("writing {}", path.display()))?;
    println!("stored in {FILE}");
    Ok(())
}
