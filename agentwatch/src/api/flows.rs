//! Flows that are open, from the kernel's map.

use std::{
    collections::HashMap,
    net::{Ipv6Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use agentwatch_common::flow::direction;
use anyhow::{Context as _, Result};
use jiff::Timestamp;
use tokio::sync::{Mutex, oneshot};

use super::{Shared, model::Flow};
use crate::{
    host::{wall_offset_ns, watch::Order},
    probe::gauge::Gauge,
};

/// The thread that watches is asked for the names of an agent's peers once in so long.
const NAMES_EVERY: Duration = Duration::from_secs(1);

/// Peers' names, by cookie.
type Named = Arc<Vec<(u64, SocketAddr, String)>>;

/// The names of agents' peers, and since when they are known. Only the thread that watches knows them:
/// however often clients ask, it is asked rarely.
#[derive(Default)]
pub struct Names(Mutex<HashMap<u32, (Instant, Named)>>);

impl Names {
    /// Those of an agent.
    ///
    /// # Errors
    ///
    /// When the daemon is stopping.
    pub async fn of(&self, shared: &Shared, number: u32) -> Result<Named> {
        let mut known = self.0.lock().await;
        known.retain(|_, (since, _)| since.elapsed() < NAMES_EVERY);
        if let Some((_, names)) = known.get(&number) {
            return Ok(Arc::clone(names));
        }
        let (reply, answer) = oneshot::channel();
        let asked = shared.ask.send(Order::Names { number, reply }).await;
        asked.ok().context("the daemon is stopping")?;
        let names = Arc::new(answer.await.context("the daemon is stopping")?);
        known.insert(number, (Instant::now(), Arc::clone(&names)));
        Ok(names)
    }
}

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
