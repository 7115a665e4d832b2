//! Signals that processes send to others.

use agentwatch_common::{call::Signal, kind};
use aya_ebpf::programs::RawTracePointContext;

use crate::{
    emit,
    kernel::{read, task},
    tag,
};

/// Below this the kernel's `struct kernel_siginfo *` is no address: `SEND_SIG_NOINFO`,
/// `SEND_SIG_PRIV` (include/linux/sched/signal.h).
const NO_ADDRESS: u64 = 2;
/// Offset of `si_code` in `siginfo_t` (asm-generic/siginfo.h): part of the ABI to programs.
const SI_CODE: u32 = 8;
/// `SI_USER`, `SI_QUEUE`, `SI_TKILL`: sent by kill(2), sigqueue(3), tgkill(2). What else there is
/// comes from the kernel: a child that ended, a timer, a terminal.
const BY_PROCESS: [i32; 3] = [0, -1, -6];

/// `signal_generate(int sig, struct kernel_siginfo *info, struct task_struct *task, int group, int result)`
///
/// In the sender's context.
#[inline(always)]
pub fn generate(ctx: &RawTracePointContext) {
    let Some(own) = tag::current() else {
        return;
    };
    let info: u64 = ctx.arg(1);
    if info < NO_ADDRESS {
        return;
    }
    let code: i32 = read(info, SI_CODE).unwrap_or(1);
    if code != BY_PROCESS[0] && code != BY_PROCESS[1] && code != BY_PROCESS[2] {
        return;
    }
    let (signal, to, result): (u64, u64, u64) = (ctx.arg(0), ctx.arg(2), ctx.arg(4));
    let target = task::tgid(to).unwrap_or(0);
    if target == tag::tgid() {
        return; // abort(3), raise(3)
    }
    let target_agent = tag::of(target).map_or(0, |task| task.agent);
    let target_start_ns = task::start_ns(to).unwrap_or(0);
    emit::prio(emit::header(kind::SIGNAL, &own), |payload: *mut Signal| {
        // SAFETY: reserved memory of this type.
        unsafe {
            payload.write(Signal {
                target_start_ns,
                target,
                target_agent,
                signal: signal as u32,
                result: result as u32,
            });
        };
    });
}
