//! A program that watches while the workload runs: what it costs itself.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

/// How often a watcher is looked at to see whether it is at rest.
const LOOK: Duration = Duration::from_millis(200);
/// At rest, it uses no more than this in that time.
const REST_NS: u64 = 6_000_000;
/// How long it may take to get there.
const PATIENCE: Duration = Duration::from_secs(30);

/// How many processes have programs attached to the kernel now: what they cost is in every setting, and
/// a system call that somebody traces already costs less to trace once more.
pub fn watchers() -> Result<usize> {
    let processes = fs::read_dir("/proc").context("reading /proc")?;
    Ok(processes
        .filter_map(Result::ok)
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        // A process may end meanwhile.
        .filter(|pid| Watcher::new(*pid).attached().is_ok_and(|links| links > 0))
        .count())
}

/// A process that is looked at from outside.
#[derive(Debug, Clone, Copy)]
pub struct Watcher {
    pid: u32,
}

impl Watcher {
    pub fn new(pid: u32) -> Self {
        Self { pid }
    }

    fn file(self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.pid))
    }

    /// CPU time that each of its threads has used, nanoseconds.
    fn cpu_by_thread(self) -> Result<BTreeMap<PathBuf, u64>> {
        let tasks = self.file("task");
        let mut cpu = BTreeMap::new();
        for task in fs::read_dir(&tasks).with_context(|| format!("reading {}", tasks.display()))? {
            let path = task?.path();
            // "time on the CPU, time waiting, time slices": Documentation/scheduler/sched-stats.rst.
            // A thread may end meanwhile.
            if let Ok(text) = fs::read_to_string(path.join("schedstat")) {
                let ns = text
                    .split_whitespace()
                    .next()
                    .and_then(|ns| ns.parse().ok());
                cpu.insert(path, ns.context("reading schedstat")?);
            }
        }
        Ok(cpu)
    }

    /// CPU time used so far, nanoseconds.
    pub fn cpu_ns(self) -> Result<u64> {
        Ok(self.cpu_by_thread()?.values().sum())
    }

    /// Waits until it has done what there was to do.
    pub fn wait_for_rest(self) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        let mut before = self.cpu_ns()?;
        while Instant::now() < end {
            thread::sleep(LOOK);
            let now = self.cpu_ns()?;
            if now.saturating_sub(before) < REST_NS {
                return Ok(());
            }
            before = now;
        }
        bail!("process {} does not come to rest", self.pid)
    }

    /// Resident memory now, and the most since `forget_peak`, MB.
    pub fn memory_mb(self) -> Result<(f64, f64)> {
        let status = fs::read_to_string(self.file("status")).context("reading status")?;
        let field = |name: &str| {
            status
                .lines()
                .find_map(|line| {
                    line.strip_prefix(name)?
                        .split_whitespace()
                        .next()?
                        .parse()
                        .ok()
                })
                .map(|kib: f64| kib * 1024.0 / 1e6)
                .with_context(|| format!("status has no {name}"))
        };
        Ok((field("VmRSS:")?, field("VmHWM:")?))
    }

    /// Sets the peak of its memory to what it has now.
    pub fn forget_peak(self) -> Result<()> {
        fs::write(self.file("clear_refs"), "5").context("resetting the peak of memory")
    }

    /// Waits until it has attached its programs to the kernel, and attaches no more.
    pub fn wait_attached(self) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        let (mut before, mut same) = (0, 0);
        while Instant::now() < end {
            thread::sleep(LOOK);
            let now = self.attached()?;
            same = if now > 0 && now == before {
                same + 1
            } else {
                0
            };
            if same == 3 {
                return Ok(());
            }
            before = now;
        }
        bail!("process {} attaches nothing", self.pid)
    }

    /// Descriptors of programs that are attached.
    fn attached(self) -> Result<usize> {
        let fds = self.file("fd");
        let links = fs::read_dir(&fds).with_context(|| format!("reading {}", fds.display()))?;
        Ok(links
            .filter_map(Result::ok)
            .filter_map(|fd| fs::read_link(fd.path()).ok())
            .filter(|link| {
                let link = link.to_string_lossy();
                link.contains("bpf_link")
                    || link.contains("perf_event")
                    || link.contains("bpf-link")
            })
            .count())
    }
}
