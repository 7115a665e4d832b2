//! Actions: asked of the host, seen to be in force, written down with who asked and why.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use jiff::Timestamp;
use tokio::sync::oneshot;

use super::{
    Shared,
    listener::Peer,
    model::{Action, ActionRequest, AskedBy, Verb},
};
use crate::{
    host::watch::{Order, View},
    respond::{EMPTY_WITHIN, cgroup::AgentCgroup},
};

/// How long is waited for a freeze to be seen.
const FROZEN_WITHIN: Duration = Duration::from_secs(2);
/// The longest reason.
const REASON: usize = 1000;

/// Does what a client asks for, and writes it down, whatever came of it.
pub async fn act(shared: &Shared, view: &View, request: ActionRequest, peer: &Peer) -> Action {
    let began = Instant::now();
    let since = || u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
    let reason: String = crate::text::escape_str(&request.reason)
        .chars()
        .take(REASON)
        .collect();
    let mut action = Action {
        time: Timestamp::now().to_string(),
        agent: view.name.to_string(),
        run: view.run.clone(),
        action: request.action,
        reason,
        asked_by: peer.asked_by.clone(),
        done: false,
        outcome: String::new(),
        ordered_us: None,
        done_us: None,
    };
    let done = async {
        let why = why(&action.asked_by, &action.reason);
        let cgroup = order(shared, view.number, request.action, why).await?;
        action.ordered_us = Some(since());
        see(shared, view.number, request.action, cgroup).await
    };
    match done.await {
        Ok(outcome) => {
            action.done = true;
            action.outcome = outcome;
            action.done_us = Some(since());
        }
        Err(error) => action.outcome = format!("{error:#}"),
    }
    let (log, stored) = (shared.actions.clone(), action.clone());
    let stored = tokio::task::spawn_blocking(move || log.action(&stored)).await;
    if let Ok(Err(error)) = stored {
        tracing::error!(
            agent = action.agent,
            action = action.action.name(),
            "is not in the history: {error:#}"
        );
    }
    action
}

fn why(by: &AskedBy, reason: &str) -> String {
    let who = by
        .user
        .clone()
        .unwrap_or_else(|| format!("user {}", by.uid));
    if reason.is_empty() {
        format!("asked for by {who}")
    } else {
        format!("asked for by {who}: {reason}")
    }
}

/// Has the host order it of the kernel.
async fn order(shared: &Shared, number: u32, verb: Verb, why: String) -> Result<AgentCgroup> {
    let (reply, answer) = oneshot::channel();
    let order = Order::Act {
        number,
        verb,
        why,
        reply,
    };
    shared
        .ask
        .send(order)
        .await
        .ok()
        .context("the daemon is stopping")?;
    answer.await.context("the daemon is stopping")?
}

/// Waits until it is in force. What came of it, in a sentence.
async fn see(shared: &Shared, number: u32, verb: Verb, cgroup: AgentCgroup) -> Result<String> {
    let seen = tokio::task::spawn_blocking(move || match verb {
        Verb::Freeze => cgroup.wait_frozen(true, FROZEN_WITHIN),
        Verb::Thaw => cgroup.wait_frozen(false, FROZEN_WITHIN),
        Verb::Kill => cgroup.wait_empty(EMPTY_WITHIN),
        Verb::Quarantine | Verb::Release => true,
    })
    .await?;
    Ok(match (verb, seen) {
        (Verb::Freeze, true) => "all its processes stand still".to_owned(),
        (Verb::Freeze, false) => bail!(
            "ordered, and after {} s not all of it stands still: a process is in a call that takes its time",
            FROZEN_WITHIN.as_secs()
        ),
        (Verb::Thaw, true) => "its processes go on".to_owned(),
        (Verb::Thaw, false) => bail!("ordered, and it stands still: a cgroup above it is frozen"),
        (Verb::Quarantine, _) => "its network is cut, but for what its policy keeps".to_owned(),
        (Verb::Release, _) => "its network is as its policy has it".to_owned(),
        (Verb::Kill, empty) => {
            let (reply, answer) = oneshot::channel();
            let order = Order::KillOutside { number, reply };
            // The agent may be gone by now, which is what was wanted.
            let outside = match shared.ask.send(order).await {
                Ok(()) => answer.await.unwrap_or(0),
                Err(_) => 0,
            };
            match outside {
                _ if !empty => bail!(
                    "ordered, and its cgroup is not empty after {} s: a process cannot be ended now",
                    EMPTY_WITHIN.as_secs()
                ),
                0 => "its processes have ended".to_owned(),
                n => format!("its processes have ended, {n} of them outside its cgroup"),
            }
        }
    })
}
