//! `struct task_struct` and what hangs on it.

use agentwatch_common::call::Credentials;
use aya_ebpf::helpers::bpf_get_current_task;

use super::{member, offset, path::Path, read};

/// The current task.
#[inline(always)]
pub fn current() -> u64 {
    // SAFETY: no arguments.
    unsafe { bpf_get_current_task() }
}

/// Thread id in the initial namespace.
#[inline(always)]
pub fn pid(task: u64) -> Option<u32> {
    read(task, offset!(task_pid))
}

/// Process id in the initial namespace.
#[inline(always)]
pub fn tgid(task: u64) -> Option<u32> {
    read(task, offset!(task_tgid))
}

/// Start of the process, `CLOCK_BOOTTIME` nanoseconds: that of its first thread, so that an exec
/// from another thread does not make a new process of it.
#[inline(always)]
pub fn start_ns(task: u64) -> Option<u64> {
    let leader: u64 = read(task, offset!(task_group_leader))?;
    read(leader, offset!(task_start_boottime))
}

/// The parent's process id, now.
#[inline(always)]
pub fn parent_tgid(task: u64) -> Option<u32> {
    let parent: u64 = read(task, offset!(task_real_parent))?;
    tgid(parent)
}

/// Whether the task is the last thread of its process to exit: `do_exit` counts `signal->live`
/// down before it calls the tracepoint. Two that exit at once may both see 0.
#[inline(always)]
pub fn is_last_thread(task: u64) -> bool {
    let signal: Option<u64> = read(task, offset!(task_signal));
    match signal {
        Some(signal) => read::<i32>(signal, offset!(signal_live)).unwrap_or(0) <= 0,
        None => true,
    }
}

/// Status as `wait(2)` has it: a group exit's where there was one.
#[inline(always)]
pub fn exit_status(task: u64) -> u32 {
    let own: u32 = read(task, offset!(task_exit_code)).unwrap_or(0);
    let group: u32 = read::<u64>(task, offset!(task_signal))
        .and_then(|signal| read(signal, offset!(signal_group_exit_code)))
        .unwrap_or(0);
    if group == 0 { own } else { group }
}

/// User and system time of the whole process, nanoseconds: the last thread's own and what the
/// ended ones left in `signal_struct`.
#[inline(always)]
pub fn cpu_ns(task: u64) -> (u64, u64) {
    let signal: u64 = read(task, offset!(task_signal)).unwrap_or(0);
    let own_user: u64 = read(task, offset!(task_utime)).unwrap_or(0);
    let own_system: u64 = read(task, offset!(task_stime)).unwrap_or(0);
    let user: u64 = read(signal, offset!(signal_utime)).unwrap_or(0);
    let system: u64 = read(signal, offset!(signal_stime)).unwrap_or(0);
    (own_user + user, own_system + system)
}

/// The most memory that the process had at once, pages. `do_exit` sets it before its tracepoint.
#[inline(always)]
pub fn max_rss_pages(task: u64) -> u64 {
    let signal: u64 = read(task, offset!(task_signal)).unwrap_or(0);
    read(signal, offset!(signal_maxrss)).unwrap_or(0)
}

/// What the task may do.
#[inline(always)]
pub fn credentials(task: u64) -> Credentials {
    let cred: u64 = read(task, offset!(task_cred)).unwrap_or(0);
    Credentials {
        caps: read(cred, offset!(cred_cap_effective)).unwrap_or(0),
        uid: read(cred, offset!(cred_uid)).unwrap_or(0),
        euid: read(cred, offset!(cred_euid)).unwrap_or(0),
        gid: read(cred, offset!(cred_gid)).unwrap_or(0),
        egid: read(cred, offset!(cred_egid)).unwrap_or(0),
    }
}

/// The namespaces of a new task that are not its maker's: bits `CLONE_NEW…` of <sched.h>.
#[inline(always)]
pub fn new_namespaces(maker: u64, child: u64) -> u32 {
    let mut bits = 0;
    if differ(
        read(maker, offset!(task_cred)),
        read(child, offset!(task_cred)),
        offset!(cred_user_ns),
    ) {
        bits |= 0x1000_0000;
    }
    let (old, new): (Option<u64>, Option<u64>) = (
        read(maker, offset!(task_nsproxy)),
        read(child, offset!(task_nsproxy)),
    );
    if old == new {
        return bits;
    }
    if differ(old, new, offset!(nsproxy_mnt)) {
        bits |= 0x0002_0000;
    }
    if differ(old, new, offset!(nsproxy_cgroup)) {
        bits |= 0x0200_0000;
    }
    if differ(old, new, offset!(nsproxy_uts)) {
        bits |= 0x0400_0000;
    }
    if differ(old, new, offset!(nsproxy_ipc)) {
        bits |= 0x0800_0000;
    }
    if differ(old, new, offset!(nsproxy_pid)) {
        bits |= 0x2000_0000;
    }
    if differ(old, new, offset!(nsproxy_net)) {
        bits |= 0x4000_0000;
    }
    if differ(old, new, offset!(nsproxy_time)) {
        bits |= 0x80;
    }
    bits
}

/// Whether a pointer in two structures is not the same.
#[inline(always)]
fn differ(a: Option<u64>, b: Option<u64>, member: u32) -> bool {
    let (Some(a), Some(b)) = (a, b) else {
        return false;
    };
    read::<u64>(a, member) != read::<u64>(b, member)
}

/// The working directory.
#[inline(always)]
pub fn cwd(task: u64) -> Option<Path> {
    let fs: u64 = read(task, offset!(task_fs))?;
    Path::at(member(fs, offset!(fs_pwd))?)
}

/// The root directory.
#[inline(always)]
pub fn root(task: u64) -> Option<Path> {
    let fs: u64 = read(task, offset!(task_fs))?;
    Path::at(member(fs, offset!(fs_root))?)
}

/// Where the `struct file`s of a task's descriptors are, and how many there can be.
#[inline(always)]
fn files(task: u64) -> Option<(u64, u32)> {
    let files: u64 = read(task, offset!(task_files))?;
    let table: u64 = read(files, offset!(files_fdt))?;
    let max: u32 = read(table, offset!(fdtable_max_fds))?;
    Some((read(table, offset!(fdtable_fd))?, max))
}

/// The `struct file`s behind descriptors 0, 1 and 2; 0 for one that is closed.
#[inline(always)]
pub fn streams(task: u64) -> Option<[u64; 3]> {
    // No table has fewer than NR_OPEN_DEFAULT (64) descriptors.
    let (array, _) = files(task)?;
    read(array, 0)
}

/// The `struct file` behind a descriptor.
#[inline(always)]
pub fn file(task: u64, fd: i32) -> Option<u64> {
    if fd < 0 {
        return None;
    }
    let (array, max) = files(task)?;
    if fd as u32 >= max {
        return None;
    }
    let file: u64 = read(array + fd as u64 * 8, 0)?;
    (file != 0).then_some(file)
}

/// The bounds of the environment in the current process's memory.
#[inline(always)]
pub fn environment(task: u64) -> Option<(u64, u64)> {
    let mm: u64 = read(task, offset!(task_mm))?;
    Some((
        read(mm, offset!(mm_env_start))?,
        read(mm, offset!(mm_env_end))?,
    ))
}

/// The bounds of the argument vector in the current process's memory.
#[inline(always)]
pub fn arguments(task: u64) -> Option<(u64, u64)> {
    let mm: u64 = read(task, offset!(task_mm))?;
    Some((
        read(mm, offset!(mm_arg_start))?,
        read(mm, offset!(mm_arg_end))?,
    ))
}

/// Whether the task is a worker thread of io_uring: `PF_IO_WORKER` of include/linux/sched.h.
#[inline(always)]
pub fn is_uring_worker(task: u64) -> bool {
    const PF_IO_WORKER: u32 = 0x10;
    read::<u32>(task, offset!(task_flags)).unwrap_or(0) & PF_IO_WORKER != 0
}
