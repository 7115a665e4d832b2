//! Thinning: of opens that a process repeats, of one file in one way, the first in a window is sent and
//! the others are counted.
//!
//! Only where nothing can depend on the single open: for writing, without making or emptying the file,
//! of what is no device and not called sensitive by the policy. Opens for reading are not sent at all
//! but for those that the policy wants to know of, each of them.

use agentwatch_common::{
    file::{InodeKey, THIN_WINDOW_NS, ThinKey, Thinned},
    loss::counter,
    tag::Task,
};
use aya_ebpf::bindings::BPF_NOEXIST;

use crate::{
    emit,
    kernel::path::Path,
    maps::{THIN_SLOT, THINNED, UNTHINNED},
    tag,
};

/// The open that is looked at, in this CPU's memory.
#[repr(C)]
pub struct Slot {
    key: ThinKey,
    /// 1: it may be repeated.
    set: u32,
    pad: u32,
}

/// This CPU's.
#[inline(always)]
fn slot<'a>() -> Option<&'a mut Slot> {
    // SAFETY: this CPU's own, and programs of tracepoints do not nest.
    THIN_SLOT.get_ptr_mut(0).map(|slot| unsafe { &mut *slot })
}

/// Begins with an open that is not to be thinned.
#[inline(always)]
pub fn clear() {
    if let Some(slot) = slot() {
        slot.set = 0;
    }
}

/// Whether an open repeats one that was sent a short while ago. It is counted then; else it is one that
/// may be repeated, until [`clear`].
#[inline(always)]
pub fn repeats(own: &Task, inode: &InodeKey, path: &Path, flags: u32) -> bool {
    let Some(slot) = slot() else {
        return false;
    };
    slot.set = 1;
    let key = &mut slot.key;
    key.ino = inode.ino;
    key.start_ns = own.start_ns;
    key.dev = inode.dev;
    key.tgid = tag::tgid();
    key.agent = own.agent;
    key.flags = flags;
    // Both are aligned, to cache lines mostly.
    key.place = (path.dentry >> 5) as u32 ^ ((path.mount >> 5) as u32).rotate_left(16);
    let Some(seen) = THINNED.get_ptr_mut(&*key) else {
        return false;
    };
    // SAFETY: an entry of the map. Userspace removes it only when its window is long over, so what is
    // added here is read.
    unsafe {
        if emit::now_ns() - (*seen).at_ns >= THIN_WINDOW_NS {
            return false;
        }
        emit::add(&raw mut (*seen).swallowed, 1);
    }
    emit::count(key.agent, counter::THINNED);
    true
}

/// What makes an open a repetition of this one, if one may be.
#[inline(always)]
pub fn key<'a>() -> Option<&'a ThinKey> {
    slot().filter(|slot| slot.set != 0).map(|slot| &slot.key)
}

/// Whether an agent's opens are thinned.
#[inline(always)]
pub fn is_wanted(agent: u32) -> bool {
    UNTHINNED.get_ptr(&agent).is_none()
}

/// An open was sent: a window begins.
#[inline(always)]
pub fn sent() {
    let Some(key) = key() else {
        return;
    };
    let at_ns = emit::now_ns();
    if let Some(seen) = THINNED.get_ptr_mut(key) {
        // SAFETY: an entry of the map; what was counted stays.
        unsafe { (*seen).at_ns = at_ns };
        return;
    }
    let first = Thinned {
        at_ns,
        swallowed: 0,
    };
    // Where it is full, the next one is sent as well. Where another thread was faster, its window is ours.
    let _ = THINNED.insert(key, &first, u64::from(BPF_NOEXIST));
}
