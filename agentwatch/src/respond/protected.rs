//! What is never acted upon: pid 1, agentwatch, and what it was started by.

use std::{
    fs,
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use anyhow::{Context as _, Result};

use crate::{event::ProcessKey, probe};

/// One of them.
#[derive(Debug, Clone)]
pub struct Protected {
    /// Who.
    pub process: ProcessKey,
    /// Its cgroup when agentwatch started.
    home: Option<PathBuf>,
}

/// The same, looked up when this was asked for first: where they were then is their home.
pub fn known() -> Arc<[Protected]> {
    static KNOWN: OnceLock<Arc<[Protected]>> = OnceLock::new();
    Arc::clone(KNOWN.get_or_init(|| list().into()))
}

/// All of them, agentwatch first, then from parent to parent.
pub fn list() -> Vec<Protected> {
    list_from(std::process::id())
}

/// The same, with another process of agentwatch's, and what that was started by: `agentwatch run`, where a
/// daemon watches for it.
pub fn known_and(runner: u32) -> Arc<[Protected]> {
    let known = known();
    let more = list_from(runner);
    let new = more
        .into_iter()
        .filter(|one| known.iter().all(|known| known.process != one.process));
    known.iter().cloned().chain(new).collect()
}

fn list_from(pid: u32) -> Vec<Protected> {
    let mut found: Vec<Protected> = Vec::new();
    let mut next = Some(pid);
    while let Some(pid) = next {
        if pid == 0 || found.iter().any(|known| known.process.pid == pid) {
            break;
        }
        let stat = probe::seed::stat(pid);
        found.push(Protected {
            process: ProcessKey {
                pid,
                start_ns: stat.as_ref().map_or(0, |stat| stat.start_ns),
            },
            home: cgroup_of(pid),
        });
        next = stat.map(|stat| stat.ppid);
    }
    // In a pid namespace of its own, the ancestors end before the host's first process.
    if !found.iter().any(|known| known.process.pid == 1) {
        let start_ns = probe::seed::stat(1).map_or(0, |stat| stat.start_ns);
        found.push(Protected {
            process: ProcessKey { pid: 1, start_ns },
            home: cgroup_of(1),
        });
    }
    found
}

impl Protected {
    /// Who it is, for people.
    pub fn describe(&self) -> String {
        match self.process.pid {
            1 => "pid 1".to_owned(),
            pid if pid == std::process::id() => "agentwatch itself".to_owned(),
            pid => format!("pid {pid}, which agentwatch was started by"),
        }
    }

    /// Whether the process with this id is the one that is meant.
    pub fn is(&self, pid: u32) -> bool {
        self.process.pid == pid
            && (pid == std::process::id() || probe::seed::started_at(self.process))
    }

    /// Moves it back into the cgroup where it was, or into the root cgroup where that is no more.
    ///
    /// # Errors
    ///
    /// When the kernel refuses both.
    pub fn send_home(&self) -> Result<()> {
        let root = probe::support::cgroup2()?;
        let pid = self.process.pid.to_string();
        let home = self.home.as_ref().map(|home| home.join("cgroup.procs"));
        if let Some(home) = home
            && fs::write(home, &pid).is_ok()
        {
            return Ok(());
        }
        fs::write(root.join("cgroup.procs"), &pid)
            .with_context(|| format!("cannot move {} out of the agent's cgroup", self.describe()))
    }
}

fn cgroup_of(pid: u32) -> Option<PathBuf> {
    let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let path = cgroups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(probe::support::cgroup2().ok()?.join(path))
}
