//! Events of flows, for the tests of this folder.

use std::net::{IpAddr, Ipv4Addr};

use super::World;
use crate::event::{
    Address, Connect, Direction, Endpoint, Event, FlowClose, FlowData, Kind, ProcessKey, Protocol,
};

pub fn event(kind: Kind) -> Event {
    Event {
        time_ns: 1,
        agent: 1,
        process: ProcessKey {
            pid: 42,
            start_ns: 7,
        },
        tid: 42,
        ppid: 1,
        uid: 0,
        gid: 0,
        cgroup: 9,
        comm: "sh".to_owned(),
        partial: false,
        domain: None,
        kind,
    }
}

/// A TCP connection that the agent opened.
pub fn endpoint(cookie: u64, port: u16) -> Endpoint {
    let at = |last, port| Address {
        ip: IpAddr::V4(Ipv4Addr::new(192, 0, 2, last)),
        port,
    };
    Endpoint {
        cookie,
        local: at(1, 40_000),
        remote: at(2, port),
        protocol: Protocol::Tcp,
        direction: Direction::Out,
    }
}

pub fn connect(cookie: u64, port: u16) -> Event {
    event(Kind::Connect(Box::new(Connect {
        endpoint: endpoint(cookie, port),
        trigger: None,
    })))
}

pub fn data(cookie: u64, port: u16, direction: Direction, offset: u64, bytes: &[u8]) -> Event {
    event(Kind::FlowData(Box::new(FlowData {
        endpoint: endpoint(cookie, port),
        direction,
        offset,
        len: u32::try_from(bytes.len()).expect("short"),
        data: bytes.to_vec(),
        trigger: None,
    })))
}

pub fn closed(cookie: u64, port: u16) -> Event {
    event(Kind::FlowClose(FlowClose {
        partial: false,
        endpoint: endpoint(cookie, port),
        bytes_in: 0,
        bytes_out: 0,
        open_ns: 0,
        established: true,
        alive: false,
        retransmits: None,
        origin: None,
    }))
}

/// Takes an event all the way through, as the pipeline does.
pub fn observe(world: &mut World, event: Event) {
    let said = world.conversations.observe(&event);
    for mut event in [event].into_iter().chain(said) {
        event.domain = world.domain(&event);
        world.observe(&event);
    }
}
