//! Programs that are started.

use agentwatch_common::{
    exec::{ARGV_MAX, Exec, Stream},
    header::flag,
    kind,
};
use aya_ebpf::{
    helpers::generated::{bpf_probe_read_kernel, bpf_probe_read_kernel_str, bpf_probe_read_user},
    programs::RawTracePointContext,
};

use crate::{
    emit::{Builder, Way, mask},
    kernel::{
        offset,
        path::{self, Path},
        read, sock, task,
    },
    probes::file::S_IFMT,
    tag,
};

/// The longest file name or interpreter that is sent.
const NAME_MAX: u32 = 1024;

/// `sched_process_exec(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm)`
///
/// The new program is in place and has not run yet: its arguments are what the kernel put on its
/// stack, which nobody can change any more.
#[inline(always)]
pub fn exec(ctx: &RawTracePointContext) {
    let Some(own) = tag::current() else {
        return;
    };
    let (current, bprm): (u64, u64) = (ctx.arg(0), ctx.arg(2));
    let Some(out) = Builder::<Exec>::new(kind::EXEC, &own) else {
        return;
    };
    let exec = out.payload();
    let file: u64 = read(bprm, offset!(binprm_file)).unwrap_or(0);
    let inode: u64 = read(file, offset!(file_inode)).unwrap_or(0);
    if let Some(key) = path::inode_key(inode) {
        exec.ino = key.ino;
        exec.dev = key.dev;
    }
    exec.nlink = read(inode, offset!(inode_nlink)).unwrap_or(0);
    exec.mode = u32::from(read::<u16>(inode, offset!(inode_mode)).unwrap_or(0));
    exec.credentials = task::credentials(current);
    exec.argc = read(bprm, offset!(binprm_argc)).unwrap_or(0);
    exec.streams_len = streams(&out, current);
    match Path::of_file(file) {
        Some(path) => exec.path_len = path.write(&out, flag::PATH_CUT).len,
        None => out.flag(flag::FAULT),
    }
    match task::cwd(current) {
        Some(cwd) => exec.cwd_len = cwd.write(&out, flag::BASE_CUT).len,
        None => out.flag(flag::FAULT),
    }
    exec.filename_len = string(&out, read(bprm, offset!(binprm_filename)).unwrap_or(0));
    exec.interp_len = string(&out, read(bprm, offset!(binprm_interp)).unwrap_or(0));
    if let Some((start, end)) = task::arguments(current) {
        exec.argv_total = end.saturating_sub(start);
        exec.argv_len = strings(&out, start, exec.argv_total, flag::ARGV_CUT);
    }
    // Cut without a word: of the environment only a few names count, and the arguments are whole.
    if let Some((start, end)) = task::environment(current) {
        exec.env_len = strings(&out, start, end.saturating_sub(start), 0);
    }
    out.send(Way::PrioSoon);
}

/// `S_IFSOCK` of include/uapi/linux/stat.h.
const S_IFSOCK: u32 = 0o140_000;

/// Bytes of the standard streams.
const STREAMS: usize = 3 * size_of::<Stream>();

/// Appends what descriptors 0, 1 and 2 are. First of all, so that there is room.
#[inline(always)]
fn streams(out: &Builder<Exec>, task: u64) -> u16 {
    let (Some(files), Some(at)) = (task::streams(task), out.room()) else {
        out.flag(flag::FAULT);
        return 0;
    };
    let streams = files.map(stream);
    // SAFETY: `room` gives more bytes than STREAMS, and that many are read, from the program's own stack.
    let failed =
        unsafe { bpf_probe_read_kernel(at.cast(), STREAMS as u32, streams.as_ptr().cast()) } != 0;
    if failed {
        out.flag(flag::FAULT);
        return 0;
    }
    out.advance(STREAMS);
    STREAMS as u16
}

/// What a `struct file` is; 0 is none.
#[inline(always)]
fn stream(file: u64) -> Stream {
    let mut stream = Stream::CLOSED;
    let inode: u64 = read(file, offset!(file_inode)).unwrap_or(0);
    stream.mode = read(inode, offset!(inode_mode)).unwrap_or(0);
    stream.ino = read(inode, offset!(inode_ino)).unwrap_or(0);
    stream.rdev = read(inode, offset!(inode_rdev)).unwrap_or(0);
    if u32::from(stream.mode) & S_IFMT == S_IFSOCK
        && let Some(sk) = sock::behind(file)
    {
        stream.family = read(sk, offset!(skc_family)).unwrap_or(0);
        stream.cookie = read(sk, offset!(skc_cookie)).unwrap_or(0);
    }
    stream
}

/// Appends a string of the kernel's, without its NUL.
#[inline(always)]
fn string(out: &Builder<Exec>, from: u64) -> u16 {
    let Some(at) = out.room() else {
        out.flag(flag::NAME_CUT);
        return 0;
    };
    // SAFETY: `room` gives more bytes than NAME_MAX.
    let n = unsafe { bpf_probe_read_kernel_str(at.cast(), NAME_MAX, from as *const _) };
    if n <= 0 {
        out.flag(flag::FAULT);
        return 0;
    }
    if n as u32 == NAME_MAX {
        out.flag(flag::NAME_CUT);
    }
    let len = mask::<{ NAME_MAX as usize - 1 }>(n as usize - 1);
    out.advance(len);
    len as u16
}

/// Appends a vector of strings, as the kernel put it on the process's stack. `cut` is the flag to set
/// where it is cut.
#[inline(always)]
fn strings(out: &Builder<Exec>, start: u64, total: u64, cut: u16) -> u16 {
    let Some(at) = out.room() else {
        out.flag(cut);
        return 0;
    };
    let len = if total > ARGV_MAX as u64 {
        out.flag(cut);
        ARGV_MAX
    } else {
        total as usize
    };
    let len = mask::<{ 2 * ARGV_MAX - 1 }>(len);
    let len = if len > ARGV_MAX { ARGV_MAX } else { len };
    // SAFETY: `room` gives PIECE_MAX bytes, which is ARGV_MAX.
    let failed = unsafe { bpf_probe_read_user(at.cast(), len as u32, start as *const _) } != 0;
    if failed {
        out.flag(flag::FAULT | cut);
        return 0;
    }
    out.advance(len);
    len as u16
}
