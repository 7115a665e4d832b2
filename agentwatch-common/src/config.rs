//! What userspace tells the kernel programs at load, as a read-only global: the verifier removes
//! what is switched off.

/// The kernel programs' settings.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Config {
    /// 1: every open for reading is sent, since the policy's sensitive paths have no fixed name to
    /// look for. 0: only those whose last components are in the set of names.
    pub send_all_reads: u32,
    /// 1: each record wakes userspace at once (tests). 0: bulk records are batched.
    pub eager_wakeup: u32,
    /// Bytes of unread bulk records that wake userspace.
    pub bulk_wakeup_bytes: u32,
    /// 1: the tracepoint at the end of an io_uring request passes a `struct io_uring_cqe` (since
    /// 6.12). 0: it passes the result itself.
    pub uring_cqe: u32,
    /// Where system calls have their arguments.
    pub registers: Registers,
}

/// Where `struct pt_regs` of the running architecture has the number of a system call and its arguments,
/// bytes: for programs at the functions that do the calls.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registers {
    /// The number.
    pub number: u32,
    /// The six arguments.
    pub arguments: [u32; 6],
    /// Explicit padding, zero.
    pub pad: u32,
}

const _: () = assert!(size_of::<Config>() == 48);

impl Config {
    /// What is in force when nothing is said.
    pub const DEFAULT: Self = Self {
        send_all_reads: 0,
        eager_wakeup: 0,
        bulk_wakeup_bytes: 64 * 1024,
        uring_cqe: 0,
        registers: Registers {
            number: 0,
            arguments: [0; 6],
            pad: 0,
        },
    };
}

crate::pod!(Config);
