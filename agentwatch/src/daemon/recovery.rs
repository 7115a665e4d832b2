//! The daemon after it was away: what it knew of the agents that are there still holds again.

use std::{
    os::unix::fs::MetadataExt as _,
    path::Path,
    time::{Duration, SystemTime},
};

use anyhow::Result;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, utimensat};

use super::{
    Daemon,
    state::{Saved, SavedRun, State},
};
use crate::{
    event::ProcessKey,
    host::{Agent, Standing},
    policy::{Mode, OnStop},
    probe::seed,
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
    pub(super) fn recover(&mut self, before: State, left: Option<SystemTime>) -> Result<()> {
        let since = match left {
            Some(left) if !before.stopped => left,
            _ => before.saved.into(),
        };
        let away = SystemTime::now()
            .duration_since(since)
            .unwrap_or(Duration::ZERO);
        let (mut again, mut over) = (0, 0);
        for saved in before.agents {
            let is_there = std::fs::metadata(&saved.cgroup).is_ok_and(|at| at.ino() == saved.id);
            if !is_there {
                over += 1;
                self.rules.borrow_mut().forget(&saved);
                continue;
            }
            if let Some(run) = &saved.run {
                // It asks by itself; if not, it watches by itself.
                if seed::started_at(run.runner) {
                    self.pending.insert(saved.id, saved);
                    continue;
                }
                let (request, runner) = (run.request.clone(), run.runner);
                if let Err(error) = self.start_run(request, Some(runner)) {
                    tracing::error!(agent = saved.name, "is NOT watched again: {error:#}");
                    continue;
                }
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
                self.rules.borrow_mut().forget(&saved);
                continue;
            }
            self.recall(number, saved)?;
            again += 1;
        }
        tracing::info!(
            "the daemon was {} for {} s; {again} agents are watched again, {over} have ended meanwhile, {} \
             are waited for",
            if before.stopped { "stopped" } else { "away" },
            away.as_secs(),
            self.pending.len()
        );
        Ok(())
    }

    /// Puts back how it was with one agent.
    pub(super) fn recall(&mut self, number: u32, saved: Saved) -> Result<()> {
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
            self.host.thaw(number)?;
        }
        if let Err(error) = self.host.recall(number, standing, &removed) {
            tracing::error!(agent = name, "was {state} and may be so no more: {error:#}");
        }
        Ok(())
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
                        let request = requests.get(&number)?.clone();
                        Some(SavedRun { request, runner })
                    }),
                })
            })
            .collect();
        // Runs that have not come back.
        self.pending.retain(|id, saved| {
            std::fs::metadata(&saved.cgroup).is_ok_and(|folder| folder.ino() == *id)
        });
        all.extend(self.pending.values().cloned());
        all.sort_by_key(|saved| saved.id);
        all
    }

    /// Leaves the agents as their policies say. What is to be kept of them.
    pub(super) fn leave(&mut self) -> Vec<Saved> {
        let mut all = self.saved();
        for saved in &mut all {
            let number = agent_of_cgroup(saved.id);
            let Some(agent) = self.host.agent(number) else {
                continue;
            };
            let policy = agent.pipeline.policy();
            let on_stop = match policy.mode {
                Mode::Enforce if !has_runner(agent) => policy.on_stop,
                _ => OnStop::Leave,
            };
            let left = match on_stop {
                OnStop::Leave => continue,
                OnStop::Freeze if saved.standing.frozen => continue,
                OnStop::Freeze => self.host.freeze(number),
                OnStop::Kill => self.host.end_members(number),
            };
            match left {
                Ok(()) => {
                    let standing = &mut saved.standing;
                    *standing = Standing {
                        frozen: standing.frozen || on_stop == OnStop::Freeze,
                        killed: standing.killed || on_stop == OnStop::Kill,
                        reason: Some("the daemon was stopped (on_stop)".to_owned()),
                        ..standing.clone()
                    };
                    saved.until_watched = on_stop == OnStop::Freeze;
                }
                Err(error) => {
                    tracing::error!(agent = saved.name, "is left as it is: {error:#}");
                }
            }
        }
        all
    }
}

/// Whether the `agentwatch run` that started it is there: it watches by itself then.
fn has_runner(agent: &Agent) -> bool {
    agent
        .runner
        .is_some_and(|runner: ProcessKey| seed::started_at(runner))
}
