//! Records of sockets.

use std::net::{IpAddr, Ipv6Addr};

use agentwatch_common::flow::{self, close as state, direction};

use super::{
    DecodeError,
    bytes::{Reader, Wire},
};
use crate::event::{
    Address, Connect, Direction, Endpoint, FlowClose, FlowData, Protocol, SocketOrigin, Trigger,
};

// SAFETY: `repr(C)` structures of integers and byte arrays, asserted to have no padding.
unsafe impl Wire for flow::Endpoint {}
// SAFETY: as above.
unsafe impl Wire for flow::Connect {}
// SAFETY: as above.
unsafe impl Wire for flow::FlowData {}
// SAFETY: as above.
unsafe impl Wire for flow::FlowClose {}

pub fn endpoint(reader: &mut Reader<'_>) -> Result<Endpoint, DecodeError> {
    ends(&reader.take()?)
}

pub fn connect(reader: &mut Reader<'_>) -> Result<Connect, DecodeError> {
    let flow::Connect { endpoint, trigger } = reader.take()?;
    Ok(Connect {
        endpoint: ends(&endpoint)?,
        trigger: before(&trigger),
    })
}

pub fn data(reader: &mut Reader<'_>) -> Result<FlowData, DecodeError> {
    let flow::FlowData {
        endpoint,
        trigger,
        offset,
        len,
        data_len,
        direction,
        pad: _,
    } = reader.take()?;
    Ok(FlowData {
        endpoint: ends(&endpoint)?,
        direction: way(direction)?,
        offset,
        len,
        data: reader.bytes(data_len)?.to_vec(),
        trigger: before(&trigger),
    })
}

pub fn close(reader: &mut Reader<'_>) -> Result<FlowClose, DecodeError> {
    let flow::FlowClose {
        endpoint,
        bytes_in,
        bytes_out,
        open_ns,
        state,
        retransmits,
    } = reader.take()?;
    Ok(FlowClose {
        origin: if state & state::RECEIVED != 0 {
            Some(SocketOrigin::Received)
        } else if state & state::INHERITED != 0 {
            Some(SocketOrigin::Inherited)
        } else {
            None
        },
        partial: state & state::PARTIAL != 0,
        retransmits: (state & state::RETRANSMITS != 0).then_some(retransmits),
        endpoint: ends(&endpoint)?,
        bytes_in,
        bytes_out,
        open_ns,
        established: state & state::ESTABLISHED != 0,
        alive: state & state::ALIVE != 0,
    })
}

fn ends(wire: &flow::Endpoint) -> Result<Endpoint, DecodeError> {
    let flow::Endpoint {
        cookie,
        local,
        remote,
        local_port,
        remote_port,
        proto,
        direction,
        version: _,
        pad: _,
    } = *wire;
    Ok(Endpoint {
        cookie,
        local: address(local, local_port),
        remote: address(remote, remote_port),
        protocol: protocol(proto),
        direction: way(direction)?,
    })
}

pub fn protocol(number: u8) -> Protocol {
    match number {
        6 => Protocol::Tcp,
        17 => Protocol::Udp,
        other => Protocol::Other(other),
    }
}

pub fn address(bytes: [u8; 16], port: u16) -> Address {
    let ip = IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical();
    Address { ip, port }
}

fn way(value: u8) -> Result<Direction, DecodeError> {
    match value {
        direction::UNKNOWN => Ok(Direction::Unknown),
        direction::OUT => Ok(Direction::Out),
        direction::IN => Ok(Direction::In),
        other => Err(DecodeError::Value {
            what: "a direction",
            value: u64::from(other),
        }),
    }
}

fn before(wire: &flow::Trigger) -> Option<Trigger> {
    let flow::Trigger {
        cookie,
        at_ns,
        len,
        head_len,
        head,
    } = wire;
    let kept = usize::try_from(*head_len)
        .unwrap_or(usize::MAX)
        .min(head.len());
    (*cookie != 0).then(|| Trigger {
        cookie: *cookie,
        at_ns: *at_ns,
        len: *len,
        head: head[..kept].to_vec(),
    })
}
