//! How a flow begins: which bytes of which packets are sent to userspace.

use agentwatch_common::{
    flow::{
        DNS_MESSAGES, DNS_PORT, DNS_STREAM, DNS_STREAM_PACKETS, DNS_WINDOW_SHIFT, FlowData,
        FlowKey, FlowState, HEAD_MAX, HEAD_PACKETS, HEAD_WIDE, HEAD_WIDE_PACKETS, direction, state,
    },
    kind,
};
use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_skb_load_bytes};

use super::{
    connect::{NO_TRIGGER, trigger},
    packet::{Counted, Packet, TCP, UDP, length, load},
    tcp,
};
use crate::emit::{self, Record, Way};

/// Sends the payload of a packet where it is among the first of its flow, or DNS.
#[inline(always)]
pub fn send(
    flow: &mut FlowState,
    packet: &Packet,
    counted: &Counted,
    out: bool,
    skb: *mut __sk_buff,
    key: &FlowKey,
) {
    let Counted { before, new } = *counted;
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

/// The payload of [`kind::FLOW_DATA`], its tail at full length.
#[repr(C)]
struct Head<const SIZE: usize> {
    fixed: FlowData,
    data: [u8; SIZE],
}

/// Looks whether a packet begins something of which more than [`HEAD_MAX`] bytes matter. Costs nothing
/// once that is known, or the flow has sent what an ordinary one may.
#[inline(always)]
fn recognise(flow: &mut FlowState, packet: &Packet, out: bool, skb: *mut __sk_buff, before: u64) {
    let (sent, packets, wide, other) = if out {
        (
            flow.head_out,
            flow.packets_out,
            state::WIDE_OUT,
            flow.bytes_in,
        )
    } else {
        (
            flow.head_in,
            flow.packets_in,
            state::WIDE_IN,
            flow.bytes_out,
        )
    };
    if flow.flags & (state::DNS | wide) != 0 || sent as usize >= HEAD_MAX || packets >= HEAD_PACKETS
    {
        return;
    }
    // The first payload of the flow, in either direction.
    let first = before == 0 && other == 0;
    let own_port = packet.remote_port == DNS_PORT || packet.local_port == DNS_PORT;
    if first && (own_port || is_question(skb, packet)) {
        flow.flags |= state::DNS;
    } else if packet.proto == TCP && is_wide(skb, packet) {
        flow.flags |= wide;
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
