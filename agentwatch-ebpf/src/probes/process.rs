//! Processes: fork and exit.

use agentwatch_common::{
    kind,
    process::{Exit, Fork},
    tag::Task,
};
use aya_ebpf::{helpers::bpf_get_current_pid_tgid, programs::RawTracePointContext};

use super::file;
use crate::{
    emit::{self, Way},
    kernel::{self, task},
    maps::{CALLS, RECEIVING, TASKS, TRIGGERS},
    tag,
};

/// `sched_process_fork(struct task_struct *parent, struct task_struct *child)`
///
/// Called by `kernel_clone` after the child has its cgroup (`CLONE_INTO_CGROUP` included) and
/// before it runs: so the tag is there before the child's first instruction.
#[inline(always)]
pub fn fork(ctx: &RawTracePointContext) {
    let child: u64 = ctx.arg(1);
    let (Some(pid), Some(tgid)) = (task::pid(child), task::tgid(child)) else {
        return;
    };
    if pid != tgid {
        return; // a thread
    }
    let parent = tag::current();
    let agent = match &parent {
        Some(parent) => parent.agent,
        // Born into an agent's cgroup by a process outside: it is the agent's from now on.
        None => tag::by_cgroup_of(child),
    };
    if agent == 0 {
        return;
    }
    let ppid = tag::tgid();
    let own = tag::put(child, tgid, agent, ppid);
    let mut header = emit::header(kind::FORK, &own);
    header.tgid = tgid;
    header.tid = tgid;
    let child_cgroup = kernel::cgroup::of_task(child).unwrap_or(0);
    let parent_start_ns = parent.map_or(0, |parent: Task| parent.start_ns);
    let namespaces = task::new_namespaces(ctx.arg(0), child);
    emit::prio_by(Way::PrioLater, header, |fork: *mut Fork| {
        // SAFETY: reserved memory of this type.
        unsafe {
            fork.write(Fork {
                parent_start_ns,
                child_cgroup,
                namespaces,
                pad: 0,
            });
        };
    });
}

/// `sched_process_exit(struct task_struct *p)`, of each thread.
#[inline(always)]
pub fn exit(ctx: &RawTracePointContext) {
    let Some(own) = tag::current() else {
        return;
    };
    let current: u64 = ctx.arg(0);
    // A thread that is killed never returns from its call.
    let id = bpf_get_current_pid_tgid();
    file::done();
    let _ = CALLS.remove(&id);
    let _ = RECEIVING.remove(&id);
    if !task::is_last_thread(current) {
        return;
    }
    let tgid = tag::tgid();
    // Of two threads that exit at once, the one that removes the tag tells.
    if TASKS.remove(&tgid).is_err() {
        return;
    }
    let _ = TRIGGERS.remove(&tgid);
    let (utime_ns, stime_ns) = task::cpu_ns(current);
    let status = task::exit_status(current);
    let max_rss_pages = task::max_rss_pages(current);
    let header = emit::header(kind::EXIT, &own);
    emit::prio_by(Way::PrioLater, header, |exit: *mut Exit| {
        // SAFETY: reserved memory of this type.
        unsafe {
            exit.write(Exit {
                utime_ns,
                stime_ns,
                max_rss_pages,
                status,
                pad: 0,
            });
        };
    });
}
