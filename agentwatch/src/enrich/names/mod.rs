//! Names of addresses: what the agents were told by the name servers that they asked. Nothing is
//! looked up.
//!
//! A name is a hint, not a proof: an agent can ask a name server of its own. What counts is only an
//! answer to a question that was seen, from whom it was asked.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
};

use crate::{
    decode::payload::{Message, Payload, dns::Dns},
    domain::{Domain, DomainSource},
    event::{Address, Direction, Event, Kind},
};

/// Most addresses of an agent that have names. The quarter that ends first goes when it is full.
const ADDRESSES: usize = 4096;
/// Most names of an address: many share the address of a content network. The oldest goes.
const NAMES: usize = 8;
/// Most questions of an agent that wait for an answer. The oldest goes; its answer names nothing.
const QUESTIONS: usize = 1024;
/// Programs use an address for longer than its TTL: what has none, or little, is kept so long.
const SHORTEST_NS: u64 = 300 * 1_000_000_000;
/// No name is believed for longer than a day.
const LONGEST_NS: u64 = 86_400 * 1_000_000_000;

/// The names that agents were told.
#[derive(Default)]
pub struct Names {
    agents: HashMap<u32, Told>,
}

/// What one agent was told.
#[derive(Default)]
struct Told {
    names: HashMap<IpAddr, Vec<Name>>,
    asked: VecDeque<Question>,
}

/// A name of an address, the newest last.
struct Name {
    name: String,
    until_ns: u64,
}

/// A question that was asked.
#[derive(PartialEq, Eq)]
struct Question {
    cookie: u64,
    server: Address,
    id: u16,
    name: String,
}

impl Names {
    /// Takes an event in.
    pub fn observe(&mut self, event: &Event) {
        let Kind::Payload(payload) = &event.kind else {
            return;
        };
        let Message::Dns(dns) = &payload.message else {
            return;
        };
        let Some(question) = question(payload, dns) else {
            return;
        };
        let told = self.agents.entry(event.agent).or_default();
        match (payload.direction, dns.is_answer) {
            (Direction::Out, false) => told.ask(question),
            (Direction::In, true) if told.asked.contains(&question) => {
                for (ip, ttl_s) in dns.resolved() {
                    let age_ns = u64::from(ttl_s) * 1_000_000_000;
                    let until_ns = event.time_ns + age_ns.clamp(SHORTEST_NS, LONGEST_NS);
                    told.name(ip, &question.name, until_ns, event.time_ns);
                }
            }
            _ => {}
        }
    }

    /// The name that an agent was told last for an address.
    pub fn of(&self, agent: u32, ip: IpAddr, now_ns: u64) -> Option<Domain> {
        let names = self.agents.get(&agent)?.names.get(&ip)?;
        let name = names.iter().rfind(|name| name.until_ns >= now_ns)?;
        Some(Domain {
            name: name.name.clone(),
            source: DomainSource::Dns,
        })
    }

    /// Whether an agent was told this address for a name, in small letters.
    pub fn has(&self, agent: u32, ip: IpAddr, name: &str, now_ns: u64) -> bool {
        self.agents
            .get(&agent)
            .and_then(|told| told.names.get(&ip))
            .is_some_and(|names| {
                names
                    .iter()
                    .any(|known| known.name == name && known.until_ns >= now_ns)
            })
    }
}

impl Told {
    fn ask(&mut self, question: Question) {
        if self.asked.len() >= QUESTIONS {
            self.asked.pop_front();
        }
        self.asked.push_back(question);
    }

    fn name(&mut self, ip: IpAddr, name: &str, until_ns: u64, now_ns: u64) {
        if self.names.len() >= ADDRESSES && !self.names.contains_key(&ip) {
            self.make_room(now_ns);
        }
        let names = self.names.entry(ip).or_default();
        names.retain(|known| known.name != name && known.until_ns >= now_ns);
        if names.len() >= NAMES {
            names.remove(0);
        }
        names.push(Name {
            name: name.to_owned(),
            until_ns,
        });
    }

    fn make_room(&mut self, now_ns: u64) {
        let end = |names: &[Name]| names.iter().map(|name| name.until_ns).max().unwrap_or(0);
        self.names.retain(|_, names| end(names) >= now_ns);
        if self.names.len() < ADDRESSES {
            return;
        }
        // The address decides between equals: a replay drops the same ones.
        let mut ends: Vec<(u64, IpAddr)> = self
            .names
            .iter()
            .map(|(ip, names)| (end(names), *ip))
            .collect();
        ends.sort_unstable();
        for (_, ip) in ends.into_iter().take(ADDRESSES / 4) {
            self.names.remove(&ip);
        }
    }
}

/// What is asked in a question, or answered: servers repeat it. Letters are compared without case, in
/// which resolvers hide random bits ("0x20").
fn question(payload: &Payload, dns: &Dns) -> Option<Question> {
    Some(Question {
        cookie: payload.endpoint.cookie,
        server: payload.endpoint.remote,
        id: dns.id,
        name: dns.question.as_ref()?.name.to_ascii_lowercase(),
    })
}

#[cfg(test)]
mod tests;
