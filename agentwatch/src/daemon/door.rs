//! Which new cgroups are agents, and what holds for them.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
    time::Instant,
};

use agentwatch_common::tag::agent_of_cgroup;
use tokio::sync::mpsc;

use super::{containers::Question, retries::Retries, runtimes, state::Saved};
use crate::{
    api::model::FoundBy,
    config::{By, Container, Match, container_id},
    host::{self, Admission, Agent, Ended, Outputs, Plan, wall_offset_ns, watch::Stream},
    policy::Policy,
    publish::notice::{Format, Notices},
    respond::cgroup::AgentCgroup,
    run::name_of,
    store::{Beginnings, Stats},
};

/// What the configuration says.
pub struct Rules {
    matches: Vec<Match>,
    policies: Vec<(Arc<Policy>, String)>,
    root: PathBuf,
    /// The names that agents have.
    names: HashSet<String>,
    /// The names of agents that a daemon before this one knew, by their cgroups' ids.
    reserved: HashMap<u64, String>,
    /// What runtimes have said of containers, by their ids; `None` for one that none of them knows.
    containers: HashMap<String, Option<Container>>,
    /// The ids of cgroups that could not be watched, and are looked at again.
    pub refused: Retries<u64>,
}

/// Most containers of which is kept what runtimes have said.
const CONTAINERS: usize = 4096;

/// Whether a cgroup is an agent's.
#[derive(Debug)]
pub enum Found<'a> {
    /// By this match, and as this container.
    Is(usize, Option<&'a Container>),
    /// The runtimes must be asked for this container.
    Ask(String),
    /// It is not.
    No,
}

impl Rules {
    /// With the policy of each match, and what it is called.
    pub fn new(matches: Vec<Match>, policies: Vec<(Arc<Policy>, String)>, root: PathBuf) -> Self {
        Self {
            matches,
            policies,
            root,
            names: HashSet::new(),
            reserved: HashMap::new(),
            containers: HashMap::new(),
            refused: Retries::default(),
        }
    }

    /// What the configuration says now.
    pub fn replace(&mut self, matches: Vec<Match>, policies: Vec<(Arc<Policy>, String)>) {
        self.matches = matches;
        self.policies = policies;
    }

    /// All policies.
    pub fn policies(&self) -> impl Iterator<Item = &Arc<Policy>> {
        self.policies.iter().map(|(policy, _)| policy)
    }

    /// That of a match, and what it is called.
    pub fn policy(&self, at: usize) -> (Arc<Policy>, String) {
        self.policies[at].clone()
    }

    /// The path of a cgroup's folder from the root of the hierarchy on.
    pub fn below_root(&self, folder: &Path) -> PathBuf {
        Path::new("/").join(folder.strip_prefix(&self.root).unwrap_or(folder))
    }

    /// Whether a cgroup is an agent's: the first match that fits counts.
    pub fn find(&self, cgroup: &Path) -> Found<'_> {
        let id = container_id(cgroup);
        for (at, agents) in self.matches.iter().enumerate() {
            let fits = match (agents.by(), id) {
                (By::Cgroup(glob) | By::Unit(_, glob), _) => glob.matches(cgroup),
                (By::Container(label), Some(id)) => match self.containers.get(id) {
                    None => return Found::Ask(id.to_owned()),
                    Some(known) => known.as_ref().is_some_and(|known| label.is_on(known)),
                },
                (By::Container(_), None) => false,
            };
            if fits {
                let of = |by| matches!(by, By::Container(_));
                let container = id.filter(|_| of(agents.by()));
                let container = container.and_then(|id| self.containers.get(id)?.as_ref());
                return Found::Is(at, container);
            }
        }
        Found::No
    }

    /// A runtime is to be asked for a container again.
    pub fn forget_container(&mut self, id: &str) {
        self.containers.remove(id);
    }

    /// What a runtime says of a container.
    pub fn learn(&mut self, id: String, container: Option<Container>) {
        if self.containers.len() >= CONTAINERS {
            // They are asked for again, where they are there still.
            self.containers.clear();
        }
        self.containers.insert(id, container);
    }

    /// Whether an agent may be below a cgroup that is none itself.
    pub fn may_be_below(&self, cgroup: &Path) -> bool {
        self.matches.iter().any(|agents| {
            let glob = agents.glob();
            let parent = glob.parent();
            parent.starts_with(cgroup)
                || (cgroup.starts_with(&parent) && {
                    let down = cgroup.components().count() - parent.components().count();
                    let levels = glob.levels(&parent);
                    levels
                        .checked_shr(u32::try_from(down).unwrap_or(32))
                        .unwrap_or(levels >> 31)
                        != 0
                })
        })
    }

    /// Where a cgroup's folder is.
    pub fn on_disk(&self, cgroup: &Path) -> PathBuf {
        self.root.join(cgroup.strip_prefix("/").unwrap_or(cgroup))
    }

    /// Looks for agents' cgroups below some: their paths and ids.
    pub fn look(&self, from: &[PathBuf]) -> Vec<(PathBuf, u64)> {
        let mut found = Vec::new();
        let mut todo = from.to_vec();
        let mut seen = HashSet::new();
        let now = Instant::now();
        while let Some(at) = todo.pop() {
            if !seen.insert(at.clone()) {
                continue;
            }
            let entries = fs::read_dir(self.on_disk(&at));
            for entry in entries.into_iter().flatten().flatten() {
                // Most are the kernel's files.
                if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    continue;
                }
                let Ok(folder) = entry.metadata() else {
                    continue; // removed meanwhile
                };
                let path = at.join(entry.file_name());
                let is_one = !matches!(self.find(&path), Found::No);
                if is_one && !self.refused.waits(&folder.ino(), now) {
                    // What is below an agent's cgroup is the agent's.
                    found.push((path, folder.ino()));
                } else if self.may_be_below(&path) {
                    todo.push(path);
                }
            }
        }
        found
    }

    /// What a match calls an agent, where that name is free, and its workspace.
    fn called(
        &self,
        at: usize,
        container: Option<&Container>,
        cgroup: &Path,
    ) -> (String, Option<String>) {
        let agents = &self.matches[at];
        let wanted = agents.name().fill(cgroup, container);
        let folder = agents.workspace.as_ref();
        (
            name_of(&[wanted.replace('/', "-").into()]),
            folder.map(|folder| folder.fill(cgroup, container)),
        )
    }

    /// What an agent that is watched keeps although its match says something else now: by its name it is known
    /// in the history, and of its workspace the detectors have judged by.
    pub fn kept(
        &self,
        at: usize,
        container: Option<&Container>,
        cgroup: &Path,
        agent: &Agent,
    ) -> Vec<&'static str> {
        let (name, workspace) = self.called(at, container, cgroup);
        let number = agent.name.strip_prefix(&name);
        let number = number.and_then(|rest| rest.strip_prefix('-'));
        let same = *agent.name == *name || number.is_some_and(|n| n.parse::<u32>().is_ok());
        let workspace = workspace.map(|folder| crate::text::escape_str(&folder));
        let changed = [("name", !same), ("workspace", workspace != agent.workspace)];
        let names = changed.into_iter().filter(|(_, changed)| *changed);
        names.map(|(name, _)| name).collect()
    }

    /// How an agent is watched.
    fn plan(&mut self, at: usize, container: Option<&Container>, cgroup: &Path, id: u64) -> Plan {
        let (wanted, workspace) = self.called(at, container, cgroup);
        let workspace = workspace.map(PathBuf::from);
        let agents = &self.matches[at];
        let (policy, source) = self.policies[at].clone();
        let found_by = match (agents.by(), container) {
            (By::Container(label), Some(container)) => FoundBy::Container {
                label: label.clone().into(),
                id: container.id.clone(),
                name: container.name.clone(),
                runtime: container.runtime.clone(),
            },
            (By::Unit(name, _), _) => FoundBy::Unit {
                glob: name.to_owned(),
            },
            _ => FoundBy::Cgroup {
                glob: agents.glob().text().to_owned(),
            },
        };
        let name = self.name_again(id, &wanted);
        let on_disk = self.on_disk(cgroup);
        Plan {
            name,
            cgroup: AgentCgroup::known(on_disk, id),
            workspace,
            policy,
            policy_source: source,
            homes: vec!["/root".into()],
            found_by,
            runner: None,
        }
    }

    /// Agents that a daemon before this one knew keep their names.
    pub fn reserve(&mut self, agents: &[Saved]) {
        for saved in agents {
            self.names.insert(saved.name.clone());
            self.reserved.insert(saved.id, saved.name.clone());
        }
    }

    /// The name that an agent had before, if there was one, else a new one.
    pub fn name_again(&mut self, id: u64, wanted: &str) -> String {
        match self.reserved.remove(&id) {
            Some(name) => name,
            None => self.name(wanted),
        }
    }

    /// One of those has ended.
    pub fn forget(&mut self, saved: &Saved) {
        if self.reserved.remove(&saved.id).is_some() {
            self.names.remove(&saved.name);
        }
    }

    /// A name that no agent has now.
    pub fn name(&mut self, wanted: &str) -> String {
        let mut name = wanted.to_owned();
        let mut n = 1;
        while self.names.contains(&name) {
            n += 1;
            name = format!("{wanted}-{n}");
        }
        self.names.insert(name.clone());
        name
    }

    /// An agent could not be watched: its name is free again.
    pub fn free(&mut self, name: &str) {
        self.names.remove(name);
    }

    /// An agent has ended: its run does, and its name is free again. The run's id and how much of it is in
    /// the history come back.
    pub fn close(&mut self, ended: Ended, exit_status: Option<i32>) -> Option<(String, Stats)> {
        self.free(&ended.name);
        let killed_by = ended.killed_by.as_ref().map(|finding| finding.id.as_str());
        let lost = ended.tally.lost_total();
        if lost > 0 {
            tracing::error!(
                agent = ended.name,
                lost,
                emitted = ended.tally.emitted,
                "{lost} of {} events were lost: {:?}",
                ended.tally.emitted,
                ended.tally.lost
            );
        }
        let store = ended.outputs.store?;
        let run = store.run.clone();
        Some((run, store.finish(exit_status, killed_by, &ended.tally)))
    }
}

/// Where what happens to an agent goes.
#[derive(Clone)]
pub struct Outlets {
    /// Runs in the history.
    pub begin: Beginnings,
    /// Those who look on.
    pub stream: Stream,
    /// How findings are written.
    pub format: Format,
}

impl Outlets {
    /// For one agent.
    pub fn outputs(&self, name: &str, command: &[String]) -> Outputs {
        Outputs {
            store: Some(self.begin.run(name, command, wall_offset_ns())),
            recorder: None,
            account: None,
            notices: Notices::beside_log(self.format, name),
            stream: Some(self.stream.clone()),
        }
    }
}

/// Where new agents come in.
pub struct Door {
    /// What the configuration says.
    pub rules: Rc<RefCell<Rules>>,
    /// Where what happens goes.
    pub outlets: Outlets,
    /// Where it is asked for containers.
    pub ask: mpsc::Sender<Question>,
}

impl host::Door for Door {
    fn admit(&mut self, path: &Path, id: u64) -> Admission {
        let mut rules = self.rules.borrow_mut();
        let (at, container) = match rules.find(path) {
            Found::Is(at, container) => (at, container.cloned()),
            Found::No => return Admission::No,
            Found::Ask(container) => {
                let question = Question {
                    number: agent_of_cgroup(id),
                    id: container,
                };
                return match self.ask.try_send(question) {
                    Ok(()) => Admission::Later,
                    Err(error) => {
                        drop(rules);
                        host::Door::not_now(self, path, id, &error.into());
                        Admission::No
                    }
                };
            }
        };
        let plan = rules.plan(at, container.as_ref(), path, id);
        if let Err(error) = runtimes::refuse(&plan.cgroup) {
            rules.free(&plan.name);
            if rules.refused.failed(id, Instant::now()) {
                tracing::warn!("{error:#}. It is looked at again later");
            }
            return Admission::No;
        }
        let outputs = self.outlets.outputs(&plan.name, &[]);
        Admission::Agent(Box::new((plan, outputs)))
    }

    fn on_disk(&self, path: &Path) -> PathBuf {
        self.rules.borrow().on_disk(path)
    }

    fn below(&self, path: &Path) -> Vec<(PathBuf, u64)> {
        let rules = self.rules.borrow();
        if rules.may_be_below(path) {
            rules.look(&[path.to_owned()])
        } else {
            Vec::new()
        }
    }

    fn not_now(&mut self, path: &Path, id: u64, error: &anyhow::Error) {
        let mut rules = self.rules.borrow_mut();
        if rules.refused.failed(id, Instant::now()) {
            tracing::error!(
                cgroup = %path.display(),
                "the container runtimes are not asked for it now, and are later: {error:#}"
            );
        }
    }

    fn still_admits(&self, cgroup: &AgentCgroup, pid: u32) -> anyhow::Result<()> {
        runtimes::refuse_process(cgroup, pid)
    }

    fn refused(&mut self, name: &str, cgroup: &AgentCgroup, error: &anyhow::Error) {
        let mut rules = self.rules.borrow_mut();
        rules.free(name);
        if rules.refused.failed(cgroup.id, Instant::now()) {
            tracing::error!(
                agent = name,
                "{name} is NOT watched; that is tried again later: {error:#}"
            );
        }
    }

    fn watched(&mut self, cgroup: &AgentCgroup) {
        self.rules.borrow_mut().refused.done(&cgroup.id);
    }

    fn ended(&mut self, ended: Ended) {
        self.rules.borrow_mut().close(ended, None);
    }
}
