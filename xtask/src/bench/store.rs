//! The history: `agentwatch/benches/store.rs`, which prints its figures and judges them itself.

use anyhow::{Context as _, Result};

use crate::workspace;

/// The name of these measurements. Nothing is watched for them.
pub const STORE: &str = "store";

/// Measures and prints; whether every target is met.
pub fn measure() -> Result<bool> {
    let mut cargo = workspace::cargo()?;
    cargo.args([
        "bench",
        "--quiet",
        "--package",
        "agentwatch",
        "--bench",
        "store",
    ]);
    let status = cargo.status().context("running cargo bench")?;
    Ok(status.success())
}
