//! The process tree: who started whom, with what.

use std::collections::{HashMap, VecDeque};

use crate::{
    event::{Event, FileOp, Kind, ProcessKey},
    finding::ProcessInfo,
};

/// How many processes that have ended are remembered, for the ancestry of those that live on.
const ENDED: usize = 16 * 1024;
/// The longest ancestry that is told.
const ANCESTRY: usize = 32;

/// A process.
#[derive(Debug, Clone)]
pub struct Process {
    /// Which.
    pub key: ProcessKey,
    /// Who started it; a reaper that it was given to later does not count.
    pub parent: Option<ProcessKey>,
    /// Path of its binary, its parent's before its first exec.
    pub exe: String,
    /// Its arguments, likewise.
    pub argv: Vec<String>,
    /// User id.
    pub uid: u32,
    /// It is the agent's; else an ancestor of the agent.
    pub member: bool,
    /// What it did, itself.
    pub did: Did,
}

/// How much of what a process did, as far as events tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Did {
    /// Programs started.
    pub execs: u64,
    /// Files opened for writing, and for reading those that events tell of.
    pub opens: u64,
    /// Files deleted.
    pub deletes: u64,
    /// Payload bytes in, of flows that are closed.
    pub closed_in: u64,
    /// The same, out.
    pub closed_out: u64,
}

impl Did {
    /// What an event adds; `None` where that is nothing.
    fn of(kind: &Kind) -> Option<Self> {
        let none = Self::default();
        match kind {
            Kind::Exec(_) => Some(Self { execs: 1, ..none }),
            Kind::File(file) if file.result >= 0 => match file.op {
                FileOp::Open => Some(Self {
                    opens: u64::from(file.count),
                    ..none
                }),
                FileOp::Unlink | FileOp::Rmdir => Some(Self { deletes: 1, ..none }),
                _ => None,
            },
            Kind::FlowClose(close) => Some(Self {
                closed_in: close.bytes_in,
                closed_out: close.bytes_out,
                ..none
            }),
            _ => None,
        }
    }

    fn add(&mut self, more: Self) {
        let Self {
            execs,
            opens,
            deletes,
            closed_in,
            closed_out,
        } = more;
        self.execs += execs;
        self.opens += opens;
        self.deletes += deletes;
        self.closed_in = self.closed_in.saturating_add(closed_in);
        self.closed_out = self.closed_out.saturating_add(closed_out);
    }
}

/// All of them.
#[derive(Default)]
pub struct Processes {
    by_key: HashMap<ProcessKey, Process>,
    by_pid: HashMap<u32, ProcessKey>,
    ended: VecDeque<ProcessKey>,
}

impl Processes {
    /// Takes an event in.
    pub fn observe(&mut self, event: &Event) {
        self.follow(event);
        if let Some(did) = Did::of(&event.kind)
            && let Some(key) = self.known(event.process)
            && let Some(process) = self.by_key.get_mut(&key)
        {
            process.did.add(did);
        }
    }

    /// Who came, went, and runs what.
    fn follow(&mut self, event: &Event) {
        match &event.kind {
            Kind::Fork { parent, .. } => {
                let parent = self.known(*parent);
                let (exe, argv) = parent
                    .and_then(|key| self.by_key.get(&key))
                    .map(|parent| (parent.exe.clone(), parent.argv.clone()))
                    .unwrap_or_default();
                self.insert(Process {
                    key: event.process,
                    parent,
                    exe,
                    argv,
                    uid: event.uid,
                    member: true,
                    did: Did::default(),
                });
            }
            Kind::Seed(seed) => {
                let parent = (event.ppid != 0).then_some(ProcessKey {
                    pid: event.ppid,
                    start_ns: 0,
                });
                let parent = parent.and_then(|key| self.known(key));
                self.insert(Process {
                    key: event.process,
                    parent,
                    exe: seed.path.clone(),
                    argv: seed.argv.clone(),
                    uid: event.uid,
                    member: seed.member,
                    did: Did::default(),
                });
            }
            Kind::Exec(exec) => {
                let process = self.entry(event);
                process.exe.clone_from(&exec.path);
                process.argv.clone_from(&exec.argv);
                process.uid = event.uid;
            }
            Kind::Exit(_) => {
                let key = self.known(event.process).unwrap_or(event.process);
                if self.by_pid.get(&key.pid) == Some(&key) {
                    self.by_pid.remove(&key.pid);
                }
                self.ended.push_back(key);
                if self.ended.len() > ENDED
                    && let Some(oldest) = self.ended.pop_front()
                {
                    self.by_key.remove(&oldest);
                }
            }
            _ => {}
        }
    }

    /// The process of an event, made up where its fork was not seen.
    fn entry(&mut self, event: &Event) -> &mut Process {
        let key = self.known(event.process).unwrap_or(event.process);
        if !self.by_key.contains_key(&key) {
            let parent = self.known(ProcessKey {
                pid: event.ppid,
                start_ns: 0,
            });
            self.insert(Process {
                key,
                parent,
                exe: String::new(),
                argv: Vec::new(),
                uid: event.uid,
                member: true,
                did: Did::default(),
            });
        }
        self.by_key.entry(key).or_insert_with(|| Process {
            key,
            parent: None,
            exe: String::new(),
            argv: Vec::new(),
            uid: event.uid,
            member: true,
            did: Did::default(),
        })
    }

    fn insert(&mut self, process: Process) {
        self.by_pid.insert(process.key.pid, process.key);
        self.by_key.insert(process.key, process);
    }

    /// The key under which a process is known: a start of 0 stands for "the one that lives".
    fn known(&self, key: ProcessKey) -> Option<ProcessKey> {
        if self.by_key.contains_key(&key) {
            return Some(key);
        }
        let current = self.by_pid.get(&key.pid).copied()?;
        (key.start_ns == 0 || current.start_ns == 0).then_some(current)
    }

    /// What the agent's processes did that are alive.
    pub fn alive(&self) -> impl Iterator<Item = (ProcessKey, Did)> {
        let alive = self.by_pid.values().filter_map(|key| self.by_key.get(key));
        alive
            .filter(|process| process.member)
            .map(|process| (process.key, process.did))
    }

    /// A process, if it is known.
    pub fn get(&self, key: ProcessKey) -> Option<&Process> {
        self.by_key.get(&self.known(key)?)
    }

    /// Path of a process's binary.
    pub fn exe(&self, key: ProcessKey) -> Option<&str> {
        self.get(key)
            .map(|process| process.exe.as_str())
            .filter(|exe| !exe.is_empty())
    }

    /// Whether one is the other, or its parent or child.
    pub fn close_kin(&self, a: ProcessKey, b: ProcessKey) -> bool {
        let (a, b) = (self.known(a).unwrap_or(a), self.known(b).unwrap_or(b));
        let parent = |key| self.by_key.get(&key).and_then(|process| process.parent);
        a == b || parent(a) == Some(b) || parent(b) == Some(a)
    }

    /// A process as a finding shows it, and its ancestors from its parent up.
    pub fn chain(&self, key: ProcessKey) -> (ProcessInfo, Vec<ProcessInfo>) {
        let own = self.get(key).map_or_else(
            || ProcessInfo {
                pid: key.pid,
                start_ns: key.start_ns,
                uid: 0,
                exe: String::new(),
                argv: Vec::new(),
                member: true,
            },
            info,
        );
        let mut ancestry = Vec::new();
        let mut next = self.get(key).and_then(|process| process.parent);
        while let Some(process) = next.and_then(|key| self.by_key.get(&key)) {
            if ancestry.len() == ANCESTRY {
                break;
            }
            ancestry.push(info(process));
            next = process.parent;
        }
        (own, ancestry)
    }
}

fn info(process: &Process) -> ProcessInfo {
    let Process {
        key,
        parent: _,
        exe,
        argv,
        uid,
        member,
        did: _,
    } = process;
    ProcessInfo {
        pid: key.pid,
        start_ns: key.start_ns,
        uid: *uid,
        exe: exe.clone(),
        argv: argv.clone(),
        member: *member,
    }
}
