//! Sockets that somebody outside made and an agent uses: found where an agent has them from the start,
//! and asked about at the end (`agentwatch-ebpf/src/probes/borrowed.rs`).

use std::{
    fs,
    mem::offset_of,
    os::fd::{AsRawFd as _, OwnedFd, RawFd},
    path::Path,
    time::{Duration, Instant},
};

use agentwatch_common::{
    Header,
    flow::{Borrowed, COUNTING},
    kind,
    process::CgroupMove,
    tag::Task,
};
use anyhow::{Context as _, Result};
use aya::{
    maps::HashMap,
    programs::{RawTracePoint, RawTracePointRunOptions, TestRun as _},
};
use bytes::Bytes;
use rustix::{
    io::FdFlags,
    process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open},
};

use super::{Capability, Probe, explain, hooks, parallel, tiers::Tier};

/// Most descriptors of a process that are looked at.
const DESCRIPTORS: usize = 4096;

/// How often it is looked whether UDP sockets are closed.
const LOOK: Duration = Duration::from_secs(1);

const IPPROTO_UDP: u8 = 17;

/// The programs that count what goes through UDP sockets, and their tracepoints.
const LENGTHS: [(&str, &str); 2] = [
    ("socket_sent", "sock_send_length"),
    ("socket_got", "sock_recv_length"),
];

/// The programs that are run from here.
const RUN: [&str; 2] = ["socket_inherited", "socket_ask"];

/// What records say that concerns this.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct News {
    /// A process got a socket from somebody.
    pub received: bool,
    /// Processes that came to an agent's cgroup, with the agent.
    pub moved: Vec<(u32, u32)>,
}

impl News {
    /// Of these records.
    pub fn of(records: &[Bytes]) -> Self {
        let mut news = Self::default();
        for record in records {
            let number = |at: usize| {
                let bytes = record.get(at..at + 4)?;
                Some(u32::from_ne_bytes(bytes.try_into().ok()?))
            };
            let at = offset_of!(Header, kind);
            let kind = record
                .get(at..at + 2)
                .map(|b| u16::from_ne_bytes([b[0], b[1]]));
            match kind {
                Some(kind::SOCKET_RECEIVED | kind::SOCKET_INHERITED) => news.received = true,
                Some(kind::CGROUP_MOVE) => {
                    let at = size_of::<Header>();
                    let moved = number(at + offset_of!(CgroupMove, moved));
                    let agent = number(at + offset_of!(CgroupMove, to_agent));
                    news.moved
                        .extend(moved.zip(agent).filter(|(_, agent)| *agent != 0));
                }
                _ => {}
            }
        }
        news
    }
}

/// The sockets that are followed, and whether they are.
pub(super) struct Following {
    attached: bool,
    /// Whether the kernel tells how much goes through UDP sockets.
    lengths: bool,
    /// When the UDP ones were looked at: nothing tells that one is closed.
    looked: Instant,
    /// Why they are not, said once.
    refused: Option<String>,
}

impl Following {
    /// Of none so far.
    pub(super) fn new(lengths: bool) -> Self {
        Self {
            attached: false,
            lengths,
            looked: Instant::now(),
            refused: None,
        }
    }
}

impl Probe {
    /// Does what these records ask for. What cannot be done is said, once.
    pub fn follow(&mut self, news: &News) -> Option<String> {
        let moved = |probe: &mut Self| -> Result<()> {
            for (pid, agent) in &news.moved {
                probe.inherited(*agent, *pid)?;
            }
            Ok(())
        };
        let mut done = moved(self);
        if news.received {
            done = done.and_then(|()| self.attach_socket_state());
        }
        if self.following.attached && self.following.looked.elapsed() > LOOK {
            self.following.looked = Instant::now();
            done =
                done.and_then(|()| self.ask(|socket| socket.endpoint.proto == IPPROTO_UDP, false));
        }
        let error = format!("{:#}", done.err()?);
        let first = self.following.refused.is_none();
        self.following.refused = Some(error.clone());
        first.then_some(error)
    }

    /// Takes down the sockets that agentwatch itself passes on to what it starts.
    ///
    /// # Errors
    ///
    /// When the kernel does not run its programs.
    pub fn passed_on(&mut self, agent: u32) -> Result<()> {
        for fd in sockets(Path::new("/proc/self/fd")) {
            // SAFETY: one of this process's own, which nobody closes meanwhile: it is single-threaded
            // in what it does with those that it was started with.
            let own = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
            let kept = rustix::io::fcntl_getfd(own).is_ok_and(|f| !f.contains(FdFlags::CLOEXEC));
            if kept {
                self.take_down(fd, agent, 0, None)?;
            }
        }
        Ok(())
    }

    /// The same, of another process that will start the agent.
    ///
    /// # Errors
    ///
    /// When the kernel does not run its programs.
    pub fn passed_on_by(&mut self, agent: u32, pid: u32) -> Result<()> {
        let Some(process) = descriptor(pid) else {
            return Ok(()); // gone
        };
        for fd in sockets(Path::new(&format!("/proc/{pid}/fd"))) {
            let kept = fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}"))
                .is_ok_and(|info| outlives_exec(&info));
            if kept && let Ok(own) = pidfd_getfd(&process, fd, PidfdGetfdFlags::empty()) {
                self.take_down(own.as_raw_fd(), agent, 0, None)?;
            }
        }
        Ok(())
    }

    /// Takes down the sockets that a process has, where others made them.
    ///
    /// # Errors
    ///
    /// When the kernel does not run its programs.
    pub fn inherited(&mut self, agent: u32, pid: u32) -> Result<()> {
        let mut found = sockets(Path::new(&format!("/proc/{pid}/fd"))).peekable();
        if found.peek().is_none() {
            return Ok(());
        }
        let tasks: HashMap<_, u32, Task> = self.map("TASKS")?.try_into()?;
        let task = tasks.get(&pid, 0).ok();
        let Some(process) = descriptor(pid) else {
            return Ok(()); // gone
        };
        for fd in found {
            // Closed meanwhile, or the process is gone; what is had here is closed again at once.
            if let Ok(own) = pidfd_getfd(&process, fd, PidfdGetfdFlags::empty()) {
                self.take_down(own.as_raw_fd(), agent, pid, task)?;
            }
        }
        Ok(())
    }

    fn take_down(&mut self, fd: RawFd, agent: u32, pid: u32, task: Option<Task>) -> Result<()> {
        self.attach_socket_state()?;
        let uid = fs::metadata(format!("/proc/{pid}")).map_or(0, |process| {
            use std::os::unix::fs::MetadataExt as _;
            process.uid()
        });
        let fd = u64::try_from(fd).unwrap_or(u64::MAX);
        let (start_ns, parent) = task.map_or((0, 0), |task| (task.start_ns, task.ppid));
        let arguments = [
            fd,
            agent.into(),
            pid.into(),
            start_ns,
            parent.into(),
            uid.into(),
        ];
        self.run("socket_inherited", &arguments)
    }

    /// Has the kernel tell when such a socket is closed. Those that were closed before are told now.
    fn attach_socket_state(&mut self) -> Result<()> {
        if self.following.attached {
            return Ok(());
        }
        for name in RUN {
            parallel::load(self.program(name)?).map_err(|error| explain(&error))?;
        }
        self.attach_raw("socket_state", "inet_sock_set_state")
            .map_err(|error| explain(&error))
            .context("cannot be told when sockets are closed")?;
        if self.following.lengths {
            for (name, tracepoint) in LENGTHS {
                self.attach_raw(name, tracepoint)
                    .map_err(|error| explain(&error))
                    .context("cannot count what goes through UDP sockets")?;
            }
            let mut map: HashMap<_, u64, Borrowed> = self.map("BORROWED")?.try_into()?;
            map.insert(COUNTING, Borrowed::NONE, 0)
                .context("cannot note that UDP sockets are counted")?;
        }
        self.following.attached = true;
        self.ask(|_| true, false)
    }

    /// Tries what there is for such sockets, and writes down how that went.
    pub fn try_following(&mut self) {
        let gives = hooks::BORROWED;
        let tier = Tier::Tracepoint;
        let missing = self
            .attach_socket_state()
            .err()
            .map(|error| format!("{error:#}"));
        let udp = match (&missing, self.following.lengths) {
            (None, false) => Some(hooks::NO_LENGTHS.to_owned()),
            _ => missing.clone(),
        };
        for (hook, missing) in [("inet_sock_set_state", missing), ("sock_send_length", udp)] {
            self.capabilities.push(Capability {
                hook: format!("raw tracepoint {hook}"),
                tier,
                gives: gives.to_owned(),
                required: false,
                missing,
                lower: None,
            });
        }
    }

    /// Has the kernel tell what it knows of an agent's borrowed sockets, as the watching ends.
    ///
    /// # Errors
    ///
    /// When the kernel does not run its programs.
    pub fn give_up_sockets(&mut self, agent: u32) -> Result<()> {
        if self.following.attached {
            self.ask(|socket| socket.agent == agent, true)?;
        }
        Ok(())
    }

    fn ask(&mut self, which: impl Fn(&Borrowed) -> bool, ends: bool) -> Result<()> {
        let map: HashMap<_, u64, Borrowed> = self.map("BORROWED")?.try_into()?;
        let sockets: Vec<(u64, Borrowed)> = map.iter().filter_map(Result::ok).collect();
        for (sk, borrowed) in sockets {
            if sk != COUNTING && which(&borrowed) {
                self.run("socket_ask", &[sk, u64::from(ends)])?;
            }
        }
        Ok(())
    }

    fn run(&mut self, name: &str, arguments: &[u64]) -> Result<()> {
        let mut options = RawTracePointRunOptions::new();
        for (to, from) in options.args.iter_mut().zip(arguments) {
            *to = *from;
        }
        let program: &mut RawTracePoint = self.program(name)?.try_into()?;
        program
            .test_run(options)
            .map_err(|error| explain(&error))
            .with_context(|| format!("cannot run the kernel program {name}"))?;
        Ok(())
    }
}

/// A process's descriptor.
fn descriptor(pid: u32) -> Option<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw)?;
    pidfd_open(pid, PidfdFlags::empty()).ok()
}

/// Whether a descriptor is not closed by execve: its flags as `proc_pid_fdinfo(5)` has them, in octal.
fn outlives_exec(info: &str) -> bool {
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok());
    flags.is_some_and(|flags| flags & libc::O_CLOEXEC == 0)
}

/// The descriptors of a process that are sockets, as their links say: `socket:[NUMBER]`.
fn sockets(folder: &Path) -> impl Iterator<Item = RawFd> + use<> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.take(DESCRIPTORS).filter_map(|entry| {
        let target = fs::read_link(entry.path()).ok()?;
        let target = target.to_str()?;
        let fd = entry.file_name().to_str()?.parse().ok()?;
        target.starts_with("socket:").then_some(fd)
    })
}
