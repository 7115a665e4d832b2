//! What runs the node is no agent: a cgroup with it in it is not taken for one, and is one no longer when it comes
//! in from outside. What an agent itself starts is the agent's, whatever that calls itself.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

use anyhow::{Result, bail};

use crate::respond::cgroup::AgentCgroup;

/// Programs without which a node is none: the kubelet, container runtimes, and what keeps containers.
const PROGRAMS: [&str; 10] = [
    "kubelet",
    "containerd",
    "containerd-shim",
    "containerd-shim-runc-v2",
    "dockerd",
    "crio",
    "conmon",
    "conmonrs",
    "systemd",
    "systemd-journald",
];

/// Refuses a cgroup with one of them in it, or with pid 1, agentwatch or what that was started by.
///
/// # Errors
///
/// When there is one; it says which.
pub fn refuse(cgroup: &AgentCgroup) -> Result<()> {
    match cgroup.refuse_protected() {
        // Made a moment ago, and gone, perhaps just now: nothing is in it.
        Err(_) if !cgroup.is_there() => return Ok(()),
        refused => refused?,
    }
    for pid in cgroup.processes()? {
        refuse_process(cgroup, pid)?;
    }
    Ok(())
}

/// Refuses a cgroup since this process is one of them.
///
/// # Errors
///
/// When it is; it says which.
pub fn refuse_process(cgroup: &AgentCgroup, pid: u32) -> Result<()> {
    if let Some(program) = of(pid) {
        bail!(
            "{} is not taken for an agent's cgroup: {program} (pid {pid}) is in it. Narrow the \
             configuration's glob",
            cgroup.path().display()
        );
    }
    Ok(())
}

/// Which of them a process is. Only in the namespaces of pid 1 and as root: an agent in a container may call
/// itself what it likes. Not in agentwatch's own: as a service it may have a view of the files of its own.
fn of(pid: u32) -> Option<&'static str> {
    let exe = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    let name = exe.file_name()?.to_str()?;
    let program = PROGRAMS.into_iter().find(|program| *program == name)?;
    let is_root = fs::metadata(format!("/proc/{pid}")).is_ok_and(|process| process.uid() == 0);
    let is_it = is_root && same_namespace(pid, "mnt") && same_namespace(pid, "pid");
    (is_it && !(program == "systemd" && is_starting_a_unit(pid))).then_some(program)
}

/// Whether a systemd has not yet become the program of a unit: before version 255 it forks into the unit's cgroup
/// and then executes it. A systemd that manages units is in a cgroup of its own, `init.scope`.
fn is_starting_a_unit(pid: u32) -> bool {
    let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let path = cgroups.lines().find_map(|line| line.strip_prefix("0::"));
    let name = path.and_then(|path| path.rsplit('/').next()).unwrap_or("");
    let kind = name.rsplit_once('.').map(|(_, kind)| kind);
    name != "init.scope" && matches!(kind, Some("service" | "scope"))
}

/// Whether a process is in a namespace of pid 1's; where that one's cannot be read, of agentwatch's own.
fn same_namespace(pid: u32, name: &str) -> bool {
    let of = |pid: &str| fs::read_link(Path::new("/proc").join(pid).join("ns").join(name)).ok();
    of(&pid.to_string()) == of("1").or_else(|| of("self"))
}
