//! The only place that acts on a process or a cgroup.

pub mod cgroup;
pub mod protected;

use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::{
    io::Errno,
    process::{Pid, Signal},
};

use crate::{
    event::ProcessKey,
    finding::{Action, Response, Severity},
    policy::{Mode, Policy},
    probe::seed,
};
use cgroup::AgentCgroup;

/// From this severity on a detector's action is taken; below it a finding is shown.
const ACTS_FROM: Severity = Severity::High;
/// How long a killed agent may take to be gone. Processes in uninterruptible sleep take what they
/// take; the finding says so then.
const EMPTY_WITHIN: Duration = Duration::from_secs(5);

/// What a policy asks for, for a finding of a detector.
pub fn requested(policy: &Policy, detector: &str, severity: Severity) -> Action {
    let action = policy.detectors.action(detector);
    if severity >= ACTS_FROM {
        action
    } else {
        action.min(Action::Alert)
    }
}

/// Does what the policy asks for. `outside` gives the agent's processes that are no longer in its
/// cgroup; it is asked after the cgroup is empty.
pub fn respond(
    policy: &Policy,
    requested: Action,
    decided_ns: u64,
    agent: Option<&AgentCgroup>,
    outside: impl FnOnce() -> Vec<ProcessKey>,
) -> Response {
    let not_done = |reason: &str| Response {
        requested,
        taken: Action::Alert,
        reason: Some(reason.to_owned()),
        ordered_us: None,
        empty_us: None,
        outside: Vec::new(),
    };
    if requested < Action::Kill {
        return Response {
            taken: requested,
            reason: None,
            ..not_done("")
        };
    }
    if policy.mode == Mode::Observe {
        return not_done("the policy only observes");
    }
    let Some(agent) = agent else {
        return not_done("a replay acts on nothing");
    };
    let since = |now_ns: u64| Some(now_ns.saturating_sub(decided_ns) / 1000);
    if let Err(error) = agent.kill() {
        return not_done(&format!("{error:#}"));
    }
    let ordered_us = since(now_ns());
    let emptied = agent.wait_empty(EMPTY_WITHIN);
    let empty_us = if emptied { since(now_ns()) } else { None };
    let outside: Vec<u32> = outside()
        .into_iter()
        .filter(|process| agent.kill_outsider(*process))
        .map(|process| process.pid)
        .collect();
    Response {
        requested,
        taken: Action::Kill,
        reason: (!emptied).then(|| {
            format!(
                "the cgroup was not empty after {} s: a process cannot be ended now",
                EMPTY_WITHIN.as_secs()
            )
        }),
        ordered_us,
        empty_us,
        outside,
    }
}

/// Lets a process go on that was stopped. One that is gone meanwhile needs nothing.
///
/// # Errors
///
/// When the kernel refuses.
pub fn resume(process: ProcessKey) -> Result<()> {
    let Some(pid) = i32::try_from(process.pid).ok().and_then(Pid::from_raw) else {
        return Ok(());
    };
    if !seed::started_at(process) {
        return Ok(());
    }
    match rustix::process::kill_process(pid, Signal::CONT) {
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(error) => Err(error).context("cannot send SIGCONT"),
    }
}

/// `CLOCK_BOOTTIME`, nanoseconds: the clock of the kernel's records.
pub fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}
