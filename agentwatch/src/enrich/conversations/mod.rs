//! What is said on the flows: puts the bytes of a message together that came in several packets, and
//! has them read.
//!
//! A message may begin wherever a packet begins, not only at the start of its flow: behind a proxy's
//! CONNECT or STARTTLS too. So nothing is kept of a flow but the bytes of a message that is not whole
//! yet. Bytes that are missing end it: what there is of it is read then.

use std::collections::HashMap;

use crate::{
    decode::payload::{self, Message, Parsed, Payload, dns},
    event::{Direction, Endpoint, Event, FlowData, Kind, Protocol},
};

/// The port of DNS.
const DNS_PORT: u16 = agentwatch_common::flow::DNS_PORT;
/// Most bytes that are kept, of all messages together. When it is more, the one that grows is read as
/// it is.
const BYTES: usize = 4 << 20;
/// Most messages that are kept: a few hundred bytes each beside their own. Further ones are read as far
/// as their first packet goes.
const MESSAGES: usize = 4096;

/// The messages that are not whole yet.
#[derive(Default)]
pub struct Conversations {
    begun: HashMap<Key, Begun>,
    held: usize,
}

type Key = (u32, u64, Direction);

/// A message of which more is to come.
struct Begun {
    endpoint: Endpoint,
    /// Where in the flow it begins.
    offset: u64,
    bytes: Vec<u8>,
}

impl Conversations {
    /// Takes an event in; what was said, as events of their own.
    pub fn observe(&mut self, event: &Event) -> Vec<Event> {
        let mut said = Vec::new();
        match &event.kind {
            Kind::FlowData(data) if data.endpoint.protocol == Protocol::Udp => {
                let cut = data.data.len() < data.len as usize;
                let message = dns::datagram(&data.data, is_dns(&data.endpoint), cut);
                said.extend(message.map(|dns| Payload {
                    endpoint: data.endpoint,
                    direction: data.direction,
                    offset: data.offset,
                    message: Message::Dns(dns),
                }));
            }
            Kind::FlowData(data) => self.packet(event.agent, data, &mut said),
            Kind::FlowClose(close) => {
                for direction in [Direction::Out, Direction::In] {
                    let key = (event.agent, close.endpoint.cookie, direction);
                    let rest = self.take(&key);
                    said.extend(rest.and_then(|begun| begun.cut(direction)));
                }
            }
            _ => {}
        }
        said.into_iter().map(|said| derived(event, said)).collect()
    }

    /// Takes a packet of a stream in.
    fn packet(&mut self, agent: u32, data: &FlowData, said: &mut Vec<Payload>) {
        let key = (agent, data.endpoint.cookie, data.direction);
        let mut begun = self.take(&key).unwrap_or(Begun {
            endpoint: data.endpoint,
            offset: data.offset,
            bytes: Vec::new(),
        });
        let next = begun.offset + begun.bytes.len() as u64;
        // Bytes that were there before, in a packet that was sent again with more behind it.
        let known = next.saturating_sub(data.offset);
        let new = usize::try_from(known).ok().and_then(|n| data.data.get(n..));
        if data.offset > next {
            said.extend(begun.cut(data.direction));
            begun.offset = data.offset;
            begun.bytes.clone_from(&data.data);
        } else {
            begun.bytes.extend_from_slice(new.unwrap_or_default());
        }
        begun.endpoint = data.endpoint;
        let mut more = begun.read(data.direction, said);
        let end = data.offset.saturating_add(u64::from(data.len));
        let whole = begun.offset + begun.bytes.len() as u64 >= end;
        if more && (!whole || self.held + begun.bytes.len() > BYTES || self.begun.len() >= MESSAGES)
        {
            said.extend(begun.cut(data.direction));
            more = false;
        }
        if more {
            self.held += begun.bytes.len();
            self.begun.insert(key, begun);
        }
    }

    fn take(&mut self, key: &Key) -> Option<Begun> {
        let begun = self.begun.remove(key)?;
        self.held -= begun.bytes.len();
        Some(begun)
    }
}

impl Begun {
    /// Reads every message that is whole, and says whether the rest may become one.
    fn read(&mut self, direction: Direction, said: &mut Vec<Payload>) -> bool {
        let dns = is_dns(&self.endpoint);
        let mut at = 0;
        let more = loop {
            let rest = &self.bytes[at..];
            if rest.is_empty() {
                break false;
            }
            let parsed = match payload::stream(rest) {
                Parsed::Other if dns => dns::stream(rest).map(Message::Dns),
                parsed => parsed,
            };
            match parsed {
                Parsed::Whole(message, len) => {
                    said.push(Payload {
                        endpoint: self.endpoint,
                        direction,
                        offset: self.offset + at as u64,
                        message,
                    });
                    at = (at + len.max(1)).min(self.bytes.len());
                }
                Parsed::Begun => break true,
                Parsed::Other => break false,
            }
        };
        self.bytes.drain(..at);
        self.offset += at as u64;
        more
    }

    /// What there is of it: no more comes.
    fn cut(&self, direction: Direction) -> Option<Payload> {
        let dns = || {
            is_dns(&self.endpoint)
                .then(|| dns::cut_stream(&self.bytes))
                .flatten()
        };
        let message = payload::cut_stream(&self.bytes).or_else(|| dns().map(Message::Dns))?;
        Some(Payload {
            endpoint: self.endpoint,
            direction,
            offset: self.offset,
            message,
        })
    }
}

fn is_dns(endpoint: &Endpoint) -> bool {
    endpoint.remote.port == DNS_PORT || endpoint.local.port == DNS_PORT
}

/// A message as an event of its own: who and when is the packet's.
fn derived(event: &Event, said: Payload) -> Event {
    let Event {
        time_ns,
        agent,
        process,
        tid,
        ppid,
        uid,
        gid,
        cgroup,
        comm,
        partial: _,
        domain: _,
        kind: _,
    } = event;
    Event {
        time_ns: *time_ns,
        agent: *agent,
        process: *process,
        tid: *tid,
        ppid: *ppid,
        uid: *uid,
        gid: *gid,
        cgroup: *cgroup,
        comm: comm.clone(),
        partial: is_cut(&said.message),
        domain: None,
        kind: Kind::Payload(Box::new(said)),
    }
}

fn is_cut(message: &Message) -> bool {
    match message {
        Message::Tls(hello) => hello.cut,
        Message::Dns(dns) => dns.cut,
        Message::Http(request) => request.cut,
        Message::Stratum(stratum) => stratum.cut,
        Message::Ssh(_) => false,
    }
}

#[cfg(test)]
mod tests;
