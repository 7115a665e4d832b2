//! What a program at the entry or the exit of a system call gets, whichever tier it is of: the number,
//! the arguments, the result.

use aya_ebpf::{
    EbpfContext as _,
    helpers::bpf_probe_read_kernel,
    programs::{FEntryContext, FExitContext, TracePointContext},
};

use crate::kernel::config;

/// A system call, as its program gets it.
pub trait Call {
    /// Its number; `None` where that cannot be read.
    fn number(&self) -> Option<u32>;

    /// One argument of six, by its index; 0 for any other index (`Syscall::NONE`, `CallRow::NONE`).
    fn argument(&self, index: u8) -> u64;

    /// What it returned. At entry there is no such thing, and what this gives means nothing.
    fn result(&self) -> i64;
}

/// Where a syscall tracepoint has the number, and its arguments or result
/// (`/sys/kernel/tracing/events/syscalls/*/format`; the same on every kernel).
const NR_AT: usize = 8;
const ARGS_AT: usize = 16;

/// The tracepoint tier. `sys_exit_*` has no arguments: the result is in their place.
impl Call for TracePointContext {
    #[inline(always)]
    fn number(&self) -> Option<u32> {
        // SAFETY: the context of a syscall tracepoint begins so.
        unsafe { self.read_at(NR_AT) }.ok()
    }

    #[inline(always)]
    fn argument(&self, index: u8) -> u64 {
        if index > 5 {
            return 0;
        }
        // SAFETY: six arguments of eight bytes follow the number; the helper checks the address.
        unsafe { self.read_at(ARGS_AT + usize::from(index) * 8) }.unwrap_or(0)
    }

    #[inline(always)]
    fn result(&self) -> i64 {
        // SAFETY: the context of a `sys_exit` tracepoint has the result there.
        unsafe { self.read_at(ARGS_AT) }.unwrap_or(0)
    }
}

/// The trampoline tier: at the entry or the exit of the function that does the call, `long
/// __x64_sys_NAME(const struct pt_regs *regs)` (`arch/x86/include/asm/syscall_wrapper.h`; `__arm64_sys_`
/// likewise). The arguments are in the registers as the caller left them, at exit too.
pub struct Function {
    registers: u64,
    result: i64,
}

impl Function {
    /// At its entry.
    #[inline(always)]
    pub fn entry(ctx: &FEntryContext) -> Self {
        Self {
            registers: ctx.arg(0),
            result: 0,
        }
    }

    /// At its exit: what it returned stands behind its only argument. (`bpf_get_func_ret` is there only
    /// since 5.17.)
    #[inline(always)]
    pub fn exit(ctx: &FExitContext) -> Self {
        Self {
            registers: ctx.arg(0),
            // SAFETY: the context of an fexit program for a function with one argument is two words.
            result: unsafe { ctx.as_ptr().cast::<i64>().add(1).read() },
        }
    }

    #[inline(always)]
    fn register(&self, at: u32) -> Option<u64> {
        // SAFETY: the helper checks the address.
        unsafe { bpf_probe_read_kernel((self.registers + u64::from(at)) as *const u64) }.ok()
    }
}

impl Call for Function {
    #[inline(always)]
    fn number(&self) -> Option<u32> {
        self.register(config::number_at())
            .map(|number| number as u32)
    }

    #[inline(always)]
    fn argument(&self, index: u8) -> u64 {
        config::argument_at(index)
            .and_then(|at| self.register(at))
            .unwrap_or(0)
    }

    #[inline(always)]
    fn result(&self) -> i64 {
        self.result
    }
}
