//! Sockets in their process's context: listen, accept, release.

use agentwatch_common::{
    flow::{Endpoint, close, direction, state},
    kind,
    tag::Task,
};
use aya_ebpf::{helpers::bpf_get_socket_cookie, programs::SockContext};

use super::{
    borrowed::{self, User},
    connect::{is_datagram, tcp_key},
    file::{self, Pending},
    syscall::Call,
    tcp,
};
use crate::{
    emit::{self, Way},
    kernel::{sock, task},
    maps::{FLOWS, OWNERS},
    tag,
};

/// At the entry of `listen(int fd, int backlog)`
#[inline(always)]
pub fn listen_enter(ctx: &impl Call) {
    let Some(own) = tag::current() else {
        return;
    };
    let call = Pending::on_fd(own, ctx.argument(0) as i32);
    file::begin(&call);
}

/// At its exit.
#[inline(always)]
pub fn listen_exit(ctx: &impl Call) {
    let Some(call) = file::entered() else {
        return;
    };
    listened(&call.task, call.fd, ctx.result());
    file::done();
}

/// At its exit, where the descriptor is at hand still.
#[inline(always)]
pub fn listen_whole(ctx: &impl Call) {
    if let Some(own) = tag::current()
        && let Some(registers) = ctx.registers()
    {
        listened(&own, registers.argument(0) as i32, ctx.result());
    }
}

#[inline(always)]
fn listened(own: &Task, fd: i32, result: i64) {
    if result == 0
        && let Some(ends) = task::file(task::current(), fd).and_then(sock::of_file)
    {
        emit::prio(emit::header(kind::LISTEN, own), |to: *mut Endpoint| {
            // SAFETY: reserved memory of this type.
            unsafe { to.write(ends) };
        });
    }
}

/// At the exit of accept(2) and accept4(2): the result is a descriptor of the connection.
#[inline(always)]
pub fn accept_exit(ctx: &impl Call) {
    if let Some(own) = tag::current() {
        accepted(&own, ctx.result() as i32);
    }
}

/// A process got a descriptor of a connection.
#[inline(always)]
pub fn accepted(own: &Task, fd: i32) {
    let Some(file) = task::file(task::current(), fd) else {
        return;
    };
    let Some(mut ends) = sock::of_file(file) else {
        return;
    };
    ends.direction = direction::IN;
    let header = emit::header(kind::ACCEPT, own);
    // It has the cgroup of its listener, which may be from before the agent.
    let user = User {
        task: own,
        tgid: header.tgid,
        uid: header.uid,
    };
    borrowed::take_down(&user, file, &mut ends, close::INHERITED, false);
    if let Some(flow) = FLOWS.get_ptr_mut(&tcp_key(ends.cookie)) {
        // SAFETY: an entry of the map. A packet may be counted at the same time; it does not write
        // these fields once the agent is set.
        let flow = unsafe { &mut *flow };
        flow.agent = own.agent;
        flow.tgid = header.tgid;
        flow.start_ns = own.start_ns;
        flow.ppid = own.ppid;
        flow.uid = header.uid;
        flow.flags |= state::ESTABLISHED;
        flow.direction = direction::IN;
    }
    emit::prio(header, |to: *mut Endpoint| {
        // SAFETY: reserved memory of this type.
        unsafe { to.write(ends) };
    });
}

/// `BPF_CGROUP_INET_SOCK_RELEASE`: the last descriptor of a socket is closed. A TCP
/// connection says itself when it is over; UDP has no other end than this.
#[inline(always)]
pub fn release(ctx: &SockContext) {
    // SAFETY: the context; a field that this attach type allows.
    let kind = unsafe { (&raw const (*ctx.sock).type_).read_volatile() };
    // SAFETY: the helper takes this context.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.sock.cast()) };
    if !is_datagram(kind) {
        tcp::released(cookie);
        return;
    }
    let Some(own) = tag::current_or_cgroup() else {
        return;
    };
    // SAFETY: only whether it is there.
    if unsafe { OWNERS.get(&cookie) }.is_none() {
        return; // it never sent
    }
    let _ = OWNERS.remove(&cookie);
    let ends = Endpoint {
        cookie,
        local: [0; 16],
        remote: [0; 16],
        local_port: 0,
        remote_port: 0,
        proto: 17,
        direction: direction::UNKNOWN,
        version: 0,
        pad: 0,
    };
    let header = emit::header(kind::SOCK_CLOSE, &own);
    emit::prio_by(Way::PrioLater, header, |to: *mut Endpoint| {
        // SAFETY: reserved memory of this type.
        unsafe { to.write(ends) };
    });
}
