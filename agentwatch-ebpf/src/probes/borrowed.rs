//! TCP sockets that an agent uses and did not make: received with a message, inherited at its start,
//! accepted from a listener that it inherited.
//!
//! The programs of the agent's cgroup do not see their packets, since those follow the socket's own
//! cgroup. So the socket's own counters are read when the agent gets it, and again when it is closed.

use agentwatch_common::{
    Header,
    flow::{Borrowed, Endpoint, FlowClose, OWN_COOKIE, close},
    header::flag,
    kind,
    tag::Task,
};
use aya_ebpf::programs::RawTracePointContext;

use crate::{
    emit,
    kernel::{sock, task},
    maps::BORROWED,
    tag,
};

const IPPROTO_TCP: u8 = 6;

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
    if ends.proto != IPPROTO_TCP || is_own(sk, user.task.agent) {
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
    let (bytes_in, bytes_out, retransmits) = if from_now { counters(sk) } else { (0, 0, 0) };
    let borrowed = Borrowed {
        start_ns: user.task.start_ns,
        since_ns,
        bytes_in,
        bytes_out,
        endpoint: *ends,
        agent: user.task.agent,
        tgid: user.tgid,
        ppid: user.task.ppid,
        uid: user.uid,
        retransmits,
        how,
    };
    let _ = BORROWED.insert(&sk, &borrowed, 0);
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

/// Whether the memory still holds the socket that was taken down: its peer stays when it is closed.
#[inline(always)]
fn is_same(sk: u64, known: &Borrowed) -> bool {
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
    let closed = !there || sock::state(sk) == sock::CLOSED;
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
    if there {
        let (now_in, now_out, again) = counters(sk);
        bytes_in = now_in.wrapping_sub(known.bytes_in);
        bytes_out = now_out.wrapping_sub(known.bytes_out);
        retransmits = again.wrapping_sub(known.retransmits);
    } else {
        // Its memory is another socket's already.
        header.flags = flag::FAULT;
    }
    let mut state = known.how | close::ESTABLISHED | close::RETRANSMITS;
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
