//! Which file a call is about: the trampoline tier, else tracepoints.

use anyhow::Result;
use aya::{
    BtfError,
    programs::{FEntry, ProgramError},
};

use super::{
    Probe, hooks,
    tiers::{Limit, Tier},
};

/// The functions to which programs are attached.
type Attached = Vec<&'static str>;

impl Probe {
    /// Attaches what tells which inode a call changes: at the entry of kernel functions where this kernel
    /// lets one, else at the tracepoints of changed inodes (since 6.13). All or nothing of the first:
    /// half of it would leave calls without.
    pub(super) fn attach_paths(&mut self, trampolines: Result<Attached>) -> Result<()> {
        let first = self.capabilities.len();
        let refused = match trampolines {
            Ok(attached) => {
                for function in attached {
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
    pub(super) fn attach_trampolines(&mut self, limit: Limit) -> Result<Attached> {
        limit.allows(Limit::Trampoline)?;
        let btf = self.lsm.btf()?.clone();
        let mut loaded = Vec::new();
        for (name, function) in hooks::PATHS.iter().chain(hooks::PATHS_OF_ACL) {
            let program: &mut FEntry = self.program(name)?.try_into()?;
            match program.load(function, &btf) {
                Ok(()) => loaded.push((*name, *function)),
                Err(ProgramError::Btf(BtfError::UnknownBtfTypeName { .. }))
                    if hooks::PATHS_OF_ACL.contains(&(name, function)) => {}
                Err(error) => return Err(super::explain(&error)),
            }
        }
        // Loaded means that the kernel takes trampolines, but for the attaching itself.
        for (name, _) in &loaded {
            let program: &mut FEntry = self.program(name)?.try_into()?;
            program.attach().map_err(|error| super::explain(&error))?;
        }
        Ok(loaded.into_iter().map(|(_, function)| function).collect())
    }
}
