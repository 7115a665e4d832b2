//! `agentwatch verifier`, hidden: what this kernel's verifier says of each program.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use crate::probe::verifier;

/// Load every kernel program by itself, and print what the verifier says: one JSON object a line.
///
/// For `cargo xtask verifier`, which compares the figures with the stored ones.
#[derive(Debug, Args)]
#[command(hide = true)]
pub struct VerifierArgs {}

/// Runs `agentwatch verifier`.
///
/// # Errors
///
/// When nothing can be loaded at all.
pub fn run(_: &VerifierArgs) -> Result<ExitCode> {
    for verdict in verifier::verdicts()? {
        super::print(&(serde_json::to_string(&verdict)? + "\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}
