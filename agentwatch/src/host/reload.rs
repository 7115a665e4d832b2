//! Another policy for an agent that runs.

use std::{collections::HashSet, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail};

use super::{Host, device_inode, set_up::enforce};
use crate::{
    policy::{Policy, Prefilter},
    respond,
};

/// How long is waited for an agent to stand still.
const STILL_WITHIN: Duration = Duration::from_millis(200);

impl Host {
    /// Puts another policy in force for an agent. While its denials change, the agent stands still.
    ///
    /// # Errors
    ///
    /// When the kernel cannot do what the policy wants; then the one before is in force again.
    pub fn change_policy(
        &mut self,
        number: u32,
        policy: &Arc<Policy>,
        source: &str,
        homes: &[PathBuf],
    ) -> Result<()> {
        let agent = self.agents.get(&number).context("no such agent")?;
        let before = Arc::clone(agent.pipeline.policy());
        let (cgroup, was_frozen) = (agent.cgroup().clone(), agent.standing.frozen);
        let denies = |policy: &Policy| !policy.denials().is_ok_and(|rules| rules.needs.is_empty());
        let stand_still = !was_frozen && (denies(&before) || denies(policy));
        if stand_still {
            cgroup.freeze(true)?;
            cgroup.wait_frozen(true, STILL_WITHIN);
        }
        let mut changed = self.put_in_force(number, policy, homes);
        if changed.is_err()
            && let Err(error) = self.put_in_force(number, &before, homes)
        {
            changed = changed.context(format!(
                "and the policy before could not be put back: {error:#}"
            ));
        }
        if stand_still {
            cgroup.freeze(false)?;
        }
        changed?;
        let agent = self.agents.get_mut(&number).context("no such agent")?;
        agent.policy_source = source.into();
        Ok(())
    }

    fn put_in_force(&mut self, number: u32, policy: &Arc<Policy>, homes: &[PathBuf]) -> Result<()> {
        if !self.all_reads && matches!(policy.sensitive.prefilter(), Prefilter::Everything { .. }) {
            bail!(
                "its sensitive_paths want every open to be looked at, for which the kernel programs are loaded \
                 otherwise: that takes a restart"
            );
        }
        self.know(policy, homes)?;
        let probe = self.probe.as_mut().context("the watching has ended")?;
        let agent = self.agents.get_mut(&number).context("no such agent")?;
        agent.pipeline.change_policy(Arc::clone(policy));
        agent.not_in_force.clear();
        probe.forget_denials(&HashSet::from([number]))?;
        enforce(probe, agent, homes)?;
        if agent.standing.quarantined {
            probe.quarantine(number, true)?;
        }
        match agent.pipeline.deletion_budget() {
            Some(limits) => {
                let folder = agent.workspace.as_ref().map(PathBuf::from);
                let workspace = folder.as_deref().and_then(device_inode);
                probe.budget(number, &limits, workspace)?;
                let now = respond::now_ns();
                let left = agent.pipeline.deletions_left(number, now);
                probe.spent(number, left, now)?;
            }
            None => probe.no_budget(number)?,
        }
        probe.thin(number, policy.events.thin)?;
        probe.defend(number, agent.pipeline.defends())
    }
}
