//! Programs that cargo builds once, into the cache folder.

use std::{env, path::PathBuf, process::Command};

use anyhow::Result;

use super::{cache_dir, progress};
use crate::{bpf, workspace};

/// Belongs to llvm-22-dev, of the same LLVM as Debian's compiler for BPF.
pub const LLVM_CONFIG: &str = "/usr/lib/llvm-22/bin/llvm-config";

const DENY_VERSION: &str = "0.20.2";

/// Builds bpf-linker against Debian's LLVM.
pub fn install_bpf_linker() -> Result<()> {
    progress("building bpf-linker 0.13.0, once (about 2 minutes)");
    let mut cargo = install("bpf-linker", "0.13.0", bpf::LINKER_DIR)?;
    cargo.args(["--no-default-features", "--features", "llvm-22"]);
    workspace::run(cargo.env("LLVM_PREFIX", "/usr/lib/llvm-22"))
}

/// cargo-deny, if it is there.
pub fn cargo_deny() -> Result<Option<PathBuf>> {
    let cached = cache_dir()?.join(deny_dir()).join("bin/cargo-deny");
    Ok(if cached.is_file() {
        Some(cached)
    } else {
        bpf::find_program("cargo-deny")
    })
}

/// Builds cargo-deny.
pub fn install_cargo_deny() -> Result<()> {
    progress(&format!(
        "building cargo-deny {DENY_VERSION}, once (about 1 minute)"
    ));
    let mut cargo = install("cargo-deny", DENY_VERSION, &deny_dir())?;
    // It runs for a second or two, so the time is better not spent on optimising it.
    let profile = [("OPT_LEVEL", "0"), ("LTO", "off"), ("CODEGEN_UNITS", "16")];
    for (name, value) in profile {
        cargo.env(format!("CARGO_PROFILE_RELEASE_{name}"), value);
    }
    workspace::run(&mut cargo)
}

fn deny_dir() -> String {
    format!("cargo-deny-{DENY_VERSION}")
}

/// A `cargo install` into a folder of the cache.
fn install(name: &str, version: &str, dir: &str) -> Result<Command> {
    let mut cargo = workspace::cargo()?;
    cargo.args(["install", name, "--version", version, "--locked", "--root"]);
    cargo.arg(cache_dir()?.join(dir));
    // Away from this checkout, whose cargo configuration is not for other programs.
    cargo
        .current_dir(env::temp_dir())
        .env_remove("CARGO_TARGET_DIR");
    Ok(cargo)
}
