//! The initrd: busybox, and the programs under test.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use super::programs::Program;
use crate::{
    setup::{self, apt},
    workspace,
};

const INIT: &str = include_str!("init.sh");

/// A static busybox.
pub fn busybox() -> Result<PathBuf> {
    let busybox = cache_dir()?.join("busybox");
    if !busybox.is_file() {
        // Not installed: that package would push a dynamic busybox off the machine.
        apt::unpack_file(
            "busybox-static",
            |path| path.ends_with("bin/busybox"),
            &busybox,
        )?;
    }
    Ok(busybox)
}

/// Packs busybox and the programs, with their libraries, into an initrd.
pub fn initrd(dir: &Path, busybox: &Path, programs: &[Program]) -> Result<PathBuf> {
    let root = Root::new(dir.join("root"), busybox)?;
    for Program { path, name } in programs {
        root.program(path, &format!("bin/{name}"))?;
    }
    root.file("init", INIT, 0o755)?;
    root.pack(&dir.join("initrd"))
}

/// What will be the machine's root folder.
#[derive(Debug)]
pub struct Root(PathBuf);

impl Root {
    /// A new one, with busybox, root, nobody and the folders of a system in it.
    pub fn new(root: PathBuf, busybox: &Path) -> Result<Self> {
        if root.exists() {
            fs::remove_dir_all(&root).with_context(|| format!("removing {}", root.display()))?;
        }
        for folder in [
            "bin", "dev", "etc", "proc", "root", "run", "sys", "tmp", "var/lib",
        ] {
            let folder = root.join(folder);
            fs::create_dir_all(&folder)
                .with_context(|| format!("creating {}", folder.display()))?;
        }
        let root = Self(root);
        copy(busybox, &root.0.join("bin/busybox"))?;
        let users = "root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n";
        root.file("etc/passwd", users, 0o644)?;
        root.file("etc/group", "root:x:0:\nnogroup:x:65534:\n", 0o644)?;
        root.file("etc/hosts", "127.0.0.1 localhost\n", 0o644)?;
        Ok(root)
    }

    /// Puts a program there, with its libraries where they are here.
    pub fn program(&self, path: &Path, place: &str) -> Result<()> {
        let place = self.0.join(place);
        copy(path, &place)?;
        // Of an unoptimised program nine tenths are for debuggers.
        workspace::run(Command::new("strip").arg("--strip-debug").arg(&place))?;
        for library in libraries(path)? {
            let place = library.strip_prefix("/").unwrap_or(&library);
            copy(&library, &self.0.join(place))?;
        }
        Ok(())
    }

    /// Writes a file there.
    pub fn file(&self, place: &str, text: &str, mode: u32) -> Result<()> {
        let file = self.0.join(place);
        file.parent()
            .map_or(Ok(()), fs::create_dir_all)
            .and_then(|()| fs::write(&file, text))
            .and_then(|()| fs::set_permissions(&file, fs::Permissions::from_mode(mode)))
            .with_context(|| format!("writing {}", file.display()))
    }

    /// Packs it into an initrd.
    pub fn pack(&self, file: &Path) -> Result<PathBuf> {
        archive(&self.0, file)?;
        Ok(file.to_owned())
    }
}

/// The shared libraries of a program, as the dynamic linker resolves them here.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    // Fails for a static program, which has none.
    let output = Command::new("ldd")
        .arg(program)
        .output()
        .context("starting ldd")?;
    let printed = String::from_utf8_lossy(&output.stdout);
    if printed.contains("not found") {
        bail!(
            "{} lacks a library on this machine:\n{printed}",
            program.display()
        );
    }
    // "libc.so.6 => /lib/…/libc.so.6 (0x…)", "/lib64/ld-linux-x86-64.so.2 (0x…)"
    let paths = printed
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    Ok(paths.map(PathBuf::from).collect())
}

/// Copies what a path leads to, also through links, and makes it root's and executable.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let copied = to
        .parent()
        .map_or(Ok(()), fs::create_dir_all)
        .and_then(|()| fs::copy(from, to));
    copied.with_context(|| format!("copying {} to {}", from.display(), to.display()))?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("making {} executable", to.display()))
}

/// Not compressed: QEMU loads it faster than its emulated processor would unpack it.
fn archive(root: &Path, file: &Path) -> Result<()> {
    let mut find = Command::new("find")
        .arg(".")
        .current_dir(root)
        .stdout(Stdio::piped())
        .spawn()?;
    let names = find.stdout.take().context("find has no output")?;
    let mut cpio = Command::new("cpio");
    cpio.args([
        "--create",
        "--format=newc",
        "--owner=0:0",
        "--quiet",
        "--file",
    ])
    .arg(file);
    workspace::run(cpio.current_dir(root).stdin(names))?;
    if !find.wait()?.success() {
        bail!("listing {} failed", root.display());
    }
    Ok(())
}

/// Where kernels and busybox are kept.
pub fn cache_dir() -> Result<PathBuf> {
    let dir = setup::cache_dir()?.join("vm");
    fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    Ok(dir)
}
