//! The daemon: all agents of a host in one process, found by their cgroups; the API beside it.

mod containerd;
mod containers;
mod door;
mod exporters;
pub mod logs;
mod recovery;
mod reload;
mod retries;
pub mod runs;
mod runtimes;
mod service;
mod state;

use std::{
    cell::RefCell,
    collections::HashMap,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use agentwatch_common::tag::{agent_of_cgroup, below};
use anyhow::{Context as _, Result};
use arc_swap::ArcSwap;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use crate::{
    api::{self, Shared, model::RunRequest},
    config::Config,
    host::{
        Host,
        watch::{self, Order, Snapshot, Stream},
    },
    policy::{Policy, PolicyError},
    probe::{Options, support},
    store::{Writer, export::Exporter},
};
use door::{Door, Found, Outlets, Rules};
use retries::Retries;
use state::{Keeper, Saved};

/// How often the figures are taken, and what may have been missed is looked for.
const EVERY: Duration = Duration::from_secs(1);
/// The shortest time between two copies of what is known.
const PUBLISH: Duration = Duration::from_millis(100);
/// How often is looked at all cgroups again, at most, where the kernel may not have told of one.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// The same, where there are so many that a look takes its time: so many times as long as it took.
const PAUSE: u32 = 20;
/// Runs that may wait to be watched.
const RUNS: usize = 16;
/// An agent's part of the urgent ring, and of the other one: half of each at the usual size. So one that floods
/// leaves room; two at once may not.
const SHARE: [u64; 2] = [512 << 10, 2 << 20];

/// Runs until it is told to stop. With SIGHUP the configuration is read again, by `load`.
///
/// # Errors
///
/// When the kernel, the history or the socket does not do what is needed.
pub fn run(config: &Config, load: &dyn Fn() -> Result<Config, PolicyError>) -> Result<()> {
    let policies = policies(config)?;
    many_descriptors();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")?;
    runtime.block_on(async {
        let mut signals = [
            signal(SignalKind::terminate()).context("cannot handle signals")?,
            signal(SignalKind::interrupt()).context("cannot handle signals")?,
            signal(SignalKind::hangup()).context("cannot handle signals")?,
        ];
        // First: whether there is another daemon shows here.
        let listener = api::listen(config)?;
        let mut daemon = Daemon::start(config, policies, listener)?;
        service::ready(daemon.host.agents().count());
        let [terminate, interrupt, hangup] = &mut signals;
        loop {
            tokio::select! {
                biased;
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = hangup.recv() => daemon.reload(load),
                Some(order) = daemon.orders.recv() => daemon.serve(order),
                Some(answer) = daemon.answers.recv() => daemon.answered(answer)?,
                Some(ask) = daemon.runs.recv() => daemon.serve_run(ask),
                () = daemon.host.wait() => {}
            }
            daemon.turn()?;
        }
        service::stopping();
        daemon.stop()
    })
}

/// Lets this process have as many descriptors as it may: each agent takes nine, for what is attached to its
/// cgroup.
fn many_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let all = Rlimit {
        current: maximum,
        maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, all) {
        tracing::warn!("the limit of open files stays as it is: {error}");
    }
}

/// The policies of the matches. What they warn of is said.
fn policies(config: &Config) -> Result<Vec<(Arc<Policy>, String)>, PolicyError> {
    let policies = config.policies()?;
    for (policy, source) in &policies {
        for warning in &policy.warnings {
            tracing::warn!(policy = source, "{warning}");
        }
    }
    Ok(policies)
}

struct Daemon {
    host: Host,
    rules: Rc<RefCell<Rules>>,
    writer: Writer,
    exporters: Vec<Exporter>,
    shared: Arc<Shared>,
    outlets: Outlets,
    orders: mpsc::Receiver<Order>,
    runs: mpsc::Receiver<runs::Ask>,
    answers: mpsc::UnboundedReceiver<containers::Answer>,
    api: Option<api::Server>,
    /// What runs have asked for, by the agent's number.
    requests: HashMap<u32, Arc<RunRequest>>,
    /// Runs that a daemon before this one watched and that have not come back, by the cgroup's id.
    pending: HashMap<u64, Saved>,
    /// Containers of which a runtime could not tell.
    asked_in_vain: Retries<String>,
    ask: mpsc::Sender<containers::Question>,
    keeper: Keeper,
    config: Config,
    parents: Vec<PathBuf>,
    published: Instant,
    turned: Instant,
    looked: Instant,
    /// How long after that is looked again at the soonest.
    look_after: Duration,
    /// The kernel does not tell of all new cgroups.
    all_to_be_looked_at: bool,
    /// What was counted of that when the kernel was told last where to look.
    untold: u64,
    stale: bool,
    /// Agents that the service manager was told of.
    told: Option<usize>,
}

impl Daemon {
    fn start(
        config: &Config,
        policies: Vec<(Arc<Policy>, String)>,
        listener: api::Listener,
    ) -> Result<Self> {
        let root = support::cgroup2()?;
        let options = Options {
            map_mib: config.map_memory_mib,
            ..Options::DEFAULT
        };
        let all: Vec<&Policy> = policies.iter().map(|(policy, _)| &**policy).collect();
        let mut host = Host::start(&options, &all)?;
        let (keeper, before) = Keeper::open(&config.data_dir)?;
        let mut writer = Writer::open(&config.data_dir)?;
        writer.keep(config.history)?;
        let exporters = exporters::start(config)?;
        let (stream, stream_end) = Stream::new();
        let (ask, orders) = watch::orders();
        let (ask_run, runs) = mpsc::channel(RUNS);
        let shared = Arc::new(Shared {
            snapshot: ArcSwap::from_pointee(Snapshot::default()),
            ask,
            runs: ask_run,
            actions: writer.actions(),
            exports: exporters
                .iter()
                .map(|exporter| (exporter.name, Arc::clone(&exporter.status)))
                .collect(),
            node: config.node.clone(),
            data_dir: config.data_dir.clone(),
            root: root.display().to_string(),
            since: jiff::Timestamp::now(),
            doctor: api::doctor(host.probe()?),
        });
        let gauge = host.gauge().context("the gauge is taken")?;
        let rules = Rc::new(RefCell::new(Rules::new(
            config.agents.clone(),
            policies,
            root,
        )));
        if let Some(before) = &before {
            rules.borrow_mut().reserve(&before.agents);
        }
        let outlets = Outlets {
            begin: writer.beginnings(),
            stream,
            format: logs::findings(config.log),
        };
        let (ask_runtimes, answers) = containers::start(config.container_sockets.clone())?;
        let door = Door {
            rules: Rc::clone(&rules),
            outlets: outlets.clone(),
            ask: ask_runtimes.clone(),
        };
        host.open_door(Box::new(door), SHARE);
        let now = Instant::now();
        let mut daemon = Self {
            host,
            rules,
            writer,
            exporters,
            shared,
            outlets,
            orders,
            runs,
            answers,
            api: None,
            requests: HashMap::new(),
            pending: HashMap::new(),
            asked_in_vain: Retries::default(),
            ask: ask_runtimes,
            keeper,
            config: config.clone(),
            parents: Vec::new(),
            published: now,
            turned: now,
            looked: now,
            look_after: LOOK_AGAIN,
            all_to_be_looked_at: false,
            untold: 0,
            stale: true,
            told: None,
        };
        daemon.look()?;
        if let Some(before) = before {
            daemon.recover(before, listener.left());
        }
        daemon.host.settle();
        daemon.publish();
        // Last: who asks gets all of it.
        let shared = Arc::clone(&daemon.shared);
        daemon.api = Some(api::Server::start(listener, shared, gauge, stream_end)?);
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            node = config.node,
            agents = daemon.host.agents().count(),
            "watching {} agents; the API is at {}",
            daemon.host.agents().count(),
            config.socket.display()
        );
        Ok(daemon)
    }

    /// Has the kernel look where the configuration says that agents are. Where there are too many cgroups for
    /// that, it is looked at all of them now and then instead.
    fn look_below(&mut self) {
        self.untold = self.host.not_looked_below();
        let looked = self.look_below_all();
        if let Err(error) = &looked
            && !self.all_to_be_looked_at
        {
            tracing::warn!(
                "the kernel does not tell of all new cgroups, so it is looked for agents every few seconds, and \
                 what they do before is not seen: {error:#}"
            );
        }
        self.all_to_be_looked_at = looked.is_err();
    }

    fn look_below_all(&mut self) -> Result<()> {
        let rules = Rc::clone(&self.rules);
        let on_disk = |at: &Path| rules.borrow().on_disk(at);
        for agents in &self.config.agents {
            let glob = agents.glob();
            // What is not there yet comes to be below the deepest that is.
            let parent = glob.parent();
            let there = parent
                .ancestors()
                .find(|at| on_disk(at).exists())
                .unwrap_or(Path::new("/"));
            if !self.parents.iter().any(|known| known == there) {
                self.parents.push(there.to_owned());
            }
            // The kernel carries it on from there to new cgroups; those that are there are told of it
            // one by one.
            let mut todo = vec![(there.to_owned(), glob.levels(there))];
            while let Some((at, levels)) = todo.pop() {
                let Ok(folder) = std::fs::metadata(on_disk(&at)) else {
                    continue; // removed meanwhile
                };
                if self.host.agent(agent_of_cgroup(folder.ino())).is_some() {
                    continue; // what is below is the agent's
                }
                self.host.look_below(folder.ino(), levels)?;
                let next = below::one_down(levels);
                if next == 0 {
                    continue;
                }
                for entry in std::fs::read_dir(on_disk(&at))
                    .into_iter()
                    .flatten()
                    .flatten()
                {
                    if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                        todo.push((at.join(entry.file_name()), next));
                    }
                }
            }
        }
        Ok(())
    }

    /// Looks at all cgroups for agents that are not watched.
    fn look(&mut self) -> Result<()> {
        let began = Instant::now();
        self.host.look_again = false;
        self.look_below();
        for id in self.asked_in_vain.due(began) {
            self.rules.borrow_mut().forget_container(&id);
        }
        let found = self.rules.borrow().look(&self.parents);
        for (path, id) in found {
            let number = agent_of_cgroup(id);
            if self.host.agent(number).is_none() {
                self.host.found(&path, id);
            } else if let Found::Ask(id) = self.rules.borrow().find(&path) {
                // It is watched by another match than that of its container, which was not known. A queue that
                // is full is tried again with the next look.
                let _ = self.ask.try_send(containers::Question { number, id });
            }
        }
        self.looked = Instant::now();
        self.look_after = LOOK_AGAIN.max((self.looked - began) * PAUSE);
        self.host.pump()
    }

    /// A container runtime has said whose a cgroup is.
    fn answered(&mut self, answer: containers::Answer) -> Result<()> {
        let containers::Answer {
            number,
            id,
            container,
        } = answer;
        let is_known = container.is_ok();
        let container = container.unwrap_or_else(|error| {
            if self.asked_in_vain.failed(id.clone(), Instant::now()) {
                tracing::warn!(
                    container = id,
                    "its labels are not known, so it is no agent by them; it is asked for again: {error:#}"
                );
            }
            None
        });
        let is_watched = self.host.agent(number).is_some();
        if is_known {
            self.asked_in_vain.done(&id);
        }
        if is_known || !is_watched {
            self.rules.borrow_mut().learn(id, container);
        }
        if is_known && is_watched {
            // By another match, as long as this was not known.
            self.judge_again(number);
        }
        self.host.answered(number)?;
        self.recall_pending(number, is_known);
        self.stale = true;
        Ok(())
    }

    fn serve(&mut self, order: Order) {
        let acts = matches!(order, Order::Act { .. });
        self.host.serve(order);
        // What it came to is seen at once. Who only asks may ask often.
        if acts {
            self.publish();
        }
    }

    /// After each look at what happened.
    fn turn(&mut self) -> Result<()> {
        let before = (self.host.agents().count(), self.host.gone);
        self.host.pump()?;
        self.stale |= before != (self.host.agents().count(), self.host.gone);
        if self.turned.elapsed() >= EVERY {
            self.turned = Instant::now();
            self.stale = true;
            recovery::touch(&self.config.socket);
            service::alive();
            self.tell_service();
            self.host.look_after();
            self.sweep_runs()?;
            self.sweep_pending();
            let refused = self.rules.borrow_mut().refused.due(self.turned);
            let in_vain = self.asked_in_vain.due(self.turned);
            self.host.look_again |= !refused.is_empty() || !in_vain.is_empty();
            let untold = self.all_to_be_looked_at || self.host.not_looked_below() > self.untold;
            if (self.host.look_again || untold) && self.looked.elapsed() >= self.look_after {
                self.look()?;
            }
        }
        if self.stale && self.published.elapsed() >= PUBLISH {
            self.publish();
        }
        Ok(())
    }

    /// Tells the service manager, where something has changed.
    fn tell_service(&mut self) {
        let agents = self.host.agents().count();
        if self.told != Some(agents) {
            self.told = Some(agents);
            service::watching(agents);
        }
    }

    fn publish(&mut self) {
        self.published = Instant::now();
        self.stale = false;
        self.shared.snapshot.store(Arc::new(self.host.snapshot()));
        let host = &self.host;
        self.requests
            .retain(|number, _| host.agent(*number).is_some());
        let saved = self.saved();
        self.keeper.keep(saved);
    }

    /// Stops watching; agents are left as their policies say.
    fn stop(mut self) -> Result<()> {
        let saved = self.leave();
        let Self {
            host,
            rules,
            writer,
            exporters,
            shared,
            outlets,
            orders,
            runs,
            api,
            keeper,
            ..
        } = self;
        keeper.finish(saved);
        drop((orders, runs));
        if let Some(api) = api {
            api.stop();
        }
        for ended in host.end()? {
            rules.borrow_mut().close(ended, None);
        }
        // They hold ways into the history.
        drop((shared, outlets));
        let written = writer.finish();
        // What they have not delivered yet is delivered after the next start.
        for exporter in exporters {
            exporter.stop();
        }
        match written {
            Some(error) => Err(anyhow::anyhow!("the end is not in the history: {error}")),
            None => Ok(()),
        }
    }
}
