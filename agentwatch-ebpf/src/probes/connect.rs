//! Where a process wants to go: `connect` and `sendto` of IP sockets.

use agentwatch_common::{
    Header,
    deny::op,
    flow::{Connect, Endpoint, FlowKey, FlowState, TRIGGER_HEAD, Trigger, direction},
    kind,
    loss::counter,
    tag::Task,
};
use aya_ebpf::{helpers::bpf_get_socket_cookie, programs::SockAddrContext};

use super::deny;
use crate::{
    emit::{self, Way},
    kernel::sock::version,
    maps::{FLOWS, OWNERS, Owner, TRIGGERS},
    tag,
};

const IPPROTO_TCP: u32 = 6;
/// `SOCK_DGRAM` of <sys/socket.h>: on an IP socket, UDP or ICMP.
const SOCK_DGRAM: u32 = 2;

/// No trigger.
pub const NO_TRIGGER: Trigger = Trigger {
    cookie: 0,
    at_ns: 0,
    len: 0,
    head_len: 0,
    head: [0; TRIGGER_HEAD],
};

/// `BPF_CGROUP_INET4_CONNECT`: in the caller's context, before a local port is chosen.
#[inline(always)]
pub fn connect4(ctx: &SockAddrContext) -> bool {
    connect(ctx, deny::address4(ctx))
}

/// `BPF_CGROUP_INET6_CONNECT`; also for `::ffff:a.b.c.d`, which then goes out as IPv4.
#[inline(always)]
pub fn connect6(ctx: &SockAddrContext) -> bool {
    connect(ctx, deny::address6(ctx))
}

/// Whether it may be. What is refused is no connect, and told as a denial only.
#[inline(always)]
fn connect(ctx: &SockAddrContext, remote: [u8; 16]) -> bool {
    let Some(own) = tag::current_or_cgroup() else {
        return true;
    };
    if !deny::may_go(ctx, &own, op::CONNECT, remote) {
        return false;
    }
    // SAFETY: the context; the helper takes it.
    let (cookie, port, proto) = unsafe {
        (
            bpf_get_socket_cookie(ctx.sock_addr.cast()),
            (&raw const (*ctx.sock_addr).user_port).read_volatile(),
            (&raw const (*ctx.sock_addr).protocol).read_volatile(),
        )
    };
    let header = emit::header(kind::CONNECT, &own);
    own_socket(cookie, &own, &header);
    let endpoint = Endpoint {
        cookie,
        local: [0; 16],
        remote,
        local_port: 0,
        remote_port: u16::from_be(port as u16),
        proto: proto as u8,
        direction: direction::OUT,
        version: version(&remote),
        pad: 0,
    };
    if proto == IPPROTO_TCP {
        begin(&header, &endpoint);
    }
    let trigger = trigger(header.tgid, own.ppid);
    // What answers to something from outside may be a way in: that is decided now.
    let way = if trigger.cookie == 0 {
        Way::PrioSoon
    } else {
        Way::Prio
    };
    emit::prio_by(way, header, |to: *mut Connect| {
        // SAFETY: reserved memory of this type.
        unsafe { to.write(Connect { endpoint, trigger }) };
    });
    true
}

/// What the process, or else its parent, got last from outside.
#[inline(always)]
pub fn trigger(tgid: u32, ppid: u32) -> Trigger {
    // SAFETY: copied out at once; a packet may change it meanwhile, which makes evidence weaker.
    if let Some(trigger) = unsafe { TRIGGERS.get(&tgid) } {
        return *trigger;
    }
    // SAFETY: as above.
    unsafe { TRIGGERS.get(&ppid) }
        .copied()
        .unwrap_or(NO_TRIGGER)
}

/// `BPF_CGROUP_UDP4_SENDMSG`: a send that names its peer. Also of an IPv6 socket to
/// `::ffff:a.b.c.d`.
#[inline(always)]
pub fn sendmsg4(ctx: &SockAddrContext) -> bool {
    sendmsg(ctx, deny::address4(ctx))
}

/// `BPF_CGROUP_UDP6_SENDMSG`
#[inline(always)]
pub fn sendmsg6(ctx: &SockAddrContext) -> bool {
    sendmsg(ctx, deny::address6(ctx))
}

#[inline(always)]
fn sendmsg(ctx: &SockAddrContext, remote: [u8; 16]) -> bool {
    let Some(own) = tag::current_or_cgroup() else {
        return true;
    };
    if !deny::may_go(ctx, &own, op::SENDMSG, remote) {
        return false;
    }
    // SAFETY: the context; the helper takes it.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.sock_addr.cast()) };
    let tgid = tag::tgid();
    // SAFETY: read at once.
    if let Some(owner) = unsafe { OWNERS.get(&cookie) }
        && owner.tgid == tgid
    {
        return true;
    }
    let header = emit::header(kind::CONNECT, &own);
    own_socket(cookie, &own, &header);
    true
}

/// Remembers which process is behind a socket.
#[inline(always)]
fn own_socket(cookie: u64, own: &Task, header: &Header) {
    let owner = Owner {
        task: *own,
        tgid: header.tgid,
        uid: header.uid,
    };
    let _ = OWNERS.insert(&cookie, &owner, 0);
}

/// Remembers a TCP flow from its first packet on.
#[inline(always)]
fn begin(header: &Header, endpoint: &Endpoint) {
    let state = FlowState {
        start_ns: header.start_ns,
        open_ns: header.time_ns,
        bytes_in: 0,
        bytes_out: 0,
        agent: header.agent,
        tgid: header.tgid,
        ppid: header.ppid,
        uid: header.uid,
        seq_in: 0,
        seq_out: 0,
        flags: 0,
        head_in: 0,
        head_out: 0,
        packets_in: 0,
        packets_out: 0,
        local_port: 0,
        remote_port: endpoint.remote_port,
        version: endpoint.version,
        direction: direction::OUT,
        local: [0; 16],
        remote: endpoint.remote,
    };
    if FLOWS.insert(&tcp_key(endpoint.cookie), &state, 0).is_err() {
        emit::count(header.agent, counter::LOST_FLOWS_FULL);
    }
}

/// The key of a TCP flow.
#[inline(always)]
pub fn tcp_key(cookie: u64) -> FlowKey {
    FlowKey {
        cookie,
        remote: [0; 16],
        remote_port: 0,
        proto: IPPROTO_TCP as u16,
        pad: 0,
    }
}

/// Whether a socket type is that of UDP.
#[inline(always)]
pub fn is_datagram(kind: u32) -> bool {
    kind == SOCK_DGRAM
}
