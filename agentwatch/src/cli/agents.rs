//! `agentwatch agents`, and what can be done to one: `freeze`, `thaw`, `quarantine`, `release`, `kill`.

use std::{fmt::Write as _, path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::Args;

use super::Output;
use crate::{
    api::{
        client::Client,
        model::{ActionRequest, Agent, Verb},
    },
    publish::account::{bytes, duration},
};

/// List the agents that the daemon watches.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentwatch agents
  agentwatch agents -o json | jq -r 'select(.state == \"frozen\") | .name'

Exit status: 0; 125 where the daemon does not answer.")]
pub struct AgentsArgs {
    #[command(flatten)]
    daemon: Daemon,
    /// How it is written
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

/// Which daemon.
#[derive(Debug, Args)]
pub struct Daemon {
    /// The daemon's socket [default: that of `AGENTWATCH_SOCKET`, else /run/agentwatch/agentwatch.sock]
    #[arg(long, value_name = "PATH")]
    pub(super) socket: Option<PathBuf>,
}

/// What is done to which agent.
#[derive(Debug, Args)]
#[command(after_help = "\
Example, and so with freeze, thaw, quarantine, release and kill:
  agentwatch freeze rollout-7 --reason 'look at it'

Exit status: 0 where it was done and seen to be in force; 1 where it was refused or could not be done;
125 where the daemon does not answer, or there is no such agent.")]
pub struct ActArgs {
    /// The agent, by its name or id
    agent: String,
    /// Why, for those who read it later
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    #[command(flatten)]
    daemon: Daemon,
    /// How it is written
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

/// Runs `agentwatch agents`.
pub fn list(args: &AgentsArgs) -> Result<ExitCode> {
    let agents = Client::new(args.daemon.socket.as_deref())?.agents()?;
    match args.output.form() {
        Some(form) => {
            for agent in &agents {
                super::print(&form.text(agent)?)?;
            }
        }
        None if agents.is_empty() => {
            eprintln!("agentwatch: the daemon watches no agents now");
        }
        None => super::print(&table(&agents, jiff::Timestamp::now()))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs `agentwatch freeze` and the like.
pub fn act(verb: Verb, args: &ActArgs) -> Result<ExitCode> {
    let request = ActionRequest {
        action: verb,
        reason: args.reason.clone(),
    };
    let action = Client::new(args.daemon.socket.as_deref())?.act(&args.agent, &request)?;
    match args.output.form() {
        Some(form) => super::print(&form.text(&action)?)?,
        None if action.done => super::print(&format!(
            "{} {}: {} (after {} ms)\n",
            verb.name(),
            action.agent,
            action.outcome,
            action.done_us.unwrap_or(0) / 1000
        ))?,
        None => eprintln!(
            "agentwatch: {} {}: NOT done: {}",
            verb.name(),
            action.agent,
            action.outcome
        ),
    }
    Ok(if action.done {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The agents, a line each.
fn table(agents: &[Agent], now: jiff::Timestamp) -> String {
    let width = |least: usize, text: fn(&Agent) -> &str| {
        let longest = agents.iter().map(|agent| text(agent).chars().count()).max();
        longest.unwrap_or(0).max(least)
    };
    let name = width(5, |agent| &agent.name);
    let mut out = format!(
        "{:name$}  {:<11}  {:>5}  {:>6}  {:>10}  {:>7}  {:>10}  {:>10}  {:>8}  {:>7}  CGROUP\n",
        "AGENT", "STATE", "PROCS", "CPU", "MEMORY", "EXECS/S", "IN/S", "OUT/S", "FINDINGS", "AGE"
    );
    for agent in agents {
        let since = agent.since.parse::<jiff::Timestamp>().unwrap_or(now);
        let age = u64::try_from(now.duration_since(since).as_nanos()).unwrap_or(0);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rate, of bytes that fit"
        )]
        let rate = |n: f64| bytes(n as u64);
        let _ = writeln!(
            out,
            "{:name$}  {:<11}  {:>5}  {:>5.1}%  {:>10}  {:>7.1}  {:>10}  {:>10}  {:>8}  {:>7}  {}",
            agent.name,
            agent.state,
            agent.processes,
            agent.rates.cpu * 100.0,
            agent.memory_bytes.map_or_else(|| "?".to_owned(), bytes),
            agent.rates.execs,
            rate(agent.rates.bytes_in),
            rate(agent.rates.bytes_out),
            agent.findings.total(),
            duration(age)
                .split(' ')
                .take(2)
                .collect::<Vec<_>>()
                .join(" "),
            agent.cgroup,
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::model::AgentState;

    #[test]
    fn a_table() {
        let agent = Agent {
            name: "rollout-7".to_owned(),
            state: AgentState::Frozen,
            since: "2026-11-21T10:00:00Z".to_owned(),
            cgroup: "/rollouts/7".to_owned(),
            processes: 3,
            memory_bytes: Some(2 << 20),
            ..Agent::default()
        };
        let now = "2026-11-21T10:02:05Z".parse().unwrap();
        assert_eq!(
            table(&[agent], now),
            "AGENT      STATE        PROCS     CPU      MEMORY  EXECS/S        IN/S       OUT/S  FINDINGS      AGE  CGROUP\n\
             rollout-7  frozen           3    0.0%     2.0 MiB      0.0         0 B         0 B         0    2 min  /rollouts/7\n"
        );
    }
}
