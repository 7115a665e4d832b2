//! The flows that are open: whose, where to, and how they began.

use std::{collections::HashMap, net::SocketAddr};

use super::names::Names;
use crate::{
    decode::payload::{Message, Payload},
    domain::{Domain, DomainSource},
    event::{Direction, Endpoint, Event, Kind, ProcessKey, Protocol, Trigger},
};

/// Most flows that are kept; further ones are not known to the detectors.
const FLOWS: usize = 64 * 1024;
/// Most bytes kept of each direction.
const HEAD: usize = 256;

/// A flow.
#[derive(Debug, Clone)]
pub struct Flow {
    /// Its ends.
    pub endpoint: Endpoint,
    /// The process that opened or took it.
    pub owner: ProcessKey,
    /// When it was asked for, `CLOCK_BOOTTIME` nanoseconds.
    pub since_ns: u64,
    /// What its process had got last when it asked for it.
    pub trigger: Option<Trigger>,
    /// The first bytes in.
    pub head_in: Vec<u8>,
    /// The first bytes out.
    pub head_out: Vec<u8>,
    /// One side introduced itself as SSH does.
    pub ssh: bool,
    /// The peer's name.
    pub domain: Option<Domain>,
}

/// All of them.
#[derive(Default)]
pub struct Flows {
    open: HashMap<(u32, u64), Flow>,
}

impl Flows {
    /// Takes an event in.
    pub fn observe(&mut self, event: &Event, names: &Names) {
        match &event.kind {
            Kind::Connect(connect) => {
                self.insert(event, connect.endpoint, connect.trigger.clone());
            }
            Kind::Payload(payload) => {
                self.named(event, payload, names);
                // Also behind a proxy, or behind other lines of the server.
                if let Message::Ssh(_) = payload.message
                    && let Some(flow) = self.open.get_mut(&(event.agent, payload.endpoint.cookie))
                {
                    flow.ssh = true;
                }
            }
            Kind::Accept(endpoint) | Kind::FlowOpen(endpoint) => {
                match self.open.get_mut(&(event.agent, endpoint.cookie)) {
                    Some(flow) => {
                        flow.endpoint = *endpoint;
                        if event.process.pid != 0 {
                            flow.owner = event.process;
                        }
                    }
                    None => self.insert(event, *endpoint, None),
                }
            }
            Kind::FlowData(data) => {
                let key = (event.agent, data.endpoint.cookie);
                if !self.open.contains_key(&key) {
                    self.insert(event, data.endpoint, None);
                }
                if let Some(flow) = self.open.get_mut(&key) {
                    let head = match data.direction {
                        Direction::Out => &mut flow.head_out,
                        _ => &mut flow.head_in,
                    };
                    let room = HEAD.saturating_sub(head.len());
                    head.extend(data.data.iter().take(room));
                    flow.ssh |= is_ssh_banner(data.offset, &data.data);
                }
            }
            Kind::FlowClose(close) => {
                self.open.remove(&(event.agent, close.endpoint.cookie));
            }
            _ => {}
        }
    }

    fn insert(&mut self, event: &Event, endpoint: Endpoint, trigger: Option<Trigger>) {
        if self.open.len() >= FLOWS {
            return;
        }
        self.open.insert(
            (event.agent, endpoint.cookie),
            Flow {
                endpoint,
                owner: event.process,
                since_ns: event.time_ns,
                trigger,
                head_in: Vec::new(),
                head_out: Vec::new(),
                ssh: false,
                domain: event.domain.clone(),
            },
        );
    }

    /// The agent says whom it talks to. Where a name server gave that name this address too, it is the
    /// one of several that is meant; else what a name server said counts more.
    fn named(&mut self, event: &Event, payload: &Payload, names: &Names) {
        let Some((name, source)) = claim(payload) else {
            return;
        };
        let key = (event.agent, payload.endpoint.cookie);
        let Some(flow) = self.open.get_mut(&key) else {
            return;
        };
        let ip = flow.endpoint.remote.ip;
        if names.has(event.agent, ip, &name, event.time_ns) {
            let source = DomainSource::Dns;
            flow.domain = Some(Domain { name, source });
        } else if flow.domain.is_none() {
            flow.domain = Some(Domain { name, source });
        }
    }

    /// An agent's flow by its cookie.
    pub fn get(&self, agent: u32, cookie: u64) -> Option<&Flow> {
        self.open.get(&(agent, cookie))
    }

    /// The flows of an agent whose peer has a name: cookie, peer, name.
    pub fn named_of(&self, agent: u32) -> impl Iterator<Item = (u64, SocketAddr, &str)> {
        self.open
            .iter()
            .filter(move |((owner, _), _)| *owner == agent)
            .filter_map(|((_, cookie), flow)| {
                let name = flow.domain.as_ref()?.name.as_str();
                let remote = flow.endpoint.remote;
                Some((*cookie, SocketAddr::new(remote.ip, remote.port), name))
            })
    }

    /// The TCP connections that an agent opened and that are there now.
    pub fn opened_by(&self, agent: u32) -> impl Iterator<Item = &Flow> {
        self.open
            .iter()
            .filter(move |((owner, _), _)| *owner == agent)
            .map(|(_, flow)| flow)
            .filter(|flow| {
                flow.endpoint.direction == Direction::Out && flow.endpoint.protocol == Protocol::Tcp
            })
    }
}

/// The name of the peer in a message, if it is the first of a connection that the agent opened: later
/// ones may be meant for somebody behind a proxy.
fn claim(payload: &Payload) -> Option<(String, DomainSource)> {
    let Payload {
        endpoint,
        direction,
        offset,
        message,
    } = payload;
    if endpoint.direction != Direction::Out
        || endpoint.protocol != Protocol::Tcp
        || *direction != Direction::Out
        || *offset != 0
    {
        return None;
    }
    let (name, source) = match message {
        Message::Tls(hello) => (hello.server_name.as_deref()?, DomainSource::Sni),
        Message::Http(request) if !request.is_for_proxy() => {
            (without_port(request.host.as_deref()?), DomainSource::Host)
        }
        _ => return None,
    };
    let is_address = name.parse::<std::net::IpAddr>().is_ok() || name.starts_with('[');
    (!is_address && !name.is_empty()).then(|| (name.to_ascii_lowercase(), source))
}

/// `host:port` without the port.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    }
}

/// Whether these are the first bytes of SSH (RFC 4253, 4.2): each side begins so.
pub fn is_ssh_banner(offset: u64, data: &[u8]) -> bool {
    offset == 0 && data.starts_with(b"SSH-")
}
