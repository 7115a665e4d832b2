//! What the demonstration shows.

use std::{path::Path, process::Command};

use anyhow::Result;

use crate::workspace;

/// Plays the scene with this build of agentwatch.
pub fn run(agentwatch: &Path) -> Result<()> {
    workspace::run(Command::new(agentwatch).arg("doctor"))
}
