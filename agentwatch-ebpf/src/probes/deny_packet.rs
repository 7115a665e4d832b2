//! Denial by packet: quarantine, and what no other program judges (raw sockets, ICMP, SCTP).

use agentwatch_common::{
    Header,
    deny::{Denied, enforce, op, scope},
    kind,
    tag::Task,
};
use aya_ebpf::{
    bindings::__sk_buff,
    helpers::{bpf_get_socket_cookie, bpf_skb_cgroup_id, generated::bpf_sk_fullsock},
    programs::SkBuffContext,
};

use super::{
    connect::tcp_key,
    deny::{NOTHING, SOCK_RAW, enforced, is_judged_before, judge, refuse_as},
    packet::load,
};
use crate::{
    emit,
    kernel::sock::mapped,
    maps::{FLOWS, OWNERS, PACKET_RULES},
    tag,
};

/// The next header that is IPv6's hop-by-hop options, as in `packet.rs`.
const HOP_BY_HOP: u8 = 0;
/// Fragment offset of IPv4 (RFC 791): ports are in the first fragment only.
const FRAGMENT: u16 = 0x1fff;

/// `BPF_CGROUP_INET_INGRESS`, `BPF_CGROUP_INET_EGRESS`: whether a packet may pass.
#[inline(always)]
pub fn may_pass(ctx: &SkBuffContext, out: bool) -> bool {
    // Nobody has rules about packets: one look at an array, which the kernel inlines.
    if PACKET_RULES.get(0).copied().unwrap_or(0) == 0 {
        return true;
    }
    let skb = ctx.skb.skb;
    // SAFETY: the helper takes this context.
    let agent = tag::of_cgroup(unsafe { bpf_skb_cgroup_id(skb) });
    let Some(rules) = enforced(agent, enforce::QUARANTINE | enforce::CONNECT) else {
        return true;
    };
    let quarantine = rules.flags & enforce::QUARANTINE != 0;
    if !quarantine && !out {
        return true;
    }
    // A packet whose headers cannot be read is none of a socket of IP.
    let Some((address, port, protocol)) = remote(skb, out) else {
        return true;
    };
    let rule = if quarantine {
        judge(agent, scope::KEEP, address, port, protocol)
    } else if !is_judged_before(protocol) || is_raw(skb) {
        judge(agent, scope::CONNECT, address, port, protocol)
    } else {
        None
    };
    let Some(rule) = rule else {
        return true;
    };
    let denied = Denied {
        address,
        rule,
        op: if out { op::PACKET_OUT } else { op::PACKET_IN },
        port,
        protocol,
        ..NOTHING
    };
    refuse_as(header(skb, agent), rules.flags, denied)
}

/// The peer: address, port, protocol.
#[inline(always)]
fn remote(skb: *mut __sk_buff, out: bool) -> Option<([u8; 16], u16, u16)> {
    let first: u8 = load(skb, 0)?;
    let (protocol, header, address) = if first >> 4 == 4 {
        let protocol: u8 = load(skb, 9)?;
        let address = mapped(load(skb, if out { 16 } else { 12 })?);
        if u16::from_be(load(skb, 6)?) & FRAGMENT != 0 {
            return Some((address, 0, u16::from(protocol)));
        }
        (protocol, u32::from(first & 0xf) * 4, address)
    } else {
        let next: u8 = load(skb, 6)?;
        let address = load(skb, if out { 24 } else { 8 })?;
        if next == HOP_BY_HOP {
            (
                load(skb, 40)?,
                48 + u32::from(load::<u8>(skb, 41)?) * 8,
                address,
            )
        } else {
            (next, 40, address)
        }
    };
    let protocol = u16::from(protocol);
    // TCP, UDP and SCTP have their ports at the same place.
    let port = if is_judged_before(protocol) || protocol == 132 {
        u16::from_be(load(skb, if out { header + 2 } else { header })?)
    } else {
        0
    };
    Some((address, port, protocol))
}

/// Whether a raw socket sends this, which may write any header itself.
#[inline(always)]
fn is_raw(skb: *mut __sk_buff) -> bool {
    // SAFETY: the context; the verifier sees that the pointers are checked.
    unsafe {
        let sk = (&raw const (*skb).__bindgen_anon_2.sk).read_volatile();
        if sk.is_null() {
            return false;
        }
        let full = bpf_sk_fullsock(sk);
        !full.is_null() && (&raw const (*full).type_).read_volatile() == SOCK_RAW
    }
}

/// A header for a packet: it need not be in its process's context.
#[inline(always)]
fn header(skb: *mut __sk_buff, agent: u32) -> Header {
    // SAFETY: the helper takes this context.
    let cookie = unsafe { bpf_get_socket_cookie(skb.cast()) };
    let mut task = Task {
        start_ns: 0,
        agent,
        ppid: 0,
    };
    let (mut tgid, mut uid) = (0, 0);
    // SAFETY: copied out at once.
    if let Some(flow) = unsafe { FLOWS.get(&tcp_key(cookie)) } {
        (task.start_ns, task.ppid) = (flow.start_ns, flow.ppid);
        (tgid, uid) = (flow.tgid, flow.uid);
    // SAFETY: as above.
    } else if let Some(owner) = unsafe { OWNERS.get(&cookie) } {
        (task.start_ns, task.ppid) = (owner.task.start_ns, owner.task.ppid);
        (tgid, uid) = (owner.tgid, owner.uid);
    }
    let mut header = emit::bare_header(kind::DENIED, &task);
    header.tgid = tgid;
    header.uid = uid;
    header
}
