//! An agent's cgroup: made, frozen, killed, removed. Nothing else is ever written to.

use std::{
    fs,
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

use super::protected::{self, Protected};
use crate::event::ProcessKey;

/// How long killing one by one may take.
const ONE_BY_ONE: Duration = Duration::from_secs(2);
/// How often what was moved in is moved out: who moves it in again as fast gets a refusal, and its finding.
const RESCUES: usize = 16;
/// How often a cgroup is tried to be removed, each 5 ms.
const REMOVALS: u32 = 100;

/// The cgroup of an agent, which may be acted upon.
#[derive(Debug, Clone)]
pub struct AgentCgroup {
    path: PathBuf,
    /// The cgroup v2 id.
    pub id: u64,
    /// Processes that are never acted upon. Looked up once: what comes between a finding and the
    /// kill costs time.
    protected: Arc<[Protected]>,
}

impl AgentCgroup {
    /// Makes a new cgroup.
    ///
    /// # Errors
    ///
    /// When the folder cannot be made.
    pub fn create(path: &Path) -> Result<Self> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)
                .with_context(|| format!("cannot make the cgroup {}", parent.display()))?;
        }
        fs::create_dir(path)
            .with_context(|| format!("cannot make the cgroup {}", path.display()))?;
        // A new cgroup is empty, so this fails only where it cannot be read; then it goes again.
        Self::adopt(path.to_owned()).inspect_err(|_| {
            let _ = fs::remove_dir(path);
        })
    }

    /// Takes a cgroup that exists.
    ///
    /// # Errors
    ///
    /// When it is none, or holds what must never be acted upon: pid 1, agentwatch or one of its
    /// ancestors.
    pub fn adopt(path: PathBuf) -> Result<Self> {
        if !path.join("cgroup.procs").exists() {
            bail!("{} is not a cgroup v2 folder", path.display());
        }
        let id = fs::metadata(&path)
            .with_context(|| format!("cannot read {}", path.display()))?
            .ino();
        let cgroup = Self {
            path,
            id,
            protected: protected::known(),
        };
        cgroup.refuse_protected()?;
        Ok(cgroup)
    }

    /// A cgroup that is known by its id, and may be gone already. What is in it is looked at when it is
    /// acted upon.
    pub fn known(path: PathBuf, id: u64) -> Self {
        Self {
            path,
            id,
            protected: protected::known(),
        }
    }

    /// The same, where another process of agentwatch's starts what runs in it: that, and what it was started
    /// by, is not acted upon either.
    #[must_use]
    pub fn protecting(self, runner: u32) -> Self {
        Self {
            protected: protected::known_and(runner),
            ..self
        }
    }

    /// What is never acted upon.
    pub fn protected(&self) -> &[Protected] {
        &self.protected
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is there: another cgroup of the same name is not the agent's.
    pub fn is_there(&self) -> bool {
        fs::metadata(&self.path).is_ok_and(|folder| folder.ino() == self.id)
    }

    /// The ids of it and of all cgroups below it.
    ///
    /// # Errors
    ///
    /// When a folder cannot be read.
    pub fn subtree(&self) -> Result<Vec<(PathBuf, u64)>> {
        let mut found = Vec::new();
        let mut todo = vec![self.path.clone()];
        while let Some(path) = todo.pop() {
            let Ok(metadata) = fs::metadata(&path) else {
                continue; // removed meanwhile
            };
            for entry in fs::read_dir(&path).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    todo.push(entry.path());
                }
            }
            found.push((path, metadata.ino()));
        }
        Ok(found)
    }

    /// All processes in it and below.
    ///
    /// # Errors
    ///
    /// When a list cannot be read.
    pub fn processes(&self) -> Result<Vec<u32>> {
        let mut pids = Vec::new();
        for (path, _) in self.subtree()? {
            match fs::read_to_string(path.join("cgroup.procs")) {
                Ok(list) => pids.extend(list.lines().filter_map(|line| line.parse::<u32>().ok())),
                Err(error) if is_gone(&error) => {}
                Err(error) if is_threaded(&error) => pids.extend(processes_by_threads(&path)?),
                Err(error) => {
                    return Err(error)
                        .with_context(|| format!("cannot read {}/cgroup.procs", path.display()));
                }
            }
        }
        pids.sort_unstable();
        pids.dedup();
        Ok(pids)
    }

    fn is_protected(&self, pid: u32) -> bool {
        self.protected.iter().any(|protected| protected.is(pid))
    }

    /// Those of its processes that must never be acted upon.
    fn hostages(&self) -> Result<Vec<&Protected>> {
        if !self.is_there() {
            bail!("the cgroup {} is no more", self.path.display());
        }
        let pids = self.processes()?;
        let is_in = |protected: &&Protected| pids.iter().any(|pid| protected.is(*pid));
        Ok(self.protected.iter().filter(is_in).collect())
    }

    /// Refuses a cgroup with a process that must never be acted upon.
    ///
    /// # Errors
    ///
    /// When there is one; it says which.
    pub fn refuse_protected(&self) -> Result<()> {
        if let Some(hostage) = self.hostages()?.first() {
            bail!(
                "{} is no agent's cgroup: {} is in it",
                self.path.display(),
                hostage.describe()
            );
        }
        Ok(())
    }

    /// Moves out what must never be acted upon. None of it was in it at first: who may write to the agent's
    /// cgroup has moved it in, so that nothing could be done to the cgroup.
    ///
    /// # Errors
    ///
    /// When the kernel refuses, or it is moved in again each time.
    pub fn free_hostages(&self) -> Result<()> {
        for _ in 0..RESCUES {
            let hostages = self.hostages()?;
            if hostages.is_empty() {
                return Ok(());
            }
            for hostage in hostages {
                hostage.send_home()?;
            }
        }
        self.refuse_protected()
    }

    /// Kills everything in it, all at once.
    ///
    /// # Errors
    ///
    /// When it is protected, or the kernel refuses.
    pub fn kill(&self) -> Result<()> {
        self.free_hostages()?;
        let file = self.path.join("cgroup.kill");
        // Not `fs::write`: to make a file in a cgroup is forbidden, which would hide that there is none.
        let written = fs::OpenOptions::new()
            .write(true)
            .open(&file)
            .and_then(|mut file| file.write_all(b"1"));
        match written {
            Ok(()) => Ok(()),
            Err(error) if is_gone(&error) || is_threaded(&error) => self.kill_one_by_one(),
            Err(error) => Err(error).with_context(|| format!("cannot write {}", file.display())),
        }
    }

    /// Kills each process in it, as before Linux 5.14, where there is no `cgroup.kill`: freezes it, so
    /// that nothing forks, and kills until it is empty. SIGKILL ends a frozen process too.
    ///
    /// # Errors
    ///
    /// When it is protected, the kernel refuses, or something is still there after two seconds.
    pub fn kill_one_by_one(&self) -> Result<()> {
        self.freeze(true)?;
        let end = Instant::now() + ONE_BY_ONE;
        let result = loop {
            let pids = match self.processes() {
                Ok(pids) => pids,
                Err(error) => break Err(error),
            };
            for pid in pids {
                // Not what was moved in since it was looked at.
                if !self.is_protected(pid) {
                    kill(ProcessKey { pid, start_ns: 0 });
                }
            }
            // Again: a fork may have been under way when it froze.
            if self.wait_empty(Duration::from_millis(20)) {
                break Ok(());
            }
            if Instant::now() > end {
                break Err(anyhow!(
                    "{} is not empty {} s after all in it were killed",
                    self.path.display(),
                    ONE_BY_ONE.as_secs()
                ));
            }
        };
        result.and(self.freeze(false))
    }

    /// Freezes it and everything below, or lets it run again.
    ///
    /// # Errors
    ///
    /// When it is protected, or the kernel refuses.
    pub fn freeze(&self, frozen: bool) -> Result<()> {
        self.free_hostages()?;
        let file = self.path.join("cgroup.freeze");
        fs::write(&file, if frozen { "1" } else { "0" })
            .with_context(|| format!("cannot write {}", file.display()))
    }

    /// Waits until everything in it stands still, or may run. False when the time is over.
    pub fn wait_frozen(&self, frozen: bool, at_most: Duration) -> bool {
        let wanted = if frozen { "frozen 1" } else { "frozen 0" };
        self.wait_for(at_most, |events| has_line(events, wanted).unwrap_or(true))
    }

    /// Waits until no process is left in it or below. False when the time is over.
    pub fn wait_empty(&self, at_most: Duration) -> bool {
        self.wait_for(at_most, |events| !is_populated(events))
    }

    /// Waits until `cgroup.events` says so. False when the time is over.
    fn wait_for(&self, at_most: Duration, mut so: impl FnMut(&mut fs::File) -> bool) -> bool {
        let end = Instant::now() + at_most;
        let Ok(mut events) = fs::File::open(self.path.join("cgroup.events")) else {
            return !self.path.exists();
        };
        loop {
            if so(&mut events) {
                return true;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            // The kernel tells of changes of cgroup.events by POLLPRI.
            let timeout = rustix::time::Timespec {
                tv_sec: 0,
                tv_nsec: left.as_nanos().min(50_000_000) as _,
            };
            let _ = poll(&mut [PollFd::new(&events, PollFlags::PRI)], Some(&timeout));
        }
    }

    /// Whether no process is in it or below.
    pub fn is_empty(&self) -> bool {
        self.wait_empty(Duration::ZERO)
    }

    /// Kills a process of the agent that has left the cgroup. False when it is gone or protected.
    pub fn kill_outsider(&self, process: ProcessKey) -> bool {
        !self.is_protected(process.pid) && kill(process)
    }

    /// Stops a process of the agent that has left the cgroup, or lets it go on. False when it is gone or
    /// protected.
    pub fn stop_outsider(&self, process: ProcessKey, stop: bool) -> bool {
        let what = if stop { Signal::STOP } else { Signal::CONT };
        !self.is_protected(process.pid) && send(process, what)
    }

    /// Removes it and what is below. What still has processes stays.
    pub fn remove(&self) {
        let Ok(mut folders) = self.subtree() else {
            return;
        };
        folders.sort_by_key(|(path, _)| std::cmp::Reverse(path.components().count()));
        for (path, _) in folders {
            // A task that has just died may hold its cgroup for a moment; and one that was on its way to move a
            // hostage in when it was killed may have come to that.
            for _ in 0..REMOVALS {
                match fs::remove_dir(&path) {
                    Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                        // Who cannot be freed now is tried again; else the folder stays, as where anything is in it.
                        let _ = self.free_hostages();
                        std::thread::sleep(Duration::from_millis(5));
                    }
                    _ => break,
                }
            }
        }
    }
}

/// A cgroup was removed meanwhile, or the kernel does not have the file.
fn is_gone(error: &io::Error) -> bool {
    // Reading the list of a cgroup that is removed while it is open gives ENODEV.
    error.kind() == io::ErrorKind::NotFound || Errno::from_io_error(error) == Some(Errno::NODEV)
}

/// Whether a cgroup is refused as one that is threaded: it has threads, and its processes belong to the
/// nearest cgroup above that is not; it has no `cgroup.kill` either. Who may write to its own cgroup can make such ones below it.
/// See "Threads" in the kernel's Documentation/admin-guide/cgroup-v2.rst.
fn is_threaded(error: &io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::OPNOTSUPP)
}

/// The processes that have threads in a cgroup.
fn processes_by_threads(cgroup: &Path) -> Result<Vec<u32>> {
    let file = cgroup.join("cgroup.threads");
    let list = match fs::read_to_string(&file) {
        Ok(list) => list,
        Err(error) if is_gone(&error) => return Ok(Vec::new()),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot read {}", file.display()));
        }
    };
    // A thread that has ended meanwhile has no process any more.
    let threads = list.lines().filter_map(|line| line.parse::<u32>().ok());
    Ok(threads.filter_map(crate::probe::seed::process_of).collect())
}

fn is_populated(events: &mut fs::File) -> bool {
    // A cgroup that is gone has nobody in it.
    has_line(events, "populated 1").unwrap_or(false)
}

/// Whether `cgroup.events` has a line; `None` when the cgroup is gone.
fn has_line(events: &mut fs::File, wanted: &str) -> Option<bool> {
    let mut text = String::new();
    events
        .rewind()
        .and_then(|()| events.read_to_string(&mut text))
        .ok()?;
    Some(text.lines().any(|line| line == wanted))
}

/// Kills one process, if it is still the one that is meant: by a descriptor, so that a process id
/// that was given again in between is not hit.
fn kill(process: ProcessKey) -> bool {
    send(process, Signal::KILL)
}

/// Sends a signal likewise.
fn send(process: ProcessKey, signal: Signal) -> bool {
    let Some(pid) = i32::try_from(process.pid).ok().and_then(Pid::from_raw) else {
        return false;
    };
    let Ok(fd) = pidfd_open(pid, PidfdFlags::empty()) else {
        return false;
    };
    if process.start_ns != 0 && !crate::probe::seed::started_at(process) {
        return false;
    }
    pidfd_send_signal(fd, signal).is_ok()
}
