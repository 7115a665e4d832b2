//! The settings, field by field.

use agentwatch_common::config::Config;

/// Reads one field of the settings.
macro_rules! field {
    ($($field:tt)+) => {{
        let config = (&raw const crate::maps::CONFIG).cast::<Config>();
        // SAFETY: as in `offset!`.
        unsafe { (&raw const (*config).$($field)+).read_volatile() }
    }};
}

#[inline(always)]
pub fn send_all_reads() -> bool {
    field!(send_all_reads) != 0
}

#[inline(always)]
pub fn eager_wakeup() -> bool {
    field!(eager_wakeup) != 0
}

#[inline(always)]
pub fn bulk_wakeup_bytes() -> u32 {
    field!(bulk_wakeup_bytes)
}

/// Where `struct pt_regs` has the number of a system call, bytes.
#[inline(always)]
pub fn number_at() -> u32 {
    field!(registers.number)
}

/// Where it has one of its six arguments, `None` for any other index.
#[inline(always)]
pub fn argument_at(index: u8) -> Option<u32> {
    // By comparisons: the verifier follows those, and no index is out of bounds.
    Some(match index {
        0 => field!(registers.arguments[0]),
        1 => field!(registers.arguments[1]),
        2 => field!(registers.arguments[2]),
        3 => field!(registers.arguments[3]),
        4 => field!(registers.arguments[4]),
        5 => field!(registers.arguments[5]),
        _ => return None,
    })
}

#[inline(always)]
pub fn uring_cqe() -> bool {
    field!(uring_cqe) != 0
}
