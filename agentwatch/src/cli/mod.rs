//! The command line: parse and dispatch, a file for each verb.

pub mod agents;
mod canary;
mod completions;
pub mod daemon;
pub mod db;
pub mod doctor;
pub mod events;
pub mod export;
pub mod findings;
mod follow;
pub mod health;
pub mod history;
pub mod incidents;
mod output;
pub mod policy;
pub mod query;
pub mod replay;
pub mod report;
pub mod run;
pub mod top;
pub mod tree;
pub mod verifier;
mod words;

use std::{
    io::{self, IsTerminal as _, Write as _},
    process::ExitCode,
};

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
pub use output::{Form, Output};

use crate::probe::tiers::Limit;

use crate::api::model;

/// The exit status where agentwatch itself failed.
pub const OWN_FAILURE: u8 = 125;

/// A monitor and kill switch for AI agents.
///
/// Watches what an agent does from the kernel, finds what it should not do, and stops it.
#[derive(Debug, Parser)]
#[command(name = "agentwatch", version, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Run(run::RunArgs),
    Record(run::RecordArgs),
    Daemon(daemon::DaemonArgs),
    Config(daemon::ConfigArgs),
    Agents(agents::AgentsArgs),
    Health(health::HealthArgs),
    Top(top::TopArgs),
    /// Stop all processes of an agent where they are, until it is thawed.
    Freeze(agents::ActArgs),
    /// Let a frozen agent go on.
    Thaw(agents::ActArgs),
    /// Cut an agent's network, but for what its policy keeps.
    Quarantine(agents::ActArgs),
    /// End an agent's quarantine.
    Release(agents::ActArgs),
    /// End all processes of an agent, in its cgroup and outside.
    Kill(agents::ActArgs),
    Replay(replay::ReplayArgs),
    Events(events::EventsArgs),
    Findings(findings::FindingsArgs),
    Tree(tree::TreeArgs),
    Report(report::ReportArgs),
    Db(db::DbArgs),
    Export(export::ExportArgs),
    Policy(policy::PolicyArgs),
    Doctor(doctor::DoctorArgs),
    Completions(completions::CompletionsArgs),
    Man(completions::ManArgs),
    Verifier(verifier::VerifierArgs),
}

/// What may be used of the kernel.
#[derive(Debug, Clone, Copy, Args)]
pub struct TierArgs {
    /// Use nothing better of the kernel than this
    ///
    /// Each capability rests on the best that the kernel offers (`agentwatch doctor` says on what). This is
    /// for a kernel on which one of them misbehaves, and for comparing them.
    #[arg(long, value_enum, default_value_t = Limit::Lsm)]
    tier: Limit,
}

/// Runs what the command line says.
pub fn main() -> ExitCode {
    let result = match Cli::parse().verb {
        Verb::Run(args) => run::run(&args),
        Verb::Record(args) => run::record(args),
        Verb::Daemon(args) => daemon::run(&args),
        Verb::Config(args) => daemon::config(&args),
        Verb::Agents(args) => agents::list(&args),
        Verb::Health(args) => health::run(&args),
        Verb::Top(args) => top::run(&args),
        Verb::Freeze(args) => agents::act(model::Verb::Freeze, &args),
        Verb::Thaw(args) => agents::act(model::Verb::Thaw, &args),
        Verb::Quarantine(args) => agents::act(model::Verb::Quarantine, &args),
        Verb::Release(args) => agents::act(model::Verb::Release, &args),
        Verb::Kill(args) => agents::act(model::Verb::Kill, &args),
        Verb::Replay(args) => replay::run(&args),
        Verb::Events(args) => events::run(&args),
        Verb::Findings(args) => findings::run(&args),
        Verb::Tree(args) => tree::run(&args),
        Verb::Report(args) => report::run(&args),
        Verb::Db(args) => db::run(&args),
        Verb::Export(args) => export::run(&args),
        Verb::Policy(args) => policy::run(&args),
        Verb::Doctor(args) => doctor::run(&args),
        Verb::Completions(args) => completions::run(&args),
        Verb::Man(args) => completions::man(&args),
        Verb::Verifier(args) => verifier::run(&args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("agentwatch: {error:#}");
        ExitCode::from(OWN_FAILURE)
    })
}

/// Whether standard output takes colours.
pub fn colour() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// Writes to standard output. A reader that has enough (`| head`) ends the program quietly.
///
/// # Errors
///
/// When it cannot be written for another reason.
pub fn print(text: &str) -> Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => Ok(other?),
    }
}
