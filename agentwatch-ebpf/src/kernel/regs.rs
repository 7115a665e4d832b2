//! The registers with which the current task entered its system call.

use aya_ebpf::helpers::generated::{bpf_get_current_task_btf, bpf_task_pt_regs};

use super::offset;

/// The registers. The kernel leaves those of the arguments as they were at entry, by the architecture's
/// calling convention ("Linux kernel conventions" of the System V ABI for AMD64, A.2).
#[derive(Clone, Copy)]
pub struct Registers(u64);

impl Registers {
    /// Of the current task.
    #[inline(always)]
    pub fn current() -> Self {
        // SAFETY: the helpers take the current task, which is there.
        Self(unsafe { bpf_task_pt_regs(bpf_get_current_task_btf()) } as u64)
    }

    /// Those at an address of which the verifier knows the type.
    #[inline(always)]
    pub fn at(address: u64) -> Self {
        Self(address)
    }

    /// The number of the system call.
    #[inline(always)]
    pub fn number(self) -> u32 {
        self.load(offset!(regs_number)) as u32
    }

    /// The verifier knows the type of the structure, and the offsets: this is a load, no call.
    #[inline(always)]
    fn load(self, offset: u32) -> u64 {
        // SAFETY: a member of the structure.
        unsafe { ((self.0 + u64::from(offset)) as *const u64).read_volatile() }
    }

    /// One argument of the system call, 0 where there is none of that index.
    #[inline(always)]
    pub fn argument(self, index: u8) -> u64 {
        let at = |offset: u32| self.load(offset);
        match index {
            0 => at(offset!(regs_arg0)),
            1 => at(offset!(regs_arg1)),
            2 => at(offset!(regs_arg2)),
            3 => at(offset!(regs_arg3)),
            4 => at(offset!(regs_arg4)),
            5 => at(offset!(regs_arg5)),
            _ => 0,
        }
    }
}

/// One of six arguments, 0 where there is none of that index.
#[inline(always)]
pub fn pick(args: &[u64; 6], index: u8) -> u64 {
    // By comparisons: the verifier follows those, and no index is out of bounds.
    match index {
        0 => args[0],
        1 => args[1],
        2 => args[2],
        3 => args[3],
        4 => args[4],
        5 => args[5],
        _ => 0,
    }
}
