//! What is known of the agents: their processes, flows and files, kept up to date event by event.

pub mod files;
pub mod flows;
pub mod processes;

use std::collections::HashMap;

use crate::event::{AgentInfo, Event, Kind};
use files::Files;
use flows::Flows;
use processes::Processes;

/// Everything that is known by now.
#[derive(Default)]
pub struct World {
    /// The processes of all agents and their ancestors.
    pub processes: Processes,
    /// The flows that are open.
    pub flows: Flows,
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
        self.flows.observe(event);
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
