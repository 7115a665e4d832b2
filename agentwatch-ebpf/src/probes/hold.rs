//! The deletion budget where BPF is among the security modules: asked before the file is gone, so that
//! not one is too many, however many processes delete at once.
//!
//! A call past the budget is held: it returns `-ERESTARTNOINTR` with `SIGSTOP` pending, so the process
//! stops, and when userspace lets it go on the kernel makes the call again (arch/*/kernel/signal.c).
//! The program sees nothing of it.

use aya_ebpf::{helpers::generated::bpf_send_signal, macros::lsm, programs::LsmContext};

use super::{
    budget::{self, SIGSTOP, Verdict},
    deny::EPERM,
    file::{S_IFDIR, S_IFMT},
};
use crate::{
    kernel::{
        offset,
        path::{self, Path},
        read, task,
    },
    tag,
};

/// `ERESTARTNOINTR` of include/linux/errno.h: never seen by a program.
const ERESTARTNOINTR: i32 = 513;

/// `security_path_unlink(const struct path *dir, struct dentry *dentry)`
#[lsm(hook = "path_unlink")]
pub fn hold_unlink(ctx: LsmContext) -> i32 {
    before(ctx.arg(1))
}

/// `security_path_rename(const struct path *old_dir, struct dentry *old_dentry, …)`. Of an exchange the
/// kernel asks twice, once for each file.
#[lsm(hook = "path_rename")]
pub fn hold_rename(ctx: LsmContext) -> i32 {
    before(ctx.arg(1))
}

/// `security_path_truncate(const struct path *path)`: truncate(2), and open(2) with `O_TRUNC`.
#[lsm(hook = "path_truncate")]
pub fn hold_truncate(ctx: LsmContext) -> i32 {
    match Path::at(ctx.arg(0)) {
        Some(path) => before(path.dentry),
        None => 0,
    }
}

/// Whether a file may be taken away, as the kernel wants it answered.
#[inline(always)]
fn before(dentry: u64) -> i32 {
    let Some(own) = tag::current() else {
        return 0;
    };
    if budget::asks_before(own.agent) != Some(true) {
        return 0;
    }
    let inode: u64 = read(dentry, offset!(dentry_inode)).unwrap_or(0);
    let mode: u16 = read(inode, offset!(inode_mode)).unwrap_or(0);
    // A tree is moved by one call: userspace judges that.
    if u32::from(mode) & S_IFMT == S_IFDIR {
        return 0;
    }
    let Some(key) = path::inode_key(inode) else {
        return 0;
    };
    let folder = read(dentry, offset!(dentry_parent)).unwrap_or(0);
    let is_own = budget::is_own(own.agent, key);
    let Verdict::Past(place) = budget::ask(&own, is_own, folder) else {
        return 0;
    };
    // A worker of io_uring returns to no user mode in which its call could be made again.
    if task::is_uring_worker(task::current()) {
        budget::tell(&own, place, false);
        return -EPERM.cast_signed();
    }
    // SAFETY: a number.
    if unsafe { bpf_send_signal(SIGSTOP) } != 0 {
        budget::tell(&own, place, false);
        return -EPERM.cast_signed();
    }
    budget::tell(&own, place, true);
    -ERESTARTNOINTR
}
