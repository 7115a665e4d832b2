//! Files that a process maps as code: libraries that its loader loads, and whatever else it makes run
//! without executing it.

use agentwatch_common::{
    file::{FileOp, MappedKey, op},
    header::flag,
    kind,
};

use super::syscall::Call;
use crate::{
    emit::{Builder, Way},
    kernel::{
        offset,
        path::{self, Path},
        read, task,
    },
    maps::MAPPED,
    tag,
};

/// `PROT_EXEC` and `MAP_ANONYMOUS` of <sys/mman.h>: the same numbers wherever Linux has BPF.
const PROT_EXEC: u64 = 0x4;
const MAP_ANONYMOUS: u64 = 0x20;

/// At the entry of `mmap(addr, len, prot, flags, fd, off)`, and there only, since every program of the host makes
/// this call often. Once for each file and process: each library is mapped by each program that uses it.
#[inline(always)]
pub fn enter(ctx: &impl Call) {
    let (prot, flags) = (ctx.argument(2), ctx.argument(3));
    if prot & PROT_EXEC == 0 || flags & MAP_ANONYMOUS != 0 {
        return;
    }
    let Some(own) = tag::current() else {
        return;
    };
    let Some(file) = task::file(task::current(), ctx.argument(4) as i32) else {
        return;
    };
    let inode: u64 = read(file, offset!(file_inode)).unwrap_or(0);
    let Some(id) = path::inode_key(inode) else {
        return;
    };
    let key = MappedKey {
        ino: id.ino,
        start_ns: own.start_ns,
        dev: id.dev,
        tgid: tag::tgid(),
    };
    if MAPPED.get_ptr(&key).is_some() {
        return;
    }
    let Some(path) = Path::of_file(file) else {
        return;
    };
    let Some(out) = Builder::<FileOp>::new(kind::FILE, &own) else {
        return;
    };
    let record = out.payload();
    record.op = op::MMAP_EXEC;
    record.open_flags = flags as u32;
    record.mode = prot as u32;
    path::touch(&mut record.target, inode);
    record.size = read(inode, offset!(inode_size)).unwrap_or(0);
    record.path_len = path.write(&out, flag::PATH_CUT).len;
    if out.send(Way::BulkSoon) {
        let _ = MAPPED.insert(&key, &1, 0);
    }
}
