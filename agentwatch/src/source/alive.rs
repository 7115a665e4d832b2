//! Flows that go on: what went over them, where that has become more since it was told last.

use std::collections::HashMap;

use agentwatch_common::{
    flow::{self, FlowKey, FlowState},
    kind,
};
use bytes::Bytes;

use super::{Source, flow_record};

/// What tells flows apart: the socket's cookie, and for UDP the peer.
type Id = (u64, [u8; 16], u16);

/// Bytes in and out of each flow, as they were told last.
#[derive(Default)]
pub struct Alive(HashMap<Id, (u64, u64)>);

impl Source {
    /// Tells of each flow that is open what went over it by now, where that has become more.
    pub fn flows_alive(&mut self, now_ns: u64, batch: &mut Vec<Bytes>) {
        let open: Vec<(FlowKey, FlowState)> =
            self.rings.flows.iter().filter_map(Result::ok).collect();
        let mut told = HashMap::with_capacity(open.len());
        for (key, state) in open {
            let (id, now) = (id(&key), (state.bytes_in, state.bytes_out));
            let before = self.alive.0.get(&id).copied().unwrap_or_default();
            told.insert(id, now);
            // Of an agent: what came to a listener and nobody has taken is none's yet.
            if state.agent != 0 && now != before {
                let (kind, state_bits) = (kind::FLOW_ALIVE, flow::close::ALIVE);
                let record = flow_record(&mut self.arena, kind, &key, &state, now_ns, state_bits);
                batch.push(record);
            }
        }
        self.alive = Alive(told);
    }
}

fn id(key: &FlowKey) -> Id {
    (key.cookie, key.remote, key.remote_port)
}
