//! The settings, field by field.

use agentwatch_common::config::Config;

/// Reads one field of the settings.
macro_rules! field {
    ($field:ident) => {{
        let config = (&raw const crate::maps::CONFIG).cast::<Config>();
        // SAFETY: as in `offset!`.
        unsafe { (&raw const (*config).$field).read_volatile() }
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
pub fn wakeup_bytes() -> u32 {
    field!(wakeup_bytes)
}

#[inline(always)]
pub fn args_at_exit() -> bool {
    field!(args_at_exit) != 0
}

#[inline(always)]
pub fn device_process() -> bool {
    field!(device_process) != 0
}

#[inline(always)]
pub fn uring_cqe() -> bool {
    field!(uring_cqe) != 0
}

#[inline(always)]
pub fn sock_lengths() -> bool {
    field!(sock_lengths) != 0
}
