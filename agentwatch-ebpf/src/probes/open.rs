//! Calls that open a file, at their exit: the file that the descriptor stands for is the kernel's own
//! answer to whatever the caller's string said.

use super::{
    budget,
    file::{S_IFDIR, S_IFMT, S_IFREG, directory, done, entered, how, name, row},
    syscall::Call,
    thin,
};
use crate::{
    emit::{self, Builder, Way},
    kernel::{
        Head, config, offset,
        path::{INODE_WORDS, Inode, Path},
        read, task,
    },
    maps::SENSITIVE_INODES,
    tag,
};
use agentwatch_common::{
    file::{FileOp, op, state},
    header::flag,
    kind,
    loss::counter,
    tag::Task,
};

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

/// `S_IFCHR` and `S_IFBLK` of <sys/stat.h>.
const S_IFCHR: u32 = 0o020_000;
const S_IFBLK: u32 = 0o060_000;

/// How much of a `struct file` holds all that is asked for, mostly: words.
const FILE_WORDS: usize = 10;

/// At the exit of the calls in the table that open a file. They are most of all calls upon files, so where
/// the kernel lets us they are looked at here only.
#[inline(always)]
pub fn exit(ctx: &impl Call) {
    let open = if let Some(registers) = ctx.registers() {
        let Some(own) = tag::current() else {
            return;
        };
        let Some(call) = row(ctx) else {
            return;
        };
        let argument = |index| registers.argument(index);
        let (flags, mode) = how(&call, argument);
        Open {
            own,
            dir: directory(&call, argument),
            name: argument(call.name),
            flags,
            mode,
        }
    } else {
        let Some(call) = entered() else {
            return;
        };
        let open = Open {
            own: call.task,
            dir: call.dir,
            name: call.name,
            flags: call.flags,
            mode: call.mode,
        };
        done();
        open
    };
    let result = ctx.result();
    if result < 0 {
        not_opened(&open, result);
    } else {
        let Open {
            own, flags, mode, ..
        } = open;
        opened::<FILE_WORDS, INODE_WORDS>(&own, result as i32, flags, mode, 0);
    }
}

/// An open that has returned.
struct Open {
    own: Task,
    dir: i32,
    /// Address of the name in the caller's memory.
    name: u64,
    flags: u32,
    mode: u32,
}

/// Failed opens for reading are the loader looking for libraries, mostly; refused ones are not.
#[inline(always)]
fn not_opened(open: &Open, result: i64) {
    let refused = result == REFUSED[0] || result == REFUSED[1];
    if open.flags & O_ACCMODE == 0 && !refused {
        return;
    }
    let Some(out) = Builder::<FileOp>::new(kind::FILE, &open.own) else {
        return;
    };
    let file = out.payload();
    file.result = result as i32;
    file.open_flags = open.flags;
    file.mode = open.mode;
    file.op = op::OPEN;
    let (base_len, name_len, absolute) = name(&out, open.dir, open.name, None);
    file.base_len = base_len;
    file.name_len = name_len;
    if absolute {
        file.state |= state::ABSOLUTE;
    }
    out.send(Way::Bulk);
}

/// A process got a descriptor of a file. `bits`: more of [`FileOp::state`]; `F`, `I`: how many words of the
/// `struct file` and of the inode are read at once, as many as there is room for on the caller's stack.
#[inline(always)]
pub fn opened<const F: usize, const I: usize>(
    own: &Task,
    fd: i32,
    flags: u32,
    asked_mode: u32,
    bits: u32,
) {
    let Some(at) = task::file(task::current(), fd) else {
        return; // closed by another thread meanwhile
    };
    let mut opened = Head::<F>::new();
    if !opened.fill(at) {
        return;
    }
    let mode: u32 = opened.get(offset!(file_mode)).unwrap_or(0);
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
    let mut inode = Inode::<I>::new();
    if !inode.fill(opened.get(offset!(file_inode)).unwrap_or(0)) {
        return;
    }
    let Some(path) = Path::of_head(&opened) else {
        return;
    };
    let device = device(&inode);
    let changes = mode & FMODE_CREATED != 0 || flags & O_TRUNC != 0;
    let plain = write && !changes && device == 0 && bits == 0 && !config::send_all_reads();
    if plain
        && let Some(inode) = inode.key()
        && thin::repeats(own, &inode, &path, flags)
    {
        return;
    }
    let asked = !write && device == 0 && !config::send_all_reads();
    let mut alone = !plain;
    if asked || plain {
        let sensitive = is_sensitive(&path, &inode);
        if asked && !sensitive {
            return;
        }
        alone |= sensitive || !thin::is_wanted(own.agent);
    }
    if alone {
        thin::clear();
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
    if let Some(key) = thin::key() {
        file.place = key.place;
        file.state |= state::THINNED;
    }
    inode.touch(&mut file.target);
    file.size = inode.size();
    file.state |= if write {
        state::WRITE
    } else {
        state::SENSITIVE
    };
    if mode & FMODE_CREATED != 0 {
        file.state |= state::CREATED;
        if let Some(key) = inode.key() {
            budget::made(own.agent, key);
        }
    }
    if device != 0 {
        file.state |= state::DEVICE;
        file.extra = device;
    }
    file.path_len = path.write(&out, flag::PATH_CUT).len;
    // Of a pipe, a terminal or /dev/null nothing is taken away.
    let is_file = inode.mode() & S_IFMT == S_IFREG;
    let truncates = write && flags & O_TRUNC != 0 && mode & FMODE_CREATED == 0 && is_file;
    let sent = out.send(if write && !truncates {
        Way::Bulk
    } else {
        Way::BulkSoon
    });
    if sent {
        thin::sent();
    }
    if truncates && let Some(key) = inode.key() {
        let folder = read(path.dentry, offset!(dentry_parent)).unwrap_or(0);
        budget::take_away(own, budget::is_own(own.agent, key), folder);
    }
}

/// The device that an inode stands for, in the kernel's encoding; 0 for none, and for those that
/// everybody opens all day (Documentation/admin-guide/devices.txt): null, zero, full, random, urandom,
/// and terminals.
#[inline(always)]
fn device<const I: usize>(inode: &Inode<I>) -> u32 {
    let kind = inode.mode() & S_IFMT;
    if kind != S_IFCHR && kind != S_IFBLK {
        return 0;
    }
    let device = inode.device();
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
fn is_sensitive<const I: usize>(path: &Path, inode: &Inode<I>) -> bool {
    if inode.mode() & S_IFMT == S_IFDIR {
        return false;
    }
    if let Some(key) = inode.key()
        && SENSITIVE_INODES.get_ptr(&key).is_some()
    {
        return true;
    }
    path.has_sensitive_name()
}
