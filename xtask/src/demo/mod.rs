//! `cargo xtask demo`: what has to be there, then the scene itself.

mod outside;
mod scene;

use anyhow::Result;

use crate::{
    build,
    setup::{self, Group},
};

/// Sets up, builds, and plays the scene.
pub fn run() -> Result<()> {
    setup::ensure(&[Group::Bpf, Group::E2e])?;
    eprintln!("demo: building agentwatch (release)");
    let agentwatch = build::agentwatch(true)?;

    scene::run(&agentwatch)
}
