//! `agentwatch findings`.

use std::{fmt::Write as _, process::ExitCode};

use anyhow::{Result, bail};
use clap::Args;
use serde_json::Value;

use super::{
    history::{self, Selection, base, clock},
    incidents,
};
use crate::{
    finding::{Response, Severity},
    publish::notice,
    store::query::StoredFinding,
};

/// Show what was found, or one finding in full.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentwatch findings --since 1d --severity high
  agentwatch findings f-9c2f1e0d5b7a6c31
  agentwatch findings -o json | jq -r .message
  agentwatch findings --incidents --since 1d

Exit status: 0, also where there are none; 1 where there is no history; 125 where there is no finding of
that id.")]
pub struct FindingsArgs {
    #[command(flatten)]
    pub(super) selection: Selection,
    /// Of this severity or above
    #[arg(long, value_parser = severity, value_name = "SEVERITY")]
    pub(super) severity: Option<Severity>,
    /// Of this detector
    #[arg(long, value_name = "ID")]
    pub(super) detector: Option<String>,
    /// What belongs together as one: findings of an agent that share processes, a file or a peer, with their
    /// story
    #[arg(long)]
    incidents: bool,
    /// The finding to show in full; an incident, with --incidents
    pub(super) id: Option<String>,
}

/// A severity by its name.
fn severity(text: &str) -> Result<Severity, String> {
    serde_json::from_value(Value::String(text.to_owned()))
        .map_err(|_| "one of info, low, medium, high, critical".to_owned())
}

/// Runs `agentwatch findings`.
pub fn run(args: &FindingsArgs) -> Result<ExitCode> {
    let Some(mut history) = args.selection.open()? else {
        return Ok(ExitCode::FAILURE);
    };
    let mut found = history.findings(&args.selection.filter()?)?;
    history::warn(&mut history);
    if args.incidents {
        return incidents::show(args, &found);
    }
    found.retain(|stored| {
        let finding = &stored.finding;
        let own =
            severity(finding["severity"].as_str().unwrap_or_default()).unwrap_or(Severity::Info);
        args.severity.is_none_or(|least| own >= least)
            && args
                .detector
                .as_deref()
                .is_none_or(|id| finding["detector"] == id)
            && args.id.as_deref().is_none_or(|id| finding["id"] == id)
    });
    if let (Some(id), true) = (&args.id, found.is_empty()) {
        bail!("no finding {id:?} in the history");
    }
    for stored in &found {
        let utc = args.selection.utc;
        super::print(&match (args.selection.output.form(), &args.id) {
            (Some(form), _) => form.text(&history::finding(stored))?,
            (None, Some(_)) => full(stored, utc),
            (None, None) => short(stored, utc),
        })?;
    }
    if found.is_empty() {
        eprintln!("agentwatch: no findings");
    }
    Ok(ExitCode::SUCCESS)
}

fn text<'a>(of: &'a Value, name: &str) -> &'a str {
    of[name].as_str().unwrap_or_default()
}

fn short(stored: &StoredFinding, utc: bool) -> String {
    let finding = &stored.finding;
    format!(
        "{:12}  {:<8} {:<15} {:<12} {}\n              {}  ({})\n",
        clock(stored.time_ns, utc),
        text(finding, "severity"),
        text(finding, "detector"),
        text(finding, "agent"),
        text(finding, "message"),
        done(finding),
        text(finding, "id"),
    )
}

fn done(finding: &Value) -> String {
    serde_json::from_value::<Response>(finding["response"].clone())
        .map_or_else(|_| "?".to_owned(), |response| notice::done(&response))
}

/// Everything of one finding.
fn full(stored: &StoredFinding, utc: bool) -> String {
    let finding = &stored.finding;
    let mut out = format!(
        "{}  {} {}\n\n  {}\n\n  agent      {}, run {}\n  time       {}\n  response   {}\n",
        text(finding, "id"),
        text(finding, "severity"),
        text(finding, "detector"),
        text(finding, "message"),
        text(finding, "agent"),
        stored.run,
        clock(stored.time_ns, utc),
        done(finding),
    );
    for (n, technique) in finding["techniques"]
        .as_array()
        .into_iter()
        .flatten()
        .enumerate()
    {
        let label = if n == 0 { "technique" } else { "" };
        let _ = writeln!(
            out,
            "  {label:<10} {} {}",
            text(technique, "id"),
            text(technique, "name")
        );
    }
    let ancestry = finding["ancestry"].as_array().into_iter().flatten();
    for (n, process) in std::iter::once(&finding["process"])
        .chain(ancestry)
        .enumerate()
    {
        let label = if n == 0 { "chain" } else { "" };
        let argv: Vec<&str> = process["argv"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let place = if process["member"] == true {
            ""
        } else {
            "  (not the agent's)"
        };
        let _ = writeln!(
            out,
            "  {label:<10} {} {}  {}{place}",
            process["pid"],
            base(text(process, "exe")),
            cut(&argv.join(" ")),
        );
    }
    let decided = finding["time_ns"].as_i64().unwrap_or(0);
    for (n, piece) in finding["evidence"]
        .as_array()
        .into_iter()
        .flatten()
        .enumerate()
    {
        let label = if n == 0 { "evidence" } else { "" };
        // Against the deciding event: the boot clock says nothing to a person.
        let before_us = (piece["time_ns"].as_i64().unwrap_or(0) - decided) / 1000;
        let _ = writeln!(
            out,
            "  {label:<10} {:>+12.3} ms  pid {}  {}",
            milliseconds(before_us),
            piece["pid"],
            text(piece, "what")
        );
    }
    out
}

/// A command line, short enough for a line; `-o json` has it whole.
fn cut(command: &str) -> String {
    const LONGEST: usize = 100;
    if command.chars().count() <= LONGEST {
        return command.to_owned();
    }
    command.chars().take(LONGEST - 1).chain(['…']).collect()
}

#[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
fn milliseconds(us: i64) -> f64 {
    us as f64 / 1000.0
}
