//! Calls that are no file's and no flow's: what a process may do, what it does to others, the sockets
//! that it makes.

/// Most bytes of a string argument that are sent.
pub const TEXT_MAX: usize = 256;

/// Most bytes of a socket address that are sent (`sizeof(struct sockaddr_storage)`).
pub const ADDRESS_MAX: usize = 128;

/// Values of [`Call::op`] and [`CallRow::op`].
pub mod op {
    /// socket(2)
    pub const SOCKET: u16 = 1;
    /// bind(2)
    pub const BIND: u16 = 2;
    /// connect(2) of what is no IP socket.
    pub const CONNECT: u16 = 3;
    /// ptrace(2), requests that take hold of a process or change it.
    pub const PTRACE: u16 = 4;
    /// `process_vm_readv(2)`
    pub const PROCESS_VM_READ: u16 = 5;
    /// `process_vm_writev(2)`
    pub const PROCESS_VM_WRITE: u16 = 6;
    /// `pidfd_getfd(2)`
    pub const PIDFD_GETFD: u16 = 7;
    /// unshare(2)
    pub const UNSHARE: u16 = 8;
    /// setns(2)
    pub const SETNS: u16 = 9;
    /// `memfd_create(2)`
    pub const MEMFD_CREATE: u16 = 10;
    /// prctl(2), options that change what a process is or may do.
    pub const PRCTL: u16 = 11;
    /// bpf(2)
    pub const BPF: u16 = 12;
    /// `init_module(2)`, `finit_module(2)`
    pub const MODULE_LOAD: u16 = 13;
    /// `delete_module(2)`
    pub const MODULE_UNLOAD: u16 = 14;
    /// `io_uring_setup(2)`
    pub const IO_URING_SETUP: u16 = 15;
    /// setuid(2), setreuid(2), setresuid(2), setfsuid(2)
    pub const SETUID: u16 = 16;
    /// setgid(2), setregid(2), setresgid(2), setfsgid(2), setgroups(2)
    pub const SETGID: u16 = 17;
    /// capset(2)
    pub const CAPSET: u16 = 18;
    /// `perf_event_open(2)`
    pub const PERF_EVENT_OPEN: u16 = 19;
    /// userfaultfd(2)
    pub const USERFAULTFD: u16 = 20;
    /// `kexec_load(2)`, `kexec_file_load(2)`
    pub const KEXEC: u16 = 21;
    /// fsopen(2): the beginning of a mount.
    pub const FSOPEN: u16 = 22;
}

/// What a task may do.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Credentials {
    /// Effective capabilities, a bit each (capability.h).
    pub caps: u64,
    /// Real user id.
    pub uid: u32,
    /// Effective user id.
    pub euid: u32,
    /// Real group id.
    pub gid: u32,
    /// Effective group id.
    pub egid: u32,
}

const _: () = assert!(size_of::<Credentials>() == 24);

/// A call returned. The tail is its string argument, or its socket address as the caller passed it
/// (`struct sockaddr`).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Call {
    /// The arguments, as passed.
    pub args: [u64; 6],
    /// The caller's credentials after the call.
    pub credentials: Credentials,
    /// What the call returned: a negative errno where it failed.
    pub result: i64,
    /// One of [`op`].
    pub op: u16,
    /// Bytes of the string in the tail.
    pub text_len: u16,
    /// Bytes of the socket address in the tail.
    pub address_len: u16,
    /// Zero.
    pub pad: u16,
}

const _: () = assert!(size_of::<Call>() == 88);

/// How to read the arguments of such a call: one row of the table that userspace fills. Indices of
/// arguments, [`CallRow::NONE`] for none.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CallRow {
    /// Values of argument `filter` below 64 that are told: a bit each. All where there is no filter.
    pub told: u64,
    /// One further value of it that is told.
    pub also: u32,
    /// One of [`op`], 0 for a call that is not watched.
    pub op: u16,
    /// The argument that says whether the call is told.
    pub filter: u8,
    /// A string. With a filter, only where that argument is `text_if`.
    pub text: u8,
    /// See `text`.
    pub text_if: u8,
    /// A socket address.
    pub address: u8,
    /// Its length.
    pub address_len: u8,
    /// 1: userspace is told at once.
    pub urgent: u8,
    /// Zero.
    pub pad: [u8; 4],
}

const _: () = assert!(size_of::<CallRow>() == 24);

impl CallRow {
    /// "There is no such argument."
    pub const NONE: u8 = 0xff;
    /// A call that is not watched.
    pub const UNWATCHED: Self = Self {
        told: 0,
        also: 0,
        op: 0,
        filter: Self::NONE,
        text: Self::NONE,
        text_if: 0,
        address: Self::NONE,
        address_len: Self::NONE,
        urgent: 0,
        pad: [0; 4],
    };
}

/// A process sent a signal to another one.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Signal {
    /// Start of the target, `CLOCK_BOOTTIME` nanoseconds.
    pub target_start_ns: u64,
    /// The target's process id in the initial namespace.
    pub target: u32,
    /// The target's agent, 0 for none's.
    pub target_agent: u32,
    /// The signal.
    pub signal: u32,
    /// What became of it (`TRACE_SIGNAL_*` of include/trace/events/signal.h): 0 delivered, 1
    /// ignored, 2 already pending, 3 and 4 lost for want of memory.
    pub result: u32,
}

const _: () = assert!(size_of::<Signal>() == 24);

crate::pod!(CallRow);
