//! Finds a Rust toolchain that compiles for BPF, and prepares cargo to use it.
//!
//! Included by `agentwatch/build.rs` too (`#[path]`), so: the standard library only, and nothing
//! that just one of the two would use.
//!
//! Two toolchains are known to work:
//! - Debian's `rustc-web` with `libstd-rust-web-dev-bpf`: a stable compiler with a prebuilt `core`
//!   for BPF, and a bpf-linker built against the same LLVM by `cargo xtask setup`;
//! - rustup's nightly with `rust-src`, which builds `core` itself (`-Z build-std`), and a
//!   bpf-linker on the PATH. This is the usual one outside Debian.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// The BPF target; every host that agentwatch supports is little-endian.
pub const TARGET: &str = "bpfel-unknown-none";

/// The cargo package which holds the kernel programs.
pub const PACKAGE: &str = "agentwatch-ebpf";

/// The folder, inside the cache folder, that `cargo xtask setup` installs bpf-linker into.
pub const LINKER_DIR: &str = "bpf-linker-0.13.0-llvm22";

/// What brings a toolchain where Debian's packages are not to be had.
pub const INSTALL_NIGHTLY: &str =
    "rustup toolchain install nightly --component rust-src,clippy && cargo binstall bpf-linker";

/// A compiler that can build `core`, or has it, for [`TARGET`].
#[derive(Debug)]
pub enum Compiler {
    /// A distribution's own compiler, with a prebuilt `core` for BPF.
    Debian {
        /// The compiler, which cargo would not pick by itself.
        rustc: PathBuf,
    },
    /// rustup's nightly with rust-src.
    RustupNightly,
}

/// All that it takes to build the kernel programs.
#[derive(Debug)]
pub struct Toolchain {
    /// The compiler.
    pub compiler: Compiler,
    /// The linker, which also writes the object's BTF.
    pub linker: PathBuf,
}

/// Finds a toolchain, or says in one line what is missing and what brings it.
pub fn find() -> Result<Toolchain, String> {
    let Some(compiler) = find_compiler() else {
        return Err(format!(
            "no Rust compiler for BPF: run `cargo xtask setup` (Debian), or `{INSTALL_NIGHTLY}`"
        ));
    };
    match find_linker(&compiler) {
        Some(linker) => Ok(Toolchain { compiler, linker }),
        None => Err(match compiler {
            Compiler::Debian { .. } => "no bpf-linker: run `cargo xtask setup`".to_owned(),
            Compiler::RustupNightly => "no bpf-linker: run `cargo binstall bpf-linker`".to_owned(),
        }),
    }
}

/// The compiler alone, whether or not a linker is there.
pub fn find_compiler() -> Option<Compiler> {
    let rustc = PathBuf::from("/usr/bin/rustc");
    if sysroot(Command::new(&rustc)).is_some_and(|root| has_core(&root)) {
        return Some(Compiler::Debian { rustc });
    }
    let mut nightly = Command::new("rustup");
    nightly.args(["run", "nightly", "rustc"]);
    let source = sysroot(nightly)?.join("lib/rustlib/src/rust/library/core");
    source.is_dir().then_some(Compiler::RustupNightly)
}

/// The linker that fits `compiler`: its LLVM must not be older than the compiler's.
pub fn find_linker(compiler: &Compiler) -> Option<PathBuf> {
    let cached = cache_dir().map(|dir| dir.join(LINKER_DIR).join("bin/bpf-linker"));
    let on_path = find_program("bpf-linker");
    match compiler {
        // The cached linker was built against Debian's LLVM, so it comes first …
        Compiler::Debian { .. } => cached.filter(|path| path.is_file()).or(on_path),
        // … and for nightly, whose LLVM is newer, last.
        Compiler::RustupNightly => on_path.or(cached.filter(|path| path.is_file())),
    }
}

/// A cargo command for the kernel programs; `verb` is `build` or `clippy`.
///
/// `target_dir` must not be the target folder of a cargo that waits for this one.
pub fn cargo(toolchain: &Toolchain, verb: &str, workspace: &Path, target_dir: &Path) -> Command {
    let mut command = match &toolchain.compiler {
        Compiler::Debian { rustc } => {
            let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
            // cargo looks for `clippy` on the PATH and would find the one of another compiler.
            let program = if verb == "clippy" {
                clippy_beside(rustc).into()
            } else {
                cargo
            };
            let mut command = Command::new(program);
            command.env("RUSTC", rustc);
            command
        }
        Compiler::RustupNightly => {
            let mut command = Command::new("rustup");
            command.args(["run", "nightly", "cargo"]);
            // Set by an outer cargo to the programs of another toolchain.
            for name in ["RUSTC", "RUSTDOC", "CARGO", "RUSTUP_TOOLCHAIN"] {
                command.env_remove(name);
            }
            command
        }
    };
    command.arg(verb).current_dir(workspace);
    command.args([
        "--release",
        "--package",
        PACKAGE,
        "--target",
        TARGET,
        "--target-dir",
    ]);
    command.arg(target_dir);
    if matches!(toolchain.compiler, Compiler::RustupNightly) {
        command.args(["-Z", "build-std=core"]);
    }
    // Empty rather than removed: empty overrides the user's cargo configuration too. A wrapper
    // here may be clippy-driver, which an outer `cargo clippy` leaves to its build scripts.
    for name in ["RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER"] {
        command.env(name, "");
    }
    for name in [
        "RUSTFLAGS",
        "CARGO_BUILD_TARGET",
        "CARGO_BUILD_RUSTFLAGS",
        "CLIPPY_ARGS",
    ] {
        command.env_remove(name);
    }
    // What a profile of the host's build is set to in the environment is not for the kernel programs:
    // with more than one codegen unit their stack outgrows the kernel's limit.
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("CARGO_PROFILE_") {
            command.env_remove(name);
        }
    }
    command
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags(&toolchain.linker))
        // aya-ebpf needs an unstable feature, asm_experimental_arch.
        .env("RUSTC_BOOTSTRAP", "1")
        // The linker optimises across crates by itself, always.
        .env("CARGO_PROFILE_RELEASE_LTO", "off");
    command
}

/// The flags as cargo reads them from `CARGO_ENCODED_RUSTFLAGS`.
fn rustflags(linker: &Path) -> OsString {
    // `cpu=v3` allows 32-bit jumps and atomics (Linux 5.12), debug information becomes the BTF.
    let mut flags =
        OsString::from("-Cdebuginfo=2\u{1f}-Clink-arg=--btf\u{1f}-Ctarget-cpu=v3\u{1f}-Clinker=");
    flags.push(linker);
    flags
}

/// The `cargo-clippy` that was built with this compiler.
fn clippy_beside(rustc: &Path) -> PathBuf {
    rustc.with_file_name("cargo-clippy")
}

/// Where tools are kept that a clean build should not build again.
pub fn cache_dir() -> Option<PathBuf> {
    let set = |name| {
        env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let base = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")))?;
    Some(base.join("agentwatch"))
}

/// Looks a program up on the PATH.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

/// The folder that a compiler takes its libraries from.
fn sysroot(mut rustc: Command) -> Option<PathBuf> {
    let rustc = rustc.args(["--print", "sysroot"]).stderr(Stdio::null());
    let output = rustc.env_remove("RUSTUP_TOOLCHAIN").output().ok()?;
    let printed = String::from_utf8(output.stdout).ok()?;
    output
        .status
        .success()
        .then(|| PathBuf::from(printed.trim_end()))
}

/// Whether a prebuilt `core` for BPF lies in this sysroot.
fn has_core(sysroot: &Path) -> bool {
    let dir = sysroot.join("lib/rustlib").join(TARGET).join("lib");
    let Ok(entries) = fs::read_dir(dir) else {
        return false;
    };
    entries
        .flatten()
        .any(|entry| entry.file_name().to_string_lossy().starts_with("libcore-"))
}
