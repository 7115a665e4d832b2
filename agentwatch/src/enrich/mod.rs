//! What is known of the agents: their processes, flows and files, kept up to date event by event.

pub mod conversations;
pub mod files;
pub mod flows;
pub mod names;
pub mod processes;

use std::collections::HashMap;

use crate::{
    domain::Domain,
    event::{AgentInfo, Direction, Event, Kind, Protocol},
};
use conversations::Conversations;
use files::Files;
use flows::Flows;
use names::Names;
use processes::Processes;

/// Everything that is known by now.
#[derive(Default)]
pub struct World {
    /// The processes of all agents and their ancestors.
    pub processes: Processes,
    /// The flows that are open.
    pub flows: Flows,
    /// What is said on them, as far as it is not whole yet.
    pub conversations: Conversations,
    /// The names that the agents were told.
    pub names: Names,
    agents: HashMap<u32, Agent>,
}

/// One agent.
pub struct Agent {
    /// Who it is.
    pub info: AgentInfo,
    /// What it made.
    pub files: Files,
}

/// What was known about an event's objects before it changed them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Before {
    /// The file was the agent's own: it made it.
    pub own: bool,
    /// The file that a rename replaced was the agent's own.
    pub own_replaced: bool,
}

impl World {
    /// Takes an event in.
    pub fn observe(&mut self, event: &Event) -> Before {
        self.processes.observe(event);
        self.names.observe(event);
        self.flows.observe(event, &self.names);
        match &event.kind {
            Kind::Agent(info) => {
                self.agents.insert(
                    event.agent,
                    Agent {
                        info: (**info).clone(),
                        files: Files::default(),
                    },
                );
                Before::default()
            }
            Kind::File(file) => match self.agents.get_mut(&event.agent) {
                Some(agent) => agent.files.observe(file),
                None => Before::default(),
            },
            _ => Before::default(),
        }
    }

    /// The name of the peer of a flow that the agent opened, as it is known before the event.
    pub fn domain(&self, event: &Event) -> Option<Domain> {
        let endpoint = event.kind.endpoint()?;
        if endpoint.direction != Direction::Out {
            return None;
        }
        // A UDP socket may have many peers; a connection keeps the name that it was opened with.
        let flow = match endpoint.protocol {
            Protocol::Tcp => self.flows.get(event.agent, endpoint.cookie),
            _ => None,
        };
        flow.and_then(|flow| flow.domain.clone()).or_else(|| {
            self.names
                .of(event.agent, endpoint.remote.ip, event.time_ns)
        })
    }

    /// An agent by its number.
    pub fn agent(&self, number: u32) -> Option<&Agent> {
        self.agents.get(&number)
    }

    /// An agent's name, its number where it has not been introduced.
    pub fn agent_name(&self, number: u32) -> String {
        self.agent(number).map_or_else(
            || format!("agent-{number}"),
            |agent| agent.info.name.clone(),
        )
    }
}

#[cfg(test)]
mod tests;
