//! Processes that are there already, from `/proc`.

use std::{fs, path::Path};

use agentwatch_common::{
    Header,
    budget::place,
    header::COMM_LEN,
    kind,
    process::{AgentInfo, Seed},
};
use bytes::{Bytes, BytesMut};

use crate::{
    event::{Carried, ProcessKey},
    source::{header, record},
    text::escape,
};

/// The start time in `/proc/PID/stat` is in ticks of this length: `USER_HZ` is 100 wherever Linux
/// has BPF (`proc_pid_stat(5)`, `include/asm-generic/param.h`).
const TICK_NS: u64 = 10_000_000;
/// `PF_EXITING` of include/linux/sched.h.
const PF_EXITING: u64 = 4;
/// What is sent of a string of `/proc`.
const TEXT_MAX: usize = 4096;
/// What is sent of the arguments of a process that is not the agent's: enough to know it by. They may
/// hold what is none of a history's business.
const STRANGER_ARGV_MAX: usize = 256;

/// What `/proc/PID/stat` says of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// Its name.
    pub comm: Vec<u8>,
    /// Its parent.
    pub ppid: u32,
    /// Its start, `CLOCK_BOOTTIME` nanoseconds, to a hundredth of a second.
    pub start_ns: u64,
    /// Processor time so far, user and system, microseconds.
    pub cpu_us: u64,
    /// Its last thread is ending.
    pub is_ending: bool,
}

impl Stat {
    /// Whether it is of the process that started then.
    pub fn is_of(&self, start_ns: u64) -> bool {
        self.start_ns / TICK_NS == start_ns / TICK_NS
    }

    /// Writes the process's name into a header.
    pub fn name(&self, head: &mut Header) {
        let own = self.comm.iter().take(COMM_LEN - 1);
        for (to, from) in head.comm.iter_mut().zip(own) {
            *to = *from;
        }
    }
}

/// Bytes that a process has read and written, from and to anything (`rchar` and `wchar` of `proc_pid_io(5)`).
pub fn transferred(pid: u32) -> Option<(u64, u64)> {
    let io = fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
    let field = |name: &str| {
        let line = io.lines().find_map(|line| line.strip_prefix(name));
        line?.trim().parse().ok()
    };
    Some((field("rchar:")?, field("wchar:")?))
}

/// What `/proc` says of a process, for who looks on. What it does not say is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Look {
    /// Its real user id.
    pub uid: u32,
    /// Path of its binary, escaped.
    pub exe: String,
    /// Its arguments, escaped.
    pub argv: Vec<String>,
    /// See [`Stat::cpu_us`]; `None` when it is gone.
    pub cpu_us: Option<u64>,
}

/// Looks at a process.
pub fn look(pid: u32) -> Look {
    let exe = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    let mut argv = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    argv.truncate(TEXT_MAX);
    let words = argv.strip_suffix(b"\0").unwrap_or(&argv).split(|b| *b == 0);
    Look {
        uid: owner(pid),
        exe: escape(exe.as_os_str().as_encoded_bytes()),
        argv: words.filter(|_| !argv.is_empty()).map(escape).collect(),
        cpu_us: stat(pid).map(|stat| stat.cpu_us),
    }
}

/// Reads `/proc/PID/stat`; `None` when the process is gone.
pub fn stat(pid: u32) -> Option<Stat> {
    parse_stat(&fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// The name is in parentheses and may hold any byte, parentheses too: what follows the last one
/// counts.
fn parse_stat(stat: &[u8]) -> Option<Stat> {
    let open = stat.iter().position(|b| *b == b'(')?;
    let close = stat.iter().rposition(|b| *b == b')')?;
    let comm = stat.get(open + 1..close)?.to_vec();
    let rest = std::str::from_utf8(stat.get(close + 1..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let ppid = fields.nth(1)?.parse().ok()?;
    // Fields 9, 14, 15, 20 and 22 of proc_pid_stat(5).
    let flags: u64 = fields.nth(4)?.parse().ok()?;
    let user: u64 = fields.nth(4)?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    let threads: i64 = fields.nth(4)?.parse().ok()?;
    let ticks: u64 = fields.nth(1)?.parse().ok()?;
    Some(Stat {
        comm,
        ppid,
        start_ns: ticks.checked_mul(TICK_NS)?,
        is_ending: flags & PF_EXITING != 0 && threads <= 1,
        cpu_us: user.saturating_add(system).saturating_mul(TICK_NS / 1000),
    })
}

/// A process's parent.
pub fn parent(pid: u32) -> Option<u32> {
    stat(pid).map(|stat| stat.ppid)
}

/// The process that a thread belongs to.
pub fn process_of(thread: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    let id = status.lines().find_map(|line| line.strip_prefix("Tgid:"))?;
    id.trim().parse().ok()
}

/// Whether the process with this id is the one that started then.
pub fn started_at(process: ProcessKey) -> bool {
    stat(process.pid).is_some_and(|stat| stat.is_of(process.start_ns))
}

/// The record of a process, `None` when it is gone.
pub fn seed(agent: u32, pid: u32, member: bool, time_ns: u64) -> Option<Bytes> {
    let stat = stat(pid)?;
    let mut argv = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    argv.truncate(if member { TEXT_MAX } else { STRANGER_ARGV_MAX });
    let link = |name: &str| {
        let target = fs::read_link(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let mut bytes = target.into_os_string().into_encoded_bytes();
        bytes.truncate(TEXT_MAX);
        bytes
    };
    let (path, cwd) = (link("exe"), link("cwd"));
    let mut head = header(kind::SEED, agent, pid, stat.start_ns, time_ns);
    head.ppid = stat.ppid;
    head.uid = owner(pid);
    stat.name(&mut head);
    let payload = Seed {
        member: u32::from(member),
        path_len: path.len() as u16,
        cwd_len: cwd.len() as u16,
        argv_len: argv.len() as u16,
        pad: [0; 3],
    };
    Some(record(
        &mut BytesMut::new(),
        head,
        &payload,
        &[&path, &cwd, &argv],
    ))
}

/// The real user id of a process.
fn owner(pid: u32) -> u32 {
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata(format!("/proc/{pid}")).map_or(0, |metadata| metadata.uid())
}

/// The records of a process's ancestors, oldest first.
pub fn ancestors(agent: u32, pid: u32, time_ns: u64) -> Vec<Bytes> {
    let mut chain = Vec::new();
    let mut next = Some(pid);
    while let Some(pid) = next.filter(|pid| *pid != 0 && !chain.contains(pid)) {
        chain.push(pid);
        next = parent(pid);
    }
    chain.reverse();
    chain
        .into_iter()
        .filter_map(|pid| seed(agent, pid, false, time_ns))
        .collect()
}

/// The record that introduces an agent.
pub fn agent(
    number: u32,
    name: &str,
    cgroup: (&Path, u64),
    workspace: Option<&Path>,
    time_ns: u64,
    wall_offset_ns: u64,
) -> Bytes {
    let (cgroup_path, id) = cgroup;
    let path = cgroup_path.as_os_str().as_encoded_bytes();
    let folder = workspace.map_or(&[][..], |folder| folder.as_os_str().as_encoded_bytes());
    let payload = AgentInfo {
        cgroup: id,
        wall_offset_ns,
        name_len: name.len() as u16,
        cgroup_len: path.len() as u16,
        workspace_len: folder.len() as u16,
        pad: 0,
    };
    let head = header(kind::AGENT, number, 0, 0, time_ns);
    record(
        &mut BytesMut::new(),
        head,
        &payload,
        &[name.as_bytes(), path, folder],
    )
}

/// The record of what an agent has removed already.
pub fn carried(number: u32, carried: &Carried, time_ns: u64) -> Bytes {
    let (mut removed, mut last_ns) = ([0; 2], [0; 2]);
    for (at, of) in [
        (place::OUTSIDE, carried.outside),
        (place::WORKSPACE, carried.workspace),
    ] {
        removed[at] = of.files;
        last_ns[at] = of.last_ns;
    }
    let payload = agentwatch_common::budget::Carried { removed, last_ns };
    let head = header(kind::CARRIED, number, 0, 0, time_ns);
    record(&mut BytesMut::new(), head, &payload, &[])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_parentheses() {
        let text = b"42 (a) b (c) R 7 1 1 0 -1 0 0 0 0 0 1 2 3 4 20 0 1 0 1234 0 0";
        let stat = parse_stat(text).unwrap();
        assert_eq!(stat.comm, b"a) b (c");
        assert_eq!(stat.ppid, 7);
        assert_eq!(stat.start_ns, 12_340_000_000);
        assert_eq!(stat.cpu_us, 30_000);
        assert!(!stat.is_ending);
        let text = b"42 (a) Z 7 1 1 0 -1 4194316 0 0 0 0 1 2 3 4 20 0 1 0 1234 0 0";
        assert!(parse_stat(text).unwrap().is_ending);
        assert_eq!(parse_stat(b"42 (x"), None);
        assert_eq!(parse_stat(b""), None);
    }
}
