//! `agentwatch health`.

use std::{fmt::Write as _, process::ExitCode};

use anyhow::Result;
use clap::Args;

use super::{Output, agents::Daemon};
use crate::{
    api::{client::Client, model::Health},
    publish::account::duration,
};

/// The oldest that what the daemon knows may be, seconds: it says each second how it is.
const STUCK_S: i64 = 30;

/// Say whether the daemon is well.
///
/// It is where it answers, and looks at events. For probes, and for people.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentwatch health
  agentwatch health -o json | jq .agents

Exit status: 0 where the daemon is well; 1 where it answers and is not; 125 where it does not answer.")]
pub struct HealthArgs {
    #[command(flatten)]
    daemon: Daemon,
    /// How it is written
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

/// Runs `agentwatch health`.
pub fn run(args: &HealthArgs) -> Result<ExitCode> {
    let health: Health = Client::new(args.daemon.socket.as_deref())?.get("/v1/health")?;
    let now = jiff::Timestamp::now();
    super::print(&match args.output.form() {
        Some(form) => form.text(&health)?,
        None => text(&health, now),
    })?;
    Ok(if stuck(&health, now).is_none() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// For how long it has looked at no events, seconds, where that is too long.
fn stuck(health: &Health, now: jiff::Timestamp) -> Option<i64> {
    let taken = health.snapshot.parse::<jiff::Timestamp>().ok()?;
    let age = now.duration_since(taken).as_secs();
    (age > STUCK_S).then_some(age)
}

fn text(health: &Health, now: jiff::Timestamp) -> String {
    let since = health.since.parse::<jiff::Timestamp>().unwrap_or(now);
    let age = u64::try_from(now.duration_since(since).as_nanos()).unwrap_or(0);
    let mut out = format!(
        "agentwatch {} on {}, pid {}, since {}: {} agents, {} more are gone\n",
        health.version,
        health.node,
        health.pid,
        duration(age),
        health.agents,
        health.agents_gone,
    );
    if let Some(error) = &health.history_error {
        let _ = writeln!(out, "the history cannot be written: {error}");
    }
    if let Some(age_s) = stuck(health, now) {
        let _ = writeln!(
            out,
            "NOT well: it has looked at no events for {age_s} s; restart it"
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_looks_at_nothing_is_not_well() {
        let health = Health {
            snapshot: "2026-11-21T10:00:00Z".to_owned(),
            ..Health::default()
        };
        let at = |text: &str| text.parse::<jiff::Timestamp>().unwrap();
        assert_eq!(stuck(&health, at("2026-11-21T10:00:30Z")), None);
        assert_eq!(stuck(&health, at("2026-11-21T10:01:00Z")), Some(60));
        assert!(text(&health, at("2026-11-21T10:01:00Z")).contains("for 60 s"));
    }
}
