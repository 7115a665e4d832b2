//! System calls upon files. At entry the arguments are remembered; at exit, when the kernel has
//! brought the caller's strings into memory and the result is known, the record is made.

use agentwatch_common::{
    file::{FileOp, LEAF_MAX, SYSCALLS as SYSCALLS_LEN, Syscall, Touched, op, state},
    header::flag,
    kind,
    loss::counter,
    tag::Task,
};
use aya_ebpf::{
    bindings::BPF_NOEXIST,
    helpers::{bpf_get_current_pid_tgid, bpf_probe_read_user, generated::bpf_probe_read_user_str},
};

use super::{budget, syscall::Call};
use crate::{
    emit::{self, Builder, Way, mask},
    kernel::{
        offset,
        path::{self, INODE_WORDS, Inode, Path, UNTOUCHED},
        read, task,
    },
    maps::{IN_FLIGHT, IN_FLIGHT_CALLS, PENDING, PIECE_MAX, SYSCALLS},
    tag,
};

/// `AT_FDCWD` of <fcntl.h>.
pub const AT_FDCWD: i32 = -100;
/// `AT_REMOVEDIR` of <fcntl.h>.
pub const AT_REMOVEDIR: u32 = 0x200;
/// `S_IFMT` and `S_IFDIR` of <sys/stat.h>.
pub const S_IFMT: u32 = 0o170_000;
pub const S_IFREG: u32 = 0o100_000;
pub const S_IFDIR: u32 = 0o040_000;
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
    pub name: u64,
    name2: u64,
    pub dir: i32,
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

    /// A call with these arguments.
    #[inline(always)]
    fn new(own: Task, call: &Syscall, argument: impl Fn(u8) -> u64) -> Self {
        let mut pending = Self::on_fd(own, -1);
        pending.op = call.op;
        if call.fd != Syscall::NONE {
            pending.fd = argument(call.fd) as i32;
        }
        pending.dir = directory(call, &argument);
        if call.dir2 != Syscall::NONE {
            pending.dir2 = argument(call.dir2) as i32;
        }
        pending.name = argument(call.name);
        pending.name2 = argument(call.name2);
        (pending.flags, pending.mode) = how(call, &argument);
        pending.extra = argument(call.extra) as u32;
        pending.plain2 = u16::from(call.plain2);
        if pending.op == op::UNLINK && pending.flags & AT_REMOVEDIR != 0 {
            pending.op = op::RMDIR;
        }
        pending
    }
}

/// The descriptor that the name of a call is relative to.
#[inline(always)]
pub fn directory(call: &Syscall, argument: impl Fn(u8) -> u64) -> i32 {
    if call.dir == Syscall::NONE {
        AT_FDCWD
    } else {
        argument(call.dir) as i32
    }
}

/// The flags and the mode that a call was made with.
#[inline(always)]
pub fn how(call: &Syscall, argument: impl Fn(u8) -> u64) -> (u32, u32) {
    let flags = argument(call.flags);
    if call.how == 0 {
        return (call.fixed_flags | flags as u32, argument(call.mode) as u32);
    }
    // openat2: a `struct open_how` of which flags and mode are the first two members.
    let how = flags as *const u64;
    // SAFETY: the helper checks the address.
    let flags = unsafe { bpf_probe_read_user(how) }.unwrap_or(0);
    // SAFETY: as above.
    let mode = unsafe { bpf_probe_read_user(how.wrapping_add(1)) }.unwrap_or(0);
    (call.fixed_flags | flags as u32, mode as u32)
}

/// At the entry of the calls in the table.
#[inline(always)]
pub fn enter(ctx: &impl Call) {
    let Some(own) = tag::current() else {
        return;
    };
    let Some(call) = row(ctx) else {
        return;
    };
    let pending = Pending::new(own, &call, |index| ctx.argument(index));
    begin(&pending);
}

/// Remembers a call until its exit.
#[inline(always)]
pub fn begin(call: &Pending) {
    let id = bpf_get_current_pid_tgid();
    if PENDING.insert(&id, call, BPF_NOEXIST.into()).is_ok() {
        in_flight(1);
    } else if PENDING.insert(&id, call, 0).is_err() {
        // Full; else one that never returned was there.
        emit::count(call.task.agent, counter::EMITTED);
        emit::count(call.task.agent, counter::LOST_CALLS_FULL);
    }
}

/// Adds to the number of calls that are in flight.
#[inline(always)]
fn in_flight(calls: u64) {
    if let Some(number) = IN_FLIGHT.get_ptr_mut(IN_FLIGHT_CALLS) {
        // SAFETY: a word of a map.
        unsafe { emit::add(number, calls) };
    }
}

/// The row of the table for this call.
#[inline(always)]
pub fn row(ctx: &impl Call) -> Option<Syscall> {
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
    if PENDING.remove(&bpf_get_current_pid_tgid()).is_ok() {
        in_flight(u64::MAX);
    }
}

/// At the exit of those that open no file.
#[inline(always)]
pub fn exit(ctx: &impl Call) {
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
            let mut inode = Inode::<INODE_WORDS>::new();
            if inode.fill(read(open, offset!(file_inode)).unwrap_or(0)) {
                inode.touch(&mut file.target);
                file.size = inode.size();
            }
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
    let folder = known(call.parent, call.mount).filter(|_| !follows);
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
pub fn name(out: &Builder<FileOp>, dir: i32, name: u64, known: Option<Path>) -> (u16, u16, bool) {
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
