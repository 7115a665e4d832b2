//! `agentwatch report`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::history::{self, Selection};
use crate::{
    publish::account::Account,
    store::{Stats, query::Filter},
};

/// Show the account of a run: the page that `agentwatch run` ended with.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentwatch report
  agentwatch report --agent rome -o json

The latest run, unless --run or --agent says another.

Exit status: 0; 1 where there is no history; 125 where there is no such run.")]
pub struct ReportArgs {
    #[command(flatten)]
    selection: Selection,
}

/// Runs `agentwatch report`.
pub fn run(args: &ReportArgs) -> Result<ExitCode> {
    let selection = &args.selection;
    let Some(mut history) = selection.open()? else {
        return Ok(ExitCode::FAILURE);
    };
    let run = history.run(selection.run(), selection.agent())?;
    let mut account = Account::new(&run.agent, &run.command);
    let filter = Filter {
        run: Some(run.run.clone()),
        ..Filter::default()
    };
    let mut stored = 0;
    history.events(&filter, |row| {
        stored += 1;
        account.observe(&row);
        Ok(())
    })?;
    for finding in history.findings(&filter)? {
        account.stored_finding(&finding.finding);
    }
    if let Some(tally) = run
        .tally
        .as_deref()
        .and_then(|json| serde_json::from_str(json).ok())
    {
        account.stored_tally(&tally);
    }
    account.ended(run.exit_status, run.killed_by.as_deref());
    account.ended.open = run.ended_ns.is_none();
    let stats = Stats {
        stored,
        dropped: run.dropped.unwrap_or(0),
        error: None,
    };
    account.history(&selection.dir(), &run.run, &stats);
    history::warn(&mut history);
    let text = match selection.output.form() {
        Some(form) => form.text(&account)?,
        None => account.text(super::colour()),
    };
    super::print(&text)?;
    Ok(ExitCode::SUCCESS)
}
