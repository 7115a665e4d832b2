//! How it was with an agent that was watched before, by an agentwatch that has ended.

use std::collections::HashMap;

use anyhow::{Context as _, Result};

use super::{Host, Standing};
use crate::{event::Carried, probe::seed, respond};

impl Host {
    /// Puts back how it was with an agent, and what it had removed of its deletion budget.
    ///
    /// # Errors
    ///
    /// When the kernel refuses to freeze it or to cut its network again. All else is put back then too.
    pub fn recall(&mut self, number: u32, standing: Standing, removed: &Carried) -> Result<()> {
        let frozen = if standing.frozen {
            self.freeze(number)
        } else {
            Ok(())
        };
        let agent = self.agents.get_mut(&number).context("no such agent")?;
        let now = respond::now_ns();
        let mut probe = self.probe.as_mut();
        let cut_off = match &mut probe {
            Some(probe) if standing.quarantined => probe.quarantine(number, true),
            _ => Ok(()),
        };
        agent.standing = Standing {
            gone: agent.standing.gone,
            ..standing
        };
        if *removed != Carried::default() {
            let record = seed::carried(number, removed, now);
            agent.step(&record, probe.as_deref_mut());
            agent.record(std::slice::from_ref(&record))?;
            let left = agent.pipeline.deletions_left(number, now);
            if let Some(probe) = probe
                && agent.pipeline.deletion_budget().is_some()
            {
                probe.spent(number, left, now)?;
            }
        }
        frozen.and(cut_off)
    }

    /// Has all processes of an agent stand still.
    ///
    /// # Errors
    ///
    /// When its cgroup is protected, or the kernel refuses.
    pub fn freeze(&mut self, number: u32) -> Result<()> {
        self.stand_still(number, true)
    }

    /// Lets them go on.
    ///
    /// # Errors
    ///
    /// As [`Host::freeze`].
    pub fn thaw(&mut self, number: u32) -> Result<()> {
        self.stand_still(number, false)
    }

    fn stand_still(&mut self, number: u32, still: bool) -> Result<()> {
        let members = self.members(number);
        let agent = self.agents.get(&number).context("no such agent")?;
        agent.cgroup().freeze(still)?;
        respond::stop_outside(agent.cgroup(), members, still);
        Ok(())
    }

    /// What each agent has removed by now of its deletion budget.
    pub fn removed(&mut self) -> HashMap<u32, Carried> {
        let now = respond::now_ns();
        let of = |(number, agent): (&u32, &mut super::Agent)| {
            (*number, agent.pipeline.removed(*number, now))
        };
        self.agents.iter_mut().map(of).collect()
    }
}
