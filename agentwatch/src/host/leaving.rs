//! The end of an agent's watching, and of all of it.

use std::collections::HashSet;

use agentwatch_common::kind;
use anyhow::Result;
use bytes::BytesMut;

use super::{Agent, Host, Outputs, Standing};
use crate::{
    event::Tally,
    finding::Finding,
    probe::deny,
    respond::{self, cgroup::AgentCgroup},
    source::{header, record},
};

/// What is left of an agent whose watching has ended.
pub struct Ended {
    /// Its number.
    pub number: u32,
    /// Its name.
    pub name: String,
    /// Where things went.
    pub outputs: Outputs,
    /// What was sent and lost.
    pub tally: Tally,
    /// The finding for which it was killed.
    pub killed_by: Option<Finding>,
    /// How it was with it.
    pub standing: Standing,
}

impl Host {
    /// Ends the watching of agents: what is open is closed in their streams, losses are told, and
    /// nothing of them is left in the kernel's maps.
    ///
    /// # Errors
    ///
    /// When a map cannot be read, or a recording not be written.
    pub fn remove(&mut self, agents: &HashSet<u32>) -> Result<Vec<Ended>> {
        // Nothing is sent any more once the tags are gone: so what is read now is all, and the counters
        // are final.
        if let Some(probe) = &mut self.probe {
            probe.untag(agents)?;
            for number in agents {
                probe.give_up_sockets(*number)?;
            }
        }
        self.source.drain(&mut self.batch);
        let now = respond::now_ns();
        self.source.repeats(now, true, &mut self.batch);
        for number in agents {
            if let Some(probe) = &mut self.probe {
                for (rule, repeat) in probe.untold(*number)? {
                    self.batch
                        .push(deny::untold_record(*number, rule, &repeat, now));
                }
            }
        }
        self.source.open_flows(agents, now, &mut self.batch);
        for number in agents {
            let tally = self.source.tally(*number);
            let head = header(kind::TALLY, *number, 0, 0, now);
            self.batch
                .push(record(&mut BytesMut::new(), head, &tally, &[]));
        }
        self.flow(&HashSet::new())?;
        let mut ended = Vec::new();
        for number in agents {
            let tally = Tally::from(&self.source.tally(*number));
            if let Some(agent) = self.agents.remove(number) {
                if let Some(stream) = &agent.outputs.stream {
                    stream.gone(&agent.name);
                }
                self.past.add(&agent, &tally);
                ended.push(end(agent, tally));
            }
        }
        if let Some(probe) = &mut self.probe {
            probe.forget(agents)?;
        }
        self.source.forget(agents);
        self.gone += ended.len() as u64;
        self.spare_only_some();
        Ok(ended)
    }

    /// Of those that are named to the kernel as nobody's prey, the ones stay that still have an agent.
    pub(super) fn spare_only_some(&mut self) {
        if let Some(probe) = &mut self.probe {
            let with_runner = self.agents.values().filter(|agent| agent.runner.is_some());
            let cgroups = with_runner.map(Agent::cgroup);
            probe.spare_only(cgroups.flat_map(AgentCgroup::protected));
        }
    }

    /// Looks whether agents that were killed have ended. What they have outside their cgroup ends with them.
    pub(super) fn see_ends(&mut self) {
        let ending: Vec<_> = self
            .agents
            .values()
            .filter_map(|agent| Some((agent.number, agent.ending?)))
            .collect();
        for (number, (since, told)) in ending {
            let members = self.members(number);
            let Some(agent) = self.agents.get_mut(&number) else {
                continue;
            };
            let is_over = agent.cgroup().is_empty();
            let outside = respond::kill_outside(agent.cgroup(), members);
            let took = since.elapsed();
            let said = if is_over {
                agent.ending = None;
                format!(
                    "agentwatch: its processes have ended, {:.1} s after the kill; {} of them outside its cgroup\n",
                    took.as_secs_f64(),
                    outside.len()
                )
            } else if took > respond::EMPTY_WITHIN && !told {
                agent.ending = Some((since, true));
                format!(
                    "agentwatch: its cgroup is not empty {} s after the kill: a process cannot be ended now\n",
                    took.as_secs()
                )
            } else {
                continue;
            };
            agent.outputs.notices.write(&said);
        }
    }

    /// Ends the watching of agents that turn out to be none: into their cgroup came what may be in no agent's.
    pub(super) fn turn_away(&mut self) -> Result<()> {
        let Some(door) = &self.door else {
            return Ok(());
        };
        let mut away = Vec::new();
        for agent in self.agents.values_mut() {
            let came = std::mem::take(&mut agent.came);
            let refused = came
                .into_iter()
                .find_map(|pid| door.still_admits(agent.cgroup(), pid).err());
            if let Some(error) = refused {
                away.push((agent.number, agent.cgroup().clone(), error));
            }
        }
        for (number, cgroup, error) in away {
            let ended = self.remove(&HashSet::from([number]))?;
            if let Some(door) = &mut self.door {
                for agent in ended {
                    door.refused(&agent.name, &cgroup, &error);
                    door.ended(agent);
                }
            }
            // Agents may be below it.
            self.look_again = true;
        }
        Ok(())
    }

    /// Ends the watching of agents whose cgroup was removed and of which no process is left.
    pub(super) fn end_gone(&mut self) -> Result<()> {
        let may_have_ended = std::mem::take(&mut self.may_have_ended);
        if self.door.is_none() || !may_have_ended {
            return Ok(());
        }
        let mut gone: HashSet<u32> = self
            .agents
            .values()
            .filter(|agent| agent.standing.gone)
            .map(|agent| agent.number)
            .collect();
        if gone.is_empty() {
            return Ok(());
        }
        // A process that has left the cgroup is the agent's still.
        if let Some(probe) = &self.probe {
            let alive = probe.with_processes()?;
            gone.retain(|number| !alive.contains(number));
        }
        if gone.is_empty() {
            return Ok(());
        }
        let ended = self.remove(&gone)?;
        if let Some(door) = &mut self.door {
            for agent in ended {
                door.ended(agent);
            }
        }
        Ok(())
    }

    /// Ends the watching of all agents, and detaches. They go on running.
    ///
    /// # Errors
    ///
    /// As [`Host::remove`].
    pub fn end(mut self) -> Result<Vec<Ended>> {
        let all: HashSet<u32> = self.agents.keys().copied().collect();
        let mut ended = self.remove(&all)?;
        if let Some(probe) = self.probe.take()
            && let Err(error) = probe.leave()
        {
            let said = format!("agentwatch: detaching took its time: {error}\n");
            if let Some(agent) = ended.first_mut() {
                agent.outputs.notices.write(&said);
            }
        }
        Ok(ended)
    }
}

fn end(agent: Agent, mut tally: Tally) -> Ended {
    let Agent {
        number,
        name,
        pipeline,
        outputs,
        killed_by,
        standing,
        ..
    } = agent;
    if pipeline.undecodable > 0 {
        tally.lost.push(("not understood", pipeline.undecodable));
    }
    Ended {
        number,
        name: name.to_string(),
        outputs,
        tally,
        killed_by,
        standing,
    }
}
