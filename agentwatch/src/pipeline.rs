//! The way of an event, on one screen.

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    decode,
    detect::{Detection, Detectors},
    enrich::World,
    event::{Carried, Event, FileOp, Kind, Stopped},
    finding::{Action, Finding, Response},
    policy::{MassDeletion, Mode, Policy},
    respond::{self, Means},
};

/// Everything after `source`.
pub struct Pipeline {
    policy: Arc<Policy>,
    /// What is known by now.
    pub world: World,
    detectors: Detectors,
    /// Kept between records, so that its memory is.
    path: String,
    /// Records that could not be decoded: made by another version, or damaged.
    pub undecodable: u64,
}

/// Where events and findings go.
pub trait Sink: Means {
    /// Something happened.
    fn event(&mut self, event: &Event, world: &World);
    /// Something was found, and what was done about it.
    fn finding(&mut self, finding: &Finding);
    /// Moves out of the agent's cgroup what is never acted upon: somebody has moved it in.
    fn free_hostages(&mut self);
    /// Lets a process go on that the kernel stopped, with so much more budget for its agent.
    fn resume(&mut self, event: &Event, stopped: Stopped, left: u64);
}

impl Pipeline {
    /// Begins with nothing known.
    pub fn new(policy: impl Into<Arc<Policy>>) -> Self {
        Self {
            policy: policy.into(),
            world: World::default(),
            detectors: Detectors::default(),
            path: String::new(),
            undecodable: 0,
        }
    }

    /// Takes one record all the way.
    pub fn step(&mut self, record: &Bytes, sink: &mut impl Sink) {
        // The kernel looks at the last components of a path only; the policy at all of it.
        if decode::plain_read(record, &mut self.path) && !self.policy.sensitive.matches(&self.path)
        {
            return;
        }
        let Ok(event) = decode::decode(record) else {
            self.undecodable += 1;
            return;
        };
        // The same where the path is not the kernel's.
        if let Kind::File(file) = &event.kind
            && file.op == FileOp::Open
            && !file.write
            && file.device.is_none()
            && file.result >= 0
            && !self.policy.sensitive.matches(&file.path)
        {
            return;
        }
        let said = self.world.conversations.observe(&event);
        self.take(event, sink);
        for message in said {
            self.take(message, sink);
        }
    }

    /// Takes an event, or a message that was recognised in one, the rest of the way.
    fn take(&mut self, mut event: Event, sink: &mut impl Sink) {
        event.domain = self.world.domain(&event);
        let before = self.world.observe(&event);
        if let Kind::CgroupMove {
            protected: true, ..
        } = event.kind
        {
            sink.free_hostages();
        }
        let found = self
            .detectors
            .observe(&event, before, &self.world, &self.policy);
        for detection in found {
            let requested =
                respond::requested(&self.policy, detection.detector, detection.severity);
            let response = respond::respond(&self.policy, requested, event.time_ns, sink);
            let finding = self.finding(&event, detection, response);
            sink.finding(&finding);
        }
        // Where it was a mass deletion, that has been found by now, from the calls before.
        if let Kind::Stopped(stopped) = event.kind {
            let left = self.detectors.deletions_left(
                event.agent,
                stopped.workspace,
                event.time_ns,
                &self.policy,
            );
            sink.resume(&event, stopped, left);
        }
        sink.event(&event, &self.world);
    }

    /// Has another policy hold from here on. What the detectors know stays.
    pub fn change_policy(&mut self, policy: Arc<Policy>) {
        self.policy = policy;
    }

    /// The policy that is in force.
    pub fn policy(&self) -> &Arc<Policy> {
        &self.policy
    }

    /// The deletion budget that the kernel is to hold itself: where the policy stops an agent that is
    /// past it.
    pub fn deletion_budget(&self) -> Option<MassDeletion> {
        let limits = self.policy.detectors.mass_deletion;
        let acts = self.policy.mode == Mode::Enforce && limits.action >= Action::Freeze;
        (limits.enabled && acts).then_some(limits)
    }

    /// How many files an agent may still remove, outside its workspace and inside.
    pub fn deletions_left(&mut self, agent: u32, now_ns: u64) -> [u64; 2] {
        let mut left = |workspace| {
            self.detectors
                .deletions_left(agent, workspace, now_ns, &self.policy)
        };
        [left(false), left(true)]
    }

    /// What an agent has removed by now of its deletion budget.
    pub fn removed(&mut self, agent: u32, now_ns: u64) -> Carried {
        self.detectors.removed(agent, now_ns, &self.policy)
    }

    /// Whether the kernel is to kill at once who takes agentwatch hostage.
    pub fn defends(&self) -> bool {
        let tampering = self.policy.detectors.monitor_tampering;
        let acts = self.policy.mode == Mode::Enforce && tampering.action >= Action::Kill;
        tampering.enabled && acts
    }

    fn finding(&self, event: &Event, detection: Detection, response: Response) -> Finding {
        let Detection {
            detector,
            severity,
            techniques,
            message,
            process,
            evidence,
            cause,
        } = detection;
        let agent = self.world.agent_name(event.agent);
        let (process, ancestry) = self.world.processes.chain(process);
        Finding {
            id: finding_id(&agent, detector, &cause, event.time_ns),
            time: self.wall(event),
            time_ns: event.time_ns,
            agent,
            detector,
            severity,
            techniques,
            message,
            process,
            ancestry,
            evidence,
            response,
        }
    }

    /// When it happened, by the clock on the wall as it was when the agent was introduced.
    fn wall(&self, event: &Event) -> String {
        let agent = self.world.agent(event.agent);
        let offset_ns = agent.map_or(0, |agent| agent.info.wall_offset_ns);
        let ns = i128::from(event.time_ns) + i128::from(offset_ns);
        let time = jiff::Timestamp::from_nanosecond(ns).unwrap_or_default();
        format!("{time:.9}")
    }
}

/// The same events give the same id: FNV-1a of what tells findings apart.
fn finding_id(agent: &str, detector: &str, cause: &str, time_ns: u64) -> String {
    let time = time_ns.to_le_bytes();
    let parts: [&[u8]; 4] = [
        agent.as_bytes(),
        detector.as_bytes(),
        cause.as_bytes(),
        &time,
    ];
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for part in parts {
        for byte in part.iter().chain(&[0xff]) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    format!("f-{hash:016x}")
}
