//! The daemon: all agents of a host in one process, found by their cgroups; the API beside it.

mod door;
mod runtimes;

use std::{
    cell::RefCell,
    io::IsTerminal as _,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use arc_swap::ArcSwap;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use crate::{
    api::{self, Shared},
    config::Config,
    host::{
        Host,
        watch::{self, Order, Snapshot, Stream},
    },
    policy::{Policy, PolicyError},
    probe::{Options, support},
    store::Writer,
};
use door::{Door, Rules};

/// How often the figures are taken, and what may have been missed is looked for.
const EVERY: Duration = Duration::from_secs(1);
/// The shortest time between two copies of what is known.
const PUBLISH: Duration = Duration::from_millis(100);
/// How often is looked at all cgroups again, at most, where the kernel may not have told of one.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// An agent's part of the urgent ring, and of the other one: a quarter of each at the usual size.
const SHARE: [u64; 2] = [512 << 10, 2 << 20];

/// Runs until it is told to stop. Agents go on running then.
///
/// # Errors
///
/// When the kernel, the history or the socket does not do what is needed.
pub fn run(config: &Config) -> Result<()> {
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
        ];
        // First: whether there is another daemon shows here.
        let listener = api::listen(config)?;
        let mut daemon = Daemon::start(config, policies, listener)?;
        let [terminate, interrupt] = &mut signals;
        loop {
            tokio::select! {
                biased;
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                Some(order) = daemon.orders.recv() => daemon.serve(order),
                () = daemon.host.wait() => {}
            }
            daemon.turn()?;
        }
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
        eprintln!("agentwatch: the limit of open files stays as it is: {error}");
    }
}

/// The policies of the matches. What they warn of is said.
fn policies(config: &Config) -> Result<Vec<(Arc<Policy>, String)>, PolicyError> {
    let policies = config.policies()?;
    for (policy, source) in &policies {
        for warning in &policy.warnings {
            eprintln!("agentwatch: {source}: {warning}");
        }
    }
    Ok(policies)
}

struct Daemon {
    host: Host,
    rules: Rc<RefCell<Rules>>,
    writer: Writer,
    shared: Arc<Shared>,
    orders: mpsc::Receiver<Order>,
    api: Option<api::Server>,
    parents: Vec<PathBuf>,
    published: Instant,
    turned: Instant,
    looked: Instant,
    stale: bool,
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
        let writer = Writer::open(&config.data_dir)?;
        let (stream, stream_end) = Stream::new();
        let (ask, orders) = watch::orders();
        let shared = Arc::new(Shared {
            snapshot: ArcSwap::from_pointee(Snapshot::default()),
            ask,
            actions: writer.actions(),
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
        let door = Door {
            rules: Rc::clone(&rules),
            begin: writer.beginnings(),
            stream,
            colour: std::io::stderr().is_terminal(),
        };
        host.open_door(Box::new(door), SHARE);
        let now = Instant::now();
        let mut daemon = Self {
            host,
            rules,
            writer,
            shared,
            orders,
            api: None,
            parents: Vec::new(),
            published: now,
            turned: now,
            looked: now,
            stale: true,
        };
        daemon.look_below(config)?;
        daemon.look()?;
        daemon.host.settle();
        daemon.publish();
        // Last: who asks gets all of it.
        let shared = Arc::clone(&daemon.shared);
        daemon.api = Some(api::Server::start(listener, shared, gauge, stream_end)?);
        eprintln!(
            "agentwatch: watching {} agents on {}; the API is at {}",
            daemon.host.agents().count(),
            config.node,
            config.socket.display()
        );
        Ok(daemon)
    }

    /// Has the kernel look where the configuration says that agents are.
    fn look_below(&mut self, config: &Config) -> Result<()> {
        let rules = Rc::clone(&self.rules);
        let on_disk = |at: &Path| rules.borrow().on_disk(at);
        for agents in &config.agents {
            let glob = &agents.cgroup;
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
                self.host.look_below(folder.ino(), levels)?;
                let next = agentwatch_common::tag::below::one_down(levels);
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
        self.looked = Instant::now();
        self.host.look_again = false;
        let found = self.rules.borrow().look(&self.parents);
        for (path, id) in found {
            self.host.found(&path, id);
        }
        self.host.pump()
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
            self.host.look_after();
            if self.host.look_again && self.looked.elapsed() >= LOOK_AGAIN {
                self.look()?;
            }
        }
        if self.stale && self.published.elapsed() >= PUBLISH {
            self.publish();
        }
        Ok(())
    }

    fn publish(&mut self) {
        self.published = Instant::now();
        self.stale = false;
        self.shared.snapshot.store(Arc::new(self.host.snapshot()));
    }

    /// Stops watching; agents go on.
    fn stop(self) -> Result<()> {
        let Self {
            host,
            rules,
            writer,
            shared,
            orders,
            api,
            ..
        } = self;
        drop(orders);
        if let Some(api) = api {
            api.stop();
        }
        for ended in host.end()? {
            rules.borrow_mut().close(ended);
        }
        // It holds a way into the history.
        drop(shared);
        match writer.finish() {
            Some(error) => Err(anyhow::anyhow!("the end is not in the history: {error}")),
            None => Ok(()),
        }
    }
}
