//! Every packet of the agent's sockets, in and out: counting bytes, and the beginning of what is
//! said.

use agentwatch_common::{
    flow::{
        DNS_MESSAGES, DNS_PORT, DNS_STREAM, DNS_STREAM_PACKETS, DNS_WINDOW_SHIFT, FlowData,
        FlowKey, FlowState, HEAD_MAX, HEAD_PACKETS, HEAD_WIDE, HEAD_WIDE_PACKETS, TRIGGER_HEAD,
        Trigger, direction, state,
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
    emit::{self, Record, Way, mask},
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
fn load<T: Copy + Default>(skb: *mut __sk_buff, at: u32) -> Option<T> {
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
    recognise(flow, packet, out, skb, before);
    let want = room(flow, packet, out);
    if want == 0 {
        return;
    }
    // Much of what is long must not cost anybody an urgent record.
    let (way, reserved) = if want > HEAD_MAX {
        let head =
            head::<HEAD_WIDE, { HEAD_WIDE - 1 }>(Way::BulkSoon, flow.agent, packet, skb, want);
        (Way::BulkSoon, head)
    } else {
        let head = head::<HEAD_MAX, { HEAD_MAX - 1 }>(Way::Prio, flow.agent, packet, skb, want);
        (Way::Prio, head)
    };
    let Some((record, data_len)) = reserved else {
        return;
    };
    let mut header = tcp::header(kind::FLOW_DATA, flow);
    header.len = (size_of::<Record<FlowData>>() + want) as u32;
    // SAFETY: reserved memory of this type; the bytes after it are written already.
    unsafe {
        (&raw mut (*record).header).write(header);
        (&raw mut (*record).payload).write(FlowData {
            endpoint: tcp::endpoint(key.cookie, flow, packet.proto),
            trigger: if out && packet.proto == TCP {
                trigger(flow.tgid, flow.ppid)
            } else {
                NO_TRIGGER
            },
            // What is counted with this packet ends where the packet ends.
            offset: (before + u64::from(new)).saturating_sub(u64::from(packet.len)),
            len: new,
            data_len,
            direction: if out { direction::OUT } else { direction::IN },
            pad: 0,
        });
        emit::submit(record, way);
    }
}

/// Reserves a record with room for `SIZE` bytes, a power of two (`MASK` is one less), and reads the
/// first `want` bytes of the payload, at least 1, into it. How many are there then.
#[inline(always)]
fn head<const SIZE: usize, const MASK: usize>(
    way: Way,
    agent: u32,
    packet: &Packet,
    skb: *mut __sk_buff,
    want: usize,
) -> Option<(*mut Record<FlowData>, u16)> {
    let record: *mut Record<Head<SIZE>> = emit::reserve(way, agent)?;
    // SAFETY: reserved memory, with room for `SIZE` bytes.
    let failed = unsafe {
        bpf_skb_load_bytes(
            skb.cast(),
            packet.at,
            (&raw mut (*record).payload.data).cast(),
            length::<MASK>(want),
        ) != 0
    };
    Some((record.cast(), if failed { 0 } else { want as u16 }))
}

/// Looks whether a packet begins something of which more than [`HEAD_MAX`] bytes matter.
#[inline(always)]
fn recognise(flow: &mut FlowState, packet: &Packet, out: bool, skb: *mut __sk_buff, before: u64) {
    // The first payload of the flow; `before` is of this direction.
    let other = if out { flow.bytes_in } else { flow.bytes_out };
    let first = before == 0 && other == 0;
    if first
        && (packet.remote_port == DNS_PORT
            || packet.local_port == DNS_PORT
            || is_question(skb, packet))
    {
        flow.flags |= state::DNS;
    }
    let bit = if out { state::WIDE_OUT } else { state::WIDE_IN };
    if packet.proto == TCP && flow.flags & bit == 0 && is_wide(skb, packet) {
        flow.flags |= bit;
    }
}

/// A TLS ClientHello, an HTTP request, or JSON: also behind what a proxy or STARTTLS has before it,
/// since a packet begins with it there too.
#[inline(always)]
fn is_wide(skb: *mut __sk_buff, packet: &Packet) -> bool {
    /// Type, version 3.x, length, then the type of the handshake message (RFC 8446, 5.1 and 4).
    const HANDSHAKE: u8 = 0x16;
    const CLIENT_HELLO: u8 = 1;
    let Some(start) = load::<[u8; 6]>(skb, packet.at) else {
        // Shorter: perhaps a hello in small pieces.
        return load::<u8>(skb, packet.at) == Some(HANDSHAKE);
    };
    if start[0] == HANDSHAKE {
        return start[1] == 3 && start[5] == CLIENT_HELLO;
    }
    let word = u32::from_be_bytes([start[0], start[1], start[2], start[3]]);
    start[0] == b'{'
        || word == u32::from_be_bytes(*b"GET ")
        || word == u32::from_be_bytes(*b"POST")
        || word == u32::from_be_bytes(*b"PUT ")
        || word == u32::from_be_bytes(*b"HEAD")
        || word == u32::from_be_bytes(*b"CONN")
        || word == u32::from_be_bytes(*b"DELE")
        || word == u32::from_be_bytes(*b"PATC")
        || word == u32::from_be_bytes(*b"OPTI")
}

/// A DNS message that asks one question (RFC 1035, 4.1.1): on whatever port.
#[inline(always)]
fn is_question(skb: *mut __sk_buff, packet: &Packet) -> bool {
    /// QR and Opcode are zero in a plain question.
    const QR_OPCODE: u8 = 0xf8;
    // Over TCP its length is before it (RFC 1035, 4.2.2).
    let at = if packet.proto == TCP {
        packet.at + 2
    } else {
        packet.at
    };
    let Some(head) = load::<[u8; 12]>(skb, at) else {
        return false;
    };
    let one_question = head[4] == 0 && head[5] == 1;
    let no_answer = head[6] | head[7] | head[8] | head[9] == 0;
    // EDNS and a signature are the only additions.
    head[2] & QR_OPCODE == 0 && one_question && no_answer && head[10] == 0 && head[11] <= 2
}

/// How many bytes of a packet are sent, and takes them off what the flow may send.
#[inline(always)]
fn room(flow: &mut FlowState, packet: &Packet, out: bool) -> usize {
    let (mut sent, mut packets, bit) = if out {
        (flow.head_out, flow.packets_out, state::WIDE_OUT)
    } else {
        (flow.head_in, flow.packets_in, state::WIDE_IN)
    };
    let dns = flow.flags & state::DNS != 0;
    let whole = packet.len as usize;
    let want = if dns && packet.proto == UDP {
        let window = (emit::now_ns() >> DNS_WINDOW_SHIFT) as u16;
        if sent != window {
            sent = window;
            packets = 0;
        }
        if packets >= DNS_MESSAGES {
            return 0;
        }
        min(whole, HEAD_WIDE)
    } else {
        let (most, most_packets) = if dns {
            (DNS_STREAM, DNS_STREAM_PACKETS)
        } else if flow.flags & bit != 0 {
            (HEAD_WIDE, HEAD_WIDE_PACKETS)
        } else {
            (HEAD_MAX, HEAD_PACKETS)
        };
        if sent as usize >= most || packets >= most_packets {
            return 0;
        }
        let want = min(min(whole, most - sent as usize), HEAD_WIDE);
        sent += want as u16;
        want
    };
    packets += 1;
    if out {
        flow.head_out = sent;
        flow.packets_out = packets;
    } else {
        flow.head_in = sent;
        flow.packets_in = packets;
    }
    want
}

#[inline(always)]
fn min(a: usize, b: usize) -> usize {
    if a < b { a } else { b }
}

/// The payload of [`kind::FLOW_DATA`], its tail at full length.
#[repr(C)]
struct Head<const SIZE: usize> {
    fixed: FlowData,
    data: [u8; SIZE],
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
