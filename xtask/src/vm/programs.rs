//! The programs that go into the machine.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::{build, workspace};

/// A program and its name in the machine.
#[derive(Debug)]
pub struct Program {
    /// Where it is here.
    pub path: PathBuf,
    /// Its name in `/bin`.
    pub name: &'static str,
}

/// Builds agentwatch and its tests that are programs of their own.
pub fn build() -> Result<Vec<Program>> {
    let agentwatch = build::agentwatch(false)?;
    let program = |path, name| Program { path, name };
    Ok(vec![
        program(agentwatch, "agentwatch"),
        program(test("smoke")?, "smoke"),
    ])
}

/// Builds a test program and returns its path.
fn test(name: &str) -> Result<PathBuf> {
    let mut cargo = workspace::cargo()?;
    // As `cargo test` builds it, so that nothing is built twice.
    cargo.args([
        "test",
        "--no-run",
        "--package",
        "agentwatch",
        "--test",
        name,
    ]);
    // Compiler messages stay readable on stderr, artifacts come as JSON.
    let printed = workspace::output(cargo.arg("--message-format=json-render-diagnostics"))?;
    for line in printed.lines() {
        let message: Value = serde_json::from_str(line).context("reading cargo's messages")?;
        if message["target"]["name"] == name
            && let Some(path) = message["executable"].as_str()
        {
            return Ok(path.into());
        }
    }
    bail!("cargo built no test program {name:?}");
}
