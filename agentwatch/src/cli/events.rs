//! `agentwatch events`.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;

use super::{
    Output,
    history::{self, Selection, base, clock},
    words::what,
};
use crate::{event::Kind, store::row::Row};

/// Show what agents did, event by event.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentwatch events --since 10m --kind exec,connect
  agentwatch events --agent rome --kind unlink -o json | jq -r .path
  agentwatch events --since 1h --kind dns,tls,http
  agentwatch events --run 20261121T090000-4711 -n 50")]
pub struct EventsArgs {
    #[command(flatten)]
    selection: Selection,
    /// Of these kinds, by commas: exec, connect, open, unlink …
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    kind: Vec<String>,
    /// Of this process
    #[arg(long)]
    pid: Option<u32>,
    /// The last N
    #[arg(short = 'n', long, value_name = "N")]
    limit: Option<usize>,
}

/// Runs `agentwatch events`.
pub fn run(args: EventsArgs) -> Result<ExitCode> {
    if let Some(unknown) = args
        .kind
        .iter()
        .find(|kind| !Kind::NAMES.contains(&kind.as_str()))
    {
        bail!(
            "no kind of event is called {unknown:?}; there are: {}",
            Kind::NAMES.join(", ")
        );
    }
    let Some(mut history) = args.selection.open()? else {
        return Ok(ExitCode::FAILURE);
    };
    let mut filter = args.selection.filter()?;
    filter.kinds = args.kind;
    filter.pid = args.pid;
    filter.limit = args.limit;
    let mut any = false;
    history.events(&filter, |row| {
        any = true;
        super::print(&match args.selection.output {
            Output::Json => serde_json::to_string(&row)? + "\n",
            Output::Table => line(&row),
        })
    })?;
    history::warn(&mut history);
    if !any {
        eprintln!("agentwatch: no such events");
    }
    Ok(ExitCode::SUCCESS)
}

/// An event in a line.
fn line(row: &Row) -> String {
    let program = row.exe.as_deref().map_or(row.comm.as_str(), base);
    format!(
        "{:12}  {:<12} {:<10} {:>7} {:<15} {}\n",
        clock(row.time_ns),
        row.agent,
        row.kind,
        row.pid,
        program,
        what(row)
    )
}
