//! System calls upon files. At entry the arguments are remembered; at exit, when the kernel has
//! brought the caller's strings into memory and the result is known, the record is made.

use agentwatch_common::{
    file::{FileOp, LEAF_MAX, SYSCALLS as SYSCALLS_LEN, Syscall, Touched, op, state},
    header::flag,
    kind,
    loss::counter,
    tag::Task,
};
use aya_ebpf::helpers::{
    bpf_get_current_pid_tgid, bpf_probe_read_user, generated::bpf_probe_read_user_str,
};

use super::{budget, syscall::Call};
use crate::{
    emit::{self, Builder, Way, mask},
    kernel::{
        config, offset,
        path::{self, Path, UNTOUCHED},
        read, task,
    },
    maps::{PENDING, PIECE_MAX, SENSITIVE_INODES, SYSCALLS},
    tag,
};

/// `AT_FDCWD` of <fcntl.h>.
pub const AT_FDCWD: i32 = -100;
/// `AT_REMOVEDIR` of <fcntl.h>.
pub const AT_REMOVEDIR: u32 = 0x200;
/// `EPERM` and `EACCES` of <errno.h>.
const REFUSED: [i64; 2] = [-1, -13];

/// Bits of `file->f_mode` (include/linux/fs.h).
const FMODE_WRITE: u32 = 1 << 1;
const FMODE_PATH: u32 = 1 << 14;
const FMODE_CREATED: u32 = 1 << 20;
/// `O_ACCMODE` of <fcntl.h>; 0 of it is `O_RDONLY`.
const O_ACCMODE: u32 = 3;
/// `O_TRUNC` of <fcntl.h>: the same number wherever Linux has BPF.
const O_TRUNC: u32 = 0o1000;

/// `S_IFMT` and `S_IFDIR` of <sys/stat.h>.
pub const S_IFMT: u32 = 0o170_000;
pub const S_IFDIR: u32 = 0o040_000;
const S_IFCHR: u32 = 0o020_000;
const S_IFBLK: u32 = 0o060_000;

/// A call that has been entered and has not returned.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Pending {
    pub task: Task,
    /// The inodes that the kernel changed meanwhile.
    pub touched: [Touched; 2],
    /// The dentry that held the first one's name, and the super block of both; the mount that it was
    /// reached through, where the kernel told.
    pub parent: u64,
    pub sb: u64,
    pub mount: u64,
    /// Folder and mount of the second name, where the kernel told.
    pub parent2: u64,
    pub mount2: u64,
    /// The dentry of what is being made, where the kernel told.
    pub made: u64,
    /// Addresses of the names in the caller's memory.
    name: u64,
    name2: u64,
    dir: i32,
    dir2: i32,
    pub fd: i32,
    pub flags: u32,
    pub mode: u32,
    extra: u32,
    pub op: u16,
    plain2: u16,
}

impl Pending {
    /// A call on a descriptor only.
    #[inline(always)]
    pub fn on_fd(task: Task, fd: i32) -> Self {
        Self {
            task,
            touched: [UNTOUCHED; 2],
            parent: 0,
            sb: 0,
            mount: 0,
            parent2: 0,
            mount2: 0,
            made: 0,
            name: 0,
            name2: 0,
            dir: AT_FDCWD,
            dir2: AT_FDCWD,
            fd,
            flags: 0,
            mode: 0,
            extra: 0,
            op: 0,
            plain2: 0,
        }
    }
}

/// At the entry of the calls in the table.
#[inline(always)]
pub fn enter(ctx: &impl Call) {
    let Some(own) = tag::current() else {
        return;
    };
    let Some(call) = syscall(ctx) else {
        return;
    };
    let mut pending = Pending::on_fd(own, -1);
    pending.op = call.op;
    if call.fd != Syscall::NONE {
        pending.fd = ctx.argument(call.fd) as i32;
    }
    if call.dir != Syscall::NONE {
        pending.dir = ctx.argument(call.dir) as i32;
    }
    if call.dir2 != Syscall::NONE {
        pending.dir2 = ctx.argument(call.dir2) as i32;
    }
    pending.name = ctx.argument(call.name);
    pending.name2 = ctx.argument(call.name2);
    pending.mode = ctx.argument(call.mode) as u32;
    pending.extra = ctx.argument(call.extra) as u32;
    pending.plain2 = u16::from(call.plain2);
    pending.flags = call.fixed_flags;
    if call.how == 0 {
        pending.flags |= ctx.argument(call.flags) as u32;
    } else {
        // openat2: a `struct open_how` of which flags and mode are the first two members.
        let how = ctx.argument(call.flags) as *const u64;
        // SAFETY: the helper checks the address.
        pending.flags |= unsafe { bpf_probe_read_user(how) }.unwrap_or(0) as u32;
        // SAFETY: as above.
        pending.mode = unsafe { bpf_probe_read_user(how.wrapping_add(1)) }.unwrap_or(0) as u32;
    }
    if pending.op == op::UNLINK && pending.flags & AT_REMOVEDIR != 0 {
        pending.op = op::RMDIR;
    }
    if PENDING
        .insert(&bpf_get_current_pid_tgid(), &pending, 0)
        .is_err()
    {
        emit::count(own.agent, counter::EMITTED);
        emit::count(own.agent, counter::LOST_CALLS_FULL);
    }
}

/// The row of the table for this call.
#[inline(always)]
fn syscall(ctx: &impl Call) -> Option<Syscall> {
    let nr = ctx.number()?;
    if nr >= SYSCALLS_LEN {
        return None;
    }
    let call = *SYSCALLS.get(nr)?;
    (call.op != 0).then_some(call)
}

/// What this thread has entered, if that is watched. To be removed with [`done`] after use: the
/// memory may be another call's as soon as it is.
#[inline(always)]
pub fn entered<'a>() -> Option<&'a Pending> {
    // SAFETY: this thread's own entry: nobody else writes it while the thread is here.
    PENDING
        .get_ptr(&bpf_get_current_pid_tgid())
        .map(|pending| unsafe { &*pending })
}

/// Forgets the call.
#[inline(always)]
pub fn done() {
    let _ = PENDING.remove(&bpf_get_current_pid_tgid());
}

/// At the exit of the calls in the table.
#[inline(always)]
pub fn exit(ctx: &impl Call) {
    let Some(call) = entered() else {
        return;
    };
    let result = ctx.result();
    if call.op == op::OPEN {
        open(call, result);
    } else {
        change(call, result);
    }
    done();
}

/// At the exit of a call that opens a file, where the arguments are at hand still: nothing needs to know
/// of it before.
#[inline(always)]
pub fn exit_open(ctx: &impl Call) {
    enter(ctx);
    if let Some(call) = entered() {
        open(call, ctx.result());
        done();
    }
}

/// At the exit of any other call upon a file.
#[inline(always)]
pub fn exit_change(ctx: &impl Call) {
    if let Some(call) = entered() {
        change(call, ctx.result());
        done();
    }
}

/// Begins a record.
#[inline(always)]
fn record<'a>(call: &Pending, result: i64) -> Option<(Builder<FileOp>, &'a mut FileOp)> {
    let out = Builder::<FileOp>::new(kind::FILE, &call.task)?;
    let file = out.payload();
    file.result = result as i32;
    file.open_flags = call.flags;
    file.mode = call.mode;
    file.extra = call.extra;
    file.op = call.op;
    Some((out, file))
}

#[inline(always)]
fn open(call: &Pending, result: i64) {
    if result < 0 {
        // Failed opens for reading are the loader looking for libraries, mostly; refused ones are
        // not.
        let refused = result == REFUSED[0] || result == REFUSED[1];
        if (call.flags & O_ACCMODE != 0 || refused)
            && let Some((out, file)) = record(call, result)
        {
            names(&out, call, file);
            out.send(Way::Bulk);
        }
        return;
    }
    opened(&call.task, result as i32, call.flags, call.mode, 0);
}

/// A process got a descriptor of a file. `bits`: more of [`FileOp::state`].
#[inline(always)]
pub fn opened(own: &Task, fd: i32, flags: u32, asked_mode: u32, bits: u32) {
    let Some(opened) = task::file(task::current(), fd) else {
        return; // closed by another thread meanwhile
    };
    let mode: u32 = read(opened, offset!(file_mode)).unwrap_or(0);
    if mode & FMODE_PATH != 0 {
        return; // a place, not an open file
    }
    let write = mode & FMODE_WRITE != 0;
    emit::count(
        own.agent,
        if write {
            counter::OPENS_WRITE
        } else {
            counter::OPENS_READ
        },
    );
    let inode: u64 = read(opened, offset!(file_inode)).unwrap_or(0);
    let Some(path) = Path::of_file(opened) else {
        return;
    };
    let kind = read::<u16>(inode, offset!(inode_mode)).unwrap_or(0);
    let device = device(kind, inode);
    if !write && device == 0 && !config::send_all_reads() && !is_sensitive(&path, inode) {
        return;
    }
    let Some(out) = Builder::<FileOp>::new(kind::FILE, own) else {
        return;
    };
    let file = out.payload();
    file.result = fd;
    file.open_flags = flags;
    file.mode = asked_mode;
    file.op = op::OPEN;
    file.state = bits;
    path::touch(&mut file.target, inode);
    file.size = read(inode, offset!(inode_size)).unwrap_or(0);
    file.state |= if write {
        state::WRITE
    } else {
        state::SENSITIVE
    };
    if mode & FMODE_CREATED != 0 {
        file.state |= state::CREATED;
        if let Some(key) = path::inode_key(inode) {
            budget::made(own.agent, key);
        }
    }
    if device != 0 {
        file.state |= state::DEVICE;
        file.extra = device;
    }
    file.path_len = path.write(&out, flag::PATH_CUT).len;
    let truncates = write && flags & O_TRUNC != 0 && mode & FMODE_CREATED == 0;
    out.send(if write && !truncates {
        Way::Bulk
    } else {
        Way::BulkSoon
    });
    if truncates && let Some(key) = path::inode_key(inode) {
        let folder = read(path.dentry, offset!(dentry_parent)).unwrap_or(0);
        budget::take_away(own, budget::is_own(own.agent, key), folder);
    }
}

/// The device that an inode stands for, in the kernel's encoding; 0 for none, and for those that
/// everybody opens all day (Documentation/admin-guide/devices.txt): null, zero, full, random, urandom,
/// and terminals.
#[inline(always)]
fn device(mode: u16, inode: u64) -> u32 {
    let kind = u32::from(mode) & S_IFMT;
    if kind != S_IFCHR && kind != S_IFBLK {
        return 0;
    }
    let device: u32 = read(inode, offset!(inode_rdev)).unwrap_or(0);
    let (major, minor) = (device >> 20, device & 0xf_ffff);
    let everyday = match major {
        1 => matches!(minor, 3 | 5 | 7 | 8 | 9),
        4 | 5 | 136..=143 => true,
        _ => false,
    };
    if kind == S_IFCHR && everyday {
        0
    } else {
        device
    }
}

/// Whether an open for reading may be one that the policy wants to know of: by its inode, or by one
/// of its last names. Userspace compares the whole path.
#[inline(always)]
fn is_sensitive(path: &Path, inode: u64) -> bool {
    let mode: u16 = read(inode, offset!(inode_mode)).unwrap_or(0);
    if u32::from(mode) & S_IFMT == S_IFDIR {
        return false;
    }
    if let Some(key) = path::inode_key(inode)
        && SENSITIVE_INODES.get_ptr(&key).is_some()
    {
        return true;
    }
    path.has_sensitive_name()
}

/// Everything but open.
#[inline(always)]
fn change(call: &Pending, result: i64) {
    let Some((out, file)) = record(call, result) else {
        return;
    };
    file.target = call.touched[0];
    if result >= 0 && call.made != 0 {
        // By now it has an inode.
        let inode: u64 = read(call.made, offset!(dentry_inode)).unwrap_or(0);
        if path::touch(&mut file.target, inode)
            && let Some(key) = path::inode_key(inode)
        {
            budget::made(call.task.agent, key);
        }
    }
    file.second = call.touched[1];
    if call.fd >= 0 {
        if let Some(open) = task::file(task::current(), call.fd) {
            let inode: u64 = read(open, offset!(file_inode)).unwrap_or(0);
            path::touch(&mut file.target, inode);
            file.size = read(inode, offset!(inode_size)).unwrap_or(0);
            if let Some(path) = Path::of_file(open) {
                file.path_len = path.write(&out, flag::PATH_CUT).len;
            }
        }
        if call.plain2 != 0 {
            file.state |= state::PLAIN2;
            file.name2_len = string(&out, call.name2);
        }
    } else {
        if result >= 0 && call.parent != 0 {
            resolved(&out, call, file);
        }
        names(&out, call, file);
    }
    let destroys = matches!(call.op, op::UNLINK | op::RENAME | op::TRUNCATE);
    out.send(if destroys { Way::BulkSoon } else { Way::Bulk });
    // After the record: who is asked whether the process may go on has seen why.
    if destroys && result >= 0 {
        budget::spend(call);
    }
}

/// Appends the path of the first inode that the call changed: its name when it was changed, then its
/// parent's path, by whichever mount the call could have reached it.
#[inline(always)]
fn resolved(out: &Builder<FileOp>, call: &Pending, file: &mut FileOp) {
    let leaf = &call.touched[0];
    let len = leaf.leaf_len as usize;
    if len == 0 || len >= leaf.leaf.len() {
        return; // the name is longer than what was kept: the caller's string must do
    }
    let Some(mount) = mount(call) else {
        return;
    };
    let Some(at) = out.room() else {
        return;
    };
    let start = out.position();
    let len = mask::<{ LEAF_MAX - 1 }>(len);
    // SAFETY: LEAF_MAX of PIECE_MAX bytes.
    unsafe { at.cast::<[u8; LEAF_MAX]>().write_unaligned(leaf.leaf) };
    // SAFETY: len is less than 32.
    unsafe { at.add(len).write(b'/') };
    out.advance(len + 1);
    let walk = Path {
        dentry: call.parent,
        mount,
    }
    .write(out, flag::PATH_CUT);
    if walk.whole {
        file.path_len = (out.position() - start) as u16;
        file.state |= state::PATH_OF_INODE;
    } else {
        out.rewind(start);
    }
}

/// The mount through which the call reached what it changed: as the kernel told, else one of those that
/// show its file system.
#[inline(always)]
fn mount(call: &Pending) -> Option<u64> {
    if call.mount != 0 {
        return Some(call.mount);
    }
    let shows = |path: &Path| path.super_block() == Some(call.sb);
    let place = base(call.dir).filter(shows);
    let place = place.or_else(|| task::root(task::current()).filter(shows));
    place.map(|path| path.mount)
}

/// Appends bases and names as the caller gave them.
#[inline(always)]
fn names(out: &Builder<FileOp>, call: &Pending, file: &mut FileOp) {
    // Where a link in the last component is followed, that component is not the file's name.
    let follows = matches!(call.op, op::CHMOD | op::CHOWN | op::XATTR | op::TRUNCATE);
    let folder = known(call.parent, call.mount).filter(|_| !follows && call.op != op::OPEN);
    if folder.is_some() {
        file.state |= state::BASE_RESOLVED;
    }
    let (base_len, name_len, absolute) = name(out, call.dir, call.name, folder);
    file.base_len = base_len;
    file.name_len = name_len;
    if absolute {
        file.state |= state::ABSOLUTE;
    }
    if call.name2 != 0 && call.plain2 != 0 {
        file.state |= state::PLAIN2;
        file.name2_len = string(out, call.name2);
    } else if call.name2 != 0 {
        let folder = known(call.parent2, call.mount2);
        if folder.is_some() {
            file.state |= state::BASE2_RESOLVED;
        }
        let (base_len, name_len, absolute) = name(out, call.dir2, call.name2, folder);
        file.base2_len = base_len;
        file.name2_len = name_len;
        if absolute {
            file.state |= state::ABSOLUTE2;
        }
    }
}

/// A folder that the kernel told of.
#[inline(always)]
fn known(dentry: u64, mount: u64) -> Option<Path> {
    (dentry != 0 && mount != 0).then_some(Path { dentry, mount })
}

/// What a name is relative to.
#[inline(always)]
pub fn base(dir: i32) -> Option<Path> {
    let current = task::current();
    if dir == AT_FDCWD {
        task::cwd(current)
    } else {
        Path::of_file(task::file(current, dir)?)
    }
}

/// Appends one base (the folder that is known, else what the name is relative to) and one name:
/// lengths, and whether the name is absolute.
#[inline(always)]
fn name(out: &Builder<FileOp>, dir: i32, name: u64, known: Option<Path>) -> (u16, u16, bool) {
    // SAFETY: the helper checks the address.
    let first = unsafe { bpf_probe_read_user(name as *const u8) }.unwrap_or(0);
    let absolute = first == b'/';
    // The base of an absolute name is the caller's root, which is no `/` in a chroot.
    let base = if known.is_some() {
        known
    } else if absolute {
        task::root(task::current())
    } else {
        base(dir)
    };
    let base_len = match base {
        Some(base) => base.write(out, flag::BASE_CUT).len,
        None => 0,
    };
    (base_len, string(out, name), absolute)
}

/// Appends a string of the caller's, without its NUL.
#[inline(always)]
fn string(out: &Builder<FileOp>, from: u64) -> u16 {
    let Some(at) = out.room() else {
        out.flag(flag::NAME_CUT);
        return 0;
    };
    // SAFETY: `room` gives PIECE_MAX bytes.
    let n = unsafe { bpf_probe_read_user_str(at.cast(), PIECE_MAX as u32, from as *const _) };
    if n <= 0 {
        out.flag(flag::FAULT);
        return 0;
    }
    let len = mask::<{ PIECE_MAX - 1 }>(n as usize - 1);
    out.advance(len);
    len as u16
}
