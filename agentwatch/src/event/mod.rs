//! The events, as everything after `decode` sees them. Texts are escaped already (see `text.rs`):
//! they can be printed and compared as they are.

mod call;
mod denied;
mod exec;
mod file;

use std::{fmt, net::IpAddr};

use serde::{Deserialize, Serialize};

use crate::{
    decode::{self, payload::Payload},
    domain::Domain,
};

pub use call::{Call, CallOp, Credentials, Signal, SocketAddress, namespaces};
pub use denied::{Denied, DeniedObject, DeniedOp};
pub use exec::{ENVIRONMENT, Exec, ExecMeans, Stdio};
pub use file::{Device, File, FileOp, PathSource};

/// A process: its id, and when it started, since ids are used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProcessKey {
    /// Process id in the initial pid namespace.
    pub pid: u32,
    /// Start, `CLOCK_BOOTTIME` nanoseconds; 0 where it is not known.
    #[serde(rename = "start_ns")]
    pub start_ns: u64,
}

/// Something that happened.
#[derive(Debug, Clone)]
pub struct Event {
    /// `CLOCK_BOOTTIME` nanoseconds.
    pub time_ns: u64,
    /// The agent's number.
    pub agent: u32,
    /// Who did it.
    pub process: ProcessKey,
    /// The thread, 0 where it is not known.
    pub tid: u32,
    /// The parent's process id when the process was tagged.
    pub ppid: u32,
    /// Real user id.
    pub uid: u32,
    /// Real group id.
    pub gid: u32,
    /// The cgroup v2 id of the task, 0 where it is not known.
    pub cgroup: u64,
    /// The task's name.
    pub comm: String,
    /// Something of it is cut or could not be read.
    pub partial: bool,
    /// The name of the peer that the agent opened a flow to: what the agent was told, or says itself.
    /// `enrich` finds it.
    pub domain: Option<Domain>,
    /// What it was.
    pub kind: Kind,
}

/// What happened.
#[derive(Debug, Clone)]
pub enum Kind {
    /// A process replaced its program.
    Exec(Box<Exec>),
    /// A process was made: the event's process is the child.
    Fork {
        /// Who made it.
        parent: ProcessKey,
        /// Namespaces that are not the parent's, `CLONE_NEW…` flags: see [`namespaces`].
        namespaces: u32,
        /// The cgroup v2 id that the child was born in: not its parent's with `CLONE_INTO_CGROUP`.
        cgroup: u64,
    },
    /// A process ended.
    Exit(Exit),
    /// A process was moved to another cgroup.
    CgroupMove {
        /// Which one.
        moved: u32,
        /// The cgroup v2 id it is in now.
        to: u64,
        /// The agent of that cgroup, 0 for none.
        to_agent: u32,
        /// It is agentwatch, pid 1, or what agentwatch was started by: no agent's, wherever it is.
        protected: bool,
    },
    /// A process asked for a connection.
    Connect(Box<Connect>),
    /// A process took a connection.
    Accept(Endpoint),
    /// A process got a socket from another one, with a message (`SCM_RIGHTS`).
    SocketReceived(Endpoint),
    /// A process had a socket before it was the agent's.
    SocketInherited(Endpoint),
    /// A socket began to listen.
    Listen(Endpoint),
    /// A flow came to be.
    FlowOpen(Endpoint),
    /// The first payload of a flow.
    FlowData(Box<FlowData>),
    /// A message that was recognised in the payload.
    Payload(Box<Payload>),
    /// A flow ended.
    FlowClose(FlowClose),
    /// What went over a flow that goes on: told each ten seconds, where it has become more.
    FlowAlive(FlowClose),
    /// A call upon a file.
    File(Box<File>),
    /// A process was stopped by the kernel: its agent took away more than its budget.
    Stopped(Stopped),
    /// A call that is no file's and no flow's.
    Call(Box<Call>),
    /// A signal to another process.
    Signal(Signal),
    /// Something that the policy denies was tried.
    Denied(Box<Denied>),
    /// A process that ran already.
    Seed(Box<Seed>),
    /// An agent is watched from here on.
    Agent(Box<AgentInfo>),
    /// What was sent and lost so far.
    Tally(Box<Tally>),
    /// What it has removed of its deletion budget already: it was watched before.
    Carried(Carried),
    /// What a process has used that goes on: told each ten seconds, where it kept a quarter of a CPU or more busy.
    Usage(Usage),
}

impl Kind {
    /// The stable name, in tables and JSON.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Exec(_) => "exec",
            Self::Fork { .. } => "fork",
            Self::Exit(_) => "exit",
            Self::CgroupMove { .. } => "cgroup_move",
            Self::Connect(_) => "connect",
            Self::Accept(_) => "accept",
            Self::SocketReceived(_) => "socket_received",
            Self::SocketInherited(_) => "socket_inherited",
            Self::Listen(_) => "listen",
            Self::FlowOpen(_) => "flow_open",
            Self::FlowData(_) => "flow_data",
            Self::Payload(payload) => payload.message.name(),
            Self::FlowClose(_) => "flow_close",
            Self::FlowAlive(_) => "flow_alive",
            Self::File(file) => file.op.name(),
            Self::Call(call) => call.op.name(),
            Self::Signal(_) => "signal",
            Self::Stopped(_) => "stopped",
            Self::Denied(_) => "denied",
            Self::Seed(_) => "seed",
            Self::Agent(_) => "agent",
            Self::Tally(_) => "tally",
            Self::Carried(_) => "carried",
            Self::Usage(_) => "usage",
        }
    }

    /// All names that [`Self::name`] gives for what an agent does.
    pub const NAMES: &[&str] = &[
        "exec",
        "fork",
        "exit",
        "cgroup_move",
        "connect",
        "accept",
        "listen",
        "socket_received",
        "socket_inherited",
        "flow_open",
        "flow_data",
        "flow_close",
        "flow_alive",
        "usage",
        "tls",
        "dns",
        "http",
        "ssh",
        "stratum",
        "open",
        "unlink",
        "rmdir",
        "rename",
        "chmod",
        "truncate",
        "mkdir",
        "link",
        "symlink",
        "chown",
        "xattr",
        "mknod",
        "mount",
        "umount",
        "pivot_root",
        "chroot",
        "mmap_exec",
        "stopped",
        "signal",
        "socket",
        "bind",
        "ptrace",
        "process_vm_read",
        "process_vm_write",
        "pidfd_getfd",
        "unshare",
        "setns",
        "memfd_create",
        "prctl",
        "bpf",
        "module_load",
        "module_unload",
        "io_uring_setup",
        "setuid",
        "setgid",
        "capset",
        "perf_event_open",
        "userfaultfd",
        "kexec",
        "fsopen",
        "denied",
        "seed",
    ];
}

/// A file by its device and number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub struct Inode {
    /// Device: major number << 20 | minor number, as the kernel has it.
    pub dev: u32,
    /// Number.
    pub ino: u64,
}

impl fmt::Display for Inode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.dev >> 20, self.dev & 0xf_ffff, self.ino)
    }
}

/// The end of a process.
#[derive(Debug, Clone, Copy)]
pub struct Exit {
    /// The status that it gave, where it ended by itself.
    pub code: Option<u8>,
    /// The signal that ended it.
    pub signal: Option<u8>,
    /// User CPU time, nanoseconds.
    pub utime_ns: u64,
    /// System CPU time, nanoseconds.
    pub stime_ns: u64,
    /// The most memory that it had at once, pages.
    pub max_rss_pages: u64,
}

/// What a process that goes on has used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// CPU time of all its threads since its start, nanoseconds.
    pub cpu_ns: u64,
    /// The same, in the time that this is about.
    pub recent_cpu_ns: u64,
    /// The time that this is about, nanoseconds.
    pub recent_ns: u64,
    /// Bytes that it has read, from files, sockets and anything else.
    pub read_bytes: u64,
    /// Bytes that it has written.
    pub written_bytes: u64,
}

/// An address and a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Address {
    /// The address, never IPv4-mapped.
    pub ip: IpAddr,
    /// The port.
    pub port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ip {
            IpAddr::V4(ip) => write!(f, "{ip}:{}", self.port),
            IpAddr::V6(ip) => write!(f, "[{ip}]:{}", self.port),
        }
    }
}

/// Which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The agent opened it; bytes it sends.
    Out,
    /// The agent took it; bytes it gets.
    In,
    /// The flow is older than the watching.
    Unknown,
}

impl Direction {
    /// The stable name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Out => "out",
            Self::In => "in",
            Self::Unknown => "unknown",
        }
    }
}

/// Which protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// TCP
    Tcp,
    /// UDP
    Udp,
    /// Another one, by its IP protocol number.
    Other(u8),
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp => f.write_str("tcp"),
            Self::Udp => f.write_str("udp"),
            Self::Other(n) => write!(f, "ip{n}"),
        }
    }
}

/// A socket's two ends.
#[derive(Debug, Clone, Copy)]
pub struct Endpoint {
    /// The kernel's cookie of the socket: never used twice while the machine runs.
    pub cookie: u64,
    /// Own end; port 0 where it is not bound yet.
    pub local: Address,
    /// The peer's; port 0 for a listener.
    pub remote: Address,
    /// The protocol.
    pub protocol: Protocol,
    /// Who opened it.
    pub direction: Direction,
}

/// The last payload that a process got on a connection which it had opened.
#[derive(Debug, Clone)]
pub struct Trigger {
    /// The flow.
    pub cookie: u64,
    /// When, `CLOCK_BOOTTIME` nanoseconds.
    pub at_ns: u64,
    /// Bytes of that packet.
    pub len: u32,
    /// The beginning of them, at most 64.
    pub head: Vec<u8>,
}

/// A connection that was asked for.
#[derive(Debug, Clone)]
pub struct Connect {
    /// Where to.
    pub endpoint: Endpoint,
    /// What came before, if anything.
    pub trigger: Option<Trigger>,
}

/// The beginning of what was said on a flow, or of a DNS message anywhere in it.
#[derive(Debug, Clone)]
pub struct FlowData {
    /// The flow.
    pub endpoint: Endpoint,
    /// Which way these bytes went.
    pub direction: Direction,
    /// Bytes in this direction before.
    pub offset: u64,
    /// Bytes of the packet.
    pub len: u32,
    /// The beginning of them.
    pub data: Vec<u8>,
    /// For bytes out: what the process had got last.
    pub trigger: Option<Trigger>,
}

/// How an agent got a socket that it did not make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SocketOrigin {
    /// By a message from another process (`SCM_RIGHTS`).
    Received,
    /// It had it when it came to be watched; or it comes from a listener of that kind.
    Inherited,
}

impl SocketOrigin {
    /// The stable name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Received => "received",
            Self::Inherited => "inherited",
        }
    }
}

/// The end of a flow.
#[derive(Debug, Clone, Copy)]
pub struct FlowClose {
    /// The flow.
    pub endpoint: Endpoint,
    /// Payload bytes that the agent got.
    pub bytes_in: u64,
    /// Payload bytes that it sent.
    pub bytes_out: u64,
    /// When it began, `CLOCK_BOOTTIME` nanoseconds.
    pub open_ns: u64,
    /// How the agent got the socket, where it did not make it; the bytes are those since.
    pub origin: Option<SocketOrigin>,
    /// TCP segments that it sent again, where the kernel told.
    pub retransmits: Option<u32>,
    /// The connection was there at some time: a refused one was not.
    pub established: bool,
    /// It is open still, at the end of the watching.
    pub alive: bool,
    /// The bytes of the first moment were not counted: there may have been more.
    pub partial: bool,
}

impl Kind {
    /// The ends of the flow that it is about.
    pub fn endpoint(&self) -> Option<&Endpoint> {
        match self {
            Self::Connect(connect) => Some(&connect.endpoint),
            Self::Accept(endpoint)
            | Self::SocketReceived(endpoint)
            | Self::SocketInherited(endpoint)
            | Self::Listen(endpoint)
            | Self::FlowOpen(endpoint) => Some(endpoint),
            Self::FlowData(data) => Some(&data.endpoint),
            Self::Payload(payload) => Some(&payload.endpoint),
            Self::FlowClose(close) | Self::FlowAlive(close) => Some(&close.endpoint),
            _ => None,
        }
    }
}

/// The kernel stopped a process at its next call, since its agent is past the deletion budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped {
    /// What it took away was in the agent's workspace.
    pub workspace: bool,
    /// It was stopped: else the kernel refused to.
    pub stopped: bool,
}

/// A process that ran already.
#[derive(Debug, Clone)]
pub struct Seed {
    /// It is the agent's; else an ancestor, for context.
    pub member: bool,
    /// Path of its binary.
    pub path: String,
    /// Working directory.
    pub cwd: String,
    /// The arguments.
    pub argv: Vec<String>,
}

/// An agent.
#[derive(Debug, Clone)]
pub struct AgentInfo {
    /// Its name.
    pub name: String,
    /// The path of its cgroup below the mount of the hierarchy.
    pub cgroup_path: String,
    /// The id of its cgroup.
    pub cgroup: u64,
    /// The folder that is its own to change.
    pub workspace: Option<String>,
    /// What to add to `CLOCK_BOOTTIME` nanoseconds to get Unix time.
    pub wall_offset_ns: u64,
}

/// What was sent and lost.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Records that the kernel was to send.
    pub emitted: u64,
    /// Records that arrived.
    pub delivered: u64,
    /// Losses by reason, those that are not zero.
    pub lost: Vec<(&'static str, u64)>,
    /// Repeats that were told by their number.
    pub thinned: u64,
    /// Records that arrived, but cut.
    pub cut: u64,
    /// Reads of memory that failed.
    pub faults: u64,
    /// Processes and cgroups that could not be tagged.
    pub untagged: u64,
    /// Opens for reading.
    pub opens_read: u64,
    /// Opens for writing.
    pub opens_write: u64,
}

impl Tally {
    /// What was lost because more came than was read.
    pub fn unread(&self) -> u64 {
        let unread = |reason: &str| decode::UNREAD.contains(&reason);
        let lost = self.lost.iter().filter(|(reason, _)| unread(reason));
        lost.map(|(_, number)| number).sum()
    }

    /// All losses.
    pub fn lost_total(&self) -> u64 {
        self.lost.iter().map(|(_, n)| n).sum()
    }
}

/// What an agent has removed of its deletion budget, and when the last of it was.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carried {
    /// Outside its workspace.
    pub outside: Removed,
    /// Inside.
    pub workspace: Removed,
}

/// A number of files that were removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// How many.
    pub files: u64,
    /// When the last of them was, `CLOCK_BOOTTIME` nanoseconds.
    pub last_ns: u64,
}
