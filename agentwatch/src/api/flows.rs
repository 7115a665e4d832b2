//! Flows that are open, from the kernel's map.

use std::{
    collections::HashMap,
    net::{Ipv6Addr, SocketAddr},
};

use agentwatch_common::flow::direction;
use jiff::Timestamp;

use super::model::Flow;
use crate::{host::wall_offset_ns, probe::gauge::Gauge};

/// The flows of an agent, oldest first. `names` are those of peers, by cookie.
pub fn of(gauge: &Gauge, agent: u32, names: &[(u64, SocketAddr, String)]) -> Vec<Flow> {
    let offset_ns = wall_offset_ns();
    let mut exes: HashMap<u32, String> = HashMap::new();
    let mut flows: Vec<(u64, Flow)> = gauge
        .flows()
        .into_iter()
        .filter(|(_, state)| state.agent == agent)
        .map(|(key, state)| {
            let address =
                |ip: [u8; 16], port: u16| SocketAddr::new(Ipv6Addr::from(ip).to_canonical(), port);
            let remote = address(state.remote, state.remote_port);
            let name = names
                .iter()
                .find(|(cookie, to, _)| *cookie == key.cookie && *to == remote);
            let exe = exes
                .entry(state.tgid)
                .or_insert_with(|| crate::probe::seed::look(state.tgid).exe);
            let since_ns = i128::from(state.open_ns) + i128::from(offset_ns);
            let flow = Flow {
                cookie: key.cookie,
                protocol: match key.proto {
                    6 => "tcp".to_owned(),
                    17 => "udp".to_owned(),
                    other => other.to_string(),
                },
                direction: match state.direction {
                    direction::OUT => "out",
                    direction::IN => "in",
                    _ => "unknown",
                }
                .to_owned(),
                local: address(state.local, state.local_port).to_string(),
                remote: remote.to_string(),
                domain: name.map(|(_, _, name)| name.clone()),
                pid: state.tgid,
                exe: exe.clone(),
                since: Timestamp::from_nanosecond(since_ns)
                    .unwrap_or_default()
                    .to_string(),
                bytes_in: state.bytes_in,
                bytes_out: state.bytes_out,
            };
            (state.open_ns, flow)
        })
        .collect();
    flows.sort_by_key(|(open_ns, flow)| (*open_ns, flow.cookie));
    flows.into_iter().map(|(_, flow)| flow).collect()
}
