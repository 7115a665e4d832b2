//! Cgroups: inheritance of the tag, and moves.

use agentwatch_common::{header::flag, kind, loss::counter, process::CgroupMove, tag::Task};
use aya_ebpf::{helpers::generated::bpf_send_signal, programs::RawTracePointContext};
use aya_log_ebpf::debug;

use crate::{
    emit,
    kernel::{cgroup, task},
    maps::{CGROUPS, DEFENDED},
    tag,
};

/// Of <signal.h>.
const SIGKILL: u32 = 9;

/// `cgroup_mkdir(struct cgroup *cgrp, const char *path)`
///
/// Before the folder can be seen, so before a task can be put into it.
#[inline(always)]
pub fn mkdir(ctx: &RawTracePointContext) {
    let new: u64 = ctx.arg(0);
    if !cgroup::is_v2(new) {
        return;
    }
    let Some(parent) = cgroup::parent(new).and_then(cgroup::id) else {
        return;
    };
    let agent = tag::of_cgroup(parent);
    if agent == 0 {
        return;
    }
    let Some(id) = cgroup::id(new) else {
        return;
    };
    debug!(ctx, "cgroup {} below {} is agent {}'s", id, parent, agent);
    if CGROUPS.insert(&id, &agent, 0).is_err() {
        emit::count(agent, counter::CGROUPS_FULL);
    }
}

/// `cgroup_release(struct cgroup *cgrp, const char *path)`
#[inline(always)]
pub fn release(ctx: &RawTracePointContext) {
    let old: u64 = ctx.arg(0);
    if cgroup::is_v2(old)
        && let Some(id) = cgroup::id(old)
    {
        let _ = CGROUPS.remove(&id);
    }
}

/// `cgroup_attach_task(struct cgroup *dst_cgrp, const char *path, struct task_struct *task, bool threadgroup)`
///
/// After the move, in the mover's context. Once for each task that leads the move.
#[inline(always)]
pub fn attach_task(ctx: &RawTracePointContext) {
    let (to, moved): (u64, u64) = (ctx.arg(0), ctx.arg(2));
    if !cgroup::is_v2(to) {
        return;
    }
    let (Some(tgid), Some(id)) = (task::tgid(moved), cgroup::id(to)) else {
        return;
    };
    let to_agent = tag::of_cgroup(id);
    let mover = tag::current();
    let (agent, flags) = match tag::of(tgid) {
        // A task that leaves keeps its tag; one that goes to another agent does too: that it went is
        // told, and the agent that it came from answers for it.
        Some(own) => (own.agent, 0),
        None if to_agent == 0 => return,
        // A hostage: tagged, it would be stopped and killed as the agent's. Who took it is told.
        None if tag::is_protected(moved, tgid) => {
            (mover.map_or(to_agent, |mover| mover.agent), flag::PROTECTED)
        }
        None => {
            tag::put(moved, tgid, to_agent, task::parent_tgid(moved).unwrap_or(0));
            (to_agent, 0)
        }
    };
    // Who moves itself has its tag by now.
    let mover = mover.or_else(tag::current).unwrap_or(Task {
        start_ns: 0,
        agent,
        ppid: 0,
    });
    if flags & flag::PROTECTED != 0
        && mover.start_ns != 0
        && DEFENDED.get_ptr(&mover.agent).is_some()
    {
        // Userspace frees the hostage; that it is not taken again at once, only this can do.
        // SAFETY: a number.
        let _ = unsafe { bpf_send_signal(SIGKILL) };
    }
    let mut header = emit::header(kind::CGROUP_MOVE, &Task { agent, ..mover });
    header.flags = flags;
    emit::prio(header, |payload: *mut CgroupMove| {
        // SAFETY: reserved memory of this type.
        unsafe {
            payload.write(CgroupMove {
                to: id,
                to_agent,
                moved: tgid,
            });
        };
    });
}
