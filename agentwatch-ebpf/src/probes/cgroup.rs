//! Cgroups: inheritance of the tag, and moves.

use agentwatch_common::{
    header::flag,
    kind,
    loss::counter,
    process::{CgroupGone, CgroupMade, CgroupMove},
    tag::{Task, agent_of_cgroup, below},
};
use aya_ebpf::{
    helpers::generated::{bpf_probe_read_kernel_str, bpf_send_signal},
    programs::RawTracePointContext,
};
use aya_log_ebpf::debug;

use crate::{
    emit::{self, Builder, Way, mask},
    kernel::{cgroup, task},
    maps::{CGROUPS, DEFENDED, PARENTS},
    tag,
};

/// Of <signal.h>.
const SIGKILL: u32 = 9;
/// The longest path of a cgroup that the kernel tells at a tracepoint (`TRACE_CGROUP_PATH_LEN`,
/// kernel/cgroup/cgroup-internal.h).
const PATH_MAX: u32 = 1024;

/// `cgroup_mkdir(struct cgroup *cgrp, const char *path)`
///
/// Before the folder can be seen, so before a task can be put into it. A cgroup below an agent's is the
/// agent's; one where the configuration looks for agents gets a number of its own at once, so that its
/// first process is seen. Userspace takes that away again where the name says no.
#[inline(always)]
pub fn mkdir(ctx: &RawTracePointContext) {
    let new: u64 = ctx.arg(0);
    if !cgroup::is_v2(new) {
        return;
    }
    let Some(parent) = cgroup::parent(new).and_then(cgroup::id) else {
        return;
    };
    // SAFETY: copied out at once.
    let levels = unsafe { PARENTS.get(&parent) }.copied().unwrap_or(0);
    let above = tag::of_cgroup(parent);
    if levels == 0 && above == 0 {
        return;
    }
    let Some(id) = cgroup::id(new) else {
        return;
    };
    let next = below::one_down(levels);
    if next != 0 && PARENTS.insert(&id, &next, 0).is_err() {
        emit::count(0, counter::CGROUPS_FULL);
    }
    let may_be = below::here(levels);
    if above == 0 && !may_be {
        return;
    }
    let agent = if above == 0 {
        agent_of_cgroup(id)
    } else {
        above
    };
    debug!(ctx, "cgroup {} below {} is agent {}'s", id, parent, agent);
    if CGROUPS.insert(&id, &agent, 0).is_err() {
        emit::count(agent, counter::CGROUPS_FULL);
    }
    // Also of one below an agent's: that may turn out to be none.
    if may_be {
        made(id, agent, ctx.arg(1));
    }
}

/// Tells of a cgroup that may be an agent's.
#[inline(always)]
fn made(id: u64, agent: u32, path: u64) {
    let nobody = Task {
        start_ns: 0,
        agent,
        ppid: 0,
    };
    let Some(out) = Builder::<CgroupMade>::new(kind::CGROUP_MADE, &nobody) else {
        return;
    };
    let payload = out.payload();
    payload.id = id;
    if let Some(at) = out.room() {
        // SAFETY: `room` gives more bytes than PATH_MAX.
        let n = unsafe { bpf_probe_read_kernel_str(at.cast(), PATH_MAX, path as *const _) };
        if n > 0 {
            // Without its NUL.
            let len = mask::<{ PATH_MAX as usize - 1 }>(n as usize - 1);
            payload.path_len = len as u32;
            out.advance(len);
        }
    }
    out.send(Way::Prio);
}

/// `cgroup_rmdir(struct cgroup *cgrp, const char *path)`
///
/// A cgroup that is removed has no process in it, and all of them have told of their end by now. Only of
/// an agent's own cgroup: what was made below it comes and goes as it likes.
#[inline(always)]
pub fn rmdir(ctx: &RawTracePointContext) {
    let old: u64 = ctx.arg(0);
    if !cgroup::is_v2(old) {
        return;
    }
    let Some(id) = cgroup::id(old) else {
        return;
    };
    let agent = tag::of_cgroup(id);
    if agent == 0 || agent != agent_of_cgroup(id) {
        return;
    }
    let nobody = Task {
        start_ns: 0,
        agent,
        ppid: 0,
    };
    emit::prio(
        emit::header(kind::CGROUP_GONE, &nobody),
        |payload: *mut CgroupGone| {
            // SAFETY: reserved memory of this type.
            unsafe { payload.write(CgroupGone { id }) };
        },
    );
}

/// `cgroup_release(struct cgroup *cgrp, const char *path)`
#[inline(always)]
pub fn release(ctx: &RawTracePointContext) {
    let old: u64 = ctx.arg(0);
    if cgroup::is_v2(old)
        && let Some(id) = cgroup::id(old)
    {
        let _ = CGROUPS.remove(&id);
        let _ = PARENTS.remove(&id);
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
