//! `agentwatch events`.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Result, bail};
use clap::Args;

use super::{
    follow::{self, Wanted},
    history::{self, Selection, base, clock},
    words::what,
};
use crate::{event::Kind, store::row::Row};

/// Show what agents did, event by event.
///
/// With -f as it happens: from the daemon, where one runs, else from the history as it is written.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentwatch events --since 10m --kind exec,connect
  agentwatch events -f --agent rome
  agentwatch events -f -n 20 --kind exec -o json | jq -c .detail.argv
  agentwatch events --agent rome --kind unlink -o json | jq -r .path
  agentwatch events --since 1h --kind dns,tls,http
  agentwatch events --run 20261121T090000-4711 -n 50

Exit status: 0, also where there are none; 1 where there is no history; 125 where the daemon stops while it
is followed, or the history cannot be read.")]
pub struct EventsArgs {
    #[command(flatten)]
    selection: Selection,
    /// Go on, as events happen; those before only with --since or -n
    #[arg(short, long, conflicts_with = "until")]
    follow: bool,
    /// Of these kinds, by commas: exec, connect, open, unlink …
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    kind: Vec<String>,
    /// Of this process
    #[arg(long)]
    pid: Option<u32>,
    /// The last N
    #[arg(short = 'n', long, value_name = "N")]
    limit: Option<usize>,
    /// The daemon's socket, for -f [default: that of `AGENTWATCH_SOCKET`, else /run/agentwatch/agentwatch.sock]
    #[arg(long, value_name = "PATH", requires = "follow")]
    socket: Option<PathBuf>,
}

/// Runs `agentwatch events`.
pub fn run(args: &EventsArgs) -> Result<ExitCode> {
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
    let selection = &args.selection;
    let mut filter = selection.filter()?;
    filter.kinds.clone_from(&args.kind);
    filter.pid = args.pid;
    filter.limit = args.limit;
    let mut any = false;
    let mut show = |row: &Row| {
        any = true;
        super::print(&match selection.output.form() {
            Some(form) => form.text(row)?,
            None => line(row, selection.utc),
        })
    };
    if args.follow {
        let wanted = Wanted {
            socket: args.socket.as_deref(),
            filter,
            since: selection.since(),
        };
        // A folder or a run that is named is looked for in the history.
        if !selection.needs_history()
            && let Some(connection) = follow::daemon(wanted.socket)?
        {
            follow::stream(&wanted, connection, show)?;
        } else if selection.open()?.is_some() {
            follow::poll(&wanted, &selection.dir(), show)?;
        }
        return Ok(ExitCode::FAILURE);
    }
    let Some(mut history) = selection.open()? else {
        return Ok(ExitCode::FAILURE);
    };
    history.events(&filter, |row| show(&row))?;
    history::warn(&mut history);
    if !any {
        eprintln!("agentwatch: no such events");
    }
    Ok(ExitCode::SUCCESS)
}

/// An event in a line.
fn line(row: &Row, utc: bool) -> String {
    let program = row.exe.as_deref().map_or(row.comm.as_str(), base);
    format!(
        "{:12}  {:<12} {:<10} {:>7} {:<15} {}\n",
        clock(row.time_ns, utc),
        row.agent,
        row.kind,
        row.pid,
        program,
        what(row)
    )
}
