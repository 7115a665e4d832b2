//! What is asked of the history. Blocking: to be called where that may be.

use std::{io, path::Path};

use anyhow::Result;
use serde::Serialize;

use super::model::{EventQuery, FileChange, Incident, SinceQuery};
use crate::{
    cli::history::time,
    incident::Incidents,
    store::{
        page::Cursor,
        query::{Filter, History},
        row::Row,
    },
};

/// Events of a page where nothing is said, and at most.
const PAGE: (usize, usize) = (100, 1000);
/// Changes of files that are given.
const FILES: usize = 200;
/// Findings and actions that are given: the last ones.
const LAST: usize = 1000;

/// A page of events: `model::EventPage`, written without reading each event into a model first.
#[derive(Serialize)]
pub struct Page {
    events: Vec<Row>,
    next: Option<String>,
    more: bool,
}

/// Kinds of events that can be a change of a file.
const CHANGES: [&str; 9] = [
    "open", "unlink", "rmdir", "rename", "mkdir", "link", "symlink", "truncate", "chmod",
];

/// The history; `None` where there is none yet.
fn open(dir: &Path) -> Result<Option<History>> {
    match History::open(dir) {
        Err(error)
            if error
                .downcast_ref::<io::Error>()
                .is_some_and(|error| error.kind() == io::ErrorKind::NotFound) =>
        {
            Ok(None)
        }
        other => other.map(Some),
    }
}

/// Whether a query makes sense. To be asked first: what is wrong then is the client's mistake.
///
/// # Errors
///
/// When it does not; the error says why.
pub fn events_filter(query: &EventQuery) -> Result<(Filter, Option<Cursor>, usize)> {
    let kinds: Vec<String> = kinds(query.kind.as_deref())?;
    let limit = query.limit.unwrap_or(PAGE.0);
    anyhow::ensure!(
        (1..=PAGE.1).contains(&limit),
        "limit is {limit}; it is 1 to {}",
        PAGE.1
    );
    let after = query.after.as_deref().map(str::parse).transpose()?;
    let filter = Filter {
        since: query.since.as_deref().map(time).transpose()?,
        agent: query.agent.clone(),
        pid: query.pid,
        kinds,
        ..Filter::default()
    };
    Ok((filter, after, limit))
}

/// Kinds of events by commas.
///
/// # Errors
///
/// When there is none of that name.
pub fn kinds(text: Option<&str>) -> Result<Vec<String>> {
    use crate::event::Kind;
    let kinds: Vec<String> = text
        .map(|text| text.split(',').map(str::to_owned).collect())
        .unwrap_or_default();
    for kind in &kinds {
        anyhow::ensure!(
            Kind::NAMES.contains(&kind.as_str()),
            "no kind of event is called {kind:?}; there are: {}",
            Kind::NAMES.join(", ")
        );
    }
    Ok(kinds)
}

/// A page of events.
///
/// # Errors
///
/// When the history cannot be read.
pub fn events(dir: &Path, filter: &Filter, after: Option<&Cursor>, limit: usize) -> Result<Page> {
    let (mut events, mut next) = match open(dir)? {
        // One more, to see whether there is.
        Some(mut history) => history.page(filter, after, limit)?,
        None => (Vec::new(), after.cloned()),
    };
    let more = match (&next, open(dir)?) {
        (Some(at), Some(mut history)) if events.len() == limit => {
            !history.page(filter, Some(at), 1)?.0.is_empty()
        }
        _ => false,
    };
    if events.is_empty() {
        next = after.cloned();
    }
    events.shrink_to_fit();
    Ok(Page {
        events,
        next: next.map(|at| at.to_string()),
        more,
    })
}

/// The filter of findings and actions.
///
/// # Errors
///
/// When the time is none.
pub fn since_filter(query: &SinceQuery) -> Result<Filter> {
    Ok(Filter {
        since: query.since.as_deref().map(time).transpose()?,
        agent: query.agent.clone(),
        ..Filter::default()
    })
}

/// Findings, oldest first.
///
/// # Errors
///
/// When the history cannot be read.
pub fn findings(dir: &Path, filter: &Filter) -> Result<Vec<serde_json::Value>> {
    let Some(mut history) = open(dir)? else {
        return Ok(Vec::new());
    };
    let found = history.findings(filter)?;
    let skip = found.len().saturating_sub(LAST);
    Ok(found
        .into_iter()
        .skip(skip)
        .map(|found| found.finding)
        .collect())
}

/// The same in incidents, by their end, oldest first.
///
/// # Errors
///
/// When the history cannot be read, or has what is no finding.
pub fn incidents(dir: &Path, filter: &Filter) -> Result<Vec<Incident>> {
    let mut incidents = Incidents::default();
    for finding in findings(dir, filter)? {
        incidents.add(&serde_json::from_value(finding)?);
    }
    Ok(incidents.all().cloned().collect())
}

/// Actions, oldest first.
///
/// # Errors
///
/// When the history cannot be read.
pub fn actions(dir: &Path, filter: &Filter) -> Result<Vec<serde_json::Value>> {
    let Some(mut history) = open(dir)? else {
        return Ok(Vec::new());
    };
    let found = history.actions(filter)?;
    let skip = found.len().saturating_sub(LAST);
    Ok(found.into_iter().skip(skip).collect())
}

/// What a run changed of files, newest first.
///
/// # Errors
///
/// When the history cannot be read.
pub fn files(dir: &Path, run: &str) -> Result<Vec<FileChange>> {
    let Some(mut history) = open(dir)? else {
        return Ok(Vec::new());
    };
    let filter = Filter {
        run: Some(run.to_owned()),
        kinds: CHANGES.map(str::to_owned).to_vec(),
        ..Filter::default()
    };
    // Opens for reading are among them: enough that changes are left.
    let (mut rows, _) = history.page(&filter, None, 4 * FILES)?;
    rows.reverse();
    Ok(rows.into_iter().filter_map(change).take(FILES).collect())
}

/// What is written to a device changes no file. Those that everybody opens all day have no number in events
/// (`device` in agentwatch-ebpf/src/probes/open.rs).
fn is_device(row: &Row) -> bool {
    let path = row.path.as_deref().unwrap_or_default();
    let everyday = path.strip_prefix("/dev/").is_some_and(|name| {
        let alone = [
            "null", "zero", "full", "random", "urandom", "console", "ptmx",
        ];
        alone.contains(&name) || name.starts_with("tty") || name.starts_with("pts/")
    });
    everyday || row.told("device").is_some()
}

/// What an event changed of a file; `None` where it changed none.
pub fn change(row: Row) -> Option<FileChange> {
    let changes = CHANGES.contains(&row.kind.as_str())
        && row.result.is_none_or(|result| result >= 0)
        && (row.kind != "open" || (row.is("write") && !is_device(&row)));
    if !changes {
        return None;
    }
    let time = jiff::Timestamp::from_nanosecond(i128::from(row.time_ns)).unwrap_or_default();
    Some(FileChange {
        time: format!("{time:.9}"),
        kind: row.kind,
        path: row.path.unwrap_or_default(),
        path2: row.path2,
        pid: row.pid,
        exe: row.exe.unwrap_or_default(),
    })
}
