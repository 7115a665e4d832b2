//! What goes on: flows that stay open and processes that work are told of now and then, not only when they
//! end. An upload of hours and a miner would else be seen when it is too late.

use std::collections::{HashMap, HashSet};

use agentwatch_common::{kind, process::Usage, tag::Task};
use bytes::{Bytes, BytesMut};

use crate::{
    event::ProcessKey,
    probe::seed,
    source::{header, record},
};

/// How often it is told, nanoseconds.
const EVERY_NS: u64 = 10_000_000_000;
/// A process works where it keeps one CPU busy for one part in so many of the time.
const WORKS: u64 = 4;
/// Processes that are looked at in one turn: the way of the events waits meanwhile.
const AT_ONCE: usize = 32;

/// What was told of what goes on.
#[derive(Default)]
pub struct GoingOn {
    since_ns: u64,
    /// CPU time of each process when it was looked at, microseconds, and when that was, nanoseconds.
    seen: HashMap<ProcessKey, (u64, u64)>,
    /// Those that are still to be looked at in this round.
    left: Vec<(u32, Task)>,
}

impl GoingOn {
    /// Whether a round begins.
    pub fn is_due(&mut self, now_ns: u64) -> bool {
        let due = now_ns.saturating_sub(self.since_ns) >= EVERY_NS;
        if due {
            self.since_ns = now_ns;
        }
        due
    }

    /// These are to be looked at.
    pub fn look_at(&mut self, tasks: Vec<(u32, Task)>) {
        let there: HashSet<ProcessKey> = tasks.iter().map(key).collect();
        self.seen.retain(|process, _| there.contains(process));
        self.left = tasks;
    }

    /// Looks at some processes; those that work much are told of.
    pub fn turn(&mut self, now_ns: u64, batch: &mut Vec<Bytes>) {
        let rest = self.left.len().saturating_sub(AT_ONCE);
        for (pid, task) in self.left.drain(rest..) {
            let process = key(&(pid, task));
            let stat = seed::stat(pid).filter(|stat| stat.is_of(task.start_ns));
            let Some(stat) = stat else {
                self.seen.remove(&process);
                continue;
            };
            let before = self.seen.insert(process, (stat.cpu_us, now_ns));
            // Looked at for the first time: all of it is recent.
            let (used_us, since_ns) = before.unwrap_or((0, task.start_ns));
            let recent_cpu_ns = stat.cpu_us.saturating_sub(used_us) * 1000;
            let recent_ns = now_ns.saturating_sub(since_ns);
            if recent_ns < EVERY_NS / 2 || recent_cpu_ns * WORKS < recent_ns {
                continue;
            }
            let (read_bytes, written_bytes) = seed::transferred(pid).unwrap_or_default();
            let usage = Usage {
                cpu_ns: stat.cpu_us * 1000,
                recent_cpu_ns,
                recent_ns,
                read_bytes,
                written_bytes,
            };
            let mut head = header(kind::USAGE, task.agent, pid, task.start_ns, now_ns);
            head.ppid = task.ppid;
            stat.name(&mut head);
            batch.push(record(&mut BytesMut::new(), head, &usage, &[]));
        }
    }
}

fn key((pid, task): &(u32, Task)) -> ProcessKey {
    ProcessKey {
        pid: *pid,
        start_ns: task.start_ns,
    }
}
