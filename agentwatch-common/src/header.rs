//! What every record begins with.

/// The number of bytes of a task's name (`TASK_COMM_LEN` of the kernel).
pub const COMM_LEN: usize = 16;

/// The start of every record.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Header {
    /// Bytes of the whole record, this header included.
    pub len: u32,
    /// One of [`kind`].
    pub kind: u16,
    /// Bits of [`flag`].
    pub flags: u16,
    /// `CLOCK_BOOTTIME` in nanoseconds.
    pub time_ns: u64,
    /// Start of the process by `CLOCK_BOOTTIME`, nanoseconds; 0 where it is not known. With `tgid`
    /// it is the identity of a process.
    pub start_ns: u64,
    /// The cgroup v2 id of the task, 0 where the program runs outside the task's context.
    pub cgroup: u64,
    /// The agent, as userspace numbered it.
    pub agent: u32,
    /// Process id in the initial pid namespace.
    pub tgid: u32,
    /// Thread id in the initial pid namespace, 0 outside the task's context.
    pub tid: u32,
    /// The parent's process id when the process was tagged.
    pub ppid: u32,
    /// Real user id.
    pub uid: u32,
    /// Real group id.
    pub gid: u32,
    /// The task's name, NUL-padded, as the kernel has it.
    pub comm: [u8; COMM_LEN],
}

const _: () = assert!(size_of::<Header>() == 72);

/// Bits of [`Header::flags`].
pub mod flag {
    /// The resolved path was cut at the root's end: its first components are missing.
    pub const PATH_CUT: u16 = 1 << 0;
    /// The argument vector was cut.
    pub const ARGV_CUT: u16 = 1 << 1;
    /// A working or base directory was cut at the root's end.
    pub const BASE_CUT: u16 = 1 << 2;
    /// A string that the caller passed was cut.
    pub const NAME_CUT: u16 = 1 << 3;
    /// Reading memory failed somewhere; a field is missing.
    pub const FAULT: u16 = 1 << 4;
    /// Userspace made this record (from `/proc`, from a map), not a kernel program.
    pub const USER: u16 = 1 << 5;
    /// What was moved into an agent's cgroup is agentwatch, pid 1, or what agentwatch was started by.
    pub const PROTECTED: u16 = 1 << 6;
}

/// Values of [`Header::kind`].
pub mod kind {
    /// [`crate::exec::Exec`]
    pub const EXEC: u16 = 1;
    /// [`crate::process::Fork`]
    pub const FORK: u16 = 2;
    /// [`crate::process::Exit`]
    pub const EXIT: u16 = 3;
    /// [`crate::process::CgroupMove`]
    pub const CGROUP_MOVE: u16 = 4;
    /// [`crate::call::Call`]
    pub const CALL: u16 = 5;
    /// [`crate::call::Signal`]
    pub const SIGNAL: u16 = 6;
    /// [`crate::process::CgroupMade`]; never leaves the source.
    pub const CGROUP_MADE: u16 = 7;
    /// [`crate::process::CgroupGone`]; never leaves the source.
    pub const CGROUP_GONE: u16 = 8;
    // 9 to 15 are reserved for processes.
    /// [`crate::flow::Connect`]
    pub const CONNECT: u16 = 16;
    /// [`crate::flow::Endpoint`]: a process took a connection.
    pub const ACCEPT: u16 = 17;
    /// [`crate::flow::Endpoint`]: a socket began to listen.
    pub const LISTEN: u16 = 18;
    /// [`crate::flow::Endpoint`]: a flow came to be (TCP established, first UDP packet).
    pub const FLOW_OPEN: u16 = 19;
    /// [`crate::flow::FlowData`]
    pub const FLOW_DATA: u16 = 20;
    /// [`crate::flow::FlowClose`]
    pub const FLOW_CLOSE: u16 = 21;
    /// [`crate::flow::Endpoint`]: a UDP socket was closed; the source turns it into a
    /// [`FLOW_CLOSE`] for each peer.
    pub const SOCK_CLOSE: u16 = 22;
    /// [`crate::flow::Endpoint`]: a process got a socket from another one.
    pub const SOCKET_RECEIVED: u16 = 23;
    /// [`crate::flow::Endpoint`]: a process has a socket from before it was the agent's.
    pub const SOCKET_INHERITED: u16 = 24;
    // 25 to 31 are reserved for sockets.
    /// [`crate::file::FileOp`]
    pub const FILE: u16 = 32;
    /// [`crate::budget::Stopped`]
    pub const STOPPED: u16 = 33;
    /// [`crate::file::UringDone`]; never leaves the source.
    pub const URING_DONE: u16 = 34;
    // 35 to 47 are reserved for files, 48 to 63 for devices.
    /// [`crate::process::Seed`]: a process as `/proc` had it at the start.
    pub const SEED: u16 = 64;
    /// [`crate::process::AgentInfo`]: an agent is watched from here on.
    pub const AGENT: u16 = 65;
    /// [`crate::loss::Tally`]: the counters of one agent, as read from the kernel.
    pub const TALLY: u16 = 66;
    /// [`crate::budget::Carried`]: what an agent has removed already when its watching begins.
    pub const CARRIED: u16 = 67;
    /// [`crate::flow::FlowClose`]: what went over a flow that goes on.
    pub const FLOW_ALIVE: u16 = 68;
    /// [`crate::process::Usage`]: what a process has used that goes on.
    pub const USAGE: u16 = 69;
    /// [`crate::deny::Denied`]
    pub const DENIED: u16 = 80;
}
