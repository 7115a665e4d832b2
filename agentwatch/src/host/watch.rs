//! What those who look on get: copies of what is known, a stream of what happens, and a queue for what
//! they ask. None of it makes the way of the events wait.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot};

use super::{Agent, Counts, Host, Standing, sums::Past};
use crate::{
    api::model::{FoundBy, Verb},
    enrich::processes::Did,
    event::ProcessKey,
    finding::Finding,
    policy::Policy,
    respond::{self, cgroup::AgentCgroup},
    store::row::Row,
};

/// Items that may wait to be handed to the readers of the stream.
const STREAM: usize = 4096;
/// Questions that may wait for an answer.
const ORDERS: usize = 16;

/// Something that happened.
pub enum Item {
    /// An event.
    Event(Box<Row>),
    /// A finding.
    Finding(Box<Finding>),
    /// The watching of the agent of this name has ended.
    Gone(String),
}

/// How many read the stream.
#[derive(Default)]
pub struct Readers {
    /// All of them: 0, and nothing is sent.
    pub all: AtomicUsize,
    /// Those that want events too, of which there are many.
    pub of_events: AtomicUsize,
}

/// Where items go in, while somebody reads them.
#[derive(Clone)]
pub struct Stream {
    to: mpsc::Sender<Item>,
    readers: Arc<Readers>,
    missed: Arc<AtomicU64>,
}

/// Where they come out.
pub struct StreamEnd {
    /// The items.
    pub from: mpsc::Receiver<Item>,
    /// How many read them.
    pub readers: Arc<Readers>,
    /// Items for which there was no room.
    pub missed: Arc<AtomicU64>,
}

impl Stream {
    /// Both ends.
    pub fn new() -> (Self, StreamEnd) {
        let (to, from) = mpsc::channel(STREAM);
        let readers = Arc::new(Readers::default());
        let missed = Arc::new(AtomicU64::new(0));
        let end = StreamEnd {
            from,
            readers: Arc::clone(&readers),
            missed: Arc::clone(&missed),
        };
        (
            Self {
                to,
                readers,
                missed,
            },
            end,
        )
    }

    /// Sends an event, if anybody reads events.
    pub fn event(&self, row: &Row) {
        if self.readers.of_events.load(Ordering::Relaxed) > 0 {
            self.send(Item::Event(Box::new(row.clone())));
        }
    }

    /// Sends a finding, if anybody reads.
    pub fn finding(&self, finding: &Finding) {
        if self.readers.all.load(Ordering::Relaxed) > 0 {
            self.send(Item::Finding(Box::new(finding.clone())));
        }
    }

    /// Says that an agent's watching has ended, likewise: the last of it.
    pub fn gone(&self, agent: &str) {
        if self.readers.all.load(Ordering::Relaxed) > 0 {
            self.send(Item::Gone(agent.to_owned()));
        }
    }

    fn send(&self, item: Item) {
        if self.to.try_send(item).is_err() {
            self.missed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// What is known of all agents, at one moment.
#[derive(Clone, Default)]
pub struct Snapshot {
    /// When.
    pub taken: Timestamp,
    /// The agents, by name.
    pub agents: Vec<View>,
    /// See [`Host::strays`].
    pub strays: u64,
    /// See [`Host::gone`].
    pub gone: u64,
    /// See [`Host::past`].
    pub past: Past,
}

/// What is known of an agent.
#[derive(Clone)]
pub struct View {
    /// See [`Agent::number`].
    pub number: u32,
    /// Its name.
    pub name: Arc<str>,
    /// How it is with it.
    pub standing: Standing,
    /// What was counted.
    pub counts: Counts,
    /// Watched since.
    pub since: Timestamp,
    /// How it was found.
    pub found_by: FoundBy,
    /// Its policy.
    pub policy: Arc<Policy>,
    /// What that is called.
    pub policy_source: Arc<str>,
    /// See [`Agent::not_in_force`].
    pub not_in_force: Vec<String>,
    /// The folder that is its own to change.
    pub workspace: Option<String>,
    /// Its cgroup.
    pub cgroup: AgentCgroup,
    /// The run's id.
    pub run: Option<String>,
    /// Records that were delivered.
    pub delivered: u64,
    /// Events and findings that are not in the history.
    pub not_stored: u64,
}

/// Something that is asked of the host.
pub enum Order {
    /// Do something to an agent. What can take its time is left to who asked.
    Act {
        /// To which.
        number: u32,
        /// What.
        verb: Verb,
        /// Why.
        why: String,
        /// Whether it was ordered, and its cgroup.
        reply: oneshot::Sender<Result<AgentCgroup>>,
    },
    /// Kill what an agent has outside its cgroup; asked once that is empty.
    KillOutside {
        /// Of which.
        number: u32,
        /// How many these were.
        reply: oneshot::Sender<usize>,
    },
    /// What is known of an agent's flows and processes beside what the kernel's maps say.
    Known {
        /// Of which.
        number: u32,
        /// It.
        reply: oneshot::Sender<Known>,
    },
}

/// What is known of an agent's flows and processes.
#[derive(Default)]
pub struct Known {
    /// The peers' names of flows, by cookie.
    pub names: Vec<(u64, SocketAddr, String)>,
    /// What the processes did.
    pub did: HashMap<ProcessKey, Did>,
}

/// A queue for orders.
pub fn orders() -> (mpsc::Sender<Order>, mpsc::Receiver<Order>) {
    mpsc::channel(ORDERS)
}

impl Host {
    /// What is known now.
    pub fn snapshot(&self) -> Snapshot {
        let mut agents: Vec<View> = self.agents().map(|agent| self.view(agent)).collect();
        agents.sort_by(|a, b| a.name.cmp(&b.name));
        Snapshot {
            taken: Timestamp::now(),
            agents,
            strays: self.strays,
            gone: self.gone,
            past: self.past.clone(),
        }
    }

    fn view(&self, agent: &Agent) -> View {
        let store = agent.outputs.store.as_ref();
        View {
            number: agent.number,
            name: Arc::clone(&agent.name),
            standing: agent.standing.clone(),
            counts: agent.counts.clone(),
            since: agent.since,
            found_by: agent.found_by.clone(),
            policy: Arc::clone(agent.pipeline.policy()),
            policy_source: Arc::clone(&agent.policy_source),
            not_in_force: agent.not_in_force.clone(),
            workspace: agent.workspace.clone(),
            cgroup: agent.cgroup().clone(),
            run: store.map(|store| store.run.clone()),
            delivered: self.delivered(agent.number),
            not_stored: store.map_or(0, |store| store.stats().dropped),
        }
    }

    /// Does what is asked. Who asked may have gone away: nobody waits for the answer then.
    pub fn serve(&mut self, order: Order) {
        match order {
            Order::Act {
                number,
                verb,
                why,
                reply,
            } => {
                let _ = reply.send(self.act(number, verb, why));
            }
            Order::KillOutside { number, reply } => {
                let killed = self
                    .agent(number)
                    .map(|agent| respond::kill_outside(agent.cgroup(), self.members(number)));
                let _ = reply.send(killed.map_or(0, |pids| pids.len()));
            }
            Order::Known { number, reply } => {
                let known = self.agent(number).map(|agent| {
                    let world = &agent.pipeline.world;
                    let named = world.flows.named_of(number);
                    Known {
                        names: named
                            .map(|(cookie, remote, name)| (cookie, remote, name.to_owned()))
                            .collect(),
                        did: world.processes.alive().collect(),
                    }
                });
                let _ = reply.send(known.unwrap_or_default());
            }
        }
    }

    /// Orders something of the kernel for an agent as a whole.
    fn act(&mut self, number: u32, verb: Verb, why: String) -> Result<AgentCgroup> {
        let members = match verb {
            Verb::Freeze | Verb::Thaw => self.members(number),
            _ => Vec::new(),
        };
        let agent = self
            .agents
            .get_mut(&number)
            .context("it has ended meanwhile")?;
        let cgroup = agent.cgroup().clone();
        match verb {
            Verb::Freeze | Verb::Thaw => {
                let freeze = verb == Verb::Freeze;
                cgroup.freeze(freeze)?;
                respond::stop_outside(&cgroup, members, freeze);
                agent.standing.frozen = freeze;
            }
            Verb::Quarantine | Verb::Release => {
                let cut_off = verb == Verb::Quarantine;
                let probe = self.probe.as_mut().context("the watching has ended")?;
                probe.quarantine(number, cut_off)?;
                agent.standing.quarantined = cut_off;
            }
            Verb::Kill => {
                cgroup.kill()?;
                agent.standing.killed = true;
            }
        }
        let standing = &mut agent.standing;
        standing.reason = if standing.frozen || standing.quarantined || standing.killed {
            Some(why)
        } else {
            None
        };
        Ok(cgroup)
    }
}
