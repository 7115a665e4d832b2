//! What this host offers, found out by looking and trying.

use std::{
    fs,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use rustix::{
    fs::{Mode, OFlags, openat},
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen},
};

/// Where tracefs belongs.
const TRACEFS: &str = "/sys/kernel/tracing";

/// Mounts tracefs where it belongs, unless it is there: syscall tracepoints are named through it.
///
/// # Errors
///
/// When it cannot be mounted.
pub fn ensure_tracefs() -> Result<()> {
    if Path::new(TRACEFS).join("events").exists()
        || Path::new("/sys/kernel/debug/tracing/events").exists()
    {
        return Ok(());
    }
    rustix::mount::mount(
        "tracefs",
        TRACEFS,
        "tracefs",
        rustix::mount::MountFlags::empty(),
        None,
    )
    .with_context(|| {
        format!("cannot mount tracefs at {TRACEFS}; try: mount -t tracefs tracefs {TRACEFS}")
    })
}

/// Whether this kernel has a system call, by the name of its tracepoints.
pub fn has_call(name: &str) -> bool {
    [TRACEFS, "/sys/kernel/debug/tracing"]
        .iter()
        .any(|tracefs| {
            Path::new(tracefs)
                .join("events/syscalls")
                .join(format!("sys_enter_{name}"))
                .exists()
        })
}

/// The folder where the cgroup v2 hierarchy is mounted.
///
/// # Errors
///
/// When it is not mounted.
pub fn cgroup2() -> Result<PathBuf> {
    let mounts =
        fs::read_to_string("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
    match cgroup2_in(&mounts) {
        Some(path) => Ok(path),
        None => bail!(
            "no cgroup v2 hierarchy is mounted; try: mount -t cgroup2 none /sys/fs/cgroup/unified"
        ),
    }
}

/// Finds the mount in the text of mountinfo (`proc_pid_mountinfo(5)`).
fn cgroup2_in(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mut fields = left.split(' ');
        let (root, mount_point) = (fields.nth(3)?, fields.next()?);
        // A mount of a part of the hierarchy shows other paths than the kernel's.
        (right.starts_with("cgroup2 ") && root == "/").then(|| PathBuf::from(mount_point))
    })
}

/// Whether the programs may be loaded by this user: root, in practice.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The kernel's release.
pub fn release() -> String {
    rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned()
}

/// How the kernel was built, in its own words: `#1 SMP PREEMPT_DYNAMIC …`.
pub(super) fn version() -> String {
    rustix::system::uname()
        .version()
        .to_string_lossy()
        .into_owned()
}

/// Whether BPF is among the active Linux security modules.
///
/// # Errors
///
/// When it is not, or the kernel does not show them; the error says what helps.
pub fn bpf_lsm_is_active() -> Result<()> {
    let list = lsm();
    if list.split(',').any(|module| module == "bpf") {
        return Ok(());
    }
    if list.is_empty() {
        bail!(
            "the kernel does not show its security modules; try: mount -t securityfs securityfs \
             /sys/kernel/security"
        );
    }
    bail!(
        "bpf is not among the active security modules ({list}); boot with lsm={list},bpf to have it"
    )
}

/// The active Linux security modules, empty where the kernel does not say.
pub fn lsm() -> String {
    read_from("securityfs", "/sys/kernel/security", "lsm")
        .unwrap_or_default()
        .trim()
        .to_owned()
}

/// A short file of a file system of the kernel's own, which need not be mounted: this looks into a mount
/// that has no place and goes away at once. `None` where it cannot be read.
pub(super) fn read_from(filesystem: &str, mount_point: &str, file: &str) -> Option<String> {
    let detached = || -> rustix::io::Result<String> {
        let context = fsopen(filesystem, FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_create(context.as_fd())?;
        let mount = fsmount(
            context.as_fd(),
            FsMountFlags::FSMOUNT_CLOEXEC,
            MountAttrFlags::empty(),
        )?;
        let file = openat(
            &mount,
            file,
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let mut text = vec![0; 4096];
        let len = rustix::io::read(&file, &mut text)?;
        text.truncate(len);
        Ok(String::from_utf8_lossy(&text).into_owned())
    };
    fs::read_to_string(Path::new(mount_point).join(file))
        .or_else(|_| detached())
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroup2_is_found_beside_v1() {
        let hybrid = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:4 - cgroup2 cgroup2 rw\n";
        assert_eq!(
            cgroup2_in(hybrid),
            Some(PathBuf::from("/sys/fs/cgroup/unified"))
        );
        let v1 = "31 23 0:28 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n";
        assert_eq!(cgroup2_in(v1), None);
        let part = "41 31 0:38 /docker/x /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        assert_eq!(cgroup2_in(part), None);
    }
}
