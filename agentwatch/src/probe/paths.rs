//! Which file a call is about: the trampoline tier, else tracepoints.

use anyhow::Result;
use aya::programs::FEntry;

use super::{
    Probe, hooks,
    tiers::{Limit, Tier},
};

impl Probe {
    /// Attaches what tells which inode a call changes: at the entry of kernel functions where this kernel
    /// lets one, else at the tracepoints of changed inodes (since 6.13). All or nothing of the first:
    /// half of it would leave calls without.
    pub(super) fn attach_paths(&mut self, trampolines: Result<()>) -> Result<()> {
        let first = self.capabilities.len();
        let refused = match trampolines {
            Ok(()) => {
                for (_, function) in hooks::PATHS {
                    let hook = format!("fentry {function}");
                    self.note(&hook, Tier::Trampoline, hooks::INODES, false, Ok(()))?;
                }
                return Ok(());
            }
            Err(error) => error,
        };
        for (program, tracepoint) in hooks::INODE_CHANGES {
            let result = self.attach_raw(program, tracepoint);
            let hook = format!("raw tracepoint {tracepoint}");
            self.note(&hook, Tier::Tracepoint, hooks::INODES, false, result)?;
        }
        self.lower(first, &format!("{refused:#}"));
        Ok(())
    }

    /// Attaches the trampoline tier.
    pub(super) fn attach_trampolines(&mut self, limit: Limit) -> Result<()> {
        limit.allows(Limit::Trampoline)?;
        let btf = self.lsm.btf()?.clone();
        for (program, function) in hooks::PATHS {
            let program: &mut FEntry = self.program(program)?.try_into()?;
            program
                .load(function, &btf)
                .map_err(|error| super::explain(&error))?;
        }
        // Loaded means that the kernel takes trampolines, but for the attaching itself.
        for (name, _) in hooks::PATHS {
            let program: &mut FEntry = self.program(name)?.try_into()?;
            program.attach().map_err(|error| super::explain(&error))?;
        }
        Ok(())
    }
}
