//! Debian packages: what is there, and how the rest gets there.

use std::{
    fs,
    path::Path,
    process::{self, Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use super::{cache_dir, progress};
use crate::{bpf, workspace};

/// A package, known to be there by a file and not by name: the same program from elsewhere is
/// just as good, and is left alone.
#[derive(Debug)]
pub struct Package {
    name: &'static str,
    /// A program, or a path where it begins with `/`.
    file: &'static str,
    /// Services that it would start at every boot.
    services: &'static [&'static str],
}

impl Package {
    /// A package without services.
    pub const fn new(name: &'static str, file: &'static str) -> Self {
        Self {
            name,
            file,
            services: &[],
        }
    }

    /// The same package with services.
    pub const fn with_services(self, services: &'static [&'static str]) -> Self {
        Self { services, ..self }
    }

    /// Whether what the package brings is there.
    pub fn is_there(&self) -> bool {
        if self.file.starts_with('/') {
            Path::new(self.file).exists()
        } else {
            workspace::has_program(self.file)
        }
    }
}

/// Installs packages, and starts no service of theirs, neither now nor at boot.
pub fn install(packages: &[&Package]) -> Result<()> {
    let names: Vec<&str> = packages.iter().map(|package| package.name).collect();
    let listed = names.join(" ");
    if !workspace::has_program("apt-get") {
        bail!(
            "missing: {listed} (Debian's names), and this machine has no apt-get; {}",
            elsewhere()
        );
    }
    let is_root = workspace::is_root()?;
    if is_root {
        progress("apt-get update");
        apt(&["update"])?;
    }
    let unknown: Vec<&str> = names
        .iter()
        .copied()
        .filter(|name| !is_known(name))
        .collect();
    if !unknown.is_empty() {
        bail!(
            "apt's sources have no package {}; {}",
            unknown.join(", "),
            elsewhere()
        );
    }
    if !is_root {
        bail!("missing: {listed}; as root: apt-get install --no-install-recommends {listed}");
    }
    progress(&format!("apt-get install {listed}"));
    // --no-remove: a package in conflict with one of these stays, and apt says which it is.
    let mut words = vec!["install", "--yes", "--no-remove", "--no-install-recommends"];
    words.extend(&names);
    apt(&words)?;

    if Path::new("/run/systemd/system").is_dir() {
        let services = packages.iter().flat_map(|package| package.services);
        for service in services {
            let mut systemctl = Command::new("systemctl");
            // Fails where the package came without this unit: nothing to disable then.
            let _ = systemctl
                .args(["disable", "--quiet", service])
                .stderr(Stdio::null())
                .status();
        }
    }
    Ok(())
}

/// Takes one file out of a package, with nothing installed; `to` is in the cache folder.
pub fn unpack_file(package: &str, find: fn(&Path) -> bool, to: &Path) -> Result<()> {
    let mut apt = Command::new("apt-get");
    // apt's own user cannot write into a home folder.
    apt.args(["-o", "APT::Sandbox::User=root"]);
    unpack_file_with(apt, package, find, to)
}

/// The same, with an `apt-get` that has options of its own.
pub fn unpack_file_with(
    apt: Command,
    package: &str,
    find: fn(&Path) -> bool,
    to: &Path,
) -> Result<()> {
    let dir = cache_dir()?.join(format!("unpack-{}", process::id()));
    fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    let result = download(apt, package, &dir).and_then(|()| {
        let from = find_file(&dir, find)?.with_context(|| format!("{package} lacks the file"))?;
        // All or nothing, so that a file in the cache is always whole.
        fs::rename(&from, to).with_context(|| format!("moving it to {}", to.display()))
    });
    // Best effort: what is left over is only a few files in the cache.
    let _ = fs::remove_dir_all(&dir);
    result.with_context(|| format!("unpacking Debian's package {package}"))
}

/// Downloads a package and unpacks it below `dir`.
fn download(mut apt: Command, package: &str, dir: &Path) -> Result<()> {
    apt.args(["-qq", "download", package]).current_dir(dir);
    workspace::run(apt.stdout(Stdio::null()))?;
    let is_package = |path: &Path| path.extension().is_some_and(|extension| extension == "deb");
    let file = find_file(dir, is_package)?.context("apt-get downloaded nothing")?;
    workspace::run(Command::new("dpkg-deb").arg("--extract").arg(file).arg(dir))
}

/// The first file below a folder that is the wanted one.
fn find_file(dir: &Path, is_it: fn(&Path) -> bool) -> Result<Option<std::path::PathBuf>> {
    for entry in fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            if let Some(found) = find_file(&path, is_it)? {
                return Ok(Some(found));
            }
        } else if is_it(&path) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

fn is_known(name: &str) -> bool {
    let mut show = Command::new("apt-cache");
    let show = show
        .args(["show", name])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    show.status().is_ok_and(|status| status.success())
}

/// For machines that have no apt, or not these packages.
fn elsewhere() -> String {
    format!(
        "install them by other means, and in place of rustc-web, libstd-rust-web-dev-bpf, \
         rust-web-clippy and llvm-22-dev: `{}`",
        bpf::INSTALL_NIGHTLY
    )
}

/// Runs apt-get under a shell that forbids services to start meanwhile, and takes the ban back
/// at its end, also when interrupted.
fn apt(words: &[&str]) -> Result<()> {
    const SCRIPT: &str = r#"
        ban=/usr/sbin/policy-rc.d
        if [ ! -e "$ban" ]; then
            trap 'rm -f "$ban"' EXIT
            trap 'exit 130' INT TERM HUP
            printf '#!/bin/sh\nexit 101\n' > "$ban" && chmod 755 "$ban"
        fi
        apt-get -qq -o Dpkg::Use-Pty=0 "$@" < /dev/null > /dev/null"#;
    let mut shell = Command::new("sh");
    shell
        .args(["-c", SCRIPT, "sh"])
        .args(words)
        .env("DEBIAN_FRONTEND", "noninteractive");
    let status = shell.status().context("starting sh")?;
    if !status.success() {
        bail!(
            "apt-get {} failed ({status}); its messages are above",
            words.join(" ")
        );
    }
    Ok(())
}
