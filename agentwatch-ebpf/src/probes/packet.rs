//! Every packet of the agent's sockets, in and out: counting bytes, and the beginning of what is
//! said.

use agentwatch_common::{
    flow::{
        FlowData, FlowKey, FlowState, HEAD_MAX, HEAD_PACKETS, TRIGGER_HEAD, Trigger, direction,
        state,
    },
    kind,
    loss::counter,
};
use aya_ebpf::{
    bindings::__sk_buff,
    helpers::{bpf_get_socket_cookie, bpf_skb_cgroup_id, generated::bpf_skb_load_bytes},
    programs::SkBuffContext,
};

use super::{
    connect::{NO_TRIGGER, trigger},
    tcp,
};
use crate::{
    emit::{self, mask},
    kernel::sock::{mapped, version},
    maps::{FLOWS, OWNERS, TRIGGERS},
    tag,
};

const TCP: u8 = 6;
const UDP: u8 = 17;
/// The next header that is IPv6's hop-by-hop options (RFC 8200, 4.3).
const HOP_BY_HOP: u8 = 0;
/// No window is larger (RFC 7323, 2.3): what claims to be further ahead is not believed.
const WINDOW_MAX: u32 = 1 << 30;
/// Bits of the TCP header's flags (RFC 9293, 3.1).
const SYN: u8 = 0x02;
/// Fragment offset and "more fragments" of IPv4 (RFC 791): ports are in the first fragment only.
const FRAGMENT: u16 = 0x1fff;

/// What a packet's headers say.
struct Packet {
    /// As seen from the agent.
    local: [u8; 16],
    remote: [u8; 16],
    local_port: u16,
    remote_port: u16,
    proto: u8,
    tcp_flags: u8,
    seq: u32,
    /// Where the payload begins.
    at: u32,
    /// Bytes of it.
    len: u32,
}

/// `BPF_CGROUP_INET_INGRESS`: the packet begins with its IP header.
#[inline(always)]
pub fn ingress(ctx: &SkBuffContext) {
    packet(ctx.skb.skb, false);
}

/// `BPF_CGROUP_INET_EGRESS`: before it is cut into segments.
#[inline(always)]
pub fn egress(ctx: &SkBuffContext) {
    packet(ctx.skb.skb, true);
}

#[inline(always)]
fn packet(skb: *mut __sk_buff, out: bool) {
    let Some(packet) = parse(skb, out) else {
        return;
    };
    // SAFETY: the helper takes this context.
    let cookie = unsafe { bpf_get_socket_cookie(skb.cast()) };
    if cookie == 0 {
        return;
    }
    let udp = packet.proto == UDP;
    let key = FlowKey {
        cookie,
        remote: if udp { packet.remote } else { [0; 16] },
        remote_port: if udp { packet.remote_port } else { 0 },
        proto: u16::from(packet.proto),
        pad: 0,
    };
    let known = FLOWS.get_ptr_mut(&key);
    if known.is_none() && packet.len == 0 {
        return; // a handshake; what follows will make the flow
    }
    let Some(flow) = known.or_else(|| create(skb, &key, &packet, out)) else {
        return;
    };
    // SAFETY: an entry of the map. Packets of one direction come one after the other but for rare
    // races, in which a few bytes may be counted twice or not.
    let flow = unsafe { &mut *flow };
    if flow.agent == 0 {
        // SAFETY: the helper takes this context.
        flow.agent = tag::of_cgroup(unsafe { bpf_skb_cgroup_id(skb) });
    }
    count(flow, &packet, out, skb, &key);
}

/// Reads IP and TCP or UDP headers. Other protocols and later fragments give nothing.
#[inline(always)]
fn parse(skb: *mut __sk_buff, out: bool) -> Option<Packet> {
    let first: u8 = load(skb, 0)?;
    // SAFETY: the context.
    let total = unsafe { (&raw const (*skb).len).read_volatile() };
    let (proto, header, from, to) = if first >> 4 == 4 {
        if u16::from_be(load(skb, 6)?) & FRAGMENT != 0 {
            return None;
        }
        let header = u32::from(first & 0xf) * 4;
        (
            load::<u8>(skb, 9)?,
            header,
            mapped(load(skb, 12)?),
            mapped(load(skb, 16)?),
        )
    } else {
        // A packet of more than 64 KiB, before it is cut into segments, has a hop-by-hop header with
        // its length (RFC 2675; "BIG TCP"). Other extension headers are not followed: TCP and UDP do
        // not have them in practice.
        let next: u8 = load(skb, 6)?;
        let (proto, header) = if next == HOP_BY_HOP {
            (load(skb, 40)?, 48 + u32::from(load::<u8>(skb, 41)?) * 8)
        } else {
            (next, 40)
        };
        (proto, header, load(skb, 8)?, load(skb, 24)?)
    };
    let (source, dest): (u16, u16) = match proto {
        TCP | UDP => (
            u16::from_be(load(skb, header)?),
            u16::from_be(load(skb, header + 2)?),
        ),
        _ => return None,
    };
    let (seq, tcp_flags, at) = if proto == TCP {
        let offset: u8 = load(skb, header + 12)?;
        (
            u32::from_be(load(skb, header + 4)?),
            load(skb, header + 13)?,
            header + u32::from(offset >> 4) * 4,
        )
    } else {
        (0, 0, header + 8)
    };
    let (local, remote, local_port, remote_port) = if out {
        (from, to, source, dest)
    } else {
        (to, from, dest, source)
    };
    Some(Packet {
        local,
        remote,
        local_port,
        remote_port,
        proto,
        tcp_flags,
        seq,
        at,
        len: total.saturating_sub(at),
    })
}

/// Reads from a packet.
#[inline(always)]
pub fn load<T: Copy + Default>(skb: *mut __sk_buff, at: u32) -> Option<T> {
    let mut value = T::default();
    // SAFETY: the memory of `value`, of its size.
    let result = unsafe {
        bpf_skb_load_bytes(
            skb.cast(),
            at,
            (&raw mut value).cast(),
            size_of::<T>() as u32,
        )
    };
    (result == 0).then_some(value)
}

/// A flow that is seen for the first time: UDP, or a TCP connection older than the watching.
#[inline(always)]
fn create(
    skb: *mut __sk_buff,
    key: &FlowKey,
    packet: &Packet,
    out: bool,
) -> Option<*mut FlowState> {
    // SAFETY: the helper takes this context.
    let agent = tag::of_cgroup(unsafe { bpf_skb_cgroup_id(skb) });
    if agent == 0 {
        return None;
    }
    let udp = packet.proto == UDP;
    let mut flow = FlowState {
        start_ns: 0,
        open_ns: emit::now_ns(),
        bytes_in: 0,
        bytes_out: 0,
        agent,
        tgid: 0,
        ppid: 0,
        uid: 0,
        seq_in: 0,
        seq_out: 0,
        flags: state::ESTABLISHED,
        head_in: 0,
        head_out: 0,
        packets_in: 0,
        packets_out: 0,
        local_port: packet.local_port,
        remote_port: packet.remote_port,
        version: version(&packet.remote),
        direction: match (udp, out) {
            (false, _) => direction::UNKNOWN,
            (true, true) => direction::OUT,
            (true, false) => direction::IN,
        },
        local: packet.local,
        remote: packet.remote,
    };
    // SAFETY: copied out at once.
    if let Some(owner) = unsafe { OWNERS.get(&key.cookie) } {
        flow.start_ns = owner.task.start_ns;
        flow.ppid = owner.task.ppid;
        flow.tgid = owner.tgid;
        flow.uid = owner.uid;
    }
    if FLOWS.insert(key, &flow, 0).is_err() {
        emit::count(agent, counter::EMITTED);
        emit::count(agent, counter::LOST_FLOWS_FULL);
        return None;
    }
    tcp::opened(key.cookie, &flow, packet.proto);
    FLOWS.get_ptr_mut(key)
}

/// Counts a packet's payload, and sends it where it is among the first of its flow.
#[inline(always)]
fn count(flow: &mut FlowState, packet: &Packet, out: bool, skb: *mut __sk_buff, key: &FlowKey) {
    let new = if packet.proto == TCP {
        fresh(flow, packet, out)
    } else {
        packet.len
    };
    if new == 0 {
        return;
    }
    let before = if out {
        let before = flow.bytes_out;
        flow.bytes_out = before + u64::from(new);
        before
    } else {
        let before = flow.bytes_in;
        flow.bytes_in = before + u64::from(new);
        before
    };
    if flow.agent == 0 {
        return;
    }
    if !out && packet.proto == TCP && flow.direction == direction::OUT && flow.tgid != 0 {
        remember(flow, packet, skb, key);
    }
    let (sent, packets) = if out {
        (flow.head_out as usize, flow.packets_out)
    } else {
        (flow.head_in as usize, flow.packets_in)
    };
    if sent >= HEAD_MAX || packets >= HEAD_PACKETS {
        return;
    }
    let room = HEAD_MAX - sent;
    let want = if packet.len as usize > room {
        room
    } else {
        packet.len as usize
    };
    if out {
        flow.head_out += want as u16;
        flow.packets_out += 1;
    } else {
        flow.head_in += want as u16;
        flow.packets_in += 1;
    }
    let last = if out && packet.proto == TCP {
        trigger(flow.tgid, flow.ppid)
    } else {
        NO_TRIGGER
    };
    let endpoint = tcp::endpoint(key.cookie, flow, packet.proto);
    emit::prio(tcp::header(kind::FLOW_DATA, flow), |to: *mut Head| {
        // SAFETY: reserved memory of this type; all that is read later is written below.
        unsafe {
            // What is beyond `data_len` stays as it was in the ring: nobody reads it.
            let failed = bpf_skb_load_bytes(
                skb.cast(),
                packet.at,
                (&raw mut (*to).data).cast(),
                length::<{ HEAD_MAX - 1 }>(want),
            ) != 0;
            (&raw mut (*to).fixed).write(FlowData {
                endpoint,
                trigger: last,
                offset: before,
                len: new,
                data_len: if failed { 0 } else { want as u16 },
                direction: if out { direction::OUT } else { direction::IN },
                pad: 0,
            });
        }
    });
}

/// The payload of [`kind::FLOW_DATA`], its tail at full length.
#[repr(C)]
struct Head {
    fixed: FlowData,
    data: [u8; HEAD_MAX],
}

/// How many bytes of a TCP packet were not there before: a retransmission gives none.
#[inline(always)]
fn fresh(flow: &mut FlowState, packet: &Packet, out: bool) -> u32 {
    let bit = if out { state::SEQ_OUT } else { state::SEQ_IN };
    let syn = packet.tcp_flags & SYN != 0;
    // A SYN takes a sequence number itself.
    let first = if syn {
        packet.seq.wrapping_add(1)
    } else {
        packet.seq
    };
    if syn || flow.flags & bit == 0 {
        flow.flags |= bit;
        if out {
            flow.seq_out = first;
        } else {
            flow.seq_in = first;
        }
    }
    if packet.len == 0 {
        return 0; // a FIN takes a sequence number too, which is no byte
    }
    let next = if out { flow.seq_out } else { flow.seq_in };
    let end = first.wrapping_add(packet.len);
    let ahead = end.wrapping_sub(next);
    // Sequence numbers are compared modulo 2³² (RFC 9293, 3.4). Bytes before this packet that were not
    // seen (in a fragment, or on their way still) count with it, and not again when they come.
    if ahead == 0 || ahead > WINDOW_MAX {
        return 0;
    }
    if out {
        flow.seq_out = end;
    } else {
        flow.seq_in = end;
    }
    ahead
}

/// A length from 1 to `MAX + 1`, where `MAX + 1` is a power of two.
///
/// <verifier: invalid access to memory, size=0> Before 6.2 the verifier forgets, over the stack, that a
/// length was compared with 0.
#[inline(always)]
fn length<const MAX: usize>(len: usize) -> u32 {
    mask::<MAX>(len - 1) as u32 + 1
}

/// Keeps what came last from outside, for the connections and bytes that may follow from it.
#[inline(always)]
fn remember(flow: &FlowState, packet: &Packet, skb: *mut __sk_buff, key: &FlowKey) {
    let mut trigger = Trigger {
        cookie: key.cookie,
        at_ns: emit::now_ns(),
        len: packet.len,
        head_len: 0,
        head: [0; TRIGGER_HEAD],
    };
    let len = packet.len as usize;
    let len = if len > TRIGGER_HEAD {
        TRIGGER_HEAD
    } else {
        len
    };
    let len = length::<{ TRIGGER_HEAD - 1 }>(len);
    // SAFETY: `head` has that many bytes.
    let result =
        unsafe { bpf_skb_load_bytes(skb.cast(), packet.at, trigger.head.as_mut_ptr().cast(), len) };
    if result == 0 {
        trigger.head_len = len;
    }
    let _ = TRIGGERS.insert(&flow.tgid, &trigger, 0);
}
