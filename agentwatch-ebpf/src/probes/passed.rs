//! Sockets that a process gets from another one, by a message with `SCM_RIGHTS` (unix(7)).

use agentwatch_common::{
    flow::{Endpoint, close},
    kind,
    tag::Task,
};
use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_probe_read_user};

use super::{
    borrowed::{self, User},
    file::S_IFMT,
    syscall::Call,
};
use crate::{
    emit,
    kernel::{offset, read, sock, task},
    maps::RECEIVING,
    tag,
};

/// `struct user_msghdr` of include/linux/socket.h: control data and its length.
const MSG_CONTROL: u64 = 32;
const MSG_CONTROLLEN: u64 = 40;
/// `struct cmsghdr` of include/linux/socket.h: length, level, type, data.
const CMSG_LEVEL: u64 = 8;
const CMSG_TYPE: u64 = 12;
const CMSG_DATA: u64 = 16;
const SOL_SOCKET: u32 = 1;
const SCM_RIGHTS: u32 = 1;
/// Descriptors of a message that are looked at. The kernel passes up to 253 (`SCM_MAX_FD`); who passes
/// connections passes one.
const DESCRIPTORS: u64 = 8;
/// Control messages that are looked at: credentials may stand before the descriptors.
const MESSAGES: usize = 2;
const S_IFSOCK: u32 = 0o140_000;

/// At the entry of `recvmsg(int fd, struct user_msghdr *msg, unsigned int flags)`
#[inline(always)]
pub fn enter(ctx: &impl Call) {
    if tag::current().is_none() {
        return;
    }
    let message = ctx.argument(1);
    // Full: what this thread gets is not told; nothing else depends on it.
    let _ = RECEIVING.insert(&bpf_get_current_pid_tgid(), &message, 0);
}

/// At its exit.
#[inline(always)]
pub fn exit(ctx: &impl Call) {
    let id = bpf_get_current_pid_tgid();
    // SAFETY: copied out at once.
    let Some(message) = (unsafe { RECEIVING.get(&id) }).copied() else {
        return;
    };
    let _ = RECEIVING.remove(&id);
    if let Some(own) = tag::current()
        && ctx.result() >= 0
    {
        look(&own, message);
    }
}

/// At its exit, where the message's address is at hand still.
#[inline(always)]
pub fn whole(ctx: &impl Call) {
    if let Some(own) = tag::current()
        && ctx.result() >= 0
        && let Some(registers) = ctx.registers()
    {
        look(&own, registers.argument(1));
    }
}

/// Looks for sockets in what was received.
#[inline(always)]
fn look(own: &Task, message: u64) {
    let (Some(control), Some(len)) = (word(message + MSG_CONTROL), word(message + MSG_CONTROLLEN))
    else {
        return;
    };
    let mut at = 0;
    for _ in 0..MESSAGES {
        if control == 0 || at + CMSG_DATA + 4 > len {
            return;
        }
        let size = word(control + at).unwrap_or(0);
        let level = number(control + at + CMSG_LEVEL);
        let sort = number(control + at + CMSG_TYPE);
        if level == Some(SOL_SOCKET) && sort == Some(SCM_RIGHTS) {
            descriptors(own, control + at + CMSG_DATA, size);
            return;
        }
        // `CMSG_NXTHDR` of <sys/socket.h>: aligned to 8.
        at += (size + 7) & !7;
    }
}

#[inline(always)]
fn descriptors(own: &Task, at: u64, size: u64) {
    for n in 0..DESCRIPTORS {
        if CMSG_DATA + (n + 1) * 4 > size {
            return;
        }
        if let Some(fd) = number(at + n * 4) {
            received(own, fd.cast_signed());
        }
    }
}

/// Tells of a descriptor, if it is an IP socket's.
#[inline(always)]
fn received(own: &Task, fd: i32) {
    let Some(file) = task::file(task::current(), fd) else {
        return;
    };
    let inode: u64 = read(file, offset!(file_inode)).unwrap_or(0);
    let mode: u16 = read(inode, offset!(inode_mode)).unwrap_or(0);
    if u32::from(mode) & S_IFMT != S_IFSOCK {
        return;
    }
    let Some(mut ends) = sock::of_file(file) else {
        return;
    };
    let header = emit::header(kind::SOCKET_RECEIVED, own);
    let user = User {
        task: own,
        tgid: header.tgid,
        uid: header.uid,
    };
    borrowed::take_down(&user, file, &mut ends, close::RECEIVED, true);
    emit::prio(header, |to: *mut Endpoint| {
        // SAFETY: reserved memory of this type.
        unsafe { to.write(ends) };
    });
}

#[inline(always)]
fn word(at: u64) -> Option<u64> {
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_user(at as *const u64) }.ok()
}

#[inline(always)]
fn number(at: u64) -> Option<u32> {
    // SAFETY: as above.
    unsafe { bpf_probe_read_user(at as *const u32) }.ok()
}
