//! The deletion budget: see `agentwatch_common::budget`.

use agentwatch_common::{
    budget::{Budget, OwnKey, Stopped, place},
    file::{InodeKey, Touched, op},
    kind,
    tag::Task,
};
use aya_ebpf::helpers::generated::bpf_send_signal;

use super::file::Pending;
use crate::{
    emit,
    kernel::{offset, path, read},
    maps::{BUDGETS, OWN},
};

/// `SIGSTOP` of <signal.h>: the same number wherever Linux has BPF.
pub const SIGSTOP: u32 = 19;
/// How many folders above a file are asked whether the agent made them.
const DEPTH: usize = 24;

/// Remembers that an agent made an inode.
#[inline(always)]
pub fn made(agent: u32, inode: InodeKey) {
    let _ = OWN.insert(&key(agent, inode), &1, 0);
}

/// A call that took something away returned.
#[inline(always)]
pub fn spend(call: &Pending) {
    let agent = call.task.agent;
    let [first, second] = &call.touched;
    // Of a rename the one may be what was moved and the other what was replaced: which is which,
    // userspace finds out. Where the kernel does not tell the inode, the folder must do.
    let own = first.ino != 0
        && is_own(agent, inode(first))
        && (second.ino == 0 || is_own(agent, inode(second)));
    if call.op == op::UNLINK && own && first.nlink <= 1 {
        // Its number may be given again, to a file of somebody else's.
        let _ = OWN.remove(&key(agent, inode(first)));
    }
    take_away(&call.task, own, call.parent);
}

/// Counts what was taken away from a folder where it was not the agent's own, and stops the process
/// where that was one too many.
#[inline(always)]
pub fn take_away(task: &Task, own: bool, folder: u64) {
    if asks_before(task.agent) != Some(false) {
        return; // the policy does not want it, or `hold` has asked before
    }
    if let Verdict::Past(place) = ask(task, own, folder) {
        // At the return to user mode, before the next call.
        // SAFETY: a number.
        let stopped = unsafe { bpf_send_signal(SIGSTOP) } == 0;
        tell(task, place, stopped);
    }
}

/// Whether an agent's deletions are asked about before they are made; `None` where it has no budget.
#[inline(always)]
pub fn asks_before(agent: u32) -> Option<bool> {
    BUDGETS
        .get_ptr(&agent)
        // SAFETY: an entry of the map.
        .map(|budget| unsafe { (*budget).before } != 0)
}

/// Whether there is budget left.
pub enum Verdict {
    /// There is, or none is needed.
    May,
    /// There is none left, at one of [`place`].
    Past(usize),
}

/// Takes one from an agent's budget, where what is taken away is not its own.
#[inline(always)]
pub fn ask(task: &Task, own: bool, folder: u64) -> Verdict {
    let Some(budget) = BUDGETS.get_ptr_mut(&task.agent) else {
        return Verdict::May;
    };
    if own {
        return Verdict::May;
    }
    // SAFETY: an entry of the map; where userspace replaces it, the old one stays until this ends.
    let budget = unsafe { &mut *budget };
    match place(task.agent, folder, &budget.workspace) {
        Some(place) if !take(budget, place) => Verdict::Past(place),
        _ => Verdict::May,
    }
}

/// Tells userspace that a process waits for it.
#[inline(always)]
pub fn tell(task: &Task, place: usize, stopped: bool) {
    emit::prio(emit::header(kind::STOPPED, task), |to: *mut Stopped| {
        // SAFETY: reserved memory of this type.
        unsafe {
            to.write(Stopped {
                place: place as u32,
                stopped: u32::from(stopped),
            });
        };
    });
}

/// Takes one; false where there is none left.
#[inline(always)]
fn take(budget: &mut Budget, at: usize) -> bool {
    let now = emit::now_ns();
    // Constant indices: the verifier need not follow any.
    let (left, limit, since) = if at == place::WORKSPACE {
        (
            &mut budget.left[1],
            budget.limit[1],
            &mut budget.since_ns[1],
        )
    } else {
        (
            &mut budget.left[0],
            budget.limit[0],
            &mut budget.since_ns[0],
        )
    };
    if now - *since > budget.window_ns {
        // Two at once fill it up twice: no harm.
        *since = now;
        *left = limit;
    }
    take_one(left) > 0
}

/// Takes one from a number that other CPUs take from too; what it was before.
#[inline(always)]
fn take_one(left: &mut i64) -> i64 {
    // SAFETY: a word of the map.
    let before = unsafe { (&raw const *left).read_volatile() };
    // An atomic addition that gives the old value is there since 5.12 only: two CPUs at once may see the
    // same number, and one file more is gone.
    // SAFETY: a word of the map.
    unsafe { emit::add((&raw mut *left).cast(), u64::MAX) };
    before
}

/// Where a file is (was) that is not the agent's own; `None` where it is below a folder that the agent
/// made.
#[inline(always)]
fn place(agent: u32, folder: u64, workspace: &InodeKey) -> Option<usize> {
    let mut dentry = folder;
    for _ in 0..DEPTH {
        let inode: u64 = read(dentry, offset!(dentry_inode)).unwrap_or(0);
        let Some(inode) = path::inode_key(inode) else {
            break;
        };
        if is_own(agent, inode) {
            return None;
        }
        if inode.ino == workspace.ino && inode.dev == workspace.dev {
            return Some(place::WORKSPACE);
        }
        let parent: u64 = read(dentry, offset!(dentry_parent)).unwrap_or(dentry);
        if parent == dentry {
            break;
        }
        dentry = parent;
    }
    Some(place::OUTSIDE)
}

#[inline(always)]
fn key(agent: u32, inode: InodeKey) -> OwnKey {
    OwnKey {
        ino: inode.ino,
        dev: inode.dev,
        agent,
    }
}

#[inline(always)]
fn inode(touched: &Touched) -> InodeKey {
    InodeKey {
        ino: touched.ino,
        dev: touched.dev,
        pad: 0,
    }
}

/// Whether the agent made this inode.
#[inline(always)]
pub fn is_own(agent: u32, inode: InodeKey) -> bool {
    OWN.get_ptr(&key(agent, inode)).is_some()
}
