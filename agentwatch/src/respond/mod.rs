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
pub const EMPTY_WITHIN: Duration = Duration::from_secs(5);
/// The same where other agents are watched beside it: its end is seen later then.
pub const EMPTY_SOON: Duration = Duration::from_millis(50);
/// How long what comes after a finding waits for a freeze: the longest that was seen is 21 ms.
const FROZEN_WITHIN: Duration = Duration::from_millis(50);

/// What a policy asks for, for a finding of a detector.
pub fn requested(policy: &Policy, detector: &str, severity: Severity) -> Action {
    let action = policy.detectors.action(detector);
    if severity >= ACTS_FROM {
        action
    } else {
        action.min(Action::Alert)
    }
}

/// What a response can act with.
pub trait Means {
    /// The cgroup that may be acted upon, `None` in a replay.
    fn cgroup(&self) -> Option<&AgentCgroup>;
    /// The agent's processes that are alive, in its cgroup or not.
    fn members(&self) -> Vec<ProcessKey>;
    /// How long it may be waited for the end of a killed agent.
    fn patience(&self) -> Duration {
        EMPTY_WITHIN
    }
    /// Cuts the agent's network, but for what its policy keeps; or lets it in again.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    fn quarantine(&mut self, cut_off: bool) -> Result<()>;
}

/// Does what the policy asks for.
pub fn respond(
    policy: &Policy,
    requested: Action,
    decided_ns: u64,
    means: &mut impl Means,
) -> Response {
    let not_done = |reason: &str| Response {
        requested,
        taken: Action::Alert,
        reason: Some(reason.to_owned()),
        ordered_us: None,
        empty_us: None,
        outside: Vec::new(),
    };
    if requested < Action::Quarantine {
        return Response {
            taken: requested,
            reason: None,
            ..not_done("")
        };
    }
    if policy.mode == Mode::Observe {
        return not_done("the policy only observes");
    }
    let Some(agent) = means.cgroup() else {
        return not_done("a replay acts on nothing");
    };
    let since = |now_ns: u64| Some(now_ns.saturating_sub(decided_ns) / 1000);
    let done = |reason: Option<String>| Response {
        taken: requested,
        reason,
        ..not_done("")
    };
    match requested {
        Action::Quarantine => match means.quarantine(true) {
            Ok(()) => Response {
                ordered_us: since(now_ns()),
                ..done(None)
            },
            Err(error) => not_done(&format!("{error:#}")),
        },
        Action::Freeze => {
            if let Err(error) = agent.freeze(true) {
                return not_done(&format!("{error:#}"));
            }
            let ordered_us = since(now_ns());
            let frozen = agent.wait_frozen(true, FROZEN_WITHIN);
            let outside = stop_outside(agent, means.members(), true);
            Response {
                ordered_us,
                outside,
                ..done((!frozen).then(|| {
                    format!(
                        "not all of it stood still after {} ms: a process is in a call that takes its time",
                        FROZEN_WITHIN.as_millis()
                    )
                }))
            }
        }
        _ => {
            if let Err(error) = agent.kill() {
                return not_done(&format!("{error:#}"));
            }
            let ordered_us = since(now_ns());
            let patience = means.patience();
            let emptied = agent.wait_empty(patience);
            let empty_us = if emptied { since(now_ns()) } else { None };
            let outside = kill_outside(agent, means.members());
            Response {
                ordered_us,
                empty_us,
                outside,
                ..done((!emptied).then(|| {
                    if patience < EMPTY_WITHIN {
                        "its processes are still ending".to_owned()
                    } else {
                        format!(
                            "the cgroup was not empty after {} s: a process cannot be ended now",
                            EMPTY_WITHIN.as_secs()
                        )
                    }
                }))
            }
        }
    }
}

/// Kills the agent's processes that are no longer in its cgroup, all of which was killed. Which they were.
pub fn kill_outside(agent: &AgentCgroup, members: Vec<ProcessKey>) -> Vec<u32> {
    let inside = agent.processes().unwrap_or_default();
    members
        .into_iter()
        .filter(|process| inside.binary_search(&process.pid).is_err())
        .filter(|process| agent.kill_outsider(*process))
        .map(|process| process.pid)
        .collect()
}

/// Stops the agent's processes that are no longer in its cgroup, or lets them go on. Which they were.
pub fn stop_outside(agent: &AgentCgroup, members: Vec<ProcessKey>, stop: bool) -> Vec<u32> {
    let inside = agent.processes().unwrap_or_default();
    members
        .into_iter()
        .filter(|process| inside.binary_search(&process.pid).is_err())
        .filter(|process| agent.stop_outsider(*process, stop))
        .map(|process| process.pid)
        .collect()
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
