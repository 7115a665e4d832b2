//! Typed reads of the kernel's structures, through the offsets that the loader found.

pub mod cgroup;
pub mod config;
pub mod path;
pub mod regs;
pub mod sock;
pub mod task;

use core::mem::MaybeUninit;

use agentwatch_common::offsets::Offsets;
use aya_ebpf::helpers::{bpf_probe_read_kernel, generated::bpf_probe_read_kernel as read_raw};

/// The offset of a structure member, by the name of its field in [`Offsets`].
macro_rules! offset {
    ($field:ident) => {{
        let table =
            (&raw const $crate::maps::OFFSETS).cast::<agentwatch_common::offsets::Offsets>();
        // SAFETY: a static; volatile, since the loader changes it after compilation. The verifier
        // knows the value: the map behind it is frozen.
        unsafe { (&raw const (*table).$field).read_volatile() }
    }};
}
pub(crate) use offset;

/// Reads a member; `None` where the kernel lacks it or the memory cannot be read.
#[inline(always)]
pub fn read<T>(base: u64, offset: u32) -> Option<T> {
    if base == 0 || offset == Offsets::MISSING {
        return None;
    }
    // SAFETY: the helper checks the address and fails where it cannot be read.
    unsafe { bpf_probe_read_kernel((base + u64::from(offset)) as *const T) }.ok()
}

/// The first `N` words of a structure, read at once: each read is a call of a helper, which costs more than
/// what it copies. It is filled where it lies: a move would take the stack twice.
pub struct Head<const N: usize> {
    base: u64,
    words: MaybeUninit<[u64; N]>,
}

impl<const N: usize> Head<N> {
    /// Of nothing yet.
    #[inline(always)]
    pub fn new() -> Self {
        Self {
            base: 0,
            words: MaybeUninit::uninit(),
        }
    }

    /// Reads the structure at this address. False where it cannot be read.
    #[inline(always)]
    pub fn fill(&mut self, base: u64) -> bool {
        self.base = base;
        base != 0 && (N == 0 || read_bytes(self.words.as_mut_ptr().cast(), N * 8, base))
    }

    /// A member, also where it lies beyond. `None` as [`read`]. To be asked of what was filled.
    #[inline(always)]
    pub fn get<T: Copy>(&self, offset: u32) -> Option<T> {
        if offset == Offsets::MISSING {
            return None;
        }
        // The verifier knows the offset, and removes the way that is not taken.
        if offset as usize + size_of::<T>() > N * 8 {
            return read(self.base, offset);
        }
        let at = self.words.as_ptr() as u64 + u64::from(offset);
        // SAFETY: within the words, which are filled; the verifier would not let us read others.
        Some(unsafe { (at as *const T).read_volatile() })
    }
}

/// The address of a member that is embedded in a structure.
#[inline(always)]
pub fn member(base: u64, offset: u32) -> Option<u64> {
    (base != 0 && offset != Offsets::MISSING).then_some(base + u64::from(offset))
}

/// Copies `len` bytes of kernel memory. The caller vouches for `to`.
#[inline(always)]
pub fn read_bytes(to: *mut u8, len: usize, from: u64) -> bool {
    // SAFETY: the caller's memory, whose bounds the verifier checks too.
    unsafe { read_raw(to.cast(), len as u32, from as *const _) == 0 }
}
