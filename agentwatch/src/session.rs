//! A host with one agent, as `agentwatch run` has it.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result};

use crate::{
    event::{ProcessKey, Tally},
    finding::Finding,
    host::{Host, Outputs, Plan},
    probe::Options,
    publish::notice::Notices,
    respond::cgroup::AgentCgroup,
};

/// A running session.
pub struct Session {
    host: Host,
    agent: u32,
    cgroup: AgentCgroup,
    frozen_told: bool,
}

impl Session {
    /// Loads the kernel programs, and watches the agent from here on.
    ///
    /// # Errors
    ///
    /// When the kernel refuses something without which nothing can be watched.
    pub fn start(options: &Options, plan: Plan, outputs: Outputs) -> Result<Self> {
        let cgroup = plan.cgroup.clone();
        let policy = Arc::clone(&plan.policy);
        let mut host = Host::start(options, &[&policy])?;
        let agent = host.add(plan, outputs)?;
        host.settle();
        Ok(Self {
            host,
            agent,
            cgroup,
            frozen_told: false,
        })
    }

    /// What this process has of sockets will be the command's: to be said before it is started.
    pub fn pass_on_sockets(&mut self) {
        self.host.pass_on_sockets(self.agent);
    }

    /// Waits until something wants to be looked at, a tick at most.
    pub async fn wait(&self) {
        self.host.wait().await;
    }

    /// Takes everything that is there all the way.
    ///
    /// # Errors
    ///
    /// When the recording cannot be written.
    pub fn pump(&mut self) -> Result<()> {
        self.host.pump()?;
        if let Some(agent) = self.host.agent_mut(self.agent) {
            agent.say_if_not_stored();
        }
        self.say_if_frozen();
        Ok(())
    }

    /// The cgroup.
    pub fn cgroup(&self) -> &AgentCgroup {
        &self.cgroup
    }

    /// Where what is to be said goes.
    pub fn notices(&mut self) -> Option<&mut Notices> {
        let agent = self.host.agent_mut(self.agent)?;
        Some(&mut agent.outputs.notices)
    }

    /// Whether agentwatch has killed the agent.
    pub fn is_killed(&self) -> bool {
        let agent = self.host.agent(self.agent);
        agent.is_some_and(|agent| agent.killed_by.is_some())
    }

    /// Whether the agent stands still, for a finding.
    pub fn is_frozen(&self) -> bool {
        let agent = self.host.agent(self.agent);
        let ordered = agent.is_some_and(|agent| agent.standing.frozen);
        // Somebody may have thawed it meanwhile.
        ordered && self.cgroup.wait_frozen(true, Duration::ZERO)
    }

    /// The agent was found frozen, and is to stay so.
    pub fn stands_still(&mut self) {
        if let Some(agent) = self.host.agent_mut(self.agent) {
            agent.standing.frozen = true;
        }
    }

    /// Says once, when the agent was frozen, what to do then: there is no daemon that would thaw it.
    fn say_if_frozen(&mut self) {
        if self.frozen_told || !self.is_frozen() {
            return;
        }
        self.frozen_told = true;
        let said = format!(
            "agentwatch: the agent stands still. Ctrl-C ends it; `echo 0 > {}/cgroup.freeze` lets it go on\n",
            self.cgroup.path().display()
        );
        if let Some(notices) = self.notices() {
            notices.write(&said);
        }
    }

    /// The agent's processes that are alive, in its cgroup or not.
    pub fn members(&self) -> Vec<ProcessKey> {
        self.host.members(self.agent)
    }

    /// Ends every process of the agent, in its cgroup and outside.
    ///
    /// # Errors
    ///
    /// When the cgroup is protected or the kernel refuses.
    pub fn end_members(&self) -> Result<()> {
        self.host.end_members(self.agent)
    }

    /// Ends the watching: what is open is closed in the stream, losses are told.
    ///
    /// # Errors
    ///
    /// When the recording cannot be written.
    pub fn end(self) -> Result<(Outputs, Tally, Option<Finding>)> {
        let ended = self.host.end()?.pop().context("the agent is not watched")?;
        Ok((ended.outputs, ended.tally, ended.killed_by))
    }
}
