//! The daemon after it was away: what it knew of the agents that are there still holds again.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, utimensat};

use super::{
    Daemon,
    state::{Saved, SavedRun, State},
};
use crate::{
    event::ProcessKey,
    host::Agent,
    policy::{Mode, OnStop},
    probe::seed,
    respond::{EMPTY_WITHIN, cgroup::AgentCgroup},
};
use agentwatch_common::tag::agent_of_cgroup;

/// Says that the daemon is there: see [`super::state`].
pub fn touch(socket: &Path) {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: UTIME_NOW,
    };
    let times = Timestamps {
        last_access: now,
        last_modification: now,
    };
    // Somebody removed it: then it is not known how long the daemon was away, no more.
    let _ = utimensat(CWD, socket, &times, AtFlags::SYMLINK_NOFOLLOW);
}

impl Daemon {
    /// Puts back how it was with the agents that a daemon before this one knew. `left`: when that was there
    /// last, if it was killed.
    pub(super) fn recover(&mut self, before: State, left: Option<SystemTime>) {
        let since = match left {
            Some(left) if !before.stopped => left,
            _ => before.saved.into(),
        };
        let away = SystemTime::now()
            .duration_since(since)
            .unwrap_or(Duration::ZERO);
        let (mut again, mut over) = (0, 0);
        for saved in before.agents {
            if !AgentCgroup::known(saved.cgroup.clone(), saved.id).is_there() {
                over += 1;
                self.give_up(&saved);
                continue;
            }
            if let Some(run) = &saved.run {
                // It asks by itself; if not, it watches by itself.
                if seed::started_at(run.runner) {
                    self.pending.insert(saved.id, saved);
                    continue;
                }
                again += usize::from(self.start_again(&saved));
                continue;
            }
            let number = agent_of_cgroup(saved.id);
            if self.host.is_waiting(number) {
                self.pending.insert(saved.id, saved);
                continue;
            }
            if self.host.agent(number).is_none() {
                tracing::warn!(
                    agent = saved.name,
                    cgroup = %saved.cgroup.display(),
                    state = %saved.standing.state(),
                    "is no agent any more: the configuration does not name it"
                );
                self.give_up(&saved);
                continue;
            }
            self.recall(number, saved);
            again += 1;
        }
        tracing::info!(
            "the daemon was {} for {} s; {again} agents are watched again, {over} have ended meanwhile, {} \
             are waited for",
            if before.stopped { "stopped" } else { "away" },
            away.as_secs(),
            self.pending.len()
        );
    }

    /// Watches a run again whose `agentwatch run` is no more.
    fn start_again(&mut self, saved: &Saved) -> bool {
        let Some(run) = &saved.run else {
            return false;
        };
        let (request, runner) = (Arc::clone(&run.request), run.runner);
        // It puts back how it was.
        self.pending.insert(saved.id, saved.clone());
        let started = self.start_run(request, Some(runner));
        if let Err(error) = &started {
            tracing::error!(agent = saved.name, "is NOT watched again: {error:#}");
            self.pending.remove(&saved.id);
            self.give_up(saved);
        }
        started.is_ok()
    }

    /// Runs that have not come back, and never will: what they ran is watched without them. What is no more is
    /// forgotten.
    pub(super) fn sweep_pending(&mut self) {
        let is_there =
            |saved: &Saved| AgentCgroup::known(saved.cgroup.clone(), saved.id).is_there();
        let over = |saved: &Saved| {
            let left = |run: &SavedRun| !seed::started_at(run.runner);
            !is_there(saved) || saved.run.as_ref().is_some_and(left)
        };
        let over: Vec<Saved> = self
            .pending
            .extract_if(|_, saved| over(saved))
            .map(|(_, saved)| saved)
            .collect();
        for saved in over {
            if is_there(&saved) {
                self.start_again(&saved);
            } else {
                self.give_up(&saved);
            }
        }
    }

    /// Puts back how it was with an agent of which a runtime had to be asked; or gives it up, where it is known
    /// by now that it is none.
    pub(super) fn recall_pending(&mut self, number: u32, is_known: bool) {
        let Some(id) = self
            .pending
            .keys()
            .copied()
            .find(|id| agent_of_cgroup(*id) == number)
        else {
            return;
        };
        if self.host.agent(number).is_some() {
            if let Some(saved) = self.pending.remove(&id) {
                self.recall(number, saved);
            }
        } else if is_known
            && !self.host.is_waiting(number)
            && let Some(saved) = self.pending.remove(&id)
        {
            self.give_up(&saved);
        }
    }

    /// One that was watched before is watched no more: its name is free, and where it stands still only since the
    /// daemon stopped, it goes on.
    fn give_up(&mut self, saved: &Saved) {
        self.rules.borrow_mut().forget(saved);
        let cgroup = AgentCgroup::known(saved.cgroup.clone(), saved.id);
        if saved.until_watched
            && cgroup.is_there()
            && let Err(error) = cgroup.freeze(false)
        {
            tracing::error!(
                agent = saved.name,
                "stands still, and cannot be let go: {error:#}"
            );
        }
    }

    /// Puts back how it was with one agent.
    pub(super) fn recall(&mut self, number: u32, saved: Saved) {
        let Saved {
            name,
            mut standing,
            until_watched,
            removed,
            ..
        } = saved;
        let state = standing.state();
        if until_watched {
            standing.frozen = false;
            standing.reason = None;
            if let Err(error) = self.host.thaw(number) {
                tracing::error!(
                    agent = name,
                    "stands still, and cannot be let go: {error:#}"
                );
            }
        }
        if let Err(error) = self.host.recall(number, standing, &removed) {
            tracing::error!(agent = name, "was {state} and may be so no more: {error:#}");
        }
    }

    /// What is to be kept of all agents.
    pub(super) fn saved(&mut self) -> Vec<Saved> {
        let requests = &self.requests;
        let mut all: Vec<Saved> = self
            .host
            .removed()
            .into_iter()
            .filter_map(|(number, removed)| {
                let agent = self.host.agent(number)?;
                Some(Saved {
                    name: agent.name.to_string(),
                    cgroup: agent.cgroup().path().to_owned(),
                    id: agent.cgroup().id,
                    standing: agent.standing.clone(),
                    until_watched: false,
                    removed,
                    run: agent.runner.and_then(|runner| {
                        let request = Arc::clone(requests.get(&number)?);
                        Some(SavedRun { request, runner })
                    }),
                })
            })
            .collect();
        // Runs that have not come back.
        all.extend(self.pending.values().cloned());
        all.sort_by_key(|saved| saved.id);
        all
    }

    /// Leaves the agents as their policies say. What is to be kept of them.
    pub(super) fn leave(&mut self) -> Vec<Saved> {
        let mut all = self.saved();
        let (mut freeze, mut kill) = (Vec::new(), Vec::new());
        for (at, saved) in all.iter().enumerate() {
            let number = agent_of_cgroup(saved.id);
            let Some(agent) = self.host.agent(number) else {
                continue;
            };
            let policy = agent.pipeline.policy();
            let on_stop = match policy.mode {
                Mode::Enforce if !has_runner(agent) => policy.on_stop,
                _ => OnStop::Leave,
            };
            match on_stop {
                OnStop::Freeze if !saved.standing.frozen => freeze.push((at, number)),
                OnStop::Kill => kill.push((at, number)),
                OnStop::Leave | OnStop::Freeze => {}
            }
        }
        // What stands still must be known, or nobody lets it go on: so that comes first.
        let before = all.clone();
        for (at, _) in &freeze {
            let standing = &mut all[*at].standing;
            standing.frozen = true;
            standing.reason = Some(STOPPED.to_owned());
            all[*at].until_watched = true;
        }
        if !freeze.is_empty() {
            self.keeper.intend(all.clone());
        }
        let not_done = |saved: &Saved, error: &anyhow::Error| {
            tracing::error!(agent = saved.name, "is left as it is: {error:#}");
        };
        for (at, number) in freeze {
            if let Err(error) = self.host.freeze(number) {
                all[at] = before[at].clone();
                not_done(&all[at], &error);
            }
        }
        // All of them at once: the service manager does not wait for long.
        kill.retain(|(at, number)| {
            let ordered = self.host.order_end(*number);
            if let Err(error) = &ordered {
                not_done(&all[*at], error);
            }
            ordered.is_ok()
        });
        let end = Instant::now() + EMPTY_WITHIN;
        for (at, number) in kill {
            let left = end.saturating_duration_since(Instant::now());
            self.host.see_end(number, left);
            let standing = &mut all[at].standing;
            standing.killed = true;
            standing.reason = Some(STOPPED.to_owned());
        }
        all
    }
}

/// Why an agent was acted upon at the end.
const STOPPED: &str = "the daemon was stopped (on_stop)";

/// Whether the `agentwatch run` that started it is there: it watches by itself then.
fn has_runner(agent: &Agent) -> bool {
    agent
        .runner
        .is_some_and(|runner: ProcessKey| seed::started_at(runner))
}
