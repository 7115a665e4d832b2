//! Builds the kernel programs, which `src/` then includes from `$OUT_DIR/agentwatch.bpf.o`.

#[path = "../xtask/src/bpf.rs"]
mod bpf;

use std::{
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
    process::{ExitCode, Stdio},
};

/// The name of agentwatch-ebpf's program.
const PROGRAM: &str = "agentwatch";

fn main() -> ExitCode {
    let toolchain = if env::var_os("DOCS_RS").is_some() {
        None
    } else {
        match bpf::find() {
            Ok(toolchain) => Some(toolchain),
            Err(missing) => {
                // cargo fails the build for this line and, unlike for a failure status, prints
                // nothing else.
                println!("cargo::error=cannot build the kernel programs: {missing}");
                return ExitCode::SUCCESS;
            }
        }
    };
    match run(toolchain.as_ref()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // With a failure status cargo shows what the compiler printed as well.
            println!("cargo::error={error}");
            ExitCode::FAILURE
        }
    }
}

/// Without a toolchain the object is empty: documentation is built on machines without BPF tools,
/// and does not look inside it.
fn run(toolchain: Option<&bpf::Toolchain>) -> Result<(), Box<dyn Error>> {
    let out_dir = dir("OUT_DIR")?;
    let object = out_dir.join("agentwatch.bpf.o");
    let manifest_dir = dir("CARGO_MANIFEST_DIR")?;
    let workspace = manifest_dir
        .parent()
        .ok_or("agentwatch/ has no parent folder")?;

    for path in [
        "agentwatch-ebpf",
        "agentwatch-common",
        "Cargo.toml",
        "Cargo.lock",
    ] {
        println!("cargo::rerun-if-changed={}", workspace.join(path).display());
    }
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=../xtask/src/bpf.rs");
    for name in ["XDG_CACHE_HOME", "DOCS_RS"] {
        println!("cargo::rerun-if-env-changed={name}");
    }

    let Some(toolchain) = toolchain else {
        fs::write(&object, [])?;
        return Ok(());
    };
    let built = compile(toolchain, workspace, &target_dir(&out_dir))?;
    let bytes = fs::read(&built).map_err(|error| format!("{}: {error}", built.display()))?;
    let bytes = strip(&bytes).map_err(|error| format!("{}: {error}", built.display()))?;
    fs::write(&object, bytes).map_err(|error| format!("{}: {error}", object.display()))?;
    Ok(())
}

/// The object without its debugging information, which is most of it: what the kernel wants of that is in
/// the BTF.
fn strip(object: &[u8]) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut builder = object::build::elf::Builder::read(object)?;
    for section in &mut builder.sections {
        let name = section.name.to_vec();
        if name.starts_with(b".debug") || name.starts_with(b".rel.debug") {
            section.delete = true;
        }
    }
    builder.delete_orphans();
    // LLVM puts the names of sections among those of symbols.
    let names = builder.sections.add();
    names.name = ".shstrtab".into();
    names.sh_type = object::elf::SHT_STRTAB;
    names.data = object::build::elf::SectionData::SectionString;
    let mut stripped = Vec::new();
    builder.write(&mut stripped)?;
    Ok(stripped)
}

/// Compiles the kernel programs and returns the object's path.
fn compile(
    toolchain: &bpf::Toolchain,
    workspace: &Path,
    target_dir: &Path,
) -> Result<PathBuf, Box<dyn Error>> {
    let mut cargo = bpf::cargo(toolchain, "build", workspace, target_dir);
    let status = cargo
        .args(["--quiet", "--bin", PROGRAM])
        .stdin(Stdio::null())
        .status()
        .map_err(|error| format!("running {}: {error}", cargo.get_program().display()))?;
    if !status.success() {
        return Err(format!("{} does not compile", bpf::PACKAGE).into());
    }
    Ok(target_dir.join(bpf::TARGET).join("release").join(PROGRAM))
}

/// A target folder for the inner cargo: its own, for the outer one holds a lock on the common
/// one; and the same for every profile, so that the kernel programs are built once.
fn target_dir(out_dir: &Path) -> PathBuf {
    // <target dir>/<profile>/build/agentwatch-<hash>/out
    out_dir.ancestors().nth(4).unwrap_or(out_dir).join("bpf")
}

fn dir(name: &str) -> Result<PathBuf, String> {
    env::var_os(name)
        .map(PathBuf::from)
        .ok_or_else(|| format!("cargo did not set {name}"))
}
