//! `cargo xtask vm`: the smoke test under another kernel than this machine's.
//!
//! Debian's kernel is booted by QEMU (in software, so that it works inside virtual machines too)
//! with an initrd that holds nothing but agentwatch, the smoke test and busybox. That kernel has
//! what a hardened host may refuse: LSM programs, fentry, kprobes.

mod image;
mod qemu;

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::{
    build,
    outcome::{Outcome, Tally},
    setup, workspace,
};

/// Debian 12's.
pub const DEFAULT_KERNEL: &str = "6.1";

/// What `vm` can be told.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The kernel's version, as in the name of Debian's package: 6.1, 6.12.
    #[arg(long, default_value = DEFAULT_KERNEL)]
    kernel: String,
    /// Keep the console's whole output even if all is well.
    #[arg(long)]
    keep_logs: bool,
}

/// Runs the smoke test; skipping it is no failure.
pub fn run(args: &Args) -> Result<ExitCode> {
    if let Err(error) = setup::ensure(&[setup::Group::Bpf, setup::Group::Vm]) {
        eprintln!("setup: {error:#}");
    }
    let mut tally = Tally::default();
    if let Outcome::Skipped(reason) = smoke(&args.kernel, args.keep_logs, &mut tally)? {
        println!("vm skipped: {reason}");
        tally.skipped += 1;
    }
    println!("{tally}");
    Ok(ExitCode::SUCCESS)
}

/// Boots the kernel, shows what the smoke test prints there, and counts its tests.
pub fn smoke(version: &str, keep_logs: bool, tally: &mut Tally) -> Result<Outcome> {
    if let Some(reason) = missing() {
        return Ok(Outcome::Skipped(reason));
    }
    let kernel = match image::kernel(version) {
        Ok(kernel) => kernel,
        Err(error) => return Ok(Outcome::Skipped(format!("{error:#}"))),
    };
    let busybox = match image::busybox() {
        Ok(busybox) => busybox,
        Err(error) => return Ok(Outcome::Skipped(format!("{error:#}"))),
    };
    let agentwatch = build::agentwatch(true)?;
    let smoke = build_smoke_test()?;

    let dir = workspace::target_dir()?.join("vm");
    fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    let initrd = image::initrd(
        &dir,
        &busybox,
        &[(&agentwatch, "agentwatch"), (&smoke, "smoke")],
    )?;
    let log = dir.join(format!("console-{version}.log"));
    println!(
        "vm: booting {}",
        kernel.file_name().unwrap_or_default().display()
    );
    match qemu::boot(&kernel, &initrd, &log, tally)? {
        Some(0) => {}
        Some(code) => bail!("smoke test exited with {code}; console: {}", log.display()),
        None => bail!(
            "the machine stopped before the smoke test's end; console: {}",
            log.display()
        ),
    }
    if !keep_logs {
        fs::remove_file(&log).with_context(|| format!("removing {}", log.display()))?;
    }
    Ok(Outcome::Passed)
}

/// Why the machine cannot be booted here, if so.
fn missing() -> Option<String> {
    if std::env::consts::ARCH != "x86_64" {
        return Some("only x86_64 kernels are booted".to_owned());
    }
    ["qemu-system-x86_64", "cpio", "find", "ldd", "setpriv"]
        .into_iter()
        .find(|program| !workspace::has_program(program))
        .map(|program| format!("{program} is missing: `cargo xtask setup --only vm`"))
}

/// Builds the smoke test, which is a program of its own, and returns its path.
fn build_smoke_test() -> Result<PathBuf> {
    let mut cargo = workspace::cargo()?;
    cargo.args([
        "test",
        "--no-run",
        "--release",
        "--package",
        "agentwatch",
        "--test",
        "smoke",
    ]);
    // Compiler messages stay readable on stderr, artifacts come as JSON.
    let printed = workspace::output(cargo.arg("--message-format=json-render-diagnostics"))?;
    for line in printed.lines() {
        let message: Value = serde_json::from_str(line).context("reading cargo's messages")?;
        if message["target"]["name"] == "smoke"
            && let Some(path) = message["executable"].as_str()
        {
            return Ok(path.into());
        }
    }
    bail!("cargo built no test program `smoke`");
}
