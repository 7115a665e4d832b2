//! The deletion budget in the kernel: see `agentwatch_common::budget`.

use agentwatch_common::{
    budget::{Budget, place},
    file::InodeKey,
};
use anyhow::{Context as _, Result};
use aya::maps::HashMap;

use super::{Probe, hooks};
use crate::{event::Stopped, policy::MassDeletion};

impl Probe {
    /// Gives an agent its budget. `workspace`: device and inode of its folder.
    ///
    /// # Errors
    ///
    /// When there are too many agents.
    pub fn budget(
        &mut self,
        agent: u32,
        limits: &MassDeletion,
        workspace: Option<(u32, u64)>,
    ) -> Result<()> {
        let limit = [count(limits.max_files), count(limits.workspace_max_files)];
        let (dev, ino) = workspace.unwrap_or((0, 0));
        let budget = Budget {
            left: limit,
            limit,
            since_ns: [0; 2],
            window_ns: u64::try_from(limits.window.as_nanos()).unwrap_or(u64::MAX),
            workspace: InodeKey { ino, dev, pad: 0 },
            before: u32::from(self.hold_deletions().is_ok()),
            pad: 0,
        };
        let mut budgets: HashMap<_, u32, Budget> = self.map("BUDGETS")?.try_into()?;
        budgets
            .insert(agent, budget, 0)
            .context("cannot give the agent its deletion budget")
    }

    /// Takes an agent's budget away: its policy has none any more.
    ///
    /// # Errors
    ///
    /// When the map cannot be written.
    pub fn no_budget(&mut self, agent: u32) -> Result<()> {
        let mut budgets: HashMap<_, u32, Budget> = self.map("BUDGETS")?.try_into()?;
        let _ = budgets.remove(&agent);
        Ok(())
    }

    /// Has the security modules ask before a file is gone.
    ///
    /// # Errors
    ///
    /// When the kernel does not let them: then files are counted when they are gone.
    pub fn hold_deletions(&mut self) -> Result<()> {
        for (program, hook) in hooks::DELETIONS {
            self.hold_lsm(program, hook, true)?;
        }
        Ok(())
    }

    /// Sets what is left of an agent's budget, outside its workspace and inside, for a window that begins now.
    ///
    /// # Errors
    ///
    /// When the agent has none.
    pub fn spent(&mut self, agent: u32, left: [u64; 2], now_ns: u64) -> Result<()> {
        let mut budgets: HashMap<_, u32, Budget> = self.map("BUDGETS")?.try_into()?;
        let mut budget = budgets.get(&agent, 0)?;
        for (at, left) in [place::OUTSIDE, place::WORKSPACE].into_iter().zip(left) {
            budget.left[at] = count(left);
            budget.since_ns[at] = now_ns;
        }
        Ok(budgets.insert(agent, budget, 0)?)
    }

    /// Sets what is left of an agent's budget, at one of its places.
    ///
    /// # Errors
    ///
    /// When the agent has none.
    pub fn refill(&mut self, agent: u32, stopped: Stopped, left: u64) -> Result<()> {
        let mut budgets: HashMap<_, u32, Budget> = self.map("BUDGETS")?.try_into()?;
        let mut budget = budgets.get(&agent, 0)?;
        let at = if stopped.workspace {
            place::WORKSPACE
        } else {
            place::OUTSIDE
        };
        // One more at least where the call is still to be made: what is found, is found by it.
        let least = i64::from(budget.before != 0);
        budget.left[at] = count(left).max(least);
        // What another process takes between the two calls is not counted: that errs by a few files.
        Ok(budgets.insert(agent, budget, 0)?)
    }
}

/// A number of files, as the kernel counts.
fn count(files: u64) -> i64 {
    i64::try_from(files).unwrap_or(i64::MAX)
}
