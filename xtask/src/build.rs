//! `cargo xtask build`.

use std::{path::PathBuf, process::Command};

use anyhow::Result;

use crate::workspace;

/// What `build` can be told.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Optimise.
    #[arg(long)]
    release: bool,
}

/// Builds, and prints the program's path.
pub fn run(args: &Args) -> Result<()> {
    println!("{}", agentwatch(args.release)?.display());
    Ok(())
}

/// Builds agentwatch and returns the program's path.
pub fn agentwatch(release: bool) -> Result<PathBuf> {
    let mut cargo = workspace::cargo()?;
    // A `build.target` in the user's configuration would move the program.
    cargo
        .args(["build", "--package", "agentwatch", "--bin", "agentwatch"])
        .env_remove("CARGO_BUILD_TARGET");
    if release {
        cargo.arg("--release");
    }
    workspace::run(&mut cargo)?;
    let profile = if release { "release" } else { "debug" };
    Ok(workspace::target_dir()?.join(profile).join("agentwatch"))
}

/// Builds, and writes the manual pages to `target/man`.
pub fn man() -> Result<()> {
    let to = workspace::target_dir()?.join("man");
    let mut agentwatch = Command::new(agentwatch(false)?);
    workspace::run(agentwatch.args(["man", "--to"]).arg(&to))?;
    println!("{}", to.display());
    Ok(())
}
