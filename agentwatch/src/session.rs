//! One agent, watched: the kernel programs, the records, and everything after them.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;

use agentwatch_common::{kind, tag::Task};

use crate::{
    enrich::World,
    event::{Event, Kind, ProcessKey, Stopped, Tally},
    finding::Finding,
    pipeline::{Pipeline, Sink},
    policy::{Enforcement, Mode, Policy, Prefilter},
    probe::{KernelLog, Options, Probe, borrowed::News, deny, seed},
    publish::{account::Account, notice::Notices},
    recording::Recorder,
    respond::{self, cgroup::AgentCgroup},
    source::{self, Source},
    store::{Store, row::Row},
};

/// The number of the only agent of a session.
const AGENT: u32 = 1;
/// How long bulk records may lie unread.
pub const TICK: Duration = Duration::from_millis(10);

/// What is to be watched, and how.
pub struct Plan {
    /// The agent's name.
    pub name: String,
    /// The agent's cgroup.
    pub cgroup: AgentCgroup,
    /// The folder that is its own to change.
    pub workspace: Option<PathBuf>,
    /// The policy.
    pub policy: Policy,
    /// How to load the kernel programs.
    pub probe: Options,
    /// Home folders, for the policy's `~`.
    pub homes: Vec<PathBuf>,
}

/// Where what happens goes.
pub struct Outputs {
    /// The history; `None` for none.
    pub store: Option<Store>,
    /// A recording, if one is made.
    pub recorder: Option<Recorder>,
    /// The account that is given at the end.
    pub account: Account,
    /// Findings as they happen.
    pub notices: Notices,
}

/// A running session.
pub struct Session {
    /// `None` once the watching has ended.
    probe: Option<Probe>,
    source: Source,
    pipeline: Pipeline,
    log: Option<KernelLog>,
    cgroup: AgentCgroup,
    batch: Vec<Bytes>,
    not_stored_told: bool,
    /// Where things go.
    pub outputs: Outputs,
    /// The finding for which the agent was killed.
    pub killed_by: Option<Finding>,
}

impl Session {
    /// Loads the kernel programs, tags the cgroup and what is in it, and introduces the agent.
    ///
    /// # Errors
    ///
    /// When the kernel refuses something without which nothing can be watched.
    pub fn start(plan: Plan, outputs: Outputs) -> Result<Self> {
        let Plan {
            name,
            cgroup,
            workspace,
            policy,
            mut probe,
            homes,
        } = plan;
        let prefilter = policy.sensitive.prefilter();
        probe.send_all_reads = matches!(prefilter, Prefilter::Everything { .. });
        let kernel_log = probe.kernel_log > 0;
        let mut probe = Probe::load(&probe)?;
        if let Prefilter::Names(names) = &prefilter {
            let inodes = policy
                .existing_sensitive_files(&homes)
                .filter_map(|path: PathBuf| device_inode(&path));
            probe.sensitive(names.iter().map(String::as_str), inodes)?;
        }
        let log = if kernel_log {
            Some(probe.logger()?)
        } else {
            None
        };
        let source =
            Source::new(probe.take_rings()?).context("cannot wait for the kernel's records")?;
        let mut session = Self {
            probe: None,
            source,
            pipeline: Pipeline::new(policy),
            log,
            cgroup,
            batch: Vec::new(),
            not_stored_told: false,
            outputs,
            killed_by: None,
        };
        session.introduce(&name, workspace.as_deref());
        if let Some(limits) = session.pipeline.deletion_budget() {
            let workspace = workspace.as_deref().and_then(device_inode);
            probe.budget(AGENT, &limits, workspace)?;
        }
        probe.thin(AGENT, session.pipeline.policy().events.thin)?;
        if session.pipeline.defends() {
            probe.defend(AGENT)?;
        }
        session.enforce(&mut probe, &homes)?;
        probe.watch(AGENT, session.cgroup.path(), session.cgroup.id)?;
        session.take_in_members(&mut probe)?;
        let members = session.cgroup.processes()?.into_iter();
        let refused = members
            .map(|pid| probe.inherited(AGENT, pid).err())
            .find(Option::is_some);
        session.say_not_followed(refused.flatten().map(|error| format!("{error:#}")));
        probe.settle();
        session.probe = Some(probe);
        session.flow()?;
        Ok(session)
    }

    /// Puts the policy's denials in force. One that cannot be is an error, unless the policy says that
    /// it need not be.
    fn enforce(&mut self, probe: &mut Probe, homes: &[PathBuf]) -> Result<()> {
        let policy = self.pipeline.policy();
        let enforced = probe.enforce(AGENT, self.cgroup.path(), policy, homes)?;
        let notices = &mut self.outputs.notices;
        for note in &enforced.notes {
            notices.write(&format!("agentwatch: {note}\n"));
        }
        if enforced.missing.is_empty() {
            return Ok(());
        }
        let missing = enforced.explain();
        if policy.mode == Mode::Observe {
            notices.write(&format!(
                "agentwatch: what the policy would deny is not told here: {missing}\n"
            ));
            return Ok(());
        }
        match policy.enforcement {
            Enforcement::Required => bail!(
                "the policy denies what this kernel cannot refuse: {missing}. `enforcement: best_effort` \
                 in the policy starts all the same"
            ),
            Enforcement::BestEffort => {
                notices.write(&format!("agentwatch: not in force here: {missing}\n"));
                Ok(())
            }
        }
    }

    /// Who the agent is and who started it: the records come from here, so a recording has them.
    fn introduce(&mut self, name: &str, workspace: Option<&std::path::Path>) {
        let now = respond::now_ns();
        let cgroup = (self.cgroup.path(), self.cgroup.id);
        self.batch.push(seed::agent(
            AGENT,
            name,
            cgroup,
            workspace,
            now,
            wall_offset_ns(),
        ));
        self.batch
            .extend(seed::ancestors(AGENT, std::process::id(), now));
    }

    /// Tags what is in the cgroup already. Again until nothing new is found: a process may fork in
    /// between, but what a tagged one forks is tagged by the kernel.
    fn take_in_members(&mut self, probe: &mut Probe) -> Result<()> {
        for (_, id) in self.cgroup.subtree()? {
            probe.tag_cgroup(AGENT, id)?;
        }
        let mut known = std::collections::HashSet::new();
        loop {
            let new: Vec<u32> = self
                .cgroup
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
                    agent: AGENT,
                    ppid: stat.ppid,
                };
                probe.tag(pid, task)?;
                self.batch
                    .extend(seed::seed(AGENT, pid, true, respond::now_ns()));
            }
        }
    }

    /// Waits until something wants to be looked at, a tick at most.
    pub async fn wait(&self) {
        let _ = tokio::time::timeout(TICK, self.source.readable()).await;
    }

    /// Takes everything that is there all the way.
    ///
    /// # Errors
    ///
    /// When the recording cannot be written.
    pub fn pump(&mut self) -> Result<()> {
        if let Some(log) = &mut self.log {
            log.flush();
        }
        self.source.drain(&mut self.batch);
        let now = respond::now_ns();
        self.source.repeats(now, false, &mut self.batch);
        self.source.losses(&[AGENT], now, &mut self.batch);
        self.follow();
        self.flow()?;
        self.say_if_not_stored();
        Ok(())
    }

    /// Follows the sockets that the agent did not make: what the kernel tells of them comes with the next
    /// records.
    fn follow(&mut self) {
        let news = News::of(&self.batch);
        let refused = self.probe.as_mut().and_then(|probe| probe.follow(&news));
        self.say_not_followed(refused);
    }

    /// What this process has of sockets will be the command's: to be said before it is started.
    pub fn pass_on_sockets(&mut self) {
        let passed = self.probe.as_mut().map(|probe| probe.passed_on(AGENT));
        let refused = passed.and_then(Result::err);
        self.say_not_followed(refused.map(|error| format!("{error:#}")));
    }

    fn say_not_followed(&mut self, refused: Option<String>) {
        if let Some(error) = refused {
            self.outputs.notices.write(&format!(
                "agentwatch: bytes of sockets that others made are not counted: {error}\n"
            ));
        }
    }

    /// Says once that the history cannot be written, when that happens; the account says how much is
    /// missing.
    fn say_if_not_stored(&mut self) {
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

    fn flow(&mut self) -> Result<()> {
        let Self {
            probe,
            pipeline,
            cgroup,
            batch,
            outputs,
            killed_by,
            ..
        } = self;
        let Outputs {
            store,
            recorder,
            account,
            notices,
        } = outputs;
        let mut sink = Outlet {
            store: store.as_ref(),
            account,
            notices,
            cgroup,
            probe: probe.as_mut(),
            killed_by,
        };
        for record in batch.iter() {
            pipeline.step(record, &mut sink);
        }
        let written = recorder
            .as_mut()
            .map_or(Ok(()), |recorder| recorder.append(batch));
        batch.clear();
        written
    }

    /// The cgroup.
    pub fn cgroup(&self) -> &AgentCgroup {
        &self.cgroup
    }

    /// The agent's processes that are alive, in its cgroup or not.
    pub fn members(&self) -> Vec<ProcessKey> {
        members(self.probe.as_ref(), AGENT)
    }

    /// Ends every process of the agent, in its cgroup and outside.
    ///
    /// # Errors
    ///
    /// When the cgroup is protected or the kernel refuses.
    pub fn end_members(&self) -> Result<()> {
        self.cgroup.kill()?;
        self.cgroup.wait_empty(Duration::from_secs(5));
        for process in self.members() {
            self.cgroup.kill_outsider(process);
        }
        Ok(())
    }

    /// Ends the watching: what is open is closed in the stream, losses are told.
    ///
    /// # Errors
    ///
    /// When the recording cannot be written.
    pub fn end(mut self) -> Result<(Outputs, Tally, Option<Finding>)> {
        // Nothing is sent any more once the tags are gone: so what is read now is all, and the counters
        // are final.
        if let Some(probe) = &mut self.probe {
            probe.untag(AGENT)?;
            probe.give_up_sockets(AGENT)?;
        }
        self.source.drain(&mut self.batch);
        let now = respond::now_ns();
        self.source.repeats(now, true, &mut self.batch);
        if let Some(probe) = &mut self.probe {
            for (rule, repeat) in probe.untold(AGENT)? {
                self.batch
                    .push(deny::untold_record(AGENT, rule, &repeat, now));
            }
        }
        self.source.open_flows(AGENT, now, &mut self.batch);
        let tally = self.source.tally(AGENT);
        let head = source::header(kind::TALLY, AGENT, 0, 0, now);
        self.batch.push(source::record(
            &mut bytes::BytesMut::new(),
            head,
            &tally,
            &[],
        ));
        self.flow()?;
        if let Some(probe) = self.probe.take()
            && let Err(error) = probe.leave()
        {
            self.outputs
                .notices
                .write(&format!("agentwatch: detaching took its time: {error}\n"));
        }
        let mut tally = Tally::from(&tally);
        if self.pipeline.undecodable > 0 {
            tally
                .lost
                .push(("not understood", self.pipeline.undecodable));
        }
        let Self {
            outputs, killed_by, ..
        } = self;
        Ok((outputs, tally, killed_by))
    }
}

/// Where the pipeline's events and findings go in a session.
struct Outlet<'a> {
    store: Option<&'a Store>,
    account: &'a mut Account,
    notices: &'a mut Notices,
    cgroup: &'a AgentCgroup,
    probe: Option<&'a mut Probe>,
    killed_by: &'a mut Option<Finding>,
}

impl Sink for Outlet<'_> {
    fn event(&mut self, event: &Event, world: &World) {
        let Some(row) = row_of(event, world) else {
            return;
        };
        self.account.observe(&row);
        if let Some(store) = self.store {
            store.event(row);
        }
    }

    fn finding(&mut self, finding: &Finding) {
        // Said first: the terminal is what a person looks at.
        self.notices.finding(finding);
        self.account.finding(finding);
        if let Some(store) = self.store {
            store.finding(finding);
        }
        if finding.response.taken == crate::finding::Action::Kill && self.killed_by.is_none() {
            *self.killed_by = Some(finding.clone());
        }
    }

    fn cgroup(&self) -> Option<&AgentCgroup> {
        Some(self.cgroup)
    }

    fn free_hostages(&mut self) {
        if let Err(error) = self.cgroup.free_hostages() {
            self.notices.write(&format!("agentwatch: {error:#}\n"));
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
            self.notices.write(&format!(
                "agentwatch: process {} was stopped and cannot be resumed: {error:#}\n",
                event.process.pid
            ));
        }
    }

    fn survivors(&self, agent: u32) -> Vec<ProcessKey> {
        members(self.probe.as_deref(), agent)
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

fn members(probe: Option<&Probe>, agent: u32) -> Vec<ProcessKey> {
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

/// What to add to `CLOCK_BOOTTIME` nanoseconds to get Unix time, now.
pub fn wall_offset_ns() -> u64 {
    let wall = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    let wall_ns = u64::try_from(wall.tv_sec).unwrap_or(0) * 1_000_000_000
        + u64::try_from(wall.tv_nsec).unwrap_or(0);
    wall_ns.saturating_sub(respond::now_ns())
}

/// Device (in the kernel's encoding) and inode of a file.
fn device_inode(path: &std::path::Path) -> Option<(u32, u64)> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = std::fs::metadata(path).ok()?;
    let dev = metadata.dev();
    // `MKDEV` of include/linux/kdev_t.h: 12 bits of major, 20 of minor.
    let kernel = (libc::major(dev) << 20) | (libc::minor(dev) & 0xf_ffff);
    Some((kernel, metadata.ino()))
}
