//! Processes come, go and move; what userspace adds about them.

/// A process made another one. The header is the child's; `ppid` there is the maker's, even where
/// the child will be given to a reaper later.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Fork {
    /// Start of the parent, `CLOCK_BOOTTIME` nanoseconds, 0 where it is not tagged.
    pub parent_start_ns: u64,
    /// The cgroup that the child was born in.
    pub child_cgroup: u64,
    /// Namespaces that are not its parent's, `CLONE_NEW…` of <sched.h> each.
    pub namespaces: u32,
    /// Zero.
    pub pad: u32,
}

const _: () = assert!(size_of::<Fork>() == 24);

/// The last thread of a process ended.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Exit {
    /// User time of all its threads, nanoseconds.
    pub utime_ns: u64,
    /// System time of all its threads, nanoseconds.
    pub stime_ns: u64,
    /// The most memory that it had at once, pages.
    pub max_rss_pages: u64,
    /// As `wait(2)` has it: exit status in bits 8 to 15, signal in bits 0 to 6, core dump in bit 7.
    pub status: u32,
    /// Zero.
    pub pad: u32,
}

const _: () = assert!(size_of::<Exit>() == 32);

/// What a process that goes on has used. Userspace makes it, of processes that work much.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Usage {
    /// CPU time of all its threads since its start, nanoseconds.
    pub cpu_ns: u64,
    /// The same, in the time that this is about.
    pub recent_cpu_ns: u64,
    /// The time that this is about, nanoseconds.
    pub recent_ns: u64,
    /// Bytes that it has read, from files, sockets and anything else (`rchar` of `proc_pid_io(5)`).
    pub read_bytes: u64,
    /// Bytes that it has written (`wchar` there).
    pub written_bytes: u64,
}

const _: () = assert!(size_of::<Usage>() == 40);

/// A tagged process was moved to another cgroup, or a process into an agent's.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CgroupMove {
    /// The cgroup v2 id it is in now.
    pub to: u64,
    /// The agent of that cgroup, 0 where it is none's.
    pub to_agent: u32,
    /// The process that was moved; the header is the mover's where they differ.
    pub moved: u32,
}

const _: () = assert!(size_of::<CgroupMove>() == 16);

/// A cgroup came to be that may be an agent's, and carries a tag until userspace has looked at it. The
/// header is its maker's, but for the agent: that is the number whose tag the cgroup got, its own or that of
/// the cgroup above it. The tail: its path from the root of the hierarchy.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CgroupMade {
    /// Its cgroup v2 id.
    pub id: u64,
    /// Bytes of the path in the tail.
    pub path_len: u32,
    /// Zero.
    pub pad: u32,
}

const _: () = assert!(size_of::<CgroupMade>() == 16);

/// The cgroup of an agent was removed: nothing is in it any more.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CgroupGone {
    /// Its cgroup v2 id.
    pub id: u64,
}

const _: () = assert!(size_of::<CgroupGone>() == 8);

/// A process that ran already, as `/proc` had it. The tail: path of the binary (root first, as
/// readlink gives it), working directory, argument vector.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Seed {
    /// 1 where the process is the agent's, 0 where it is an ancestor, shown for context only.
    pub member: u32,
    /// Bytes of the path in the tail.
    pub path_len: u16,
    /// Bytes of the working directory in the tail.
    pub cwd_len: u16,
    /// Bytes of the argument vector in the tail.
    pub argv_len: u16,
    /// Zero.
    pub pad: [u16; 3],
}

const _: () = assert!(size_of::<Seed>() == 16);

/// An agent is watched from here on. The tail: its name, the path of its cgroup, its workspace.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct AgentInfo {
    /// The cgroup v2 id of its root.
    pub cgroup: u64,
    /// What to add to `CLOCK_BOOTTIME` nanoseconds to get Unix time.
    pub wall_offset_ns: u64,
    /// Bytes of the name in the tail.
    pub name_len: u16,
    /// Bytes of the cgroup's path in the tail.
    pub cgroup_len: u16,
    /// Bytes of the workspace in the tail; 0 where it has none.
    pub workspace_len: u16,
    /// Zero.
    pub pad: u16,
}

const _: () = assert!(size_of::<AgentInfo>() == 24);
