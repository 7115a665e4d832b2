//! `reverse-tunnel`: a way in, opened from within.
//!
//! The agent opens a connection outward, and what comes in by it reaches services that are not
//! meant to be reached from there. Judged by behaviour, whatever the tool is called:
//!
//! * **Relaying.** Bytes that a process got on one connection that *it opened* go out on another that
//!   it opened, and the answer goes back. Both directions are needed: a program that fetches a job
//!   here and sends its content there does one; a tunnel does both. Connections that the process
//!   *took* do not count: a web server in front of a database takes one and opens the other. The
//!   bytes are compared, from the first 256 of each flow in each direction and the last 64 that a
//!   process got, so a tunnel that has been idle for hours is seen with its first relayed connection.
//!   The two connections may be of a process and its child (`socat … EXEC:…`), or of two others of
//!   the agent (`nc … | nc …`).
//! * **SSH that opens connections.** SSH hides what it carries, but not that a client which opened an
//!   SSH connection opens another one within a moment of hearing from the server: `ssh -R`, any
//!   other client's too. A session, git, scp and rsync open nothing. Name lookups (port 53) and
//!   Kerberos (88) are what clients do by themselves.
//! * **SSH to where the policy allows nothing**, by the banner on the wire, at once. Where the policy
//!   does not limit destinations this says nothing: agents may use git.
//!
//! `-R`, `-w`, `-D` in the arguments and the names of tools are told as evidence, and decide nothing.
//!
//! MITRE ATT&CK: T1572, Protocol Tunneling; T1090, Proxy; T1021.004, Remote Services: SSH.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use super::{Detection, evidence};
use crate::{
    enrich::{
        World,
        flows::{Flow, is_ssh_banner},
    },
    event::{Connect, Direction, Event, FlowData, Kind, Protocol},
    finding::{Evidence, Severity, Technique},
    policy::Policy,
};

/// The stable id.
pub const ID: &str = "reverse-tunnel";

/// An SSH client that opens a connection so soon after hearing from the server does so because of
/// it. A server's request takes a round trip within the client only; 1 s is far above that.
const ANSWER_NS: u64 = 1_000_000_000;
/// The shortest payload whose passing on proves anything: shorter ones are the same by chance
/// (`OK\r\n`).
const PROOF: usize = 5;
/// The same for two processes that are not parent and child.
const PROOF_AMONG_STRANGERS: usize = 16;
/// Ports that clients talk to by themselves in the middle of a connection: DNS, Kerberos.
const CLIENT_PORTS: [u16; 2] = [53, 88];
/// Most relays that are followed for one agent.
const LINKS: usize = 4096;

const TECHNIQUES: [Technique; 2] = [
    Technique {
        id: "T1572",
        name: "Protocol Tunneling",
    },
    Technique {
        id: "T1090",
        name: "Proxy",
    },
];
const TECHNIQUES_SSH: [Technique; 2] = [
    Technique {
        id: "T1572",
        name: "Protocol Tunneling",
    },
    Technique {
        id: "T1021.004",
        name: "Remote Services: SSH",
    },
];

/// The state: which flows pass on what, by agent.
#[derive(Default)]
pub struct ReverseTunnel {
    /// (agent, from, to): what was passed on, and when.
    links: HashMap<(u32, u64, u64), Evidence>,
    /// Flows of which it was said already.
    told: HashSet<(u32, u64)>,
}

impl ReverseTunnel {
    /// Looks at an event.
    pub fn observe(
        &mut self,
        event: &Event,
        world: &World,
        policy: &Policy,
        found: &mut Vec<Detection>,
    ) {
        match &event.kind {
            Kind::Connect(connect) => self.ssh_opens(event, connect, world, found),
            Kind::FlowData(data) => {
                self.forbidden_ssh(event, data, world, policy, found);
                if data.direction == Direction::Out {
                    self.passed_on(event, data, world, found);
                }
            }
            Kind::FlowClose(close) => self.forget(event.agent, close.endpoint.cookie),
            _ => {}
        }
    }

    /// An SSH client opens a connection in answer to its server.
    fn ssh_opens(
        &mut self,
        event: &Event,
        connect: &Connect,
        world: &World,
        found: &mut Vec<Detection>,
    ) {
        let Connect {
            endpoint,
            trigger: Some(trigger),
        } = connect
        else {
            return;
        };
        let Some(outer) = world.flows.get(event.agent, trigger.cookie) else {
            return;
        };
        let asked = event.time_ns.saturating_sub(trigger.at_ns) <= ANSWER_NS;
        let by_itself = CLIENT_PORTS.contains(&endpoint.remote.port);
        if !outer.ssh
            || outer.endpoint.direction != Direction::Out
            || endpoint.protocol != Protocol::Tcp
            || endpoint.remote == outer.endpoint.remote
            || !asked
            || by_itself
            || !self.told.insert((event.agent, trigger.cookie))
        {
            return;
        }
        let after_us = event.time_ns.saturating_sub(trigger.at_ns) / 1000;
        let mut story = beginning(outer);
        story.push(Evidence {
            time_ns: trigger.at_ns,
            kind: "flow_data".to_owned(),
            pid: outer.owner.pid,
            what: format!("{} bytes came from {}", trigger.len, outer.endpoint.remote),
            path: None,
            remote: Some(outer.endpoint.remote.to_string()),
        });
        story.push(evidence(
            event,
            format!(
                "{after_us} µs later it opened a connection to {}",
                endpoint.remote
            ),
        ));
        story.extend(hints(event, world));
        found.push(Detection {
            detector: ID,
            severity: Severity::Critical,
            techniques: TECHNIQUES_SSH.to_vec(),
            message: format!(
                "{} (pid {}) holds an SSH connection to {} and opens connections on its server's \
                 request, the first to {}: a reverse tunnel",
                name(event, world),
                event.process.pid,
                outer.endpoint.remote,
                endpoint.remote,
            ),
            process: event.process,
            evidence: story,
            cause: format!("tunnel {}", outer.endpoint.remote),
        });
    }

    /// SSH to where the policy allows nothing.
    fn forbidden_ssh(
        &mut self,
        event: &Event,
        data: &FlowData,
        world: &World,
        policy: &Policy,
        found: &mut Vec<Detection>,
    ) {
        let remote = data.endpoint.remote;
        if !is_ssh_banner(data.offset, &data.data)
            || data.endpoint.direction != Direction::Out
            || !policy.destinations.is_limited()
            || policy.destinations.allows(remote.ip, remote.port)
            || !self.told.insert((event.agent, data.endpoint.cookie))
        {
            return;
        }
        let mut story: Vec<Evidence> = world
            .flows
            .get(event.agent, data.endpoint.cookie)
            .map(beginning)
            .unwrap_or_default();
        story.truncate(1);
        story.push(evidence(
            event,
            format!("SSH banner: {}", shown(&data.data)),
        ));
        story.extend(hints(event, world));
        found.push(Detection {
            detector: ID,
            severity: Severity::High,
            techniques: TECHNIQUES_SSH.to_vec(),
            message: format!(
                "{} (pid {}) speaks SSH with {remote}, which is not among the policy's allowed \
                 destinations",
                name(event, world),
                event.process.pid,
            ),
            process: event.process,
            evidence: story,
            cause: format!("ssh {remote}"),
        });
    }

    /// Bytes go out: did they come in elsewhere?
    fn passed_on(
        &mut self,
        event: &Event,
        data: &FlowData,
        world: &World,
        found: &mut Vec<Detection>,
    ) {
        // The banner is the same for all that run one version: two sessions are no relay.
        if data.data.len() < PROOF || is_ssh_banner(data.offset, &data.data) {
            return;
        }
        let to = data.endpoint.cookie;
        let Some(target) = world.flows.get(event.agent, to) else {
            return;
        };
        if target.endpoint.direction != Direction::Out {
            return;
        }
        let sources: Vec<(u64, &Flow)> = world
            .flows
            .opened_by(event.agent)
            .map(|flow| (flow.endpoint.cookie, flow))
            .filter(|(cookie, flow)| *cookie != to && came_from(data, flow, target, world))
            .collect();
        for (from, source) in sources {
            if self.links.len() >= LINKS {
                return;
            }
            let link = evidence(
                event,
                format!(
                    "{} bytes from {} passed on to {}: {}",
                    data.len,
                    source.endpoint.remote,
                    data.endpoint.remote,
                    shown(&data.data)
                ),
            );
            self.links
                .entry((event.agent, from, to))
                .or_insert_with(|| link.clone());
            if let Some(back) = self.links.get(&(event.agent, to, from)) {
                let story = [back.clone(), link];
                self.relay(event, source, target, story, world, found);
            }
        }
    }

    /// Both directions are there.
    fn relay(
        &mut self,
        event: &Event,
        one: &Flow,
        other: &Flow,
        links: [Evidence; 2],
        world: &World,
        found: &mut Vec<Detection>,
    ) {
        let (outer, inner) = order(one, other);
        if !self.told.insert((event.agent, outer.endpoint.cookie)) {
            return;
        }
        let inward = is_inward(inner.endpoint.remote.ip);
        let mut story = beginning(outer);
        story.extend(beginning(inner));
        story.extend(links);
        story.sort_by_key(|piece| piece.time_ns);
        story.extend(hints(event, world));
        found.push(Detection {
            detector: ID,
            // Between two hosts outside it is a proxy, which opens nothing of ours.
            severity: if inward {
                Severity::Critical
            } else {
                Severity::Medium
            },
            techniques: TECHNIQUES.to_vec(),
            message: format!(
                "{} (pid {}) relays between {}, which it connected to, and {}: {}",
                name(event, world),
                event.process.pid,
                outer.endpoint.remote,
                inner.endpoint.remote,
                if inward {
                    "a reverse tunnel"
                } else {
                    "a proxy between two hosts outside"
                },
            ),
            process: event.process,
            evidence: story,
            cause: format!("tunnel {}", outer.endpoint.remote),
        });
    }

    fn forget(&mut self, agent: u32, cookie: u64) {
        self.links
            .retain(|(of, from, to), _| *of != agent || (*from != cookie && *to != cookie));
        self.told.remove(&(agent, cookie));
    }
}

/// Whether the bytes that go out came in by another flow before.
fn came_from(data: &FlowData, source: &Flow, target: &Flow, world: &World) -> bool {
    let kin = world.processes.close_kin(source.owner, target.owner);
    let need = if kin { PROOF } else { PROOF_AMONG_STRANGERS };
    if data.data.len() < need {
        return false;
    }
    // What was got last: the whole of it, or as much as was kept.
    if let Some(trigger) = &data.trigger
        && trigger.cookie == source.endpoint.cookie
        && common(&trigger.head, &data.data) >= need.min(trigger.head.len()).max(PROOF)
    {
        return true;
    }
    // The beginning of the flow, wherever in it: a relay may have a word of its own before.
    let sample = &data.data[..data.data.len().min(64)];
    sample.len() >= need
        && source
            .head_in
            .windows(sample.len())
            .any(|window| window == sample)
}

/// How many bytes two begin with alike, up to the shorter one's length.
fn common(a: &[u8], b: &[u8]) -> usize {
    let same = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    // A relay may pass on what came in two packets as one, or the other way round; but what there is
    // of the shorter must be the same to its end.
    if same == a.len().min(b.len()) {
        same
    } else {
        0
    }
}

/// Which of two flows leads out: the one that does not lead inward, else the older.
fn order<'a>(a: &'a Flow, b: &'a Flow) -> (&'a Flow, &'a Flow) {
    let outward = |flow: &Flow| !is_inward(flow.endpoint.remote.ip);
    match (outward(a), outward(b)) {
        (true, false) => (a, b),
        (false, true) => (b, a),
        _ if a.since_ns <= b.since_ns => (a, b),
        _ => (b, a),
    }
}

/// Loopback, private, link-local: what a tunnel from outside opens up.
fn is_inward(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            ip.is_loopback() || ip.is_private() || ip.is_link_local() || ip.is_unspecified()
        }
        IpAddr::V6(ip) => {
            ip.is_loopback()
                || ip.is_unicast_link_local()
                || ip.is_unique_local()
                || ip.is_unspecified()
        }
    }
}

/// How a flow began, as evidence.
fn beginning(flow: &Flow) -> Vec<Evidence> {
    let mut story = vec![Evidence {
        time_ns: flow.since_ns,
        kind: "connect".to_owned(),
        pid: flow.owner.pid,
        what: format!("connected to {}", flow.endpoint.remote),
        path: None,
        remote: Some(flow.endpoint.remote.to_string()),
    }];
    if flow.ssh {
        story.push(Evidence {
            time_ns: flow.since_ns,
            kind: "flow_data".to_owned(),
            pid: flow.owner.pid,
            what: format!("SSH on the wire: {}", shown(&flow.head_in)),
            path: None,
            remote: Some(flow.endpoint.remote.to_string()),
        });
    }
    story
}

/// What the arguments say, for people: it decides nothing.
fn hints(event: &Event, world: &World) -> Option<Evidence> {
    let process = world.processes.get(event.process)?;
    let asks = |arg: &str| {
        ["-R", "-w", "-D"].iter().any(|flag| arg.starts_with(flag)) || arg.contains("RemoteForward")
    };
    let at = process.argv.iter().skip(1).position(|arg| asks(arg))?;
    // With the word after it, which says what is forwarded.
    let told: Vec<&str> = process
        .argv
        .iter()
        .skip(1 + at)
        .take(2)
        .map(String::as_str)
        .collect();
    Some(Evidence {
        time_ns: event.time_ns,
        kind: "exec".to_owned(),
        pid: event.process.pid,
        what: format!("its arguments ask for forwarding: {}", told.join(" ")),
        path: None,
        remote: None,
    })
}

/// A process's program.
fn name(event: &Event, world: &World) -> String {
    world
        .processes
        .exe(event.process)
        .unwrap_or("a process")
        .to_owned()
}

/// The first line of a payload, short.
fn shown(bytes: &[u8]) -> String {
    let line = bytes.split(|b| *b == b'\n').next().unwrap_or(bytes);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let cut = &line[..line.len().min(48)];
    crate::text::escape(cut)
}
