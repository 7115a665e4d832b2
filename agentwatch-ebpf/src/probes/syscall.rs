//! What a program at the entry or the exit of a system call gets, whichever tier it is of: the number,
//! the arguments, the result.

use aya_ebpf::{
    EbpfContext as _,
    programs::{FEntryContext, FExitContext, TracePointContext},
};

use crate::kernel::{config, regs::Registers};

/// A system call, as its program gets it.
pub trait Call {
    /// Its number; `None` where that cannot be read.
    fn number(&self) -> Option<u32>;

    /// At entry: one argument of six, by its index; 0 for any other index (`Syscall::NONE`,
    /// `CallRow::NONE`).
    fn argument(&self, index: u8) -> u64;

    /// At exit: the registers with the arguments, where they are at hand still.
    fn registers(&self) -> Option<Registers>;

    /// At exit: what it returned.
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
    fn registers(&self) -> Option<Registers> {
        config::args_at_exit().then(Registers::current)
    }

    #[inline(always)]
    fn result(&self) -> i64 {
        // SAFETY: the context of a `sys_exit` tracepoint has the result there.
        unsafe { self.read_at(ARGS_AT) }.unwrap_or(0)
    }
}

/// The trampoline tier: at the entry or the exit of the function that does the call, `long
/// __x64_sys_NAME(const struct pt_regs *regs)` (`arch/x86/include/asm/syscall_wrapper.h`).
pub struct Function {
    registers: Registers,
    result: i64,
}

impl Function {
    /// At its entry.
    #[inline(always)]
    pub fn entry(ctx: &FEntryContext) -> Self {
        Self {
            registers: Registers::at(ctx.arg(0)),
            result: 0,
        }
    }

    /// At its exit: what it returned stands behind its only argument. (`bpf_get_func_ret` is there only
    /// since 5.17.)
    #[inline(always)]
    pub fn exit(ctx: &FExitContext) -> Self {
        Self {
            registers: Registers::at(ctx.arg(0)),
            // SAFETY: the context of an fexit program for a function with one argument is two words.
            result: unsafe { ctx.as_ptr().cast::<i64>().add(1).read() },
        }
    }
}

impl Call for Function {
    #[inline(always)]
    fn number(&self) -> Option<u32> {
        Some(self.registers.number())
    }

    #[inline(always)]
    fn argument(&self, index: u8) -> u64 {
        self.registers.argument(index)
    }

    #[inline(always)]
    fn registers(&self) -> Option<Registers> {
        Some(self.registers)
    }

    #[inline(always)]
    fn result(&self) -> i64 {
        self.result
    }
}
