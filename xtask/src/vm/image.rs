//! What the machine boots: a kernel from Debian's package, and an initrd made here.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    setup::{self, apt},
    workspace,
};

const INIT: &str = include_str!("init.sh");

/// The newest kernel of this version, from the cache or else from Debian's package.
pub fn kernel(version: &str) -> Result<PathBuf> {
    let dir = cache_dir()?;
    let prefix = format!("vmlinuz-{version}.");
    let cached = fs::read_dir(&dir)?.flatten().map(|entry| entry.path());
    let cached = cached.filter(|path| name_of(path).starts_with(&prefix));
    if let Some(kernel) = cached.max_by_key(|path| numbers(&name_of(path))) {
        return Ok(kernel);
    }
    if !workspace::has_program("apt-get") {
        bail!("kernels come from Debian's packages, and this machine has no apt-get");
    }
    let mut package = package(version)?;
    if package.is_none() {
        apt::update()?;
        package = self::package(version)?;
    }
    let Some(package) = package else {
        bail!(
            "apt's sources have no linux-image-{version}.…-cloud-amd64; add the Debian suite that has it"
        );
    };
    println!("vm: fetching {package}");
    let kernel = dir.join(package.replacen("linux-image-", "vmlinuz-", 1));
    apt::unpack_file(
        &package,
        |path| name_of(path).starts_with("vmlinuz-"),
        &kernel,
    )?;
    Ok(kernel)
}

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
pub fn initrd(dir: &Path, busybox: &Path, programs: &[(&Path, &str)]) -> Result<PathBuf> {
    let root = dir.join("root");
    if root.exists() {
        fs::remove_dir_all(&root).with_context(|| format!("removing {}", root.display()))?;
    }
    for folder in [
        "bin", "dev", "etc", "proc", "root", "run", "sys", "tmp", "var/lib",
    ] {
        let folder = root.join(folder);
        fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    }
    copy(busybox, &root.join("bin/busybox"))?;
    for (program, name) in programs {
        copy(program, &root.join("bin").join(name))?;
        for library in libraries(program)? {
            let place = library.strip_prefix("/").unwrap_or(&library);
            copy(&library, &root.join(place))?;
        }
    }
    fs::write(
        root.join("etc/passwd"),
        "root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n",
    )?;
    fs::write(root.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n")?;
    fs::write(root.join("etc/hosts"), "127.0.0.1 localhost\n")?;
    let init = root.join("init");
    fs::write(&init, INIT).with_context(|| format!("writing {}", init.display()))?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;

    let initrd = dir.join("initrd");
    archive(&root, &initrd)?;
    Ok(initrd)
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

/// The package of the newest kernel of this version that apt knows.
fn package(version: &str) -> Result<Option<String>> {
    let names = apt::known_names(&format!("linux-image-{version}."))?;
    let names = names
        .into_iter()
        .filter(|name| name.ends_with("-cloud-amd64"));
    Ok(names.max_by_key(|name| numbers(name)))
}

fn cache_dir() -> Result<PathBuf> {
    let dir = setup::cache_dir()?.join("vm");
    fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    Ok(dir)
}

fn name_of(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// The numbers in a name, to order versions by.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::numbers;

    #[test]
    fn versions_are_ordered_by_number() {
        let newest = [
            "linux-image-6.1.0-9-cloud-amd64",
            "linux-image-6.1.0-56-cloud-amd64",
        ]
        .into_iter()
        .max_by_key(|name| numbers(name));
        assert_eq!(newest, Some("linux-image-6.1.0-56-cloud-amd64"));
    }
}
