//! Which task and which cgroup is whose.

/// Value of the map of tagged processes, by process id.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Task {
    /// Start, `CLOCK_BOOTTIME` nanoseconds.
    pub start_ns: u64,
    /// The agent.
    pub agent: u32,
    /// The process that made it.
    pub ppid: u32,
}

const _: () = assert!(size_of::<Task>() == 16);

/// Value of the map of processes that no agent may have, by process id.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Protected {
    /// Start, `CLOCK_BOOTTIME` in ticks of [`Protected::TICK_NS`]: the id may be another process's later.
    pub start_ticks: u64,
    /// 1 for agentwatch itself, 0 for pid 1 and what agentwatch was started by.
    pub own: u64,
}

impl Protected {
    /// `/proc/PID/stat` tells starts in hundredths of a second (`USER_HZ`, include/asm-generic/param.h).
    pub const TICK_NS: u64 = 10_000_000;
}

const _: () = assert!(size_of::<Protected>() == 16);

crate::pod!(Task, Protected);
