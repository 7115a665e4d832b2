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

crate::pod!(Task);
