//! Typed reads of the kernel's structures, through the offsets that the loader found.

pub mod cgroup;
pub mod config;
pub mod path;
pub mod sock;
pub mod task;

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
