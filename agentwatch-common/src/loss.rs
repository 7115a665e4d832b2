//! Counting what is sent, what is lost and why.
//!
//! For each agent: `EMITTED = delivered + Σ lost(reason)`, where `delivered` is what userspace
//! counts. [`counter`] values from [`counter::LOST_FIRST`] to [`counter::LOST_LAST`] are losses, the
//! others are not.

/// Key of the per-CPU map of counters.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct CounterKey {
    /// The agent, 0 where it is not known.
    pub agent: u32,
    /// One of [`counter`].
    pub counter: u32,
}

const _: () = assert!(size_of::<CounterKey>() == 8);

/// What is counted.
pub mod counter {
    /// Records that were to be sent.
    pub const EMITTED: u32 = 1;
    /// Opens for reading.
    pub const OPENS_READ: u32 = 2;
    /// Opens for writing.
    pub const OPENS_WRITE: u32 = 3;
    /// Not sent, since they repeat one that was: counted apart, and told with their number. They are
    /// neither emitted nor lost.
    pub const THINNED: u32 = 4;

    /// Lost: the ring buffer of urgent records was full.
    pub const LOST_PRIO_FULL: u32 = 16;
    /// Lost: the ring buffer of bulk records was full.
    pub const LOST_BULK_FULL: u32 = 17;
    /// Lost: too many system calls in flight to remember this one.
    pub const LOST_CALLS_FULL: u32 = 18;
    /// Lost: too many flows to remember this one.
    pub const LOST_FLOWS_FULL: u32 = 19;
    /// Lost: no scratch memory (cannot happen while the program runs as it should).
    pub const LOST_SCRATCH: u32 = 20;
    /// Lost: the agent has its share of a ring buffer full, see [`super::Share`].
    pub const LOST_SHARE_FULL: u32 = 21;
    /// Lost: userspace had too much of the cgroup to keep before it was known whose it is. Counted by userspace.
    pub const LOST_NOT_KEPT: u32 = 22;
    /// First and last of the losses.
    pub const LOST_FIRST: u32 = LOST_PRIO_FULL;
    /// See [`LOST_FIRST`].
    pub const LOST_LAST: u32 = LOST_NOT_KEPT;

    /// Not lost, but not whole: a path, an argument vector or a name was cut.
    pub const CUT: u32 = 32;
    /// Not lost, but not whole: memory could not be read.
    pub const FAULTS: u32 = 33;
    /// A process could not be tagged: the map of tasks is full. Its events are missing.
    pub const TASKS_FULL: u32 = 34;
    /// A cgroup could not be tagged: the map of cgroups is full. Its processes carry their tags
    /// still if they were forked by tagged ones.
    pub const CGROUPS_FULL: u32 = 35;
    /// Denied, or would have been: all of them, also those that are not told one by one. The highest.
    pub const DENIED: u32 = 40;
}

/// What an agent may have unread in the ring buffers: a bucket that is filled up again by what userspace
/// reads. So a flood of one agent costs no other agent an event. An agent without one may fill the
/// rings.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Share {
    /// Most unread bytes, of the urgent and of the bulk ring.
    pub limit: [u64; 2],
    /// Bytes sent so far, likewise.
    pub sent: [u64; 2],
}

const _: () = assert!(size_of::<Share>() == 32);

/// Bytes that userspace has read of an agent, of the urgent and of the bulk ring.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Read {
    /// The bytes.
    pub bytes: [u64; 2],
}

const _: () = assert!(size_of::<Read>() == 16);

/// Indices of [`Share`] and [`Read`].
pub mod ring {
    /// The urgent one.
    pub const PRIO: usize = 0;
    /// The other.
    pub const BULK: usize = 1;
}

/// The counters of one agent, put into the stream of records now and then, so that a recording
/// knows of its own losses.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Tally {
    /// Records that the kernel was to send.
    pub emitted: u64,
    /// Records that userspace got.
    pub delivered: u64,
    /// Losses by reason, from [`counter::LOST_FIRST`] on.
    pub lost: [u64; 7],
    /// Repeats that were told by their number: see [`counter::THINNED`]. 0 in recordings from before it
    /// was counted.
    pub thinned: u64,
    /// Records that were cut.
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

const _: () = assert!(size_of::<Tally>() == 120);
const _: () = assert!((counter::LOST_LAST - counter::LOST_FIRST) < 7);
const _: () = assert!(counter::EMITTED == 1 && counter::CGROUPS_FULL < counter::DENIED);

crate::pod!(CounterKey, Share, Read);
