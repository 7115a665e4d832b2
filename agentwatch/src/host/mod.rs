//! The agents of a host, watched: the kernel programs and their records once, and for each agent its
//! own way from there (`agent.rs`). Agents come and go while it runs.
//!
//! One thread from the rings to the kill. Who looks on gets copies, and asks through a queue
//! (`watch.rs`).

mod agent;
mod going_on;
mod leaving;
mod recall;
mod refusal;
mod reload;
mod set_up;
pub mod sums;
mod waiting;
pub mod watch;

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;

use agentwatch_common::tag::agent_of_cgroup;

pub use agent::{Agent, Counts, Found, Outputs, Standing, row_of};
use going_on::GoingOn;
pub use leaving::Ended;
use waiting::Waiting;

use crate::{
    api::model::FoundBy,
    event::ProcessKey,
    policy::{Policy, Prefilter},
    probe::{KernelLog, Options, Probe, borrowed::News, gauge::Gauge},
    respond::{self, cgroup::AgentCgroup},
    source::{self, Route, Source},
};

/// How long bulk records may lie unread.
pub const TICK: Duration = Duration::from_millis(10);
/// The same where nothing has come for [`QUIET`]: the first of them waits so long, and costs nothing until then.
const IDLE_TICK: Duration = Duration::from_millis(40);
/// After how long without a record it is quiet.
const QUIET: Duration = Duration::from_secs(1);
/// Most records that wait for their agent to be introduced.
const HELD: usize = 64 * 1024;

/// An agent that is to be watched, and how.
pub struct Plan {
    /// The agent's name.
    pub name: String,
    /// The agent's cgroup.
    pub cgroup: AgentCgroup,
    /// The folder that is its own to change.
    pub workspace: Option<PathBuf>,
    /// The policy.
    pub policy: Arc<Policy>,
    /// What the policy is called: its file, or `default`.
    pub policy_source: String,
    /// Home folders, for the policy's `~`.
    pub homes: Vec<PathBuf>,
    /// How it was found.
    pub found_by: FoundBy,
    /// The `agentwatch run` that starts its command.
    pub runner: Option<ProcessKey>,
}

/// Whether a cgroup is an agent's.
pub enum Admission {
    /// It is, and is watched so.
    Agent(Box<(Plan, Outputs)>),
    /// It is not.
    No,
    /// That is being asked: see [`Host::answered`]. What is told of it meanwhile is kept.
    Later,
}

/// Says which new cgroups are agents, and takes what is left of those that end.
pub trait Door {
    /// A cgroup came to be where agents may be: its path from the root of the hierarchy, and its v2 id.
    fn admit(&mut self, path: &Path, id: u64) -> Admission;
    /// Agents' cgroups below one that is none: their paths and ids. What was made in it before it was
    /// refused, the kernel took for a part of it.
    fn below(&self, path: &Path) -> Vec<(PathBuf, u64)>;
    /// Where a cgroup's folder is.
    fn on_disk(&self, path: &Path) -> PathBuf;
    /// One cannot be asked for now.
    fn not_now(&mut self, path: &Path, id: u64, error: &anyhow::Error);
    /// Whether a process that came into an agent's cgroup from outside may be in one.
    ///
    /// # Errors
    ///
    /// When it may not; it says why.
    fn still_admits(&self, cgroup: &AgentCgroup, pid: u32) -> Result<()>;
    /// One could not be watched, or not as its policy wants it, or is one no longer.
    fn refused(&mut self, name: &str, cgroup: &AgentCgroup, error: &anyhow::Error);
    /// One is watched.
    fn watched(&mut self, cgroup: &AgentCgroup);
    /// One has ended.
    fn ended(&mut self, ended: Ended);
}

/// All of it.
pub struct Host {
    /// `None` once the watching has ended.
    probe: Option<Probe>,
    source: Source,
    log: Option<KernelLog>,
    gauge: Option<Gauge>,
    agents: HashMap<u32, Agent>,
    door: Option<Box<dyn Door>>,
    /// Parts of the rings that each agent may fill, bytes; `None` for all of them.
    share: Option<[u64; 2]>,
    /// Policies whose sensitive files the kernel knows.
    known: Vec<Arc<Policy>>,
    /// When a record came last.
    heard: Instant,
    going_on: GoingOn,
    /// Every open for reading is sent.
    all_reads: bool,
    batch: Vec<Bytes>,
    /// Records of agents that nobody has introduced yet: a bulk record may be read before the urgent
    /// one that says whose cgroup it is.
    held: Vec<Bytes>,
    /// Cgroups of which it is being asked whose they are, by the number that the agent would have.
    waiting: HashMap<u32, Waiting>,
    /// What is kept of all of them, bytes.
    waiting_bytes: usize,
    /// Numbers of which something was read and that no agent had, a short while ago.
    unknown: HashSet<u32>,
    /// Records of cgroups that turned out to be no agent's.
    pub strays: u64,
    /// Some record came whose agent nobody introduced: perhaps one was not told of.
    pub look_again: bool,
    /// An agent whose cgroup is gone may have no process any more: to see that takes a look at those of all.
    may_have_ended: bool,
    /// Agents that have ended while the host was running.
    pub gone: u64,
    /// What was counted of them.
    pub past: sums::Past,
}

impl Host {
    /// Loads the kernel programs. `sensitive` are the policies that may come to be used: with them it is
    /// decided whether every open for reading is sent.
    ///
    /// # Errors
    ///
    /// When the kernel refuses something without which nothing can be watched.
    pub fn start(options: &Options, policies: &[&Policy]) -> Result<Self> {
        let mut options = options.clone();
        options.send_all_reads |= policies
            .iter()
            .any(|policy| matches!(policy.sensitive.prefilter(), Prefilter::Everything { .. }));
        let mut probe = Probe::load(&options)?;
        // Before the rings are taken, and some maps with them.
        let gauge = probe.gauge()?;
        let log = if options.kernel_log > 0 {
            Some(probe.logger()?)
        } else {
            None
        };
        let source =
            Source::new(probe.take_rings()?).context("cannot wait for the kernel's records")?;
        Ok(Self {
            probe: Some(probe),
            source,
            log,
            gauge: Some(gauge),
            agents: HashMap::new(),
            door: None,
            share: None,
            known: Vec::new(),
            heard: Instant::now(),
            going_on: GoingOn::default(),
            all_reads: options.send_all_reads,
            batch: Vec::new(),
            held: Vec::new(),
            waiting: HashMap::new(),
            waiting_bytes: 0,
            unknown: HashSet::new(),
            strays: 0,
            look_again: false,
            may_have_ended: false,
            gone: 0,
            past: sums::Past::default(),
        })
    }

    /// Lets new agents in by this door, and has each keep to a part of the rings.
    pub fn open_door(&mut self, door: Box<dyn Door>, share: [u64; 2]) {
        self.door = Some(door);
        self.share = Some(share);
    }

    /// Has the kernel look for new agents below a cgroup, see [`Probe::look_below`].
    ///
    /// # Errors
    ///
    /// When there are too many cgroups to look below.
    pub fn look_below(&mut self, id: u64, levels: u32) -> Result<()> {
        self.probe()?.look_below(id, levels)
    }

    /// How many cgroups could not be looked below: the kernel tells of none that come to be there. Ever more.
    pub fn not_looked_below(&self) -> u64 {
        self.source.tally(0).untagged
    }

    /// Handles for who looks on. Once.
    pub fn gauge(&mut self) -> Option<Gauge> {
        self.gauge.take()
    }

    /// Nothing more is loaded now.
    pub fn settle(&mut self) {
        if let Some(probe) = &mut self.probe {
            probe.settle();
        }
    }

    /// The kernel programs.
    ///
    /// # Errors
    ///
    /// When the watching has ended.
    pub fn probe(&mut self) -> Result<&mut Probe> {
        self.probe.as_mut().context("the watching has ended")
    }

    /// Watches an agent from here on: tags its cgroup and what is in it, puts its policy in force, and
    /// introduces it. Its number comes back.
    ///
    /// # Errors
    ///
    /// When the kernel refuses something, or the policy denies what this kernel cannot refuse. Then
    /// nothing of the agent is left.
    pub fn add(&mut self, plan: Plan, outputs: Outputs) -> Result<u32> {
        let number = agent_of_cgroup(plan.cgroup.id);
        if let Some(known) = self.agents.get(&number) {
            bail!(
                "the cgroup {} is watched already",
                known.cgroup().path().display()
            );
        }
        let added = self.set_up(number, plan, outputs);
        if added.is_err() {
            self.agents.remove(&number);
            let agents = HashSet::from([number]);
            if let Some(probe) = &mut self.probe {
                let _ = probe.untag(&agents).and_then(|()| probe.forget(&agents));
            }
            self.source.forget(&agents);
            self.spare_only_some();
        }
        added.map(|()| number)
    }

    /// Tells the kernel of a policy's sensitive files, once.
    fn know(&mut self, policy: &Arc<Policy>, homes: &[PathBuf]) -> Result<()> {
        if self.known.iter().any(|known| Arc::ptr_eq(known, policy)) {
            return Ok(());
        }
        if let Prefilter::Names(names) = &policy.sensitive.prefilter() {
            let inodes = policy
                .existing_sensitive_files(homes)
                .filter_map(|path: PathBuf| device_inode(&path));
            let probe = self.probe()?;
            probe.sensitive(names.iter().map(String::as_str), inodes)?;
        }
        self.known.push(Arc::clone(policy));
        Ok(())
    }

    /// Waits until something wants to be looked at, a tick at most.
    pub async fn wait(&self) {
        let quiet = self.heard.elapsed() > QUIET;
        let tick = if quiet { IDLE_TICK } else { TICK };
        let _ = tokio::time::timeout(tick, self.source.readable()).await;
    }

    /// Takes everything that is there all the way.
    ///
    /// # Errors
    ///
    /// When a recording cannot be written.
    pub fn pump(&mut self) -> Result<()> {
        if let Some(log) = &mut self.log {
            log.flush();
        }
        let held: HashSet<*const u8> = self.held.iter().map(|record| record.as_ptr()).collect();
        self.batch.append(&mut self.held);
        self.source.drain(&mut self.batch);
        if !self.batch.is_empty() {
            self.heard = Instant::now();
        }
        if !held.is_empty() {
            // Their agents' introductions are among what came now, and older.
            self.batch.sort_by_key(|record| source::time_ns(record));
        }
        let now = respond::now_ns();
        self.source.repeats(now, false, &mut self.batch);
        let agents: Vec<u32> = self.agents.keys().copied().collect();
        self.source.losses(&agents, now, &mut self.batch);
        self.tell_what_goes_on(now);
        self.follow();
        self.flow(&held)?;
        self.turn_away()?;
        self.end_gone()
    }

    /// Tells now and then of what does not end: see `going_on.rs`.
    fn tell_what_goes_on(&mut self, now: u64) {
        if self.going_on.is_due(now) {
            self.source.flows_alive(now, &mut self.batch);
            let tasks = self.probe.as_ref().map(Probe::tasks);
            // Where the map cannot be read now, it can be next time.
            self.going_on
                .look_at(tasks.and_then(Result::ok).unwrap_or_default());
        }
        self.going_on.turn(now, &mut self.batch);
    }

    /// Follows the sockets that agents did not make: what the kernel tells of them comes with the next
    /// records.
    fn follow(&mut self) {
        let news = News::of(&self.batch);
        let refused = self.probe.as_mut().and_then(|probe| probe.follow(&news));
        // It is told once, and holds for all of them.
        if let Some(agent) = self.agents.values_mut().next() {
            agent.say_not_followed(refused);
        }
    }

    /// What an agent's runner has of sockets will be the agent's: to be said before that is started.
    pub fn pass_on_sockets(&mut self, number: u32) {
        let Some((probe, agent)) = self.probe.as_mut().zip(self.agents.get_mut(&number)) else {
            return;
        };
        let passed = match agent.runner {
            Some(runner) if runner.pid == std::process::id() => probe.passed_on(number),
            Some(runner) => probe.passed_on_by(number, runner.pid),
            None => Ok(()),
        };
        if let Err(error) = passed {
            agent.say_not_followed(Some(format!("{error:#}")));
        }
    }

    /// Takes the batch all the way. What was held before is held no longer.
    fn flow(&mut self, held: &HashSet<*const u8>) -> Result<()> {
        let mut batch = std::mem::take(&mut self.batch);
        for record in &batch {
            match source::route(record) {
                Some(Route::Agent(number)) => match self.agents.get_mut(&number) {
                    Some(agent) => {
                        agent.step(record, self.probe.as_mut());
                        // Perhaps the last process of it, which had left the cgroup.
                        self.may_have_ended |= agent.standing.gone && source::is_exit(record);
                    }
                    None => self.stray(record, number, held.contains(&record.as_ptr())),
                },
                // A part of an agent, or one that may be one itself.
                Some(Route::Made { agent, id, .. })
                    if self.agents.contains_key(&agent) || self.is_part(agent, id) => {}
                Some(Route::Made { id, path, .. }) => self.made(agent_of_cgroup(id), id, &path),
                Some(Route::Gone(number)) => {
                    if let Some(agent) = self.agents.get_mut(&number) {
                        agent.standing.gone = true;
                        self.may_have_ended = true;
                    }
                }
                None => {}
            }
        }
        // Last, so that no disk comes between a finding and the kill.
        let recorded = self.record(&batch);
        batch.clear();
        self.batch = batch;
        recorded
    }

    fn record(&mut self, batch: &[Bytes]) -> Result<()> {
        if self
            .agents
            .values()
            .all(|agent| agent.outputs.recorder.is_none())
        {
            return Ok(());
        }
        for record in batch {
            if let Some(Route::Agent(number)) = source::route(record)
                && let Some(agent) = self.agents.get_mut(&number)
            {
                agent.record(std::slice::from_ref(record))?;
            }
        }
        Ok(())
    }

    /// A record whose agent is not known: it may be introduced by what is read next.
    fn stray(&mut self, record: &Bytes, number: u32, last_chance: bool) {
        if self.keep(record, number) {
            return;
        }
        if let Some((number, own)) = source::of_cgroup(record)
            && let Some(agent) = self.agents.get_mut(&number)
        {
            return agent.step(&own, self.probe.as_mut());
        }
        if self.door.is_some() && !last_chance && self.held.len() < HELD {
            self.held.push(record.clone());
        } else {
            self.strays += 1;
            self.look_again = true;
        }
    }

    /// A cgroup was found, by looking, where agents may be.
    pub fn found(&mut self, path: &Path, id: u64) {
        self.made(agent_of_cgroup(id), id, path);
    }

    /// What is to be seen to now and then: what the kernel may not have told of, and what people are to
    /// be told.
    pub fn look_after(&mut self) {
        self.may_have_ended = true;
        self.see_ends();
        for agent in self.agents.values_mut() {
            agent.say_if_not_stored();
            // Where the record of it was lost, the cgroup is no more all the same.
            agent.standing.gone |= !agent.cgroup().is_there();
        }
        // Last records of what is no agent, or no more: what counts them goes, where nobody has come for
        // them since the last time.
        let unknown: HashSet<u32> = self
            .source
            .agents()
            .filter(|number| {
                !self.agents.contains_key(number) && !self.waiting.contains_key(number)
            })
            .collect();
        let gone = unknown.intersection(&self.unknown).copied().collect();
        self.source.forget(&gone);
        self.unknown = unknown;
    }

    /// A cgroup came to be where agents may be.
    fn made(&mut self, number: u32, id: u64, path: &Path) {
        let Some(door) = &mut self.door else {
            return;
        };
        if self.agents.contains_key(&number) || self.waiting.contains_key(&number) {
            return; // found by looking, meanwhile
        }
        let (plan, outputs) = match door.admit(path, id) {
            Admission::Agent(agent) => *agent,
            Admission::Later => return self.wait_for(number, id, path),
            Admission::No => return self.let_go(number, id, path),
        };
        let (name, cgroup) = (plan.name.clone(), plan.cgroup.clone());
        let added = self.add(plan, outputs);
        if let Some(door) = &mut self.door {
            match added {
                Ok(_) => door.watched(&cgroup),
                Err(error) => door.refused(&name, &cgroup, &error),
            }
        }
    }

    /// An agent, by its number.
    pub fn agent(&self, number: u32) -> Option<&Agent> {
        self.agents.get(&number)
    }

    /// The same, to be changed.
    pub fn agent_mut(&mut self, number: u32) -> Option<&mut Agent> {
        self.agents.get_mut(&number)
    }

    /// All of them.
    pub fn agents(&self) -> impl Iterator<Item = &Agent> {
        self.agents.values()
    }

    /// How many of an agent's records were delivered.
    pub fn delivered(&self, number: u32) -> u64 {
        self.source.delivered(number)
    }

    /// An agent's processes that are alive, in its cgroup or not.
    pub fn members(&self, number: u32) -> Vec<ProcessKey> {
        agent::members(self.probe.as_ref(), number)
    }

    /// Ends every process of an agent, in its cgroup and outside, and waits until they have ended.
    ///
    /// # Errors
    ///
    /// When the cgroup is protected or the kernel refuses.
    pub fn end_members(&self, number: u32) -> Result<()> {
        self.order_end(number)?;
        self.see_end(number, respond::EMPTY_WITHIN);
        Ok(())
    }

    /// Kills all in an agent's cgroup.
    ///
    /// # Errors
    ///
    /// As [`Host::end_members`].
    pub fn order_end(&self, number: u32) -> Result<()> {
        let agent = self.agents.get(&number).context("no such agent")?;
        agent.cgroup().kill()
    }

    /// After [`Host::order_end`]: waits until the cgroup is empty, and kills what the agent has outside of it.
    pub fn see_end(&self, number: u32, at_most: Duration) {
        if let Some(agent) = self.agents.get(&number) {
            agent.cgroup().wait_empty(at_most);
            respond::kill_outside(agent.cgroup(), self.members(number));
        }
    }
}

/// What to add to `CLOCK_BOOTTIME` nanoseconds to get Unix time, now.
pub fn wall_offset_ns() -> u64 {
    let wall = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    let wall_ns = u64::try_from(wall.tv_sec).unwrap_or(0) * 1_000_000_000
        + u64::try_from(wall.tv_nsec).unwrap_or(0);
    wall_ns.saturating_sub(respond::now_ns())
}

/// Device (in the kernel's encoding) and inode of a file.
fn device_inode(path: &Path) -> Option<(u32, u64)> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = std::fs::metadata(path).ok()?;
    let dev = metadata.dev();
    // `MKDEV` of include/linux/kdev_t.h: 12 bits of major, 20 of minor.
    let kernel = (libc::major(dev) << 20) | (libc::minor(dev) & 0xf_ffff);
    Some((kernel, metadata.ino()))
}
