//! The way out: headers, records, ring buffers, counters.

use core::{marker::PhantomData, mem::MaybeUninit};

use agentwatch_common::{
    Header,
    header::{COMM_LEN, flag},
    loss::{CounterKey, Share, counter, ring},
    tag::Task,
};
use aya_ebpf::{
    bindings::{
        BPF_RB_AVAIL_DATA, BPF_RB_CONS_POS, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP, BPF_RB_PROD_POS,
    },
    helpers::{
        bpf_get_current_cgroup_id, bpf_get_current_pid_tgid, bpf_get_current_uid_gid,
        bpf_ktime_get_boot_ns, generated::bpf_get_current_comm, generated::bpf_ringbuf_output,
        generated::bpf_ringbuf_reserve, generated::bpf_ringbuf_submit,
    },
    maps::RingBuf,
};

use crate::{
    kernel::config,
    maps::{
        COUNTERS, EVENTS_BULK, EVENTS_PRIO, LAST_WAKEUP, LAZY, READ, SCRATCH, SCRATCH_MASK, SHARES,
        Scratch,
    },
};

/// Records that decide something, but can wait, wake userspace not more often than this.
const WAKEUP_EVERY_NS: u64 = 1_000_000;

/// Adds one to a counter.
#[inline(always)]
pub fn count(agent: u32, what: u32) {
    let key = CounterKey {
        agent,
        counter: what,
    };
    if let Some(value) = COUNTERS.get_ptr_mut(&key) {
        // SAFETY: the value of a per-CPU map, valid until the program ends; this CPU's own.
        unsafe { *value += 1 };
    } else {
        let _ = COUNTERS.insert(&key, &1, 0);
    }
}

/// Counts what the flags of a record say was not whole.
#[inline(always)]
fn count_flags(agent: u32, flags: u16) {
    if flags & (flag::PATH_CUT | flag::ARGV_CUT | flag::BASE_CUT | flag::NAME_CUT) != 0 {
        count(agent, counter::CUT);
    }
    if flags & flag::FAULT != 0 {
        count(agent, counter::FAULTS);
    }
}

/// A header for something that the current task does.
#[inline(always)]
pub fn header(kind: u16, task: &Task) -> Header {
    let mut header = MaybeUninit::uninit();
    // SAFETY: the memory of a header.
    unsafe { write_header(header.as_mut_ptr(), kind, task) };
    // SAFETY: written just now.
    unsafe { header.assume_init() }
}

/// Writes a header for something that the current task does.
///
/// # Safety
///
/// `to` is valid for writes.
#[inline(always)]
unsafe fn write_header(to: *mut Header, kind: u16, task: &Task) {
    let pid_tgid = bpf_get_current_pid_tgid();
    let uid_gid = bpf_get_current_uid_gid();
    // SAFETY: the caller's promise; field by field, so that nothing is copied over the stack. The
    // name's buffer has the size that is passed.
    unsafe {
        to.write(bare_header(kind, task));
        (*to).tgid = (pid_tgid >> 32) as u32;
        (*to).tid = pid_tgid as u32;
        (*to).uid = uid_gid as u32;
        (*to).gid = (uid_gid >> 32) as u32;
        (*to).cgroup = bpf_get_current_cgroup_id();
        bpf_get_current_comm((&raw mut (*to).comm).cast(), COMM_LEN as u32);
    }
}

/// A header without what only the task's own context tells.
#[inline(always)]
pub fn bare_header(kind: u16, task: &Task) -> Header {
    Header {
        len: 0,
        kind,
        flags: 0,
        time_ns: now_ns(),
        start_ns: task.start_ns,
        cgroup: 0,
        agent: task.agent,
        tgid: 0,
        tid: 0,
        ppid: task.ppid,
        uid: 0,
        gid: 0,
        comm: [0; COMM_LEN],
    }
}

/// `CLOCK_BOOTTIME` in nanoseconds.
#[inline(always)]
pub fn now_ns() -> u64 {
    // SAFETY: no arguments.
    unsafe { bpf_ktime_get_boot_ns() }
}

/// An agent's share of the rings, where it has one.
#[inline(always)]
fn share<'a>(agent: u32) -> Option<&'a mut Share> {
    // SAFETY: an entry of the map; other CPUs write it too, each word at once.
    SHARES
        .get_ptr_mut(&agent)
        .map(|share| unsafe { &mut *share })
}

/// Whether there is room for a record in an agent's share.
#[inline(always)]
fn has_room(share: &Share, agent: u32, prio: bool, len: u64) -> bool {
    // SAFETY: copied out at once.
    let read = unsafe { READ.get(&agent) }.copied();
    let read = read.map_or([0; 2], |read| read.bytes);
    let (sent, limit, read) = if prio {
        (
            share.sent[ring::PRIO],
            share.limit[ring::PRIO],
            read[ring::PRIO],
        )
    } else {
        (
            share.sent[ring::BULK],
            share.limit[ring::BULK],
            read[ring::BULK],
        )
    };
    // What other CPUs send at this moment is not seen: it errs by a few records.
    sent.wrapping_sub(read) + len <= limit
}

/// Takes the record's bytes from the share.
#[inline(always)]
fn charge(share: &mut Share, prio: bool, len: u64) {
    let sent = if prio {
        &raw mut share.sent[ring::PRIO]
    } else {
        &raw mut share.sent[ring::BULK]
    };
    // SAFETY: a word of the map.
    unsafe { add(sent, len) };
}

/// Adds to a number that other CPUs add to as well.
///
/// # Safety
///
/// `to` is an aligned word of a map.
#[inline(always)]
pub unsafe fn add(to: *mut u64, what: u64) {
    // SAFETY: the caller's promise; one instruction.
    #[cfg(target_arch = "bpf")]
    unsafe {
        core::arch::asm!("lock *(u64 *)({to} + 0) += {what}", to = in(reg) to, what = in(reg) what);
    };
    // SAFETY: the caller's promise.
    #[cfg(not(target_arch = "bpf"))]
    unsafe {
        *to = (*to).wrapping_add(what);
    };
}

/// A record of fixed size.
#[repr(C)]
pub struct Record<T> {
    pub header: Header,
    pub payload: T,
}

/// Sends a record of fixed size by the urgent ring, at once. `fill` gets the reserved memory, of which the
/// header is written already; it must write the whole payload.
#[inline(always)]
pub fn prio<T: 'static>(header: Header, fill: impl FnOnce(*mut T)) {
    prio_by(Way::Prio, header, fill);
}

/// The same, where `way` says when userspace is to look.
#[inline(always)]
pub fn prio_by<T: 'static>(way: Way, mut header: Header, fill: impl FnOnce(*mut T)) {
    count_flags(header.agent, header.flags);
    let Some(record) = reserve::<T>(way, header.agent) else {
        return;
    };
    header.len = size_of::<Record<T>>() as u32;
    // SAFETY: the memory is reserved for a `Record<T>`, and `fill` writes the rest of it.
    unsafe { (&raw mut (*record).header).write(header) };
    // SAFETY: as above.
    fill(unsafe { &raw mut (*record).payload });
    // SAFETY: header and payload are written, to the length reserved.
    unsafe { submit(record, way) };
}

/// Reserves a record in a ring: for programs that interrupt others, for which [`SCRATCH`] is not. What
/// is reserved must be sent by [`submit`].
#[inline(always)]
pub fn reserve<T: 'static>(way: Way, agent: u32) -> Option<*mut Record<T>> {
    count(agent, counter::EMITTED);
    let len = size_of::<Record<T>>() as u64;
    let share = share(agent);
    if let Some(share) = &share
        && !has_room(share, agent, way.is_prio(), len)
    {
        count(agent, counter::LOST_SHARE_FULL);
        return None;
    }
    let (from, lost) = way.ring();
    way.before(len);
    // SAFETY: a ring buffer map.
    let record = unsafe { bpf_ringbuf_reserve(from.cast_mut().cast(), len, 0) };
    if record.is_null() {
        count(agent, lost);
        return None;
    }
    if let Some(share) = share {
        charge(share, way.is_prio(), len);
    }
    Some(record.cast())
}

/// Sends what was reserved.
///
/// # Safety
///
/// `record` is from [`reserve`] with the same `way`, its header and payload are written, and the
/// header's length is at most what was reserved: userspace does not look at what is beyond.
#[inline(always)]
pub unsafe fn submit<T>(record: *mut Record<T>, way: Way) {
    // SAFETY: the caller's promise.
    unsafe { bpf_ringbuf_submit(record.cast(), way.wakeup(size_of::<T>() as u64)) };
}

/// Which ring a record goes to, and when userspace looks at it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// The urgent ring; userspace is woken at once.
    Prio,
    /// The urgent ring; userspace is woken soon.
    PrioSoon,
    /// The urgent ring; userspace looks now and then.
    PrioLater,
    /// The bulk ring; userspace is woken soon.
    BulkSoon,
    /// The bulk ring; userspace looks now and then.
    Bulk,
}

impl Way {
    #[inline(always)]
    fn is_prio(self) -> bool {
        matches!(self, Self::Prio | Self::PrioSoon | Self::PrioLater)
    }

    /// The ring, and the counter of what found no room in it.
    #[inline(always)]
    fn ring(self) -> (*const RingBuf, u32) {
        if self.is_prio() {
            (&raw const EVENTS_PRIO, counter::LOST_PRIO_FULL)
        } else {
            (&raw const EVENTS_BULK, counter::LOST_BULK_FULL)
        }
    }

    /// Before a record of so many bytes is put into the ring.
    #[inline(always)]
    fn before(self, len: u64) {
        if matches!(self, Self::PrioSoon | Self::PrioLater)
            && let Some(lazy) = LAZY.get_ptr_mut(0)
        {
            let end = EVENTS_PRIO.query(u64::from(BPF_RB_PROD_POS)) + len;
            // SAFETY: one word, which other CPUs write too: of two that write at once, one is forgotten
            // until the next such record.
            unsafe { lazy.write_volatile(end) };
        }
    }

    /// The flags that wake userspace, or do not, for a record of so many bytes.
    #[inline(always)]
    fn wakeup(self, len: u64) -> u64 {
        if config::eager_wakeup() {
            return u64::from(BPF_RB_FORCE_WAKEUP);
        }
        match self {
            Self::Prio => urgent_wakeup(),
            Self::PrioSoon | Self::PrioLater => {
                batched_wakeup(&EVENTS_PRIO, self == Self::PrioSoon, len)
            }
            Self::BulkSoon | Self::Bulk => {
                batched_wakeup(&EVENTS_BULK, self == Self::BulkSoon, len)
            }
        }
    }
}

/// Wakes userspace unless it is reading. The kernel finds that out itself (`bpf_ringbuf_commit`: it is not
/// if it has read all before this record), but for records that did not wake it and lie unread.
#[inline(always)]
fn urgent_wakeup() -> u64 {
    let read = EVENTS_PRIO.query(u64::from(BPF_RB_CONS_POS));
    // SAFETY: one word.
    let lazy = LAZY
        .get(0)
        .map_or(0, |lazy| unsafe { (&raw const *lazy).read_volatile() });
    if read < lazy {
        u64::from(BPF_RB_FORCE_WAKEUP)
    } else {
        0
    }
}

/// A record with a tail, being put together in this CPU's scratch memory, and there from the start:
/// a BPF program has 512 bytes of stack.
pub struct Builder<T> {
    scratch: *mut Scratch,
    record: PhantomData<T>,
}

impl<T> Builder<T> {
    /// Begins a record about the current task. The payload is zero, the tail empty.
    #[inline(always)]
    pub fn new(kind: u16, task: &Task) -> Option<Self> {
        count(task.agent, counter::EMITTED);
        let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
            count(task.agent, counter::LOST_SCRATCH);
            return None;
        };
        let builder = Self {
            scratch,
            record: PhantomData,
        };
        let record = builder.record();
        // SAFETY: the scratch memory is larger than any `Record<T>` and aligned to 8.
        unsafe {
            zero(&raw mut (*record).payload);
            write_header(&raw mut (*record).header, kind, task);
        }
        builder.set_position(size_of::<Record<T>>());
        Some(builder)
    }

    #[inline(always)]
    fn record(&self) -> *mut Record<T> {
        // SAFETY: a field of the scratch memory.
        unsafe { (&raw mut (*self.scratch).bytes).cast() }
    }

    /// The payload, to be filled in. It stays apart from what the other methods write.
    #[inline(always)]
    pub fn payload<'a>(&self) -> &'a mut T {
        // SAFETY: zeroed in `new`, of integers only; the tail starts after it, and there is one
        // caller for each record.
        unsafe { &mut (*self.record()).payload }
    }

    /// Sets flags in the header.
    #[inline(always)]
    pub fn flag(&self, flags: u16) {
        let at = self.flags_at();
        // SAFETY: in this record.
        unsafe { at.write_volatile(at.read_volatile() | flags) };
    }

    #[inline(always)]
    fn flags_at(&self) -> *mut u16 {
        // SAFETY: a field of the record.
        unsafe { &raw mut (*self.record()).header.flags }
    }

    /// Where the next piece goes, `None` when the record is full.
    #[inline(always)]
    pub fn room(&self) -> Option<*mut u8> {
        let pos = self.position();
        if pos > SCRATCH_MASK {
            return None;
        }
        // <verifier: unbounded memory access> The bound must be seen on the very register that is
        // added to the pointer, which the compiler does not promise.
        let pos = mask::<SCRATCH_MASK>(pos);
        // SAFETY: pos ≤ SCRATCH_MASK, and PIECE_MAX bytes follow in the same array.
        Some(unsafe { self.record().cast::<u8>().add(pos) })
    }

    /// Adds `len` bytes that were written to [`Self::room`].
    #[inline(always)]
    pub fn advance(&self, len: usize) {
        self.set_position(self.position() + len);
    }

    /// Takes back what was added since.
    #[inline(always)]
    pub fn rewind(&self, to: usize) {
        self.set_position(to);
    }

    /// How long the record is by now, bytes.
    #[inline(always)]
    pub fn position(&self) -> usize {
        // SAFETY: a field of the scratch memory.
        unsafe { (&raw const (*self.scratch).pos).read_volatile() as usize }
    }

    #[inline(always)]
    fn set_position(&self, pos: usize) {
        // SAFETY: a field of the scratch memory.
        unsafe { (&raw mut (*self.scratch).pos).write_volatile(pos as u64) };
    }

    /// Sends the record; whether it is on its way. What is not has been counted.
    #[inline(always)]
    pub fn send(self, way: Way) -> bool {
        let (record, pos) = (self.record(), self.position());
        // SAFETY: as in `new`.
        let header = unsafe { &mut (*record).header };
        let agent = header.agent;
        // A last piece that went past the mask ends the record early; decoding sees that.
        let len = if pos > SCRATCH_MASK {
            SCRATCH_MASK
        } else {
            pos
        };
        let len = mask::<SCRATCH_MASK>(len);
        header.len = len as u32;
        count_flags(agent, header.flags);
        let (to, lost) = way.ring();
        let share = share(agent);
        if let Some(share) = &share
            && !has_room(share, agent, way.is_prio(), len as u64)
        {
            count(agent, counter::LOST_SHARE_FULL);
            return false;
        }
        way.before(len as u64);
        let wakeup = way.wakeup(len as u64);
        // SAFETY: a ring buffer map, and `len` bytes of the scratch memory, which is larger.
        let result =
            unsafe { bpf_ringbuf_output(to.cast_mut().cast(), record.cast(), len as u64, wakeup) };
        if result != 0 {
            count(agent, lost);
            return false;
        }
        if let Some(share) = share {
            charge(share, way.is_prio(), len as u64);
        }
        true
    }
}

/// Whether a record that can wait wakes userspace: when much is unread, or soon after something that
/// decides.
#[inline(always)]
fn batched_wakeup(ring: &RingBuf, soon: bool, len: u64) -> u64 {
    if soon && let Some(last) = LAST_WAKEUP.get_ptr_mut(0) {
        let now = now_ns();
        // SAFETY: this CPU's own value.
        unsafe {
            if now - *last > WAKEUP_EVERY_NS {
                *last = now;
                return u64::from(BPF_RB_FORCE_WAKEUP);
            }
        }
    }
    // Once for each so many bytes: a wake-up interrupts this CPU, which costs more than the record.
    let unread = ring.query(u64::from(BPF_RB_AVAIL_DATA));
    let batch = u64::from(config::wakeup_bytes());
    if unread & !(batch - 1) != (unread + len) & !(batch - 1) {
        return u64::from(BPF_RB_FORCE_WAKEUP);
    }
    u64::from(BPF_RB_NO_WAKEUP)
}

/// Fills with zeroes, word by word: `write_bytes` becomes a loop over bytes.
///
/// # Safety
///
/// `to` is valid for writes and aligned to 8, and `T` is whole words long.
#[inline(always)]
unsafe fn zero<T>(to: *mut T) {
    const { assert!(size_of::<T>().is_multiple_of(8)) };
    let words = to.cast::<u64>();
    for word in 0..size_of::<T>() / 8 {
        // SAFETY: the caller's promise. Volatile, or the compiler makes the loop over bytes of it again.
        unsafe { words.add(word).write_volatile(0) };
    }
}

/// `x & MASK`, in one instruction on the register that is used afterwards.
#[inline(always)]
pub fn mask<const MASK: usize>(x: usize) -> usize {
    #[cfg(target_arch = "bpf")]
    {
        let mut x = x;
        // SAFETY: one arithmetic instruction on a register.
        unsafe { core::arch::asm!("{x} &= {m}", x = inout(reg) x, m = const MASK) };
        x
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        x & MASK
    }
}
