//! `cargo xtask test`: every check, one after the other, with a table at the end.

use std::{
    env,
    io::{BufRead as _, BufReader},
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    bpf, dashboards, image,
    outcome::{Outcome, Tally},
    setup::{self, Group, python},
    verifier::{self, Verdicts},
    vm::{Cell, Lsm, Matrix},
    workspace,
};

/// What `test` can be told.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Leave out the virtual machine.
    #[arg(long)]
    no_vm: bool,
    /// Leave out the virtual machine, the image, the documentation and cargo-deny.
    #[arg(long)]
    fast: bool,
}

/// Runs the steps; the last line printed is the sum of all tests.
pub fn run(args: &Args) -> ExitCode {
    let mut steps = Steps::default();
    let ready = steps.run("setup", |_| prepare(args));
    steps.run("fmt", |_| check(&["fmt", "--all", "--check"]));
    let built = ready && steps.run("build", |_| host(&["test", "--no-run"], &[]));
    // Without a build the other steps would only repeat the compiler's errors.
    if built {
        steps.run("clippy", |_| {
            host(&["clippy", "--all-targets"], &["--", "-D", "warnings"])
        });
        steps.run("clippy for BPF", |_| clippy_bpf());
        if !args.fast {
            steps.run("deny", |_| deny());
            steps.run("doc", |_| doc());
        }
        steps.run("test", run_tests);
        steps.run("dashboards", dashboards::test);
        if !args.fast {
            steps.run("image", image::test);
        }
        if !(args.fast || args.no_vm) {
            steps.run("vm", run_vms);
        }
    }
    steps.finish()
}

/// Setup must bring the BPF toolchain; where it fails to bring the rest, the tests that need it
/// say so themselves.
fn prepare(args: &Args) -> Result<Outcome> {
    setup::ensure(&[Group::Bpf])?;
    let mut wanted = vec![
        Group::E2e,
        Group::Python,
        Group::Clickhouse,
        Group::Dashboards,
    ];
    if !args.fast {
        wanted.extend([Group::Deny, Group::Image]);
        if !args.no_vm {
            wanted.push(Group::Vm);
        }
    }
    for group in wanted {
        if let Err(error) = setup::ensure(&[group]) {
            eprintln!("setup: some tests will be skipped: {error:#}");
        }
    }
    Ok(Outcome::Passed)
}

/// A cargo command for all crates but the kernel programs, which do not build for this machine.
fn host_cargo(words: &[&str]) -> Result<Command> {
    let mut cargo = workspace::cargo()?;
    cargo
        .args(words)
        .args(["--workspace", "--exclude", bpf::PACKAGE]);
    Ok(cargo)
}

fn host(words: &[&str], last: &[&str]) -> Result<Outcome> {
    workspace::run(host_cargo(words)?.args(last))?;
    Ok(Outcome::Passed)
}

fn check(words: &[&str]) -> Result<Outcome> {
    workspace::run(workspace::cargo()?.args(words))?;
    Ok(Outcome::Passed)
}

fn clippy_bpf() -> Result<Outcome> {
    let toolchain = bpf::find().map_err(anyhow::Error::msg)?;
    // Where build.rs has its own, so that dependencies are shared.
    let target_dir = workspace::target_dir()?.join("bpf");
    let mut clippy = bpf::cargo(&toolchain, "clippy", &workspace::root()?, &target_dir);
    workspace::run(clippy.args(["--", "-D", "warnings"]))?;
    Ok(Outcome::Passed)
}

fn deny() -> Result<Outcome> {
    let Some(deny) = setup::cargo_deny()? else {
        return Ok(Outcome::Skipped(
            "cargo-deny is missing: `cargo xtask setup --only deny`".into(),
        ));
    };
    let mut deny = Command::new(deny);
    deny.args([
        "check",
        "--hide-inclusion-graph",
        "bans",
        "licenses",
        "sources",
    ])
    .current_dir(workspace::root()?);
    workspace::run(&mut deny)?;
    Ok(Outcome::Passed)
}

fn doc() -> Result<Outcome> {
    let mut doc = host_cargo(&["doc", "--no-deps"])?;
    workspace::run(doc.env("RUSTDOCFLAGS", "-D warnings"))?;
    Ok(Outcome::Passed)
}

/// Runs the tests, shows what they print as they print it, and counts them.
fn run_tests(tally: &mut Tally) -> Result<Outcome> {
    let mut cargo = host_cargo(&["test", "--no-fail-fast"])?;
    // What pip has brought comes last: a program that is there already is just as good.
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain([python::bin()?]);
    cargo.env("PATH", env::join_paths(folders).context("reading PATH")?);
    let mut child = cargo
        .stdout(Stdio::piped())
        .spawn()
        .context("starting cargo test")?;
    let stdout = child.stdout.take().context("cargo test has no output")?;
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line.context("reading what the tests print")?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        tally.read_line(&line);
    }
    let status = child.wait().context("waiting for cargo test")?;
    if !status.success() {
        bail!("cargo test failed ({status})");
    }
    Ok(Outcome::Passed)
}

/// The kernels that are booted each time; the others by name (`cargo xtask vm --kernel`).
const VMS: [(&str, Lsm); 3] = [
    ("6.1", Lsm::With),
    ("6.1", Lsm::Without),
    ("6.12", Lsm::With),
];

/// Runs the tests on other kernels, and asks their verifiers and this machine's.
fn run_vms(tally: &mut Tally) -> Result<Outcome> {
    let mut verdicts: Vec<Verdicts> = verifier::of_host(tally)?.into_iter().collect();
    if let Some(matrix) = Matrix::build()?.or_skip(tally) {
        for (version, lsm) in VMS {
            let cell = Cell {
                version: version.to_owned(),
                lsm,
            };
            verdicts.extend(matrix.test(&cell, false, tally));
        }
        let (version, lsm) = VMS[0];
        let cell = Cell {
            version: version.to_owned(),
            lsm,
        };
        matrix.systemd(&cell, false, tally);
    }
    verifier::judge(&verdicts, tally)?;
    if tally.failed > 0 {
        bail!("{} failed; see above", tally.failed);
    }
    Ok(Outcome::Passed)
}

/// The steps so far.
#[derive(Debug, Default)]
struct Steps {
    rows: Vec<Row>,
    tally: Tally,
}

#[derive(Debug)]
struct Row {
    name: &'static str,
    took: Duration,
    result: &'static str,
    note: String,
}

impl Steps {
    /// Runs one step, announced and timed. False if it failed.
    fn run(
        &mut self,
        name: &'static str,
        step: impl FnOnce(&mut Tally) -> Result<Outcome>,
    ) -> bool {
        println!("\n=== {name}");
        let start = Instant::now();
        let mut tally = Tally::default();
        let (result, note) = match step(&mut tally) {
            Ok(Outcome::Passed) => ("ok", String::new()),
            Ok(Outcome::Skipped(reason)) => {
                tally.skipped += 1;
                ("skipped", reason)
            }
            Err(error) => {
                // A failed step counts, lest the last line say that nothing failed.
                tally.failed = tally.failed.max(1);
                ("FAILED", format!("{error:#}"))
            }
        };
        let row = Row {
            name,
            took: start.elapsed(),
            result,
            note,
        };
        println!("=== {row}");
        self.rows.push(row);
        self.tally.add(&tally);
        result != "FAILED"
    }

    /// Prints the table and the sum.
    fn finish(self) -> ExitCode {
        println!();
        for row in &self.rows {
            println!("{row}");
        }
        println!("\n{}", self.tally);
        if self.tally.failed == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            name,
            took,
            result,
            note,
        } = self;
        write!(
            f,
            "{name:<16}{:>8.1} s  {result:<8}{note}",
            took.as_secs_f64()
        )
    }
}
