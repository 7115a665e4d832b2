//! TCP connections by the kernel's own states: established, closed.

use agentwatch_common::{
    Header,
    flow::{Endpoint, FlowClose, FlowKey, FlowState, close, direction, state},
    kind,
    tag::Task,
};
use aya_ebpf::{
    bindings::{
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB,
        BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG, BPF_SOCK_OPS_TCP_CONNECT_CB,
        BPF_TCP_CLOSE,
    },
    helpers::bpf_get_socket_cookie,
    programs::SockOpsContext,
};

use super::connect::tcp_key;
use crate::{
    emit::{self, Way},
    kernel::sock::{AF_INET, mapped, version, words},
    maps::FLOWS,
};

/// `BPF_PROG_TYPE_SOCK_OPS`: often in a softirq, where the current task is anybody's.
#[inline(always)]
pub fn event(ctx: &SockOpsContext) {
    // The arms compare one by one: constants of the bindings.
    let what = ctx.op();
    if what == BPF_SOCK_OPS_TCP_CONNECT_CB {
        watch_states(ctx);
    } else if what == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB {
        active(ctx);
    } else if what == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB {
        watch_states(ctx);
        passive(ctx);
    } else if what == BPF_SOCK_OPS_STATE_CB && ctx.arg(1) == BPF_TCP_CLOSE {
        closed(ctx);
    }
}

/// Asks for a call at each change of this connection's state.
#[inline(always)]
fn watch_states(ctx: &SockOpsContext) {
    let _ = ctx.set_cb_flags((ctx.cb_flags() | BPF_SOCK_OPS_STATE_CB_FLAG).cast_signed());
}

#[inline(always)]
fn key(ctx: &SockOpsContext) -> FlowKey {
    // SAFETY: the helper takes this context.
    tcp_key(unsafe { bpf_get_socket_cookie(ctx.ops.cast()) })
}

/// Own and the peer's address and port.
#[inline(always)]
fn ends(ctx: &SockOpsContext) -> ([u8; 16], u16, [u8; 16], u16) {
    let ops = ctx.ops;
    // <verifier: dereference of modified ctx ptr> All of them, whatever the family: in branches the
    // compiler would merge the loads into one from a computed address.
    // SAFETY: the context; each word by itself, as the verifier wants them.
    let (family, local4, remote4, local6, remote6) = unsafe {
        (
            (&raw const (*ops).family).read_volatile(),
            (&raw const (*ops).local_ip4).read_volatile(),
            (&raw const (*ops).remote_ip4).read_volatile(),
            [
                (&raw const (*ops).local_ip6[0]).read_volatile(),
                (&raw const (*ops).local_ip6[1]).read_volatile(),
                (&raw const (*ops).local_ip6[2]).read_volatile(),
                (&raw const (*ops).local_ip6[3]).read_volatile(),
            ],
            [
                (&raw const (*ops).remote_ip6[0]).read_volatile(),
                (&raw const (*ops).remote_ip6[1]).read_volatile(),
                (&raw const (*ops).remote_ip6[2]).read_volatile(),
                (&raw const (*ops).remote_ip6[3]).read_volatile(),
            ],
        )
    };
    let (local, remote) = if family == u32::from(AF_INET) {
        (mapped(local4), mapped(remote4))
    } else {
        (words(local6), words(remote6))
    };
    // local_port is in host order, remote_port in network order (include/uapi/linux/bpf.h).
    (
        local,
        ctx.local_port() as u16,
        remote,
        u32::from_be(ctx.remote_port()) as u16,
    )
}

/// A connection that the agent asked for is there.
#[inline(always)]
fn active(ctx: &SockOpsContext) {
    let Some(flow) = FLOWS.get_ptr_mut(&key(ctx)) else {
        return;
    };
    let (local, local_port, remote, remote_port) = ends(ctx);
    // SAFETY: an entry of the map; the connection's socket is locked.
    let flow = unsafe { &mut *flow };
    flow.flags |= state::ESTABLISHED;
    flow.local = local;
    flow.local_port = local_port;
    flow.remote = remote;
    flow.remote_port = remote_port;
    opened(key(ctx).cookie, flow, 6);
}

/// A connection that came in is there. Which process takes it, `accept` tells.
#[inline(always)]
fn passive(ctx: &SockOpsContext) {
    let (local, local_port, remote, remote_port) = ends(ctx);
    let flow = FlowState {
        start_ns: 0,
        open_ns: emit::now_ns(),
        bytes_in: 0,
        bytes_out: 0,
        // The agent is not known here; the first packet, or accept, tells.
        agent: 0,
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
        local_port,
        remote_port,
        version: version(&remote),
        direction: direction::IN,
        local,
        remote,
    };
    // Where it fails the first packet tries again, and counts.
    let _ = FLOWS.insert(&key(ctx), &flow, 0);
}

/// A header for what a flow did.
#[inline(always)]
pub fn header(kind: u16, flow: &FlowState) -> Header {
    let task = Task {
        start_ns: flow.start_ns,
        agent: flow.agent,
        ppid: flow.ppid,
    };
    Header {
        tgid: flow.tgid,
        uid: flow.uid,
        ..emit::bare_header(kind, &task)
    }
}

/// The two ends of a flow.
#[inline(always)]
pub fn endpoint(cookie: u64, flow: &FlowState, proto: u8) -> Endpoint {
    Endpoint {
        cookie,
        local: flow.local,
        remote: flow.remote,
        local_port: flow.local_port,
        remote_port: flow.remote_port,
        proto,
        direction: flow.direction,
        version: flow.version,
        pad: 0,
    }
}

/// Tells that a flow came to be.
#[inline(always)]
pub fn opened(cookie: u64, flow: &FlowState, proto: u8) {
    let ends = endpoint(cookie, flow, proto);
    let header = header(kind::FLOW_OPEN, flow);
    emit::prio_by(Way::PrioLater, header, |to: *mut Endpoint| {
        // SAFETY: reserved memory of this type.
        unsafe { to.write(ends) };
    });
}

#[inline(always)]
fn closed(ctx: &SockOpsContext) {
    let key = key(ctx);
    // SAFETY: copied out at once; the connection is over.
    if let Some(flow) = (unsafe { FLOWS.get(&key) }).copied() {
        // SAFETY: the context, in a field that is there for a full socket, and this is one.
        let again = unsafe { (&raw const (*ctx.ops).total_retrans).read_volatile() };
        end(&key, &flow, Some(again));
    }
}

/// A TCP socket is closed. One that was connected tells of its end by its states; one whose connect
/// failed before the first packet (no route, refused by another program) has no other end than this.
#[inline(always)]
pub fn released(cookie: u64) {
    let key = tcp_key(cookie);
    // SAFETY: copied out at once; the socket is being closed.
    if let Some(flow) = (unsafe { FLOWS.get(&key) }).copied()
        && flow.flags & state::ESTABLISHED == 0
    {
        end(&key, &flow, None);
    }
}

/// Forgets a flow and tells of its end.
#[inline(always)]
fn end(key: &FlowKey, flow: &FlowState, retransmits: Option<u32>) {
    // Of two that see the end, the one that removes it tells.
    if FLOWS.remove(key).is_err() || flow.agent == 0 {
        return; // or: nothing came, nobody took it
    }
    let ends = endpoint(key.cookie, flow, 6);
    let mut state = if flow.flags & state::ESTABLISHED != 0 {
        close::ESTABLISHED
    } else {
        0
    };
    if retransmits.is_some() {
        state |= close::RETRANSMITS;
    }
    let header = header(kind::FLOW_CLOSE, flow);
    emit::prio_by(Way::PrioLater, header, |to: *mut FlowClose| {
        // SAFETY: reserved memory of this type.
        unsafe {
            to.write(FlowClose {
                endpoint: ends,
                bytes_in: flow.bytes_in,
                bytes_out: flow.bytes_out,
                open_ns: flow.open_ns,
                state,
                retransmits: retransmits.unwrap_or(0),
            });
        }
    });
}
