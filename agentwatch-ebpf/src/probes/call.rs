//! Calls that are no file's and no flow's. One pair of programs for all of them, by a table: at entry
//! the arguments are remembered, at exit the record is made.

use agentwatch_common::{
    call::{ADDRESS_MAX, Call, CallRow, TEXT_MAX, op},
    file::SYSCALLS as SYSCALLS_LEN,
    header::flag,
    kind,
    loss::counter,
    tag::Task,
};
use aya_ebpf::helpers::{
    bpf_get_current_pid_tgid,
    generated::{bpf_probe_read_user as read_user, bpf_probe_read_user_str},
};

use super::syscall;
use crate::{
    emit::{self, Builder, Way, mask},
    kernel::{
        regs::pick,
        sock::{self, AF_INET, AF_INET6},
        task,
    },
    maps::{CALL_ROWS, CALLS},
    tag,
};

/// `AF_UNSPEC` of <sys/socket.h>: a connect with it takes the peer away.
const AF_UNSPEC: u16 = 0;

/// A call that has been entered and has not returned.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Entered {
    task: Task,
    args: [u64; 6],
    row: CallRow,
}

/// At the entry of the calls in the table.
#[inline(always)]
pub fn enter(ctx: &impl syscall::Call) {
    let Some(own) = tag::current() else {
        return;
    };
    let Some(call) = told(ctx, own, |index| ctx.argument(index)) else {
        return;
    };
    if CALLS.insert(&bpf_get_current_pid_tgid(), &call, 0).is_err() {
        emit::count(own.agent, counter::EMITTED);
        emit::count(own.agent, counter::LOST_CALLS_FULL);
    }
}

/// The call, if it is one that is told.
#[inline(always)]
fn told(ctx: &impl syscall::Call, task: Task, argument: impl Fn(u8) -> u64) -> Option<Entered> {
    let nr = ctx.number()?;
    if nr >= SYSCALLS_LEN {
        return None;
    }
    let row = *CALL_ROWS.get(nr)?;
    if row.op == 0 {
        return None;
    }
    if row.filter != CallRow::NONE {
        let value = argument(row.filter);
        let told = if value < 64 {
            row.told >> value & 1 != 0
        } else {
            value == u64::from(row.also)
        };
        if !told {
            return None;
        }
    }
    Some(Entered {
        task,
        args: [
            argument(0),
            argument(1),
            argument(2),
            argument(3),
            argument(4),
            argument(5),
        ],
        row,
    })
}

/// At their exit. Where the kernel lets us, they are looked at here only.
#[inline(always)]
pub fn exit(ctx: &impl syscall::Call) {
    if let Some(registers) = ctx.registers() {
        let Some(own) = tag::current() else {
            return;
        };
        if let Some(call) = told(ctx, own, |index| registers.argument(index)) {
            returned(&call, ctx.result());
        }
        return;
    }
    let id = bpf_get_current_pid_tgid();
    // SAFETY: this thread's own entry: nobody else writes it while the thread is here.
    let Some(call) = CALLS.get_ptr(&id).map(|call| unsafe { &*call }) else {
        return;
    };
    returned(call, ctx.result());
    let _ = CALLS.remove(&id);
}

#[inline(always)]
fn returned(call: &Entered, result: i64) {
    let Entered { task, args, row } = call;
    // The caller's memory is read once: what is looked at here is what is sent.
    let mut family = AF_UNSPEC;
    let address = pick(args, row.address);
    if address != 0 {
        // SAFETY: two bytes of the stack; the helper checks the address.
        unsafe { read_user((&raw mut family).cast(), 2, address as *const _) };
    }
    if row.op == op::CONNECT && (family == AF_INET || family == AF_INET6 || family == AF_UNSPEC) {
        return; // a flow, which its own programs tell of
    }
    let Some(out) = Builder::<Call>::new(kind::CALL, task) else {
        return;
    };
    let payload = out.payload();
    payload.args = *args;
    payload.result = result;
    payload.op = row.op;
    payload.credentials = task::credentials(task::current());
    if row.text != CallRow::NONE
        && (row.filter == CallRow::NONE || pick(args, row.filter) == u64::from(row.text_if))
    {
        payload.text_len = text(&out, pick(args, row.text));
    }
    if address != 0 {
        payload.address_len = socket_address(&out, address, pick(args, row.address_len), family);
        if row.op == op::BIND && result == 0 && (family == AF_INET || family == AF_INET6) {
            bound(&out, args[0] as i32, payload.address_len);
        }
    }
    out.send(if row.urgent != 0 {
        Way::Prio
    } else {
        Way::Bulk
    });
}

/// Appends a string of the caller's, without its NUL.
#[inline(always)]
fn text(out: &Builder<Call>, from: u64) -> u16 {
    let Some(at) = out.room() else {
        return 0;
    };
    // SAFETY: `room` gives more bytes than TEXT_MAX.
    let n = unsafe { bpf_probe_read_user_str(at.cast(), TEXT_MAX as u32, from as *const _) };
    if n <= 0 {
        out.flag(flag::FAULT);
        return 0;
    }
    if n as usize == TEXT_MAX {
        out.flag(flag::NAME_CUT);
    }
    let len = mask::<{ TEXT_MAX - 1 }>(n as usize - 1);
    out.advance(len);
    len as u16
}

/// Puts the port that the kernel chose where the caller asked for any: `sin_port` and `sin6_port` are
/// at the same place (ip(7), ipv6(7)).
#[inline(always)]
fn bound(out: &Builder<Call>, fd: i32, address_len: u16) {
    let Some(ends) = task::file(task::current(), fd).and_then(sock::of_file) else {
        return;
    };
    let at = out.position() - address_len as usize;
    out.rewind(at);
    if address_len >= 4
        && let Some(address) = out.room()
    {
        // SAFETY: `room` gives PIECE_MAX bytes.
        unsafe {
            address
                .add(2)
                .cast::<u16>()
                .write_unaligned(ends.local_port.to_be());
        };
    }
    out.advance(address_len as usize);
}

/// Appends a socket address: its family as it was looked at, the rest from the caller.
#[inline(always)]
fn socket_address(out: &Builder<Call>, from: u64, len: u64, family: u16) -> u16 {
    let Some(at) = out.room() else {
        return 0;
    };
    let len = if len as u32 as usize >= ADDRESS_MAX {
        ADDRESS_MAX - 1
    } else {
        len as u32 as usize
    };
    let len = mask::<{ ADDRESS_MAX - 1 }>(len);
    // SAFETY: `room` gives more bytes than ADDRESS_MAX.
    if unsafe { read_user(at.cast(), len as u32, from as *const _) } != 0 {
        out.flag(flag::FAULT);
        return 0;
    }
    // SAFETY: as above.
    unsafe { at.cast::<u16>().write_unaligned(family) };
    out.advance(len);
    len as u16
}
