//! An agent's watching, from the first tag to its policy in force.

use std::{collections::HashSet, path::PathBuf, sync::Arc};

use agentwatch_common::tag::Task;
use anyhow::{Context as _, Result, bail};
use bytes::Bytes;

use super::{Agent, Host, Outputs, Plan, device_inode};
use crate::{
    policy::{Enforcement, Mode},
    probe::{Probe, seed},
    respond,
};

impl Host {
    pub(super) fn set_up(&mut self, number: u32, plan: Plan, outputs: Outputs) -> Result<()> {
        let share = self.share;
        self.know(&plan.policy, &plan.homes)?;
        let probe = self.probe.as_mut().context("the watching has ended")?;
        // Before anything is tagged.
        if plan.runner.is_some() {
            probe.spare(plan.cgroup.protected());
        }
        let (workspace, homes) = (plan.workspace.clone(), plan.homes.clone());
        let mut agent = Agent::new(number, plan, outputs);
        if self.door.is_some() {
            agent.patience = respond::EMPTY_SOON;
        }
        let mut records = agent.introduction(workspace.as_deref());
        if let Some([prio, bulk]) = share {
            probe.share(number, prio, bulk)?;
        }
        if let Some(limits) = agent.pipeline.deletion_budget() {
            let workspace = workspace.as_deref().and_then(device_inode);
            probe.budget(number, &limits, workspace)?;
        }
        probe.thin(number, agent.pipeline.policy().events.thin)?;
        probe.defend(number, agent.pipeline.defends())?;
        // A cgroup that was removed before its first record was read, and perhaps made again by that name: what
        // happened in it is in the records still.
        if agent.cgroup().is_there() {
            let in_force = enforce(probe, &mut agent, &homes)
                .and_then(|()| probe.watch(number, agent.cgroup().path(), agent.cgroup().id));
            if agent.cgroup().is_there() {
                in_force?;
                take_in_members(probe, &agent, &mut records)?;
                let members = agent.cgroup().processes()?.into_iter();
                let refused = members
                    .map(|pid| probe.inherited(number, pid).err())
                    .find(Option::is_some);
                agent.say_not_followed(refused.flatten().map(|error| format!("{error:#}")));
            }
        }
        for record in &records {
            agent.step(record, Some(probe));
        }
        agent.record(&records)?;
        self.agents.insert(number, agent);
        Ok(())
    }
}

/// Puts a policy's denials in force. One that cannot be is an error, unless the policy says that it need
/// not be.
pub(super) fn enforce(probe: &mut Probe, agent: &mut Agent, homes: &[PathBuf]) -> Result<()> {
    let policy = Arc::clone(agent.pipeline.policy());
    let enforced = probe.enforce(agent.number, agent.cgroup().path(), &policy, homes)?;
    for note in &enforced.notes {
        agent
            .outputs
            .notices
            .write(&format!("agentwatch: {note}\n"));
    }
    if enforced.missing.is_empty() {
        return Ok(());
    }
    let missing = enforced.explain();
    let said = match (policy.mode, policy.enforcement) {
        (Mode::Observe, _) => {
            format!("agentwatch: what the policy would deny is not told here: {missing}\n")
        }
        (Mode::Enforce, Enforcement::BestEffort) => {
            format!("agentwatch: not in force here: {missing}\n")
        }
        (Mode::Enforce, Enforcement::Required) => bail!(
            "the policy denies what this kernel cannot refuse: {missing}. `enforcement: best_effort` \
             in the policy starts all the same"
        ),
    };
    agent.outputs.notices.write(&said);
    agent.not_in_force.push(missing);
    Ok(())
}

/// Tags what is in the cgroup already. Again until nothing new is found: a process may fork in between,
/// but what a tagged one forks is tagged by the kernel.
fn take_in_members(probe: &mut Probe, agent: &Agent, records: &mut Vec<Bytes>) -> Result<()> {
    let number = agent.number;
    let subtree = agent.cgroup().subtree()?;
    for (_, id) in &subtree {
        probe.tag_cgroup(number, *id)?;
    }
    // What comes to be in it is the agent's, however much that is.
    probe.look_no_more_below(subtree.into_iter().map(|(_, id)| id))?;
    let mut known = HashSet::new();
    loop {
        let new: Vec<u32> = agent
            .cgroup()
            .processes()?
            .into_iter()
            .filter(|pid| known.insert(*pid))
            .collect();
        if new.is_empty() {
            return Ok(());
        }
        for pid in new {
            let Some(stat) = seed::stat(pid) else {
                continue;
            };
            let task = Task {
                start_ns: stat.start_ns,
                agent: number,
                ppid: stat.ppid,
            };
            if !probe.tag(pid, task)? {
                continue;
            }
            let still = seed::stat(pid).filter(|now| now.start_ns == stat.start_ns);
            if still.is_none_or(|now| now.is_ending) {
                // The kernel takes a tag away when the process ends, which may have been before it had one.
                probe.forget_process(pid)?;
            } else {
                records.extend(seed::seed(number, pid, true, respond::now_ns()));
            }
        }
    }
}
