//! Programs of Python's package index, in an environment of their own below the target folder.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result};

use super::progress;
use crate::workspace;

/// What is installed, with every version.
const REQUIREMENTS: &str = include_str!("../../requirements.txt");

fn dir() -> Result<PathBuf> {
    Ok(workspace::target_dir()?.join("python"))
}

/// Where the programs are, once they are.
pub fn bin() -> Result<PathBuf> {
    Ok(dir()?.join("bin"))
}

/// Makes the environment, where it is not there or of other versions.
pub fn ensure() -> Result<()> {
    let dir = dir()?;
    let done = dir.join("installed.txt");
    if fs::read_to_string(&done).is_ok_and(|there| there == REQUIREMENTS) {
        return Ok(());
    }
    progress("pip install, into target/python (about 20 seconds)");
    let mut venv = Command::new("python3");
    workspace::run(venv.args(["-m", "venv", "--clear"]).arg(&dir)).context(
        "python3 makes no environment; Debian has what it needs in the package python3-venv",
    )?;
    let requirements = dir.join("requirements.txt");
    fs::write(&requirements, REQUIREMENTS)
        .with_context(|| format!("writing {}", requirements.display()))?;
    let mut pip = Command::new(dir.join("bin/pip"));
    pip.args(["install", "--quiet", "--disable-pip-version-check"])
        .args(["--only-binary", ":all:", "--no-deps", "-r"])
        .arg(&requirements);
    workspace::run(&mut pip)?;
    fs::write(&done, REQUIREMENTS).with_context(|| format!("writing {}", done.display()))
}
