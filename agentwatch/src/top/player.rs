//! What a recording tells: the pipeline runs on it, and what is known is told as a daemon would.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    path::PathBuf,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use jiff::Timestamp;

use super::{
    Input,
    state::{
        Order, Update,
        detail::{Detail, KEPT},
        fleet::real,
    },
};
use crate::{
    api::{
        self,
        model::{
            Agent, EventCounts, FileChange, Finding as ApiFinding, Flow, FoundBy, PolicyInForce,
            Process, ProcessTotals, Rates, Totals,
        },
    },
    decode,
    enrich::World,
    event::{AgentInfo, Direction, Event, Kind, ProcessKey, Stopped, Tally},
    finding::{Action, Finding},
    host::{Counts, Standing, row_of},
    pipeline::{Pipeline, Sink},
    policy::Policy,
    recording::Recording,
    respond::{Means, cgroup::AgentCgroup},
};

/// How much of the recorded time is between two looks, at speed 1.
const STEP_MS: u64 = 500;
/// The same where nobody waits.
const STEP_AT_ONCE_MS: u64 = 1000;
/// Changes of files that are kept of an agent.
const FILES: usize = 200;

/// What to play.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The recording.
    pub file: PathBuf,
    /// The policy to judge by.
    pub policy: Policy,
    /// What that is called.
    pub policy_source: String,
    /// How fast; 1 is as it happened.
    pub speed: f64,
}

/// What is known of an agent of the recording.
#[derive(Default)]
struct Replayed {
    name: String,
    cgroup: String,
    workspace: Option<String>,
    since_ms: i64,
    wall_offset_ns: u64,
    counts: Counts,
    tally: Tally,
    delivered: u64,
    standing: Standing,
    alive: BTreeSet<ProcessKey>,
    /// Bytes in and out, by cookie.
    flows: BTreeMap<u64, (u64, u64)>,
    files: VecDeque<FileChange>,
    told: Option<(u64, Totals)>,
}

/// What the pipeline gives.
#[derive(Default)]
struct Seen {
    agents: BTreeMap<u32, Replayed>,
    findings: Vec<Finding>,
    numbers: BTreeMap<String, u32>,
}

/// A recording that is played.
pub struct Player {
    recording: Recording<Box<dyn std::io::Read + Send>>,
    name: String,
    pipeline: Pipeline,
    policy: Arc<PolicyInForce>,
    seen: Seen,
    next: Option<bytes::Bytes>,
    /// The time that is shown, `CLOCK_BOOTTIME` nanoseconds.
    now_ns: u64,
    /// What was known of each agent at the last looks: who comes to look may scroll back.
    kept: BTreeMap<u32, VecDeque<Detail>>,
    /// The agent that is looked at.
    watched: Option<u32>,
}

impl Player {
    /// Opens a recording.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn open(plan: &Plan) -> Result<Self> {
        let name = plan.file.display().to_string();
        let file =
            std::fs::File::open(&plan.file).with_context(|| format!("cannot open {name}"))?;
        let file: Box<dyn std::io::Read + Send> = Box::new(std::io::BufReader::new(file));
        let mut recording = Recording::new(file, name.clone())?;
        let next = recording.read()?;
        let policy = PolicyInForce::new("", &plan.policy_source, &plan.policy, FoundBy::default())?;
        Ok(Self {
            recording,
            name,
            pipeline: Pipeline::new(plan.policy.clone()),
            policy: Arc::new(policy),
            seen: Seen::default(),
            now_ns: next.as_deref().and_then(decode::time_ns).unwrap_or(0),
            next,
            kept: BTreeMap::new(),
            watched: None,
        })
    }

    /// Looks at an agent, or at none; what was known of it at the last looks.
    pub fn watch(&mut self, agent: Option<u32>) -> Vec<Update> {
        self.watched = agent;
        let kept = agent.and_then(|agent| self.kept.get(&agent));
        let kept = kept.into_iter().flatten().cloned();
        kept.map(|detail| Update::Detail(Box::new(detail)))
            .collect()
    }

    /// Plays so much further, or to the next finding, and what is known then; whether there is more.
    ///
    /// # Errors
    ///
    /// When the recording cannot be read.
    pub fn step(&mut self, by_ms: u64) -> Result<(Vec<Update>, bool)> {
        let mut until = self.now_ns.saturating_add(by_ms.saturating_mul(1_000_000));
        while let Some(record) = &self.next {
            // Records are in the order of their time, but for those about the agent itself.
            if decode::time_ns(record).is_some_and(|time| time > until) {
                break;
            }
            if let Ok(event) = decode::decode(record)
                && let Some(agent) = self.seen.agents.get_mut(&event.agent)
            {
                agent.delivered += 1;
            }
            self.pipeline.step(record, &mut self.seen);
            // The moment of a finding is one to look at: who did it may be dead right after it.
            let found = !self.seen.findings.is_empty();
            if let Some(time) = decode::time_ns(record).filter(|_| found) {
                until = time.clamp(self.now_ns, until);
            }
            self.next = self.recording.read()?;
            if found {
                break;
            }
        }
        self.now_ns = until;
        let mut updates = Vec::new();
        // First who was found, then what: as a daemon would.
        updates.push(self.agents());
        for finding in self.seen.findings.drain(..) {
            let finding: ApiFinding = serde_json::from_value(serde_json::to_value(&finding)?)?;
            updates.push(Update::Finding(Box::new(finding)));
        }
        for id in self.seen.agents.keys().copied().collect::<Vec<_>>() {
            let Some(detail) = self.detail(id) else {
                continue;
            };
            if self.watched == Some(id) {
                updates.push(Update::Detail(Box::new(detail.clone())));
            }
            let kept = self.kept.entry(id).or_default();
            if kept.len() == KEPT {
                kept.pop_front();
            }
            kept.push_back(detail);
        }
        Ok((updates, self.next.is_some()))
    }

    /// What was wrong with the recording, once it is over.
    pub fn wrong(&self) -> Option<String> {
        if self.recording.cut > 0 {
            return Some(format!(
                "{} ends in the middle of a record: its last {} bytes are not read",
                self.name, self.recording.cut
            ));
        }
        let unknown = self.pipeline.undecodable;
        (unknown > 0)
            .then(|| format!("{unknown} records were not understood: made by another version?"))
    }

    fn wall_ms(&self) -> i64 {
        // All agents of a recording are of one machine.
        let offset = self.seen.agents.values().map(|agent| agent.wall_offset_ns);
        let offset = offset.max().unwrap_or(0);
        i64::try_from(self.now_ns.saturating_add(offset) / 1_000_000).unwrap_or(i64::MAX)
    }

    fn agents(&mut self) -> Update {
        let (at_ms, now_ns) = (self.wall_ms(), self.now_ns);
        let policy = &self.policy.source;
        let agents = self.seen.agents.iter_mut();
        Update::Agents {
            at_ms,
            agents: agents
                .map(|(id, agent)| agent.told(*id, now_ns, policy))
                .collect(),
            health: None,
        }
    }

    /// What is known of an agent beyond the list.
    fn detail(&self, id: u32) -> Option<Detail> {
        let agent = self.seen.agents.get(&id)?;
        let world = &self.pipeline.world;
        let open = agent.open(id, world);
        let processes = agent.alive.iter().map(|key| {
            let open = open.get(key).copied().unwrap_or_default();
            process(*key, open, world)
        });
        let flows = agent
            .flows
            .iter()
            .filter_map(|(cookie, bytes)| agent.flow(id, *cookie, *bytes, world));
        Some(Detail {
            agent: id,
            at_ms: self.wall_ms(),
            processes: processes.collect(),
            flows: flows.collect(),
            files: agent.files.iter().cloned().collect(),
            policy: Some(Arc::clone(&self.policy)),
            error: None,
        })
    }
}

impl Replayed {
    fn introduce(&mut self, info: &AgentInfo, time_ns: u64) {
        self.name.clone_from(&info.name);
        self.cgroup.clone_from(&info.cgroup_path);
        self.workspace.clone_from(&info.workspace);
        self.wall_offset_ns = info.wall_offset_ns;
        let since = time_ns.saturating_add(info.wall_offset_ns) / 1_000_000;
        self.since_ms = i64::try_from(since).unwrap_or(i64::MAX);
    }

    fn totals(&self) -> Totals {
        let (open_in, open_out) = self.flows.values().fold((0_u64, 0_u64), |sum, bytes| {
            (sum.0.saturating_add(bytes.0), sum.1.saturating_add(bytes.1))
        });
        Totals {
            execs: self.counts.execs,
            opens: self.tally.opens_read + self.tally.opens_write,
            deletes: self.counts.deletes,
            connects: self.counts.connects,
            bytes_in: self.counts.closed_in.saturating_add(open_in),
            bytes_out: self.counts.closed_out.saturating_add(open_out),
            cpu_us: 0,
        }
    }

    fn told(&mut self, id: u32, now_ns: u64, policy: &str) -> Agent {
        let totals = self.totals();
        let rates = self.told.take().map_or_else(Rates::default, |(at, old)| {
            let interval_s = real(now_ns.saturating_sub(at)) / 1e9;
            if interval_s <= 0.0 {
                return Rates::default();
            }
            let rate = |old: u64, new: u64| real(new.saturating_sub(old)) / interval_s;
            Rates {
                interval_s,
                execs: rate(old.execs, totals.execs),
                opens: rate(old.opens, totals.opens),
                deletes: rate(old.deletes, totals.deletes),
                connects: rate(old.connects, totals.connects),
                bytes_in: rate(old.bytes_in, totals.bytes_in),
                bytes_out: rate(old.bytes_out, totals.bytes_out),
                cpu: 0.0,
            }
        });
        self.told = Some((now_ns, totals.clone()));
        Agent {
            id,
            name: self.name.clone(),
            state: self.standing.state(),
            state_reason: self.standing.reason.clone(),
            found_by: FoundBy::default(),
            cgroup: self.cgroup.clone(),
            policy: policy.to_owned(),
            workspace: self.workspace.clone(),
            since: Timestamp::from_millisecond(self.since_ms)
                .unwrap_or_default()
                .to_string(),
            processes: self.alive.len() as u64,
            rates,
            totals,
            findings: self.counts.findings.clone(),
            events: EventCounts {
                emitted: self.tally.emitted,
                delivered: self.delivered,
                lost: self
                    .tally
                    .lost
                    .iter()
                    .filter(|(_, n)| *n > 0)
                    .map(|(reason, n)| ((*reason).to_owned(), *n))
                    .collect(),
                not_stored: 0,
            },
            ..Agent::default()
        }
    }

    /// Bytes in and out of the flows that are open, by who opened or took them.
    fn open(&self, id: u32, world: &World) -> BTreeMap<ProcessKey, (u64, u64)> {
        let mut open: BTreeMap<ProcessKey, (u64, u64)> = BTreeMap::new();
        for (cookie, (bytes_in, bytes_out)) in &self.flows {
            if let Some(flow) = world.flows.get(id, *cookie) {
                let sum = open.entry(flow.owner).or_default();
                *sum = (
                    sum.0.saturating_add(*bytes_in),
                    sum.1.saturating_add(*bytes_out),
                );
            }
        }
        open
    }

    fn flow(&self, id: u32, cookie: u64, bytes: (u64, u64), world: &World) -> Option<Flow> {
        let flow = world.flows.get(id, cookie)?;
        let since = i128::from(flow.since_ns) + i128::from(self.wall_offset_ns);
        Some(Flow {
            cookie,
            protocol: flow.endpoint.protocol.to_string(),
            direction: flow.endpoint.direction.name().to_owned(),
            local: flow.endpoint.local.to_string(),
            remote: flow.endpoint.remote.to_string(),
            domain: flow.domain.as_ref().map(|domain| domain.name.clone()),
            pid: flow.owner.pid,
            exe: world
                .processes
                .exe(flow.owner)
                .unwrap_or_default()
                .to_owned(),
            since: Timestamp::from_nanosecond(since)
                .unwrap_or_default()
                .to_string(),
            bytes_in: bytes.0,
            bytes_out: bytes.1,
        })
    }

    /// Bytes of a flow, as far as its records tell: all of them once it is closed.
    fn bytes(&mut self, event: &Event) {
        match &event.kind {
            Kind::Connect(connect) => {
                self.flows.entry(connect.endpoint.cookie).or_default();
            }
            Kind::Accept(endpoint) | Kind::FlowOpen(endpoint) => {
                self.flows.entry(endpoint.cookie).or_default();
            }
            Kind::FlowData(data) => {
                let bytes = self.flows.entry(data.endpoint.cookie).or_default();
                let so_far = data.offset.saturating_add(u64::from(data.len));
                let of = match data.direction {
                    Direction::Out => &mut bytes.1,
                    _ => &mut bytes.0,
                };
                *of = so_far.max(*of);
            }
            Kind::FlowClose(close) => {
                self.flows.remove(&close.endpoint.cookie);
            }
            _ => {}
        }
    }
}

fn process(key: ProcessKey, open: (u64, u64), world: &World) -> Process {
    let (info, ancestry) = world.processes.chain(key);
    let did = world.processes.get(key).map(|process| process.did);
    let did = did.unwrap_or_default();
    Process {
        pid: info.pid,
        start_ns: info.start_ns,
        ppid: ancestry.first().map_or(0, |parent| parent.pid),
        uid: info.uid,
        exe: info.exe,
        argv: info.argv,
        cpu_us: None,
        rss_bytes: None,
        did: ProcessTotals {
            execs: did.execs,
            opens: did.opens,
            deletes: did.deletes,
            bytes_in: did.closed_in.saturating_add(open.0),
            bytes_out: did.closed_out.saturating_add(open.1),
        },
        rates: None,
    }
}

impl Sink for Seen {
    fn event(&mut self, event: &Event, world: &World) {
        let agent = self.agents.entry(event.agent).or_default();
        if let Kind::Agent(info) = &event.kind {
            agent.introduce(info, event.time_ns);
            self.numbers.insert(info.name.clone(), event.agent);
        }
        agent.counts.observe(event);
        agent.bytes(event);
        match &event.kind {
            Kind::Tally(tally) => agent.tally = (**tally).clone(),
            Kind::Seed(seed) if !seed.member => {}
            Kind::Seed(_) | Kind::Fork { .. } => {
                agent.alive.insert(event.process);
            }
            Kind::Exec(_) => {
                // One whose fork was told without its start.
                let pid = event.process.pid;
                agent.alive.retain(|key| key.pid != pid);
                agent.alive.insert(event.process);
            }
            Kind::Exit(_) => {
                let pid = event.process.pid;
                agent.alive.retain(|key| key.pid != pid);
            }
            _ => {}
        }
        if let Some(change) = row_of(event, world).and_then(api::change) {
            agent.files.push_front(change);
            agent.files.truncate(FILES);
        }
    }

    fn finding(&mut self, finding: &Finding) {
        self.findings.push(finding.clone());
        let number = self.numbers.get(&finding.agent);
        let Some(agent) = number.and_then(|number| self.agents.get_mut(number)) else {
            return;
        };
        agent.counts.findings.add(finding.severity);
        // Nothing is acted upon in a replay: what the policy asks for is told.
        if finding.response.requested > Action::Alert {
            let asked = finding.response.requested;
            agent.standing.reason = Some(format!("{asked} asked for: {}", finding.message));
        }
    }

    fn free_hostages(&mut self) {}

    fn resume(&mut self, _: &Event, _: Stopped, _: u64) {}
}

impl Means for Seen {
    fn cgroup(&self) -> Option<&AgentCgroup> {
        None
    }

    fn members(&self) -> Vec<ProcessKey> {
        Vec::new()
    }

    fn quarantine(&mut self, _: bool) -> Result<()> {
        Ok(())
    }
}

/// Plays all of it at once: what is new at each second, in order.
///
/// # Errors
///
/// When the recording cannot be read.
pub fn at_once(plan: &Plan, mut take: impl FnMut(&mut Player, Update)) -> Result<Option<String>> {
    let mut player = Player::open(plan)?;
    loop {
        let (updates, more) = player.step(STEP_AT_ONCE_MS)?;
        for update in updates {
            take(&mut player, update);
        }
        if !more {
            return Ok(player.wrong());
        }
    }
}

/// Plays on a thread of its own. What comes goes to `to`.
pub(super) fn start(plan: &Plan, to: SyncSender<Input>, orders: Receiver<Order>) -> Result<()> {
    let speed = plan.speed;
    let player = Player::open(plan)?;
    thread::Builder::new()
        .name("top-player".to_owned())
        .spawn(move || play(player, speed, &to, &orders))
        .context("cannot start a thread")?;
    Ok(())
}

/// Plays until the end, and serves orders after it too.
fn play(mut player: Player, mut speed: f64, to: &SyncSender<Input>, orders: &Receiver<Order>) {
    let send = |update| to.send(Input::Update(Box::new(update))).is_ok();
    let step = Duration::from_millis(STEP_MS);
    let mut next = Instant::now();
    let mut more = true;
    loop {
        let order = if more {
            match orders.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(order) => Ok(order),
                Err(RecvTimeoutError::Timeout) => Err(TryRecvError::Empty),
                Err(RecvTimeoutError::Disconnected) => Err(TryRecvError::Disconnected),
            }
        } else {
            orders.recv().map_err(|_| TryRecvError::Disconnected)
        };
        match order {
            Err(TryRecvError::Disconnected) => return,
            Ok(Order::Speed(to)) => {
                speed = to;
                if !send(Update::Speed(to)) {
                    return;
                }
                continue;
            }
            Ok(Order::Watch(watched)) => {
                let kept = player.watch(watched);
                if !kept.into_iter().all(send) {
                    return;
                }
                continue;
            }
            Ok(_) => continue,
            Err(TryRecvError::Empty) => {}
        }
        next += step;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a part of a second, times at most some thousands"
        )]
        let by = (STEP_MS as f64 * speed).max(1.0) as u64;
        let (updates, on, wrong) = match player.step(by) {
            Ok((updates, on)) => (updates, on, None),
            Err(error) => (Vec::new(), false, Some(format!("{error:#}"))),
        };
        more = on;
        if !updates.into_iter().all(send) {
            return;
        }
        if !more && !send(Update::Over(wrong.or_else(|| player.wrong()))) {
            return;
        }
    }
}
