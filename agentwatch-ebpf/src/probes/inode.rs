//! Which inode a call changed: told by the kernel itself when it sets the inode's ctime.

use agentwatch_common::file::op;
use aya_ebpf::{helpers::bpf_get_current_pid_tgid, programs::RawTracePointContext};

use super::budget;
use crate::{
    kernel::{offset, path, read, task},
    maps::{IN_FLIGHT, IN_FLIGHT_CALLS, IN_FLIGHT_URING, PENDING, URING_DELETES},
    probes::file::{S_IFDIR, S_IFMT},
    tag,
};

/// `inode_set_ctime_to_ts(struct inode *inode, struct timespec64 *ctime)`,
/// `ctime_ns_xchg(struct inode *inode, …)`, `ctime_xchg_skip(struct inode *inode, …)`:
/// include/trace/events/timestamp.h, since 6.13.
///
/// A deleted or renamed file has its name still when its ctime is set: `d_delete` and `d_move` come
/// after the file system's own work (fs/namei.c, `vfs_unlink` and `vfs_rename`).
#[inline(always)]
pub fn changed(ctx: &RawTracePointContext) {
    let is = |what: u32| IN_FLIGHT.get(what).is_some_and(|n| *n != 0);
    if !is(IN_FLIGHT_CALLS) && !is(IN_FLIGHT_URING) {
        return;
    }
    let id = bpf_get_current_pid_tgid();
    let Some(pending) = PENDING.get_ptr_mut(&id) else {
        if task::is_uring_worker(task::current()) {
            by_worker(ctx.arg(0));
        }
        return;
    };
    // SAFETY: this thread's own entry: only its calls write it, and it is in one.
    let pending = unsafe { &mut *pending };
    let inode: u64 = ctx.arg(0);
    // An inode that has no name yet is being made.
    if matches!(pending.op, op::MKDIR | op::MKNOD | op::SYMLINK) {
        if dentry(inode).is_none()
            && let Some(key) = path::inode_key(inode)
        {
            budget::made(pending.task.agent, key);
        }
        return;
    }
    if !matches!(
        pending.op,
        op::UNLINK | op::RENAME | op::CHMOD | op::CHOWN | op::XATTR | op::TRUNCATE | op::LINK
    ) {
        return;
    }
    let mut touched = path::UNTOUCHED;
    if !path::touch(&mut touched, inode) {
        return;
    }
    // The directories that lose and gain a name are changed too. Only these are about a directory.
    let any_kind = matches!(pending.op, op::CHMOD | op::CHOWN | op::XATTR);
    if !any_kind && touched.mode & S_IFMT == S_IFDIR {
        return;
    }
    let slot = if pending.touched[0].ino == 0 {
        0
    } else if pending.touched[0].ino == touched.ino || pending.touched[1].ino != 0 {
        return;
    } else {
        1
    };
    let Some(dentry) = dentry(inode) else {
        return;
    };
    touched.leaf_len = path::name_key(dentry, &mut touched.leaf);
    if slot == 0 {
        pending.parent = read(dentry, offset!(dentry_parent)).unwrap_or(0);
        pending.sb = read(inode, offset!(inode_sb)).unwrap_or(0);
        pending.touched[0] = touched;
    } else {
        pending.touched[1] = touched;
    }
}

/// A worker of io_uring changes an inode. If its process deletes through io_uring, this may be such a
/// deletion: it counts against the budget. Which one it was, the request's own record tells.
#[inline(always)]
fn by_worker(inode: u64) {
    if URING_DELETES.get_ptr(&tag::tgid()).is_none() {
        return;
    }
    let Some(own) = tag::current() else {
        return;
    };
    let mode: u16 = read(inode, offset!(inode_mode)).unwrap_or(0);
    if u32::from(mode) & S_IFMT == S_IFDIR {
        return;
    }
    let (Some(key), Some(dentry)) = (path::inode_key(inode), dentry(inode)) else {
        return;
    };
    let folder = read(dentry, offset!(dentry_parent)).unwrap_or(0);
    budget::take_away(&own, budget::is_own(own.agent, key), folder);
}

/// The first dentry of an inode. One with several hard links may give another name than the call's:
/// userspace compares it with the caller's.
#[inline(always)]
fn dentry(inode: u64) -> Option<u64> {
    let alias: u64 = read(inode, offset!(inode_dentry))?;
    (alias != 0).then(|| alias - u64::from(offset!(dentry_alias)))
}
