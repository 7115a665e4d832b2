//! `cargo xtask screenshot`: the picture in the README, from a recording.

use std::{fs, process::Command};

use anyhow::{Context as _, Result, ensure};

use crate::{build, workspace};

/// The recording, from the workspace's root.
const RECORDING: &str = "agentwatch/tests/recordings/ssh-reverse.awrec";
/// The picture, likewise.
const PICTURE: &str = "docs/top.svg";
/// Columns and lines.
const SIZE: &str = "160x44";

/// Builds agentwatch and writes the picture.
pub fn run() -> Result<()> {
    let agentwatch = build::agentwatch(false)?;
    let root = workspace::root()?;
    let output = Command::new(agentwatch)
        .args(["top", "--utc", "--theme", "dark", "--picture", SIZE])
        .arg("--replay")
        .arg(root.join(RECORDING))
        .output()
        .context("starting agentwatch")?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "agentwatch top: {error}");
    let picture = root.join(PICTURE);
    if let Some(folder) = picture.parent() {
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    fs::write(&picture, output.stdout).with_context(|| format!("writing {}", picture.display()))?;
    println!("{}", picture.display());
    Ok(())
}
