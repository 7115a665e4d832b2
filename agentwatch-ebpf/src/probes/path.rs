//! Which file a call is about: told by the kernel itself, when it asks its security modules (whether
//! there are any or not). The trampoline tier; without it `probes/inode.rs` does the same by what the
//! kernel tells of changed inodes.
//!
//! The functions are `security_path_*` of security/security.c: they get the `struct path` that the
//! kernel resolved, mount included, and have had the same arguments since 5.10. Those of extended
//! attributes get the dentry only.

use agentwatch_common::file::{Touched, op};
use aya_ebpf::{helpers::bpf_get_current_pid_tgid, programs::FEntryContext};

use super::{budget, file::Pending};
use crate::{
    kernel::{
        offset,
        path::{self, Path},
        read, task,
    },
    maps::{PENDING, URING_DELETES},
    tag,
};

/// The call that this thread is in, if it is one upon files.
#[inline(always)]
fn pending<'a>() -> Option<&'a mut Pending> {
    let id = bpf_get_current_pid_tgid();
    // SAFETY: this thread's own entry: only its calls write it, and it is in one.
    PENDING
        .get_ptr_mut(&id)
        .map(|pending| unsafe { &mut *pending })
}

/// `security_path_unlink(const struct path *dir, struct dentry *dentry)`
#[inline(always)]
pub fn unlink(ctx: &FEntryContext) {
    let (dir, dentry): (u64, u64) = (ctx.arg(0), ctx.arg(1));
    match pending() {
        Some(call) if call.op == op::UNLINK => remember(call, dir, dentry),
        Some(_) => {}
        None => by_worker(dentry),
    }
}

/// `security_path_rename(const struct path *old_dir, struct dentry *old_dentry, const struct path
/// *new_dir, struct dentry *new_dentry, unsigned int flags)`
#[inline(always)]
pub fn rename(ctx: &FEntryContext) {
    let (dir, old): (u64, u64) = (ctx.arg(0), ctx.arg(1));
    let (dir2, new): (u64, u64) = (ctx.arg(2), ctx.arg(3));
    match pending() {
        Some(call) if call.op == op::RENAME => {
            // An exchange asks twice: the first time is about the names as they were passed.
            if call.parent == 0 {
                remember(call, dir, old);
                describe(&mut call.touched[1], new);
                second(call, dir2);
            }
        }
        Some(_) => {}
        None => by_worker(old),
    }
}

/// `security_path_rmdir(const struct path *dir, struct dentry *dentry)`
#[inline(always)]
pub fn rmdir(ctx: &FEntryContext) {
    let (dir, dentry): (u64, u64) = (ctx.arg(0), ctx.arg(1));
    if let Some(call) = pending()
        && call.op == op::RMDIR
    {
        remember(call, dir, dentry);
    }
}

/// `security_path_mkdir(const struct path *dir, struct dentry *dentry, umode_t mode)`,
/// `security_path_mknod(const struct path *dir, struct dentry *dentry, umode_t mode, unsigned int
/// dev)`, `security_path_symlink(const struct path *dir, struct dentry *dentry, const char
/// *old_name)`: the dentry has no inode yet.
#[inline(always)]
pub fn make(ctx: &FEntryContext) {
    let (dir, dentry): (u64, u64) = (ctx.arg(0), ctx.arg(1));
    if let Some(call) = pending()
        && matches!(call.op, op::MKDIR | op::MKNOD | op::SYMLINK)
    {
        if call.op == op::SYMLINK {
            // Its first name is what it leads to.
            describe(&mut call.touched[0], dentry);
            second(call, dir);
        } else {
            remember(call, dir, dentry);
        }
        call.made = dentry;
    }
}

/// `security_path_link(struct dentry *old_dentry, const struct path *new_dir, struct dentry
/// *new_dentry)`: both are on one mount, or it is refused.
#[inline(always)]
pub fn link(ctx: &FEntryContext) {
    let (dentry, dir): (u64, u64) = (ctx.arg(0), ctx.arg(1));
    if let Some(call) = pending()
        && call.op == op::LINK
    {
        describe(&mut call.touched[0], dentry);
        second(call, dir);
        call.parent = read(dentry, offset!(dentry_parent)).unwrap_or(0);
        call.mount = call.mount2;
    }
}

/// `security_path_chmod(const struct path *path, umode_t mode)`, `security_path_chown(const struct
/// path *path, kuid_t uid, kgid_t gid)`, `security_path_truncate(const struct path *path)`
#[inline(always)]
pub fn change(ctx: &FEntryContext) {
    let place: u64 = ctx.arg(0);
    if let Some(call) = pending()
        && matches!(call.op, op::CHMOD | op::CHOWN | op::TRUNCATE)
        && let Some(Path { dentry, mount }) = Path::at(place)
    {
        describe(&mut call.touched[0], dentry);
        call.parent = read(dentry, offset!(dentry_parent)).unwrap_or(0);
        call.mount = mount;
    }
}

/// `security_inode_setxattr(struct mnt_idmap *idmap, struct dentry *dentry, …)`, and likewise
/// `security_inode_removexattr`, `security_inode_set_acl` and `security_inode_remove_acl` (before 5.12 the
/// dentry came first; kernels as old refuse other programs of this tier, and with them these). The mount
/// is the caller's place's, if that shows the same file system.
#[inline(always)]
pub fn attribute(ctx: &FEntryContext) {
    let dentry: u64 = ctx.arg(1);
    if let Some(call) = pending()
        && call.op == op::XATTR
    {
        describe(&mut call.touched[0], dentry);
        call.parent = read(dentry, offset!(dentry_parent)).unwrap_or(0);
        let inode: u64 = read(dentry, offset!(dentry_inode)).unwrap_or(0);
        call.sb = read(inode, offset!(inode_sb)).unwrap_or(0);
    }
}

/// Fills in what a call in a folder is about.
#[inline(always)]
fn remember(call: &mut Pending, dir: u64, dentry: u64) {
    describe(&mut call.touched[0], dentry);
    if let Some(Path { dentry, mount }) = Path::at(dir) {
        call.parent = dentry;
        call.mount = mount;
    }
}

/// Fills in the folder of the second name.
#[inline(always)]
fn second(call: &mut Pending, dir: u64) {
    if let Some(Path { dentry, mount }) = Path::at(dir) {
        call.parent2 = dentry;
        call.mount2 = mount;
    }
}

/// Fills in what is sent of an inode and its name.
#[inline(always)]
fn describe(touched: &mut Touched, dentry: u64) {
    let inode: u64 = read(dentry, offset!(dentry_inode)).unwrap_or(0);
    if inode != 0 {
        path::touch(touched, inode);
    }
    touched.leaf_len = path::name_key(dentry, &mut touched.leaf);
}

/// A worker of io_uring is about to take a name away: that counts against the budget. Its request's
/// own record tells of it.
#[inline(always)]
fn by_worker(dentry: u64) {
    if !task::is_uring_worker(task::current()) || URING_DELETES.get_ptr(&tag::tgid()).is_none() {
        return;
    }
    let Some(own) = tag::current() else {
        return;
    };
    let inode: u64 = read(dentry, offset!(dentry_inode)).unwrap_or(0);
    let Some(key) = path::inode_key(inode) else {
        return;
    };
    let folder = read(dentry, offset!(dentry_parent)).unwrap_or(0);
    budget::take_away(&own, budget::is_own(own.agent, key), folder);
}
