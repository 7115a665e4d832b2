//! TCP and UDP sockets that an agent uses and did not make: received with a message, inherited at its start,
//! accepted from a listener that it inherited.
//!
//! The programs of the agent's cgroup do not see their packets, since those follow the socket's own
//! cgroup. So the counters of a TCP socket are read when the agent gets it, and again when it is closed. UDP
//! has none: there each call of the agent's is counted, where the kernel has tracepoints that tell of it.

use agentwatch_common::{
    Header,
    flow::{Borrowed, COUNTING, Endpoint, FlowClose, OWN_COOKIE, close},
    header::flag,
    kind,
    tag::Task,
};
use aya_ebpf::programs::RawTracePointContext;

use crate::{
    emit,
    kernel::{config, sock, task},
    maps::BORROWED,
    tag,
};

const IPPROTO_TCP: u8 = 6;
const IPPROTO_UDP: u8 = 17;
/// `MSG_PEEK` of include/linux/socket.h.
const MSG_PEEK: u64 = 2;

/// Who uses a socket.
pub struct User<'a> {
    pub task: &'a Task,
    pub tgid: u32,
    pub uid: u32,
}

/// Takes down a socket of which somebody else is the maker. What it is called is filled in where the
/// kernel has no cookie of it. Nothing where it is the agent's own.
#[inline(always)]
pub fn take_down(user: &User<'_>, file: u64, ends: &mut Endpoint, how: u32, from_now: bool) {
    let Some(sk) = sock::behind(file) else {
        return;
    };
    if !is_counted(ends.proto) || is_own(sk, user.task.agent) {
        return;
    }
    let since_ns = emit::now_ns();
    if let Some(known) = BORROWED.get_ptr_mut(&sk) {
        // SAFETY: an entry of the map.
        let known = unsafe { &mut *known };
        if is_same(sk, known) {
            ends.cookie = known.endpoint.cookie;
            // Inherited, before it was known by which process.
            if known.tgid == 0 {
                known.tgid = user.tgid;
                known.start_ns = user.task.start_ns;
                known.ppid = user.task.ppid;
                known.uid = user.uid;
            }
            return;
        }
    }
    if ends.cookie == 0 {
        ends.cookie = OWN_COOKIE | since_ns;
    }
    let (bytes_in, bytes_out, retransmits) = if from_now && ends.proto == IPPROTO_TCP {
        counters(sk)
    } else {
        (0, 0, 0)
    };
    let borrowed = Borrowed {
        start_ns: user.task.start_ns,
        since_ns,
        socket: sock::socket(sk),
        bytes_in,
        bytes_out,
        endpoint: *ends,
        agent: user.task.agent,
        tgid: user.tgid,
        ppid: user.task.ppid,
        uid: user.uid,
        retransmits,
        how: how | partial(ends.proto),
    };
    let _ = BORROWED.insert(&sk, &borrowed, 0);
}

/// Whether it is counted from now on, or only when userspace has heard of it.
#[inline(always)]
fn partial(proto: u8) -> u32 {
    if proto == IPPROTO_TCP || BORROWED.get_ptr(&COUNTING).is_some() {
        0
    } else {
        close::PARTIAL
    }
}

#[inline(always)]
fn is_counted(proto: u8) -> bool {
    proto == IPPROTO_TCP || (proto == IPPROTO_UDP && config::sock_lengths())
}

/// Whether the agent made the socket, so that its packets are seen.
#[inline(always)]
fn is_own(sk: u64, agent: u32) -> bool {
    // Where it cannot be told it is taken for one: nothing is counted twice.
    sock::cgroup(sk).is_none_or(|id| tag::of_cgroup(id) == agent)
}

/// Payload bytes in and out, and segments sent again, by the socket's own count.
#[inline(always)]
fn counters(sk: u64) -> (u64, u64, u32) {
    let received = sock::bytes_received(sk);
    (received, sock::bytes_sent(sk), sock::retransmits(sk))
}

/// Whether the memory still holds the socket that was taken down. The peer of a TCP socket stays when it is
/// closed; a UDP socket that is closed is not this one any more.
#[inline(always)]
fn is_same(sk: u64, known: &Borrowed) -> bool {
    if known.endpoint.proto != IPPROTO_TCP {
        return known.socket != 0 && sock::socket(sk) == known.socket;
    }
    sock::remote(sk) == Some((known.endpoint.remote, known.endpoint.remote_port))
}

/// Run by userspace, not by the kernel: a descriptor of agentwatch's own stands for a socket that a
/// process of an agent has. `descriptor, agent, process id, start, parent, user`.
#[inline(always)]
pub fn inherited(ctx: &RawTracePointContext) {
    let own = Task {
        start_ns: ctx.arg(3),
        agent: ctx.arg::<u64>(1) as u32,
        ppid: ctx.arg::<u64>(4) as u32,
    };
    let user = User {
        task: &own,
        tgid: ctx.arg::<u64>(2) as u32,
        uid: ctx.arg::<u64>(5) as u32,
    };
    let Some(file) = task::file(task::current(), ctx.arg::<u64>(0) as i32) else {
        return;
    };
    let Some(mut ends) = sock::of_file(file) else {
        return;
    };
    take_down(&user, file, &mut ends, close::INHERITED, true);
    let is_own = sock::behind(file).is_none_or(|sk| is_own(sk, own.agent));
    if user.tgid == 0 || is_own {
        return;
    }
    let header = Header {
        tgid: user.tgid,
        uid: user.uid,
        ..emit::bare_header(kind::SOCKET_INHERITED, &own)
    };
    emit::prio(header, |to: *mut Endpoint| {
        // SAFETY: reserved memory of this type.
        unsafe { to.write(ends) };
    });
}

/// `inet_sock_set_state(const struct sock *sk, int oldstate, int newstate)`: include/trace/events/sock.h,
/// since 4.16. Attached only while there are such sockets.
#[inline(always)]
pub fn state(ctx: &RawTracePointContext) {
    if ctx.arg::<u64>(2) as i32 == sock::CLOSED {
        look(ctx.arg(0), false);
    }
}

/// `sock_send_length(struct sock *sk, int ret, int flags)`: include/trace/events/sock.h.
#[inline(always)]
pub fn sent(ctx: &RawTracePointContext) {
    count(ctx, true);
}

/// `sock_recv_length(struct sock *sk, int ret, int flags)`
#[inline(always)]
pub fn got(ctx: &RawTracePointContext) {
    if ctx.arg::<u64>(2) & MSG_PEEK == 0 {
        count(ctx, false);
    }
}

/// Counts what the agent's process sent or got, at the end of the call.
#[inline(always)]
fn count(ctx: &RawTracePointContext, out: bool) {
    let sk: u64 = ctx.arg(0);
    let len = ctx.arg::<u64>(1) as i32;
    let Some(known) = BORROWED.get_ptr_mut(&sk) else {
        return;
    };
    // SAFETY: an entry of the map.
    let known = unsafe { &mut *known };
    // The one who gave it may use it still: that is none of the agent's.
    let is_agents = tag::current().is_some_and(|own| own.agent == known.agent);
    if len <= 0 || known.endpoint.proto == IPPROTO_TCP || !is_agents || !is_same(sk, known) {
        return;
    }
    let counter = if out {
        &raw mut known.bytes_out
    } else {
        &raw mut known.bytes_in
    };
    // SAFETY: a word of the map.
    unsafe { emit::add(counter, len as u64) };
}

/// Run by userspace: whether a socket was closed before [`state`] was attached; or, where the second
/// argument is not zero, what it says at the end of the watching. `sk, end`.
#[inline(always)]
pub fn ask(ctx: &RawTracePointContext) {
    look(ctx.arg(0), ctx.arg::<u64>(1) != 0);
}

/// Tells of a socket's end, if it has come.
#[inline(always)]
fn look(sk: u64, end: bool) {
    // SAFETY: copied out at once.
    let Some(known) = (unsafe { BORROWED.get(&sk) }).copied() else {
        return;
    };
    let there = is_same(sk, &known);
    let is_tcp = known.endpoint.proto == IPPROTO_TCP;
    let closed = !there || (is_tcp && sock::state(sk) == sock::CLOSED);
    if !closed && !end {
        return;
    }
    // Of two that see the end, the one that removes it tells.
    if BORROWED.remove(&sk).is_err() {
        return;
    }
    let task = Task {
        start_ns: known.start_ns,
        agent: known.agent,
        ppid: known.ppid,
    };
    let mut header = Header {
        tgid: known.tgid,
        uid: known.uid,
        ..emit::bare_header(kind::FLOW_CLOSE, &task)
    };
    let (mut bytes_in, mut bytes_out, mut retransmits) = (0, 0, 0);
    if !is_tcp {
        (bytes_in, bytes_out) = (known.bytes_in, known.bytes_out);
    } else if there {
        let (now_in, now_out, again) = counters(sk);
        bytes_in = now_in.wrapping_sub(known.bytes_in);
        bytes_out = now_out.wrapping_sub(known.bytes_out);
        retransmits = again.wrapping_sub(known.retransmits);
    } else {
        // Its memory is another socket's already.
        header.flags = flag::FAULT;
    }
    let mut state = known.how;
    if is_tcp {
        state |= close::ESTABLISHED | close::RETRANSMITS;
    }
    if !closed {
        state |= close::ALIVE;
    }
    emit::prio(header, |to: *mut FlowClose| {
        // SAFETY: reserved memory of this type.
        unsafe {
            to.write(FlowClose {
                endpoint: known.endpoint,
                bytes_in,
                bytes_out,
                open_ns: known.since_ns,
                state,
                retransmits,
            });
        }
    });
}
