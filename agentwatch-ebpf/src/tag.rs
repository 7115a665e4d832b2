//! Whose is this task?

use agentwatch_common::{
    loss::counter,
    tag::{Protected, Task},
};
use aya_ebpf::helpers::{bpf_get_current_cgroup_id, bpf_get_current_pid_tgid};

use crate::{
    emit,
    kernel::{self, task},
    maps::{CGROUPS, PROTECTED, TASKS},
};

/// The current process id.
#[inline(always)]
pub fn tgid() -> u32 {
    (bpf_get_current_pid_tgid() >> 32) as u32
}

/// The tag of the current process, `None` when it is no agent's. The one look-up that everybody
/// else pays.
#[inline(always)]
pub fn current() -> Option<Task> {
    of(tgid())
}

/// The tag of a process.
#[inline(always)]
pub fn of(tgid: u32) -> Option<Task> {
    // SAFETY: the value is copied out at once; a concurrent removal leaves the old bytes in place
    // until an RCU grace period has passed.
    unsafe { TASKS.get(&tgid) }.copied()
}

/// The agent whose cgroup this is, 0 for none.
#[inline(always)]
pub fn of_cgroup(id: u64) -> u32 {
    // SAFETY: as in `of`.
    unsafe { CGROUPS.get(&id) }.copied().unwrap_or(0)
}

/// The tag of the current process by its own tag, else by its cgroup: for cgroup programs, which
/// run for agents only.
#[inline(always)]
pub fn current_or_cgroup() -> Option<Task> {
    current().or_else(by_current_cgroup)
}

/// The tag of the current process by its cgroup alone.
#[inline(always)]
pub fn by_current_cgroup() -> Option<Task> {
    // SAFETY: no arguments; allowed in every program that calls this.
    let agent = of_cgroup(unsafe { bpf_get_current_cgroup_id() });
    (agent != 0).then_some(Task {
        start_ns: 0,
        agent,
        ppid: 0,
    })
}

/// What is known of a process that no agent may have.
#[inline(always)]
pub fn protected(tgid: u32) -> Option<Protected> {
    // SAFETY: as in `of`.
    unsafe { PROTECTED.get(&tgid) }.copied()
}

/// Whether a process, by its `task_struct`, is agentwatch, pid 1, or what agentwatch was started by.
#[inline(always)]
pub fn is_protected(task_struct: u64, tgid: u32) -> bool {
    protected(tgid).is_some_and(|process| {
        let start_ns = task::start_ns(task_struct).unwrap_or(0);
        start_ns / Protected::TICK_NS == process.start_ticks
    })
}

/// Tags a process, by its `task_struct`.
#[inline(always)]
pub fn put(task_struct: u64, tgid: u32, agent: u32, ppid: u32) -> Task {
    let task = Task {
        start_ns: task::start_ns(task_struct).unwrap_or(0),
        agent,
        ppid,
    };
    if TASKS.insert(&tgid, &task, 0).is_err() {
        emit::count(agent, counter::TASKS_FULL);
    }
    task
}

/// The agent of the cgroup that a task is in, 0 for none.
#[inline(always)]
pub fn by_cgroup_of(task_struct: u64) -> u32 {
    match kernel::cgroup::of_task(task_struct) {
        Some(id) => of_cgroup(id),
        None => 0,
    }
}
