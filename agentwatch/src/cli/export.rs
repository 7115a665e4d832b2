//! `agentwatch export`.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use serde_json::Value;

use super::history::{self, Which};
use crate::{config::host_name, publish::ocsf, store::query::History};

/// Write the history to a file, for other programs.
///
/// Events come in the order of their times, then findings, then actions.
#[derive(Debug, Args)]
#[command(after_help = "\
Formats:
  jsonl  an object a line: those of `events`, `findings` -o json and the API's actions, and what it is as `type`
  ocsf   an object a line: events and findings in the classes of OCSF 1.8.0; actions have none there

Examples:
  agentwatch export --since 1d --out day.jsonl
  agentwatch export --format ocsf --agent rome | gzip > rome.jsonl.gz

Exit status: 0; 1 where there is no history; 125 where it cannot be read or written. The file is there when it
is whole.")]
pub struct ExportArgs {
    #[command(flatten)]
    which: Which,
    /// In which form
    #[arg(long, value_enum, default_value_t = Format::Jsonl)]
    format: Format,
    /// The file [default: standard output]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// A form for other programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// An object a line
    Jsonl,
    /// The same, in the classes of OCSF 1.8.0
    Ocsf,
}

/// Runs `agentwatch export`.
pub fn run(args: &ExportArgs) -> Result<ExitCode> {
    let Some(mut history) = args.which.open()? else {
        return Ok(ExitCode::FAILURE);
    };
    match &args.out {
        None => {
            let mut out = BufWriter::new(io::stdout().lock());
            match write(args, &mut history, &mut out) {
                // Who reads it has enough.
                Err(error) if is_closed(&error) => {}
                other => other?,
            }
        }
        Some(path) => {
            let mut unfinished = path.as_os_str().to_owned();
            unfinished.push(".part");
            let unfinished = Path::new(&unfinished);
            let written = to_file(args, &mut history, unfinished).and_then(|()| {
                fs::rename(unfinished, path)?;
                Ok(())
            });
            if let Err(error) = written {
                let _ = fs::remove_file(unfinished);
                return Err(error).with_context(|| format!("cannot write {}", path.display()));
            }
        }
    }
    history::warn(&mut history);
    Ok(ExitCode::SUCCESS)
}

fn is_closed(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn to_file(args: &ExportArgs, history: &mut History, path: &Path) -> Result<()> {
    let mut out = BufWriter::new(File::create(path)?);
    write(args, history, &mut out)?;
    out.into_inner()?.sync_all()?;
    Ok(())
}

/// Writes everything that is asked for.
fn write(args: &ExportArgs, history: &mut History, out: &mut impl Write) -> Result<()> {
    let filter = args.which.filter()?;
    let node = host_name();
    let mut line = |what: &str, mut object: Value| -> Result<()> {
        if args.format == Format::Jsonl {
            object["type"] = what.into();
        }
        serde_json::to_writer(&mut *out, &object).map_err(io::Error::from)?;
        Ok(out.write_all(b"\n")?)
    };
    history.events(&filter, |row| match args.format {
        Format::Jsonl => line("event", serde_json::to_value(&row)?),
        Format::Ocsf => line("event", ocsf::event(&row, &node)),
    })?;
    for found in history.findings(&filter)? {
        let object = match args.format {
            Format::Jsonl => history::finding(&found),
            Format::Ocsf => ocsf::finding(&found, &node),
        };
        line("finding", object)?;
    }
    if args.format == Format::Jsonl {
        for action in history.actions(&filter)? {
            line("action", action)?;
        }
    }
    Ok(out.flush()?)
}
