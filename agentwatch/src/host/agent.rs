//! One agent: what is known of it, and where what happens to it goes.

use std::{path::Path, sync::Arc};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use jiff::Timestamp;

use super::{Plan, wall_offset_ns, watch::Stream};
use crate::{
    api::model::{AgentState, FindingCounts, FoundBy},
    enrich::World,
    event::{Event, FileOp, Kind, ProcessKey, Stopped},
    finding::{Action, Finding},
    pipeline::{Pipeline, Sink},
    probe::{Probe, seed},
    publish::{account::Account, notice::Notices},
    recording::Recorder,
    respond::{self, Means, cgroup::AgentCgroup},
    store::{Store, row::Row},
};

/// Where what happens goes.
pub struct Outputs {
    /// The history; `None` for none.
    pub store: Option<Store>,
    /// A recording, if one is made.
    pub recorder: Option<Recorder>,
    /// The account that is given at the end; `None` where nobody waits for one.
    pub account: Option<Account>,
    /// Findings as they happen.
    pub notices: Notices,
    /// Those who look on.
    pub stream: Option<Stream>,
}

/// How it is with an agent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is or is not so, whatever the others are"
)]
pub struct Standing {
    /// Its processes stand still.
    pub frozen: bool,
    /// Its network is cut.
    pub quarantined: bool,
    /// agentwatch ended its processes.
    pub killed: bool,
    /// Its cgroup was removed.
    pub gone: bool,
    /// Why it was acted upon.
    pub reason: Option<String>,
}

impl Standing {
    /// In a word: what counts most.
    pub fn state(&self) -> AgentState {
        match self {
            Self { gone: true, .. } => AgentState::Gone,
            Self { killed: true, .. } => AgentState::Killed,
            Self { frozen: true, .. } => AgentState::Frozen,
            Self {
                quarantined: true, ..
            } => AgentState::Quarantined,
            _ => AgentState::Watched,
        }
    }
}

/// What was counted of the events.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Programs started.
    pub execs: u64,
    /// Files deleted.
    pub deletes: u64,
    /// Connections asked for.
    pub connects: u64,
    /// Payload bytes of the flows that are closed, in.
    pub closed_in: u64,
    /// The same, out.
    pub closed_out: u64,
    /// Findings.
    pub findings: FindingCounts,
}

impl Counts {
    /// Takes an event in.
    pub fn observe(&mut self, event: &Event) {
        match &event.kind {
            Kind::Exec(_) => self.execs += 1,
            Kind::Connect(_) => self.connects += 1,
            Kind::File(file) if file.result >= 0 => {
                self.deletes += u64::from(matches!(file.op, FileOp::Unlink | FileOp::Rmdir));
            }
            Kind::FlowClose(close) => {
                self.closed_in = self.closed_in.saturating_add(close.bytes_in);
                self.closed_out = self.closed_out.saturating_add(close.bytes_out);
            }
            _ => {}
        }
    }
}

/// An agent.
pub struct Agent {
    /// Its number, which its records carry.
    pub number: u32,
    /// Its name.
    pub name: Arc<str>,
    /// What comes after the records.
    pub pipeline: Pipeline,
    /// Where things go.
    pub outputs: Outputs,
    /// The finding for which it was killed.
    pub killed_by: Option<Finding>,
    /// How it is with it.
    pub standing: Standing,
    /// What was counted.
    pub counts: Counts,
    /// What its policy asks for and this kernel does not do.
    pub not_in_force: Vec<String>,
    /// Watched since.
    pub since: Timestamp,
    /// How it was found.
    pub found_by: FoundBy,
    /// What its policy is called.
    pub policy_source: Arc<str>,
    /// The folder that is its own to change.
    pub workspace: Option<String>,
    cgroup: AgentCgroup,
    not_stored_told: bool,
}

impl Agent {
    pub(super) fn new(number: u32, plan: Plan, outputs: Outputs) -> Self {
        let Plan {
            name,
            cgroup,
            workspace,
            policy,
            policy_source,
            homes: _,
            found_by,
        } = plan;
        Self {
            number,
            name: name.into(),
            pipeline: Pipeline::new(policy),
            outputs,
            killed_by: None,
            standing: Standing::default(),
            counts: Counts::default(),
            not_in_force: Vec::new(),
            since: Timestamp::now(),
            found_by,
            policy_source: policy_source.into(),
            workspace: workspace
                .map(|folder| crate::text::escape(folder.as_os_str().as_encoded_bytes())),
            cgroup,
            not_stored_told: false,
        }
    }

    /// The cgroup.
    pub fn cgroup(&self) -> &AgentCgroup {
        &self.cgroup
    }

    /// Who the agent is and who started it: the records come from here, so a recording has them.
    pub(super) fn introduction(&self, workspace: Option<&Path>) -> Vec<Bytes> {
        let now = respond::now_ns();
        let cgroup = (self.cgroup.path(), self.cgroup.id);
        let own = seed::agent(
            self.number,
            &self.name,
            cgroup,
            workspace,
            now,
            wall_offset_ns(),
        );
        let mut records = vec![own];
        if matches!(self.found_by, FoundBy::Run { .. }) {
            records.extend(seed::ancestors(self.number, std::process::id(), now));
        }
        records
    }

    /// Takes a record all the way.
    pub(super) fn step(&mut self, record: &Bytes, probe: Option<&mut Probe>) {
        let Self {
            number,
            pipeline,
            outputs,
            killed_by,
            standing,
            counts,
            cgroup,
            ..
        } = self;
        let mut sink = Outlet {
            number: *number,
            outputs,
            killed_by,
            standing,
            counts,
            cgroup,
            probe,
        };
        pipeline.step(record, &mut sink);
    }

    /// Appends records to the recording, if one is made.
    pub(super) fn record(&mut self, records: &[Bytes]) -> Result<()> {
        match &mut self.outputs.recorder {
            Some(recorder) => recorder.append(records).context("cannot record"),
            None => Ok(()),
        }
    }

    pub(super) fn say_not_followed(&mut self, refused: Option<String>) {
        if let Some(error) = refused {
            self.outputs.notices.write(&format!(
                "agentwatch: bytes of sockets that others made are not counted: {error}\n"
            ));
        }
    }

    /// Says once that the history cannot be written, when that happens; the account says how much is
    /// missing.
    pub fn say_if_not_stored(&mut self) {
        let Outputs { store, notices, .. } = &mut self.outputs;
        if self.not_stored_told {
            return;
        }
        if let Some(error) = store.as_ref().and_then(|store| store.stats().error) {
            self.not_stored_told = true;
            notices.write(&format!(
                "agentwatch: the history cannot be written now, watching goes on: {error}\n"
            ));
        }
    }
}

/// Where the pipeline's events and findings go.
struct Outlet<'a> {
    number: u32,
    outputs: &'a mut Outputs,
    killed_by: &'a mut Option<Finding>,
    standing: &'a mut Standing,
    counts: &'a mut Counts,
    cgroup: &'a AgentCgroup,
    probe: Option<&'a mut Probe>,
}

impl Sink for Outlet<'_> {
    fn event(&mut self, event: &Event, world: &World) {
        self.counts.observe(event);
        let Some(row) = row_of(event, world) else {
            return;
        };
        if let Some(stream) = &self.outputs.stream {
            stream.event(&row);
        }
        if let Some(account) = &mut self.outputs.account {
            account.observe(&row);
        }
        if let Some(store) = &self.outputs.store {
            store.event(row);
        }
    }

    fn finding(&mut self, finding: &Finding) {
        // Said first: the terminal is what a person looks at.
        self.outputs.notices.finding(finding);
        if let Some(account) = &mut self.outputs.account {
            account.finding(finding);
        }
        if let Some(store) = &self.outputs.store {
            store.finding(finding);
        }
        if let Some(stream) = &self.outputs.stream {
            stream.finding(finding);
        }
        self.counts.findings.add(finding.severity);
        let acted = match finding.response.taken {
            Action::Log | Action::Alert => return,
            Action::Quarantine => &mut self.standing.quarantined,
            Action::Freeze => &mut self.standing.frozen,
            Action::Kill => &mut self.standing.killed,
        };
        *acted = true;
        self.standing.reason = Some(format!("{} ({})", finding.message, finding.id));
        if finding.response.taken == Action::Kill && self.killed_by.is_none() {
            *self.killed_by = Some(finding.clone());
        }
    }

    fn free_hostages(&mut self) {
        if let Err(error) = self.cgroup.free_hostages() {
            let said = format!("agentwatch: {error:#}\n");
            self.outputs.notices.write(&said);
        }
    }

    fn resume(&mut self, event: &Event, stopped: Stopped, left: u64) {
        if self.killed_by.is_some() {
            return;
        }
        let refilled = match &mut self.probe {
            Some(probe) => probe.refill(event.agent, stopped, left),
            None => Ok(()),
        };
        if let Err(error) = refilled.and_then(|()| respond::resume(event.process)) {
            self.outputs.notices.write(&format!(
                "agentwatch: process {} was stopped and cannot be resumed: {error:#}\n",
                event.process.pid
            ));
        }
    }
}

impl Means for Outlet<'_> {
    fn cgroup(&self) -> Option<&AgentCgroup> {
        Some(self.cgroup)
    }

    fn members(&self) -> Vec<ProcessKey> {
        members(self.probe.as_deref(), self.number)
    }

    fn quarantine(&mut self, cut_off: bool) -> Result<()> {
        let probe = self.probe.as_mut().context("the watching has ended")?;
        probe.quarantine(self.number, cut_off)
    }
}

/// An event as a row. What tells of the agent itself is none.
pub fn row_of(event: &Event, world: &World) -> Option<Row> {
    if matches!(event.kind, Kind::Agent(_) | Kind::Tally(_)) {
        return None;
    }
    let agent = world.agent(event.agent);
    let name = agent.map_or("", |agent| agent.info.name.as_str());
    let wall_offset_ns = agent.map_or(0, |agent| agent.info.wall_offset_ns);
    Some(Row::new(
        event,
        world.processes.exe(event.process),
        name,
        wall_offset_ns,
    ))
}

/// The processes that carry an agent's tag.
pub(super) fn members(probe: Option<&Probe>, agent: u32) -> Vec<ProcessKey> {
    let tagged = probe
        .and_then(|probe| probe.tagged(agent).ok())
        .unwrap_or_default();
    tagged
        .into_iter()
        .map(|(pid, task)| ProcessKey {
            pid,
            start_ns: task.start_ns,
        })
        .collect()
}
