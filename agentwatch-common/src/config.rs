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
    /// Userspace is woken once for so many bytes of records that can wait: a power of two.
    pub wakeup_bytes: u32,
    /// 1: the tracepoint at the end of an io_uring request passes a `struct io_uring_cqe` (since
    /// 6.12). 0: it passes the result itself.
    pub uring_cqe: u32,
    /// 1: the arguments of calls that are not looked at in between are read at their exit, from the caller's registers, which are saved as
    /// they were at entry (`bpf_task_pt_regs`, since 5.15). 0: at its entry.
    pub args_at_exit: u32,
    /// 1: programs that judge the use of devices and sysctls can ask for the current process (since 5.15). 0:
    /// they know the cgroup only.
    pub device_process: u32,
    /// 1: tracepoints tell how much goes through a socket (`sock_send_length` and `sock_recv_length`, since
    /// 6.3). 0: it is known of TCP only, by the socket's own counters.
    pub sock_lengths: u32,
}

const _: () = assert!(size_of::<Config>() == 28);

impl Config {
    /// What is in force when nothing is said.
    pub const DEFAULT: Self = Self {
        send_all_reads: 0,
        eager_wakeup: 0,
        wakeup_bytes: 64 * 1024,
        uring_cqe: 0,
        args_at_exit: 0,
        device_process: 0,
        sock_lengths: 0,
    };
}

crate::pod!(Config);
