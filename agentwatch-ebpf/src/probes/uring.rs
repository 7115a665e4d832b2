//! What is done through io_uring: no system call of its own, so no tracepoint at its entry and exit.
//! The kernel tells when a request is submitted, with its names copied into its own memory already,
//! and when it is complete, with its result.

use agentwatch_common::{
    file::{FileOp, UringDone, op, state},
    header::flag,
    kind,
    loss::counter,
    tag::Task,
};
use aya_ebpf::{helpers::generated::bpf_probe_read_kernel_str, programs::RawTracePointContext};

use super::{
    file::{self, AT_REMOVEDIR},
    open, socket,
};
use crate::{
    emit::{self, Builder, Way, mask},
    kernel::{config, offset, read, task},
    maps::{IN_FLIGHT, IN_FLIGHT_URING, PIECE_MAX, URING, URING_DELETES},
    tag,
};

/// `enum io_uring_op` of `include/uapi/linux/io_uring.h`.
const ACCEPT: u8 = 13;
const OPENAT: u8 = 18;
const OPENAT2: u8 = 28;
const RENAMEAT: u8 = 35;
const UNLINKAT: u8 = 36;
const MKDIRAT: u8 = 37;
const SYMLINKAT: u8 = 38;
const LINKAT: u8 = 39;

/// A request that has been submitted and has not been completed.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Request {
    task: Task,
    flags: u32,
    mode: u32,
    opcode: u32,
    /// 1: a record told of it.
    told: u32,
}

/// What a request upon names says. Addresses are of `struct filename`, in the kernel's memory.
struct Names {
    op: u16,
    dir: i32,
    name: u64,
    dir2: i32,
    name2: u64,
    flags: u32,
    mode: u32,
}

/// `io_uring_submit_req(struct io_kiocb *req)`; before 6.3 `io_uring_submit_sqe(struct io_kiocb *req,
/// …)`. In the submitter's context, or in that of the ring's own thread, which is of the same process.
#[inline(always)]
pub fn submit(ctx: &RawTracePointContext) {
    let Some(own) = tag::current() else {
        return;
    };
    let request: u64 = ctx.arg(0);
    let Some(opcode) = read::<u8>(request, offset!(io_kiocb_opcode)) else {
        return;
    };
    let mut entry = Request {
        task: own,
        flags: 0,
        mode: 0,
        opcode: u32::from(opcode),
        told: 0,
    };
    match opcode {
        ACCEPT => {}
        OPENAT | OPENAT2 => {
            // `struct open_how`: flags and mode are its first two members, of eight bytes each.
            let how = offset!(io_open_how);
            entry.flags = read::<u64>(request, how).unwrap_or(0) as u32;
            entry.mode = read::<u64>(request, how + 8).unwrap_or(0) as u32;
            // Into the ring's own table of files: there will be no descriptor to look at.
            if read::<u32>(request, offset!(io_open_slot)).unwrap_or(0) != 0 {
                let names = Names {
                    op: op::OPEN,
                    dir: number(request, offset!(io_open_dfd)),
                    name: pointer(request, offset!(io_open_name)),
                    dir2: 0,
                    name2: 0,
                    flags: entry.flags,
                    mode: entry.mode,
                };
                tell(&own, request, &names);
                entry.told = 1;
            }
        }
        RENAMEAT | UNLINKAT | MKDIRAT | SYMLINKAT | LINKAT => {
            let names = names(request, opcode);
            if names.op == op::UNLINK || names.op == op::RENAME {
                let _ = URING_DELETES.insert(&tag::tgid(), &1, 0);
                let _ = IN_FLIGHT.set(IN_FLIGHT_URING, 1, 0);
            }
            tell(&own, request, &names);
            entry.told = 1;
        }
        _ => return,
    }
    if URING.insert(&request, &entry, 0).is_err() {
        emit::count(own.agent, counter::EMITTED);
        emit::count(own.agent, counter::LOST_CALLS_FULL);
    }
}

/// Reads a request upon names: `struct io_unlink` and its kin, which the request begins with
/// (`io_kiocb_to_cmd`, `include/linux/io_uring_types.h`).
#[inline(always)]
fn names(request: u64, opcode: u8) -> Names {
    match opcode {
        RENAMEAT => Names {
            op: op::RENAME,
            dir: number(request, offset!(io_rename_dfd)),
            name: pointer(request, offset!(io_rename_name)),
            dir2: number(request, offset!(io_rename_dfd2)),
            name2: pointer(request, offset!(io_rename_name2)),
            flags: number(request, offset!(io_rename_flags)) as u32,
            mode: 0,
        },
        MKDIRAT => Names {
            op: op::MKDIR,
            dir: number(request, offset!(io_mkdir_dfd)),
            name: pointer(request, offset!(io_mkdir_name)),
            dir2: 0,
            name2: 0,
            flags: 0,
            mode: u32::from(read::<u16>(request, offset!(io_mkdir_mode)).unwrap_or(0)),
        },
        UNLINKAT => {
            let flags = number(request, offset!(io_unlink_flags)) as u32;
            Names {
                op: if flags & AT_REMOVEDIR == 0 {
                    op::UNLINK
                } else {
                    op::RMDIR
                },
                dir: number(request, offset!(io_unlink_dfd)),
                name: pointer(request, offset!(io_unlink_name)),
                dir2: 0,
                name2: 0,
                flags,
                mode: 0,
            }
        }
        // Both are `struct io_link`; a symbolic link's first name is its target.
        _ => Names {
            op: if opcode == LINKAT {
                op::LINK
            } else {
                op::SYMLINK
            },
            dir: number(request, offset!(io_link_dfd)),
            name: pointer(request, offset!(io_link_name)),
            dir2: number(request, offset!(io_link_dfd2)),
            name2: pointer(request, offset!(io_link_name2)),
            flags: number(request, offset!(io_link_flags)) as u32,
            mode: 0,
        },
    }
}

#[inline(always)]
fn number(base: u64, at: u32) -> i32 {
    read(base, at).unwrap_or(0)
}

#[inline(always)]
fn pointer(base: u64, at: u32) -> u64 {
    read(base, at).unwrap_or(0)
}

/// Sends what is known when it is submitted: the names are gone when it is complete.
#[inline(always)]
fn tell(own: &Task, request: u64, names: &Names) {
    let Some(out) = Builder::<FileOp>::new(kind::FILE, own) else {
        return;
    };
    let record = out.payload();
    record.op = names.op;
    record.open_flags = names.flags;
    record.mode = names.mode;
    record.size = request;
    record.state = state::URING | state::IN_FLIGHT;
    let (base_len, name_len, absolute) = name(&out, names.dir, names.name);
    record.base_len = base_len;
    record.name_len = name_len;
    if absolute {
        record.state |= state::ABSOLUTE;
    }
    if names.name2 != 0 {
        let (base_len, name_len, absolute) = name(&out, names.dir2, names.name2);
        record.base2_len = base_len;
        record.name2_len = name_len;
        if absolute {
            record.state |= state::ABSOLUTE2;
        }
    }
    out.send(Way::BulkSoon);
}

/// Appends a base and a name that the kernel has copied (`struct filename`).
#[inline(always)]
fn name(out: &Builder<FileOp>, dir: i32, filename: u64) -> (u16, u16, bool) {
    let text: u64 = read(filename, offset!(filename_name)).unwrap_or(0);
    let absolute = read::<u8>(text, 0) == Some(b'/');
    let base = if absolute {
        task::root(task::current())
    } else {
        file::base(dir)
    };
    let base_len = match base {
        Some(base) => base.write(out, flag::BASE_CUT).len,
        None => 0,
    };
    let Some(at) = out.room() else {
        out.flag(flag::NAME_CUT);
        return (base_len, 0, absolute);
    };
    // SAFETY: `room` gives PIECE_MAX bytes.
    let n = unsafe { bpf_probe_read_kernel_str(at.cast(), PIECE_MAX as u32, text as *const _) };
    if n <= 0 {
        out.flag(flag::FAULT);
        return (base_len, 0, absolute);
    }
    let len = mask::<{ PIECE_MAX - 1 }>(n as usize - 1);
    out.advance(len);
    (base_len, len as u16, absolute)
}

/// `io_uring_complete(struct io_ring_ctx *ctx, void *req, struct io_uring_cqe *cqe)`; before 6.12
/// `(…, void *req, u64 user_data, int res, …)`. Not for requests that ask for no completion.
#[inline(always)]
pub fn complete(ctx: &RawTracePointContext) {
    let request: u64 = ctx.arg(1);
    // SAFETY: copied out at once.
    let Some(entry) = (unsafe { URING.get(&request) }).copied() else {
        return;
    };
    if URING.remove(&request).is_err() {
        return;
    }
    let result = if config::uring_cqe() {
        i64::from(read::<i32>(ctx.arg(2), offset!(io_cqe_res)).unwrap_or(0))
    } else {
        i64::from(ctx.arg::<u64>(3) as i32)
    };
    if entry.told != 0 {
        done(&entry.task, request, result);
        return;
    }
    // The descriptors of the process that is here now: the submitter, or a worker of its.
    if tag::current().is_none() {
        return;
    }
    if entry.opcode as u8 == ACCEPT {
        if result >= 0 {
            socket::accepted(&entry.task, result as i32);
        }
        return;
    }
    if result >= 0 {
        let Request { flags, mode, .. } = entry;
        open::opened::<0, 0>(&entry.task, result as i32, flags, mode, state::URING);
    }
}

/// Tells how a request ended.
#[inline(always)]
fn done(task: &Task, request: u64, result: i64) {
    let Some(out) = Builder::<UringDone>::new(kind::URING_DONE, task) else {
        return;
    };
    let payload = out.payload();
    payload.request = request;
    payload.result = result;
    out.send(Way::BulkSoon);
}
