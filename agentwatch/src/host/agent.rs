//! One agent: what is known of it, and where what happens to it goes.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Plan, sums::Latency, wall_offset_ns, watch::Stream};
use crate::{
    api::model::{AgentState, FindingCounts, FoundBy},
    enrich::World,
    event::{Event, FileOp, Kind, ProcessKey, Stopped},
    finding::{Action, Finding, Response, Severity},
    pipeline::{Pipeline, Sink},
    policy::Mode,
    probe::{Probe, seed},
    publish::{account::Account, notice::Notices},
    recording::Recorder,
    respond::{self, Means, cgroup::AgentCgroup},
    store::{Store, row::Row},
};

/// Most processes that come from outside between two looks and are looked at.
const CAME: usize = 256;

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
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Events, by kind.
    pub kinds: BTreeMap<&'static str, u64>,
    /// Findings, by detector and what was done.
    pub found: BTreeMap<Found, u64>,
    /// From the deciding events to the findings.
    pub latency: Latency,
}

/// What tells findings apart where they are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    /// The detector.
    pub detector: &'static str,
    /// How bad.
    pub severity: Severity,
    /// What the policy asks for.
    pub requested: Action,
    /// What was done.
    pub taken: Action,
    /// Nothing was to be done: the policy only observes.
    pub observed: bool,
}

impl Counts {
    /// Adds those of another agent.
    pub fn add(&mut self, other: &Self) {
        let Self {
            execs,
            deletes,
            connects,
            closed_in,
            closed_out,
            findings,
            kinds,
            found,
            latency,
        } = other;
        self.execs += execs;
        self.deletes += deletes;
        self.connects += connects;
        self.closed_in = self.closed_in.saturating_add(*closed_in);
        self.closed_out = self.closed_out.saturating_add(*closed_out);
        self.findings.add_all(findings);
        for (kind, n) in kinds {
            *self.kinds.entry(kind).or_default() += n;
        }
        for (what, n) in found {
            *self.found.entry(*what).or_default() += n;
        }
        self.latency.add(latency);
    }

    fn found(&mut self, finding: &Finding, mode: Mode) {
        let Response {
            requested, taken, ..
        } = finding.response;
        self.findings.add(finding.severity);
        let what = Found {
            detector: finding.detector,
            severity: finding.severity,
            requested,
            taken,
            observed: mode == Mode::Observe,
        };
        *self.found.entry(what).or_default() += 1;
        // Where it was acted, the moment of the order: what follows it is waiting for the agent's end.
        let took_us = finding
            .response
            .ordered_us
            .unwrap_or_else(|| respond::now_ns().saturating_sub(finding.time_ns) / 1000);
        self.latency.observe(took_us);
    }

    /// Takes an event in.
    pub fn observe(&mut self, event: &Event) {
        if !matches!(event.kind, Kind::Agent(_) | Kind::Tally(_)) {
            *self.kinds.entry(event.kind.name()).or_default() += 1;
        }
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
    /// The `agentwatch run` that starts its command.
    pub runner: Option<ProcessKey>,
    /// How long its end may be waited for.
    pub(super) patience: Duration,
    /// When its processes were killed of which some had not ended yet, and whether that was said.
    pub(super) ending: Option<(Instant, bool)>,
    /// Processes that have come into it from outside, where that is to be looked at.
    pub(super) came: Vec<u32>,
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
            runner,
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
            runner,
            patience: respond::EMPTY_WITHIN,
            ending: None,
            came: Vec::new(),
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
        if let Some(runner) = self.runner {
            records.extend(seed::ancestors(self.number, runner.pid, now));
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
            came,
            runner,
            patience,
            ending,
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
            patience: *patience,
            ending,
            // What a run starts was asked for.
            came: runner.is_none().then_some(came),
            mode: pipeline.policy().mode,
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
    patience: Duration,
    ending: &'a mut Option<(Instant, bool)>,
    came: Option<&'a mut Vec<u32>>,
    mode: Mode,
}

impl Outlet<'_> {
    /// The process that has come into the cgroup from outside, where an event tells of one: a program that
    /// somebody else's process started there, or a process that somebody else moved in. What an agent's own
    /// process does is none, nor is what was made by one that has ended.
    fn came(&self, event: &Event, world: &World) -> Option<u32> {
        let moved = match event.kind {
            Kind::Exec(_) => event.process.pid,
            Kind::CgroupMove {
                moved,
                to_agent,
                protected: false,
                ..
            } if to_agent == self.number => moved,
            _ => return None,
        };
        if moved != event.process.pid {
            return (event.process.start_ns == 0).then_some(moved);
        }
        let parent = ProcessKey {
            pid: event.ppid,
            start_ns: 0,
        };
        if world.processes.get(parent).is_some_and(|one| one.member) {
            return None;
        }
        let is_other = self.probe.as_ref()?.agent_of(event.ppid).is_none();
        (is_other && seed::stat(event.ppid).is_some()).then_some(moved)
    }
}

impl Sink for Outlet<'_> {
    fn event(&mut self, event: &Event, world: &World) {
        self.counts.observe(event);
        if self.came.is_some()
            && let Some(pid) = self.came(event, world)
            && let Some(came) = &mut self.came
            && came.len() < CAME
        {
            came.push(pid);
        }
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
        self.counts.found(finding, self.mode);
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
        let acted = match finding.response.taken {
            Action::Log | Action::Alert => return,
            Action::Quarantine => &mut self.standing.quarantined,
            Action::Freeze => &mut self.standing.frozen,
            Action::Kill => &mut self.standing.killed,
        };
        *acted = true;
        if finding.response.taken == Action::Kill && finding.response.empty_us.is_none() {
            self.ending.get_or_insert((Instant::now(), false));
        }
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
        // Outside its cgroup nothing else holds a process of an agent that is frozen.
        let inside = || self.cgroup.processes().unwrap_or_default();
        if self.standing.frozen && inside().binary_search(&event.process.pid).is_err() {
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

    fn patience(&self) -> Duration {
        if self.standing.killed {
            // It was waited for already.
            Duration::ZERO
        } else {
            self.patience
        }
    }

    fn quarantine(&mut self, cut_off: bool) -> Result<()> {
        let probe = self.probe.as_mut().context("the watching has ended")?;
        probe.quarantine(self.number, cut_off)
    }
}

/// An event as a row. What tells of the agent itself is none.
pub fn row_of(event: &Event, world: &World) -> Option<Row> {
    if matches!(
        event.kind,
        Kind::Agent(_) | Kind::Tally(_) | Kind::Carried(_)
    ) {
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
