//! Which task and which cgroup is whose.

/// The number of the agent whose cgroup has this v2 id: the inode of the cgroup's folder, which is the
/// lower half of the id (`kernfs_id_ino`, include/linux/kernfs.h). The kernel gives inodes one after the
/// other and begins again after 2³¹ of them, so a number names one agent for years, and kernel programs
/// and userspace come to the same one without asking each other.
pub const fn agent_of_cgroup(id: u64) -> u32 {
    id as u32
}

/// Where, below a cgroup, those lie that may be agents' own: bit 0 stands for the cgroups in it, bit 1
/// for those one level further down, and so on; the highest bit stands for all that are deeper still.
pub mod below {
    /// All of the bits from a level on.
    pub const fn from(level: u32) -> u32 {
        if level > 31 {
            1 << 31
        } else {
            u32::MAX << level
        }
    }

    /// The same from the point of view of a cgroup one level down.
    pub const fn one_down(levels: u32) -> u32 {
        (levels.cast_signed() >> 1).cast_unsigned()
    }

    /// Whether those in it may be.
    pub const fn here(levels: u32) -> bool {
        levels & 1 != 0
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_go_down() {
        // One level: a/*/b
        let exactly = 1 << 1;
        assert!(!below::here(exactly));
        assert!(below::here(below::one_down(exactly)));
        assert_eq!(below::one_down(below::one_down(exactly)), 0);
        // From the second level on, however deep: a/*/**
        let mut any = below::from(1);
        assert!(!below::here(any));
        for _ in 0..100 {
            any = below::one_down(any);
            assert!(below::here(any));
        }
    }
}
