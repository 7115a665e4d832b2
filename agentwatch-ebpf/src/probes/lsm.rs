//! Denial by LSM programs, where the kernel has BPF among its security modules: files, executables and
//! what no cgroup program sees. Each is attached only where a policy wants it.
//!
//! Answers are 0 for what may be, else a negative errno. What an earlier module or program refuses never
//! comes here.

use agentwatch_common::{
    deny::{
        DENIED_PATH, Denied, Enforcement, enforce, op, operation,
        section::{self, rule},
        socket,
    },
    kind,
    tag::Task,
};
use aya_ebpf::{macros::lsm, programs::LsmContext};

use super::{
    deny::{EPERM, NOTHING, Named, enforced, outcome, to_send},
    lsm_path::{self, Which},
};
use crate::{
    emit,
    kernel::{offset, path::Path, read, task},
    tag,
};

/// `PROT_EXEC` of <sys/mman.h>.
const PROT_EXEC: u64 = 4;
/// `FMODE_READ`, `FMODE_WRITE` of `include/linux/fs.h`: part of every kernel's `f_mode`.
const FMODE_READ: u32 = 1;
const FMODE_WRITE: u32 = 2;
/// `PTRACE_MODE_ATTACH` of `include/linux/ptrace.h`.
const PTRACE_MODE_ATTACH: u64 = 2;
/// `READING_MODULE`, `LOADING_MODULE` of `include/linux/kernel_read_file.h`.
const MODULE: u32 = 2;

/// A [`Denied`] with a path.
type WithPath = Named<{ DENIED_PATH + 256 }>;

/// What a hook answers.
#[inline(always)]
fn answer(may: bool) -> i32 {
    if may {
        return 0;
    }
    // <verifier: At program exit the register R0 has unknown scalar value should have been in [-4095, 0]>
    // 6.12, where the compiler makes the answer out of `may` by arithmetic: it follows no negation.
    #[cfg(target_arch = "bpf")]
    {
        let refused: i64;
        // SAFETY: one instruction, which sets a register.
        unsafe {
            core::arch::asm!("{x} = {errno}", x = out(reg) refused, errno = const -EPERM.cast_signed());
        }
        refused as i32
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        -EPERM.cast_signed()
    }
}

/// Whether a file may be used so.
#[inline(always)]
fn may(op: u16, which: Which, place: Option<Path>) -> bool {
    let Some(own) = tag::current() else {
        return true;
    };
    let Some(rules) = enforced(own.agent, enforce::FILES) else {
        return true;
    };
    let Some(place) = place else {
        return true;
    };
    let Some(rule) = lsm_path::rule(own.agent, place, which) else {
        return true;
    };
    refuse_file(&own, rules.flags, op, rule, place)
}

/// Tells of a file that was refused.
#[inline(always)]
fn refuse_file(own: &Task, flags: u32, op: u16, rule: u32, place: Path) -> bool {
    let observed = flags & enforce::OBSERVE != 0;
    let header = emit::header(kind::DENIED, own);
    let Some(repeats) = to_send(&header, rule, op) else {
        return observed;
    };
    let (dev, ino) = lsm_path::inode(place.dentry);
    emit::prio(header, |to: *mut WithPath| {
        // SAFETY: reserved memory of this type; all that is read later is written.
        unsafe {
            let text_len = lsm_path::write((&raw mut (*to).text).cast(), place);
            let denied = Denied {
                rule,
                op,
                dev,
                ino,
                text_len,
                ..NOTHING
            };
            (&raw mut (*to).fixed).write(outcome(denied, repeats, observed));
        }
    });
    observed
}

/// Whether something may be done that has no object of ours.
#[inline(always)]
fn may_do(which: usize, op: u16, target: u32) -> bool {
    let Some(own) = tag::current() else {
        return true;
    };
    let Some(rules) = enforced(own.agent, enforce::OPERATIONS) else {
        return true;
    };
    let index = rules.operations[which];
    if index == Enforcement::ALLOWED {
        return true;
    }
    let denied = Denied {
        rule: rule(section::OPERATIONS, index),
        op,
        target,
        ..NOTHING
    };
    super::deny::refuse(&own, rules.flags, denied)
}

/// Whether an agent's task may do something to agentwatch.
#[inline(always)]
fn may_touch(target: u32, op: u16, signal: u16) -> bool {
    if tag::protected(target).is_none_or(|process| process.own == 0) {
        return true;
    }
    let Some(own) = tag::current() else {
        return true;
    };
    let observe = enforced(own.agent, enforce::OBSERVE).map_or(0, |rules| rules.flags);
    let denied = Denied {
        rule: rule(section::PROTECTION, 0),
        op,
        target,
        kind: signal,
        ..NOTHING
    };
    super::deny::refuse(&own, observe, denied)
}

/// A new name in a folder.
#[inline(always)]
fn place_in(dir: u64, dentry: u64) -> Option<Path> {
    Some(Path {
        mount: Path::at(dir)?.mount,
        dentry,
    })
}

/// `bprm_check_security(struct linux_binprm *bprm)`: the program, and again for each interpreter.
#[lsm(hook = "bprm_check_security")]
pub fn lsm_bprm_check(ctx: LsmContext) -> i32 {
    let file: u64 = read(ctx.arg(0), offset!(binprm_file)).unwrap_or(0);
    answer(may(op::EXEC, Which::Exec, Path::of_file(file)))
}

/// `mmap_file(struct file *file, unsigned long reqprot, unsigned long prot, unsigned long flags)`: a
/// program that `ld.so` starts is mapped, not executed.
#[lsm(hook = "mmap_file")]
pub fn lsm_mmap_file(ctx: LsmContext) -> i32 {
    let (file, prot): (u64, u64) = (ctx.arg(0), ctx.arg(2));
    if file == 0 || prot & PROT_EXEC == 0 {
        return 0;
    }
    answer(may(op::EXEC, Which::Exec, Path::of_file(file)))
}

/// `file_open(struct file *file)`
#[lsm(hook = "file_open")]
pub fn lsm_file_open(ctx: LsmContext) -> i32 {
    let file: u64 = ctx.arg(0);
    let mode: u32 = read(file, offset!(file_mode)).unwrap_or(0);
    let writes = mode & FMODE_WRITE != 0;
    let reads = mode & FMODE_READ != 0;
    // One walk, whatever is asked: the verifier follows each call of its own.
    let (op, which) = match (reads, writes) {
        (true, true) => (op::WRITE, Which::ReadWrite),
        (false, true) => (op::WRITE, Which::Write),
        (true, false) => (op::READ, Which::Read),
        (false, false) => return 0,
    };
    // <verifier: invalid read from stack> Only now: what may be nothing is not carried past a branch, for
    // which the compiler would copy it. Before 6.3 no copy may be of what was never written.
    let Some(place) = Path::of_file(file) else {
        return 0;
    };
    answer(may(op, which, Some(place)))
}

/// `path_truncate(const struct path *path)`
#[lsm(hook = "path_truncate")]
pub fn lsm_path_truncate(ctx: LsmContext) -> i32 {
    answer(may(op::WRITE, Which::Write, Path::at(ctx.arg(0))))
}

/// `file_truncate(struct file *file)`: since 6.2; before, the one above is asked for it too.
#[lsm(hook = "file_truncate")]
pub fn lsm_file_truncate(ctx: LsmContext) -> i32 {
    answer(may(op::WRITE, Which::Write, Path::of_file(ctx.arg(0))))
}

/// `path_chmod(const struct path *path, umode_t mode)`
#[lsm(hook = "path_chmod")]
pub fn lsm_path_chmod(ctx: LsmContext) -> i32 {
    answer(may(op::WRITE, Which::Write, Path::at(ctx.arg(0))))
}

/// `path_chown(const struct path *path, kuid_t uid, kgid_t gid)`
#[lsm(hook = "path_chown")]
pub fn lsm_path_chown(ctx: LsmContext) -> i32 {
    answer(may(op::WRITE, Which::Write, Path::at(ctx.arg(0))))
}

/// `path_unlink(const struct path *dir, struct dentry *dentry)`
#[lsm(hook = "path_unlink")]
pub fn lsm_path_unlink(ctx: LsmContext) -> i32 {
    answer(may(
        op::DELETE,
        Which::Delete,
        place_in(ctx.arg(0), ctx.arg(1)),
    ))
}

/// `path_rmdir(const struct path *dir, struct dentry *dentry)`
#[lsm(hook = "path_rmdir")]
pub fn lsm_path_rmdir(ctx: LsmContext) -> i32 {
    answer(may(
        op::DELETE,
        Which::Delete,
        place_in(ctx.arg(0), ctx.arg(1)),
    ))
}

/// `path_rename(const struct path *old_dir, struct dentry *old_dentry, const struct path *new_dir,
/// struct dentry *new_dentry, unsigned int flags)`: what may not be read or written may not go where it
/// could be.
#[lsm(hook = "path_rename")]
pub fn lsm_path_rename(ctx: LsmContext) -> i32 {
    answer(may(
        op::RENAME,
        Which::Any,
        place_in(ctx.arg(0), ctx.arg(1)),
    ))
}

/// The same hook for the other end: what is replaced, and what comes into a folder.
#[lsm(hook = "path_rename")]
pub fn lsm_path_rename_to(ctx: LsmContext) -> i32 {
    answer(may(
        op::RENAME,
        Which::Change,
        place_in(ctx.arg(2), ctx.arg(3)),
    ))
}

/// `path_link(struct dentry *old_dentry, const struct path *new_dir, struct dentry *new_dentry)`: both
/// are on one mount.
#[lsm(hook = "path_link")]
pub fn lsm_path_link(ctx: LsmContext) -> i32 {
    answer(may(
        op::RENAME,
        Which::Any,
        place_in(ctx.arg(1), ctx.arg(0)),
    ))
}

/// The same hook for the new name.
#[lsm(hook = "path_link")]
pub fn lsm_path_link_to(ctx: LsmContext) -> i32 {
    answer(may(
        op::WRITE,
        Which::Write,
        place_in(ctx.arg(1), ctx.arg(2)),
    ))
}

/// `path_mknod(const struct path *dir, struct dentry *dentry, umode_t mode, unsigned int dev)`: a file
/// that open(2) makes, too.
#[lsm(hook = "path_mknod")]
pub fn lsm_path_mknod(ctx: LsmContext) -> i32 {
    answer(may(
        op::WRITE,
        Which::Write,
        place_in(ctx.arg(0), ctx.arg(1)),
    ))
}

/// `path_mkdir(const struct path *dir, struct dentry *dentry, umode_t mode)`
#[lsm(hook = "path_mkdir")]
pub fn lsm_path_mkdir(ctx: LsmContext) -> i32 {
    answer(may(
        op::WRITE,
        Which::Write,
        place_in(ctx.arg(0), ctx.arg(1)),
    ))
}

/// `path_symlink(const struct path *dir, struct dentry *dentry, const char *old_name)`
#[lsm(hook = "path_symlink")]
pub fn lsm_path_symlink(ctx: LsmContext) -> i32 {
    answer(may(
        op::WRITE,
        Which::Write,
        place_in(ctx.arg(0), ctx.arg(1)),
    ))
}

/// `inode_setxattr(struct mnt_idmap *idmap, struct dentry *dentry, const char *name, …)`: since 5.12
/// the dentry is the second. The mount is not told: what is mounted below a denied folder is not covered
/// by it here.
#[lsm(hook = "inode_setxattr")]
pub fn lsm_inode_setxattr(ctx: LsmContext) -> i32 {
    let place = Path {
        dentry: ctx.arg(1),
        mount: 0,
    };
    answer(may(op::WRITE, Which::Write, Some(place)))
}

/// `inode_set_acl(struct mnt_idmap *idmap, struct dentry *dentry, …)`: since 6.2; before, the one above
/// is asked for it too.
#[lsm(hook = "inode_set_acl")]
pub fn lsm_inode_set_acl(ctx: LsmContext) -> i32 {
    let place = Path {
        dentry: ctx.arg(1),
        mount: 0,
    };
    answer(may(op::WRITE, Which::Write, Some(place)))
}

/// `ptrace_access_check(struct task_struct *child, unsigned int mode)`: `process_vm_readv`, `pidfd_getfd`
/// and /proc/PID/mem ask too.
#[lsm(hook = "ptrace_access_check")]
pub fn lsm_ptrace(ctx: LsmContext) -> i32 {
    let (child, mode): (u64, u64) = (ctx.arg(0), ctx.arg(1));
    if mode & PTRACE_MODE_ATTACH == 0 {
        return 0;
    }
    let target = task::tgid(child).unwrap_or(0);
    answer(may_touch(target, op::PTRACE, 0) && may_do(operation::PTRACE, op::PTRACE, target))
}

/// `ptrace_traceme(struct task_struct *parent)`
#[lsm(hook = "ptrace_traceme")]
pub fn lsm_ptrace_traceme(ctx: LsmContext) -> i32 {
    let parent = task::tgid(ctx.arg(0)).unwrap_or(0);
    answer(may_do(operation::PTRACE, op::PTRACE, parent))
}

/// `bpf(int cmd, union bpf_attr *attr, unsigned int size)`
#[lsm(hook = "bpf")]
pub fn lsm_bpf(_: LsmContext) -> i32 {
    answer(may_do(operation::BPF, op::BPF, 0))
}

/// `sb_mount(const char *dev_name, const struct path *path, …)`
#[lsm(hook = "sb_mount")]
pub fn lsm_sb_mount(_: LsmContext) -> i32 {
    answer(may_do(operation::MOUNT, op::MOUNT, 0))
}

/// `move_mount(const struct path *from_path, const struct path *to_path)`: how the newer calls mount.
#[lsm(hook = "move_mount")]
pub fn lsm_move_mount(_: LsmContext) -> i32 {
    answer(may_do(operation::MOUNT, op::MOUNT, 0))
}

/// `kernel_module_request(char *kmod_name)`: the kernel wants a module for something that the task does.
#[lsm(hook = "kernel_module_request")]
pub fn lsm_module_request(_: LsmContext) -> i32 {
    answer(may_do(operation::MODULE_LOAD, op::MODULE_LOAD, 0))
}

/// `kernel_read_file(struct file *file, enum kernel_read_file_id id, bool contents)`: `finit_module`.
#[lsm(hook = "kernel_read_file")]
pub fn lsm_read_file(ctx: LsmContext) -> i32 {
    let id: u64 = ctx.arg(1);
    if id as u32 != MODULE {
        return 0;
    }
    answer(may_do(operation::MODULE_LOAD, op::MODULE_LOAD, 0))
}

/// `kernel_load_data(enum kernel_load_data_id id, bool contents)`: `init_module`.
#[lsm(hook = "kernel_load_data")]
pub fn lsm_load_data(ctx: LsmContext) -> i32 {
    let id: u64 = ctx.arg(0);
    if id as u32 != MODULE {
        return 0;
    }
    answer(may_do(operation::MODULE_LOAD, op::MODULE_LOAD, 0))
}

/// `task_kill(struct task_struct *p, struct kernel_siginfo *info, int sig, const struct cred *cred)`
#[lsm(hook = "task_kill")]
pub fn lsm_task_kill(ctx: LsmContext) -> i32 {
    let (to, signal): (u64, u64) = (ctx.arg(0), ctx.arg(2));
    // Signal 0 only asks whether the process is there.
    if signal as u32 == 0 {
        return 0;
    }
    let target = task::tgid(to).unwrap_or(0);
    answer(may_touch(target, op::SIGNAL, signal as u16))
}

/// `socket_create(int family, int type, int protocol, int kern)`: the families that no cgroup program
/// sees.
#[lsm(hook = "socket_create")]
pub fn lsm_socket_create(ctx: LsmContext) -> i32 {
    let (family, kind): (u64, u64) = (ctx.arg(0), ctx.arg(1));
    let (protocol, kern): (u64, u64) = (ctx.arg(2), ctx.arg(3));
    if kern as u32 != 0 {
        return 0;
    }
    // <sys/socket.h>
    let which = match family as u32 {
        1 => socket::UNIX,
        16 => socket::NETLINK,
        17 => socket::PACKET,
        38 => socket::ALG,
        40 => socket::VSOCK,
        44 => socket::XDP,
        _ => return 0,
    };
    let Some(own) = tag::current() else {
        return 0;
    };
    let Some(rules) = enforced(own.agent, enforce::SOCKETS) else {
        return 0;
    };
    let index = rules.sockets[which];
    if index == Enforcement::ALLOWED {
        return 0;
    }
    let denied = Denied {
        rule: rule(section::SOCKETS, index),
        op: op::SOCKET,
        family: family as u16,
        kind: kind as u16,
        protocol: protocol as u16,
        ..NOTHING
    };
    answer(super::deny::refuse(&own, rules.flags, denied))
}
