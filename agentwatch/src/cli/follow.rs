//! Events as they happen, for `agentwatch events -f`: from the daemon's stream where one runs, else from
//! the history, as it is written.

use std::{
    collections::HashSet,
    fmt::Write as _,
    io::{BufRead as _, BufReader, ErrorKind, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use super::history;
use crate::{
    api::{
        client::{self, Client, percent},
        sse,
    },
    store::{
        page::Cursor,
        query::{Filter, History},
        row::Row,
        writer,
    },
};

/// How often the history is looked at.
const EVERY: Duration = Duration::from_millis(300);
/// Events that are read at once.
const PAGE: usize = 1000;

/// Which events.
pub struct Wanted<'a> {
    /// The daemon's socket, where one is named.
    pub socket: Option<&'a Path>,
    /// What the history is asked for.
    pub filter: Filter,
    /// From when on, as it was said.
    pub since: Option<&'a str>,
}

/// A connection to the daemon; `None` where none runs.
///
/// # Errors
///
/// When the one that is named does not listen, or this user may not use it.
pub fn daemon(named: Option<&Path>) -> Result<Option<UnixStream>> {
    let path = client::socket(named);
    match UnixStream::connect(&path) {
        Ok(stream) => Ok(Some(stream)),
        Err(error) => {
            let none = [ErrorKind::NotFound, ErrorKind::ConnectionRefused].contains(&error.kind());
            if none && named.is_none() {
                return Ok(None);
            }
            Err(error).with_context(|| format!("cannot reach the daemon at {}", path.display()))
        }
    }
}

/// Shows what the daemon tells, for ever.
pub fn stream(
    wanted: &Wanted<'_>,
    mut connection: UnixStream,
    mut show: impl FnMut(&Row) -> Result<()>,
) -> Result<()> {
    let path = format!("/v1/events/stream?{}", query(&wanted.filter));
    // Of HTTP/1.0 an answer is not in chunks: lines are read as they come.
    write!(
        connection,
        "GET {path} HTTP/1.0\r\nhost: agentwatch\r\n\r\n"
    )?;
    let mut answer = BufReader::new(connection);
    let mut status = String::new();
    answer.read_line(&mut status)?;
    if status.split(' ').nth(1) != Some("200") {
        let body = answer.lines().map_while(Result::ok).last();
        bail!("the daemon refuses: {}", body.unwrap_or(status));
    }
    let mut header = String::new();
    while answer.read_line(&mut header)? > 2 {
        header.clear();
    }
    let shown = before(wanted, &mut show)?;
    let mut come = sse::Buffer::default();
    loop {
        let data = answer.fill_buf().context("the stream breaks off")?;
        if data.is_empty() {
            bail!("the daemon has stopped");
        }
        let len = data.len();
        come.push(data)?;
        answer.consume(len);
        while let Some(item) = come.take() {
            match item.event.as_str() {
                "event" => {
                    let row: Row = serde_json::from_str(&item.data)
                        .context("the daemon is of another version")?;
                    let wants = wanted.filter.pid.is_none_or(|pid| pid == row.pid);
                    if wants && !shown.contains(&key(&row)) {
                        show(&row)?;
                    }
                }
                "missed" => eprintln!("agentwatch: this was too slow: {}", item.data),
                _ => {}
            }
        }
    }
}

/// What tells events apart.
type Key = (i64, u32, String);

fn key(row: &Row) -> Key {
    (row.time_ns, row.pid, row.kind.clone())
}

/// A page of the API.
#[derive(Deserialize)]
struct Page {
    events: Vec<Row>,
    next: Option<String>,
    more: bool,
}

/// Shows what was before, where that is asked for. What is given back may come again in the stream.
fn before(wanted: &Wanted<'_>, show: &mut impl FnMut(&Row) -> Result<()>) -> Result<HashSet<Key>> {
    let mut shown = HashSet::new();
    let limit = wanted.filter.limit;
    if wanted.since.is_none() && limit.is_none() {
        return Ok(shown);
    }
    // What happened before the stream began is in the history by then.
    thread::sleep(2 * writer::EVERY);
    let began = now_ns() - 10_000_000_000;
    let client = Client::new(wanted.socket)?;
    let mut query = query(&wanted.filter);
    if let Some(pid) = wanted.filter.pid {
        let _ = write!(query, "&pid={pid}");
    }
    let ask = if let Some(since) = wanted.since {
        format!("/v1/events?{query}&since={}&limit={PAGE}", percent(since))
    } else {
        let limit = limit.unwrap_or(PAGE).clamp(1, PAGE);
        format!("/v1/events?{query}&limit={limit}")
    };
    let mut after = String::new();
    let mut last = Vec::new();
    loop {
        let page: Page = client.get(&format!("{ask}{after}"))?;
        last.extend(page.events);
        let end = !page.more || wanted.since.is_none();
        if limit.is_none() || end {
            let skip = limit.map_or(0, |limit| last.len().saturating_sub(limit));
            for row in last.drain(..).skip(skip) {
                show(&row)?;
                if row.time_ns > began {
                    shown.insert(key(&row));
                }
            }
        } else if let Some(limit) = limit {
            let too_many = last.len().saturating_sub(limit);
            last.drain(..too_many);
        }
        match page.next {
            Some(next) if !end => after = format!("&after={}", percent(&next)),
            _ => return Ok(shown),
        }
    }
}

/// Shows what comes into the history, for ever.
pub fn poll(
    wanted: &Wanted<'_>,
    dir: &Path,
    mut show: impl FnMut(&Row) -> Result<()>,
) -> Result<()> {
    let mut filter = wanted.filter.clone();
    let mut at: Option<Cursor> = None;
    if let (None, limit) = (filter.since, filter.limit) {
        let mut history = History::open(dir)?;
        if let Some(limit) = limit {
            let (rows, last) = history.page(&filter, None, limit)?;
            rows.iter().try_for_each(&mut show)?;
            at = last;
        } else {
            (_, at) = history.page(&Filter::default(), None, 1)?;
        }
        if at.is_none() {
            filter.since = Some(now_ns());
        }
    }
    loop {
        // Again each time: there is a file for each day.
        let mut history = History::open(dir)?;
        let (rows, next) = history.page(&filter, at.as_ref(), PAGE)?;
        history::warn(&mut history);
        rows.iter().try_for_each(&mut show)?;
        at = next;
        if rows.len() < PAGE {
            thread::sleep(EVERY);
        }
    }
}

fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
    })
}

/// The part of a query that both paths have.
fn query(filter: &Filter) -> String {
    let mut parts = Vec::new();
    if let Some(agent) = &filter.agent {
        parts.push(format!("agent={}", percent(agent)));
    }
    if !filter.kinds.is_empty() {
        parts.push(format!("kind={}", filter.kinds.join(",")));
    }
    parts.join("&")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for() {
        let filter = Filter {
            agent: Some("a b&c".to_owned()),
            kinds: vec!["exec".to_owned(), "open".to_owned()],
            ..Filter::default()
        };
        assert_eq!(query(&filter), "agent=a%20b%26c&kind=exec,open");
        assert_eq!(query(&Filter::default()), "");
    }
}
