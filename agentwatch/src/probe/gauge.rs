//! What the kernel's maps say of all agents, for who looks on: read apart from the way of the events,
//! by handles of its own.

use std::collections::HashMap as Map;

use agentwatch_common::{
    budget::{Budget, place},
    deny::Enforcement,
    flow::{FlowKey, FlowState},
    loss::{CounterKey, Read, Share, Tally, counter},
    tag::Task,
};
use anyhow::{Context as _, Result};
use aya::maps::{HashMap, Map as AnyMap, MapData, MapInfo, PerCpuHashMap};

use super::Probe;

/// Reads the maps.
pub struct Gauge {
    tasks: HashMap<MapData, u32, Task>,
    flows: HashMap<MapData, FlowKey, FlowState>,
    budgets: HashMap<MapData, u32, Budget>,
    counters: PerCpuHashMap<MapData, CounterKey, u64>,
    cgroups: HashMap<MapData, u64, u32>,
    parents: HashMap<MapData, u64, u32>,
    shares: HashMap<MapData, u32, Share>,
    read: HashMap<MapData, u32, Read>,
    enforced: HashMap<MapData, u32, Enforcement>,
    /// How many entries the maps can have, by name; of a ring, bytes.
    limits: Map<String, u64>,
}

/// How full a map is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fill {
    /// Its name.
    pub map: &'static str,
    /// Entries.
    pub entries: u64,
    /// How many there can be.
    pub most: u64,
}

/// What is left of a deletion budget, and of how much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BudgetLeft {
    /// Outside the workspace: left, limit.
    pub outside: (u64, u64),
    /// Inside.
    pub workspace: (u64, u64),
}

impl Probe {
    /// Handles for reading beside the way of the events. Before [`Probe::take_rings`].
    ///
    /// # Errors
    ///
    /// When the kernel gives none.
    pub fn gauge(&self) -> Result<Gauge> {
        Ok(Gauge {
            tasks: AnyMap::HashMap(self.again("TASKS")?).try_into()?,
            flows: AnyMap::HashMap(self.again("FLOWS")?).try_into()?,
            budgets: AnyMap::HashMap(self.again("BUDGETS")?).try_into()?,
            counters: AnyMap::PerCpuHashMap(self.again("COUNTERS")?).try_into()?,
            cgroups: AnyMap::HashMap(self.again("CGROUPS")?).try_into()?,
            parents: AnyMap::HashMap(self.again("PARENTS")?).try_into()?,
            shares: AnyMap::HashMap(self.again("SHARES")?).try_into()?,
            read: AnyMap::HashMap(self.again("READ")?).try_into()?,
            enforced: AnyMap::HashMap(self.again("ENFORCED")?).try_into()?,
            limits: self.limits()?,
        })
    }

    fn limits(&self) -> Result<Map<String, u64>> {
        let limit = |(name, map): (&str, &AnyMap)| {
            let (AnyMap::HashMap(data) | AnyMap::PerCpuHashMap(data) | AnyMap::RingBuf(data)) = map
            else {
                return None;
            };
            let info = data.info();
            Some(info.map(|info| (name.to_owned(), u64::from(info.max_entries()))))
        };
        let limits: Result<_, _> = self.ebpf.maps().filter_map(limit).collect();
        limits.context("cannot ask how large the maps are")
    }

    fn again(&self, name: &str) -> Result<MapData> {
        let map = self.ebpf.map(name);
        let Some(AnyMap::HashMap(data) | AnyMap::PerCpuHashMap(data)) = map else {
            anyhow::bail!("the kernel object has no map {name}");
        };
        let id = MapInfo::id(&data.info()?);
        MapData::from_id(id).with_context(|| format!("cannot open the map {name} again"))
    }
}

impl Gauge {
    /// How full the maps are that have some entries for each agent, by name.
    pub fn fills(&self) -> [Fill; 9] {
        let Self {
            tasks,
            flows,
            budgets,
            counters,
            cgroups,
            parents,
            shares,
            read,
            enforced,
            limits,
        } = self;
        let fill = |map, entries| Fill {
            map,
            entries,
            most: limits.get(map).copied().unwrap_or(0),
        };
        [
            fill("BUDGETS", count(budgets.keys())),
            fill("CGROUPS", count(cgroups.keys())),
            fill("COUNTERS", count(counters.keys())),
            fill("ENFORCED", count(enforced.keys())),
            fill("FLOWS", count(flows.keys())),
            fill("PARENTS", count(parents.keys())),
            fill("READ", count(read.keys())),
            fill("SHARES", count(shares.keys())),
            fill("TASKS", count(tasks.keys())),
        ]
    }

    /// What the rings have that is not read yet, and how much they hold, bytes: of the urgent and of the
    /// bulk one. Only of agents that have a share.
    pub fn unread(&self) -> [(u64, u64); 2] {
        let mut unread = [0_u64; 2];
        for (agent, share) in self.shares.iter().filter_map(Result::ok) {
            let read = self.read.get(&agent, 0).map_or([0; 2], |read| read.bytes);
            for ((sum, sent), read) in unread.iter_mut().zip(share.sent).zip(read) {
                *sum = sum.saturating_add(sent.saturating_sub(read));
            }
        }
        let holds = |ring: &str| self.limits.get(ring).copied().unwrap_or(0);
        [
            (unread[0], holds("EVENTS_PRIO")),
            (unread[1], holds("EVENTS_BULK")),
        ]
    }

    /// Every tagged process: its id and tag.
    pub fn tasks(&self) -> Vec<(u32, Task)> {
        self.tasks.iter().filter_map(Result::ok).collect()
    }

    /// The agent whose process this is.
    pub fn agent_of(&self, pid: u32) -> Option<u32> {
        self.tasks.get(&pid, 0).ok().map(|task| task.agent)
    }

    /// Every flow that is open.
    pub fn flows(&self) -> Vec<(FlowKey, FlowState)> {
        self.flows.iter().filter_map(Result::ok).collect()
    }

    /// What is left of the deletion budget of each agent that has one.
    pub fn budgets(&self) -> Map<u32, BudgetLeft> {
        let left = |budget: &Budget, at: usize| {
            (
                u64::try_from(budget.left[at]).unwrap_or(0),
                u64::try_from(budget.limit[at]).unwrap_or(0),
            )
        };
        self.budgets
            .iter()
            .filter_map(Result::ok)
            .map(|(agent, budget)| {
                let of = BudgetLeft {
                    outside: left(&budget, place::OUTSIDE),
                    workspace: left(&budget, place::WORKSPACE),
                };
                (agent, of)
            })
            .collect()
    }

    /// An agent's counters. `delivered` is left to the caller.
    pub fn tally(&self, agent: u32) -> Tally {
        tally(&self.counters, agent)
    }
}

/// An agent's counters, summed over the CPUs.
pub(super) fn tally(counters: &PerCpuHashMap<MapData, CounterKey, u64>, agent: u32) -> Tally {
    let get = |what: u32| -> u64 {
        counters
            .get(
                &CounterKey {
                    agent,
                    counter: what,
                },
                0,
            )
            .map_or(0, |values| values.iter().sum())
    };
    let mut lost = [0; 7];
    for (slot, what) in lost
        .iter_mut()
        .zip(counter::LOST_FIRST..=counter::LOST_LAST)
    {
        *slot = get(what);
    }
    Tally {
        emitted: get(counter::EMITTED),
        delivered: 0,
        lost,
        thinned: get(counter::THINNED),
        cut: get(counter::CUT),
        faults: get(counter::FAULTS),
        untagged: get(counter::TASKS_FULL) + get(counter::CGROUPS_FULL),
        opens_read: get(counter::OPENS_READ),
        opens_write: get(counter::OPENS_WRITE),
    }
}

fn count<T, E>(keys: impl Iterator<Item = Result<T, E>>) -> u64 {
    keys.flatten().count() as u64
}
