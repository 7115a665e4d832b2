//! Where things are, and how to run a command there.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

/// The checkout's root folder.
pub fn root() -> Result<PathBuf> {
    // Set by `cargo run`; the folder at build time is for a program that was started directly.
    let xtask =
        env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let root = Path::new(&xtask)
        .parent()
        .context("xtask/ has no parent folder")?;
    Ok(root.to_owned())
}

/// cargo, in the checkout's root.
pub fn cargo() -> Result<Command> {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()?);
    // What `cargo run` says of xtask itself: a build script that looks at these (ring's) would run again whenever a
    // build by hand follows one of xtask's, and everything above it with it.
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&*name);
        }
    }
    Ok(command)
}

/// cargo's target folder, wherever the environment or the configuration puts it.
pub fn target_dir() -> Result<PathBuf> {
    let mut metadata = cargo()?;
    let printed = output(metadata.args(["metadata", "--no-deps", "--format-version=1"]))?;
    let metadata: Value = serde_json::from_str(&printed).context("reading `cargo metadata`")?;
    let dir = metadata["target_directory"]
        .as_str()
        .context("`cargo metadata` names no target folder")?;
    Ok(dir.into())
}

/// Runs a command; a failure status is an error that names the command.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("starting {}", shown(command)))?;
    if !status.success() {
        bail!("{} failed ({status})", shown(command));
    }
    Ok(())
}

/// Runs a command and returns what it prints.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stderr(std::process::Stdio::inherit())
        .output()
        .with_context(|| format!("starting {}", shown(command)))?;
    if !output.status.success() {
        bail!("{} failed ({})", shown(command), output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("{} printed no UTF-8", shown(command)))
}

/// Whether a program is on the PATH, or where only root's PATH has it.
pub fn has_program(name: &str) -> bool {
    let root_only = ["/usr/sbin", "/sbin"].map(|dir| Path::new(dir).join(name));
    crate::bpf::find_program(name).is_some() || root_only.iter().any(|file| file.is_file())
}

/// Whether this process is root's.
pub fn is_root() -> Result<bool> {
    Ok(output(Command::new("id").arg("-u"))?.trim() == "0")
}

/// A command as one would type it, for messages.
pub fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let name = program.file_name().unwrap_or(command.get_program());
    let words = [name].into_iter().chain(command.get_args());
    words
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}
