//! What the source reads of the kernel programs.

use std::{
    collections::HashSet,
    io,
    os::fd::{AsFd as _, OwnedFd},
};

use agentwatch_common::{
    file::{ThinKey, Thinned},
    flow::{FlowKey, FlowState},
    loss::{CounterKey, Read, Tally, counter},
};
use anyhow::{Context as _, Result};
use aya::{
    maps::{HashMap, MapData, PerCpuHashMap, PerCpuValues, RingBuf},
    util::nr_cpus,
};

use super::{Probe, gauge};

/// What `source.rs` reads.
pub struct Rings {
    /// Urgent records.
    pub prio: RingBuf<MapData>,
    /// All others.
    pub bulk: RingBuf<MapData>,
    /// Flows that are open.
    pub flows: HashMap<MapData, FlowKey, FlowState>,
    /// What was read of each agent.
    pub read: HashMap<MapData, u32, Read>,
    /// Opens that were not told one by one.
    pub thinned: HashMap<MapData, ThinKey, Thinned>,
    counters: PerCpuHashMap<MapData, CounterKey, u64>,
}

impl Rings {
    /// Descriptors of their own that become readable when there are records.
    ///
    /// # Errors
    ///
    /// When there are too many open files.
    pub fn fds(&self) -> io::Result<[OwnedFd; 2]> {
        Ok([
            self.prio.as_fd().try_clone_to_owned()?,
            self.bulk.as_fd().try_clone_to_owned()?,
        ])
    }

    /// An agent's counters, summed over the CPUs. `delivered` is left to the caller.
    pub fn tally(&self, agent: u32) -> Tally {
        gauge::tally(&self.counters, agent)
    }

    /// Counts records of an agent that were read and given up since: as lost, beside what the kernel lost.
    pub fn not_kept(&mut self, agent: u32, records: u64) {
        let key = CounterKey {
            agent,
            counter: counter::LOST_NOT_KEPT,
        };
        let before = self.counters.get(&key, 0);
        let before: u64 = before.map_or(0, |counted| counted.iter().sum());
        let Ok(cpus) = nr_cpus() else {
            return; // then no map of this kind could be read
        };
        let mut counted = vec![0; cpus];
        counted[0] = before + records;
        // Full: the agent is not counted at all then.
        let _ =
            PerCpuValues::try_from(counted).map(|counted| self.counters.insert(key, counted, 0));
    }

    /// Keeps nothing more of agents that have ended.
    pub fn forget(&mut self, agents: &HashSet<u32>) {
        for agent in agents {
            let _ = self.read.remove(agent);
        }
        for &agent in agents {
            // Most of them are not there. Not by a look at all of them: there may be thousands.
            for counter in counter::EMITTED..=counter::DENIED {
                let _ = self.counters.remove(&CounterKey { agent, counter });
            }
        }
        let gone: Vec<ThinKey> = self
            .thinned
            .keys()
            .filter_map(Result::ok)
            .filter(|key| agents.contains(&key.agent))
            .collect();
        for key in gone {
            let _ = self.thinned.remove(&key);
        }
    }
}

impl Probe {
    /// The two ring buffers and what the source reads beside them. Once.
    ///
    /// # Errors
    ///
    /// When they were taken already.
    pub fn take_rings(&mut self) -> Result<Rings> {
        Ok(Rings {
            prio: self.take("EVENTS_PRIO")?.try_into()?,
            bulk: self.take("EVENTS_BULK")?.try_into()?,
            flows: self.take("FLOWS")?.try_into()?,
            read: self.take("READ")?.try_into()?,
            thinned: self.take("THINNED")?.try_into()?,
            counters: self.take("COUNTERS")?.try_into()?,
        })
    }

    /// Has every open of an agent told by itself, or those that repeat one by their number.
    ///
    /// # Errors
    ///
    /// When there are too many agents.
    pub fn thin(&mut self, agent: u32, thin: bool) -> Result<()> {
        let mut unthinned: HashMap<_, u32, u8> = self.map("UNTHINNED")?.try_into()?;
        if thin {
            // It is not there unless the policy was another one before.
            let _ = unthinned.remove(&agent);
            return Ok(());
        }
        unthinned
            .insert(agent, 1, 0)
            .context("too many agents whose opens are not thinned: at most 1024")
    }
}
