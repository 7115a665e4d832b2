//! The deletion budget: what an agent may take away before the kernel itself stops it.
//!
//! Userspace is too slow for this: `rm` deletes some twenty files in a millisecond. So the kernel
//! counts, stops the process (`SIGSTOP`) that goes past the budget, and asks. It knows less than
//! userspace (no patterns of paths), so it counts too much rather than too little: userspace, which
//! has all the same calls before it, finds a mass deletion or lets the process go on.

use crate::file::InodeKey;

/// Indices of [`Budget::left`].
pub mod place {
    /// Outside the agent's workspace.
    pub const OUTSIDE: usize = 0;
    /// Inside it.
    pub const WORKSPACE: usize = 1;
}

/// An agent's budget, in the kernel's map. Userspace fills it up; the kernel does again when a window
/// has passed.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Budget {
    /// Files that it may still take away in this window: below 0 it is stopped.
    pub left: [i64; 2],
    /// Files that it may take away in a window.
    pub limit: [i64; 2],
    /// When the window began, `CLOCK_BOOTTIME` nanoseconds.
    pub since_ns: [u64; 2],
    /// How long a window is, nanoseconds.
    pub window_ns: u64,
    /// The folder that is the agent's own to change, number 0 for none.
    pub workspace: InodeKey,
    /// 1: a program of the security modules asks before a file is gone. 0: it is counted afterwards.
    pub before: u32,
    /// Zero.
    pub pad: u32,
}

const _: () = assert!(size_of::<Budget>() == 80);

/// What an agent has removed of its budget already, by [`place`], when its watching begins: it was watched
/// before, by an agentwatch that has ended. Made by userspace.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Carried {
    /// Files.
    pub removed: [u64; 2],
    /// When the last of them was, `CLOCK_BOOTTIME` nanoseconds.
    pub last_ns: [u64; 2],
}

const _: () = assert!(size_of::<Carried>() == 32);

/// A process was stopped since its agent is past the budget.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Stopped {
    /// One of [`place`].
    pub place: u32,
    /// 0 where the kernel refused to stop it: the process goes on.
    pub stopped: u32,
}

const _: () = assert!(size_of::<Stopped>() == 8);

/// An inode that an agent made.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct OwnKey {
    /// Inode number.
    pub ino: u64,
    /// Device, in the kernel's encoding.
    pub dev: u32,
    /// The agent.
    pub agent: u32,
}

const _: () = assert!(size_of::<OwnKey>() == 16);

crate::pod!(Budget, OwnKey);
