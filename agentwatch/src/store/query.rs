//! Reading the history, over the files of all days.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use rusqlite::{Connection, ErrorCode, OpenFlags, ffi, types::Value};

use super::{detail::Detail, row::Row, schema};

/// What is asked for. Nothing said is everything.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// From then on, Unix nanoseconds.
    pub since: Option<i64>,
    /// Up to then.
    pub until: Option<i64>,
    /// Of this agent.
    pub agent: Option<String>,
    /// Of this run.
    pub run: Option<String>,
    /// Of these kinds.
    pub kinds: Vec<String>,
    /// Of this process.
    pub pid: Option<u32>,
    /// The last so many.
    pub limit: Option<usize>,
}

/// A run.
#[derive(Debug, Clone)]
pub struct Run {
    /// Its id.
    pub run: String,
    /// The agent.
    pub agent: String,
    /// The command.
    pub command: Vec<String>,
    /// Unix nanoseconds.
    pub started_ns: i64,
    /// Unix nanoseconds; `None` while it runs, or when agentwatch was killed.
    pub ended_ns: Option<i64>,
    /// The command's exit status.
    pub exit_status: Option<i32>,
    /// The finding for which the agent was killed.
    pub killed_by: Option<String>,
    /// Events not stored.
    pub dropped: Option<u64>,
    /// What was sent and lost, as JSON.
    pub tally: Option<String>,
}

/// A finding, as stored.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredFinding {
    /// Unix nanoseconds.
    pub time_ns: i64,
    /// The run.
    pub run: String,
    /// The whole finding, JSON.
    pub finding: serde_json::Value,
}

/// The history, opened for reading.
pub struct History {
    /// The days, oldest first.
    days: Vec<(String, Connection)>,
    /// What could not be read, and why.
    pub warnings: Vec<String>,
}

impl History {
    /// Opens all files of a folder. One that cannot be read is a warning; the others are read.
    ///
    /// # Errors
    ///
    /// When the folder cannot be read.
    pub fn open(dir: &Path) -> Result<Self> {
        let files = day_files(dir)?;
        let mut history = Self {
            days: Vec::new(),
            warnings: Vec::new(),
        };
        for (_, path) in files {
            let name = path.display().to_string();
            match open(&path) {
                Ok((connection, warning)) => {
                    history.warnings.extend(warning);
                    history.days.push((name, connection));
                }
                Err(error) => history
                    .warnings
                    .push(format!("{name} is not read: {error:#}")),
            }
        }
        Ok(history)
    }

    /// The files: the day, and the connection to it, oldest first.
    pub(super) fn days(&self) -> impl DoubleEndedIterator<Item = (&str, &Connection)> {
        self.days.iter().map(|(path, connection)| {
            let day = path.trim_end_matches(".db");
            (&day[day.len().saturating_sub(10)..], connection)
        })
    }

    /// Calls `each` with every event that is asked for, in order of time. Rows that cannot be read end
    /// their file, with a warning.
    ///
    /// # Errors
    ///
    /// What `each` says.
    pub fn events(
        &mut self,
        filter: &Filter,
        mut each: impl FnMut(Row) -> Result<()>,
    ) -> Result<()> {
        let (condition, values) = condition(filter);
        let mut skip = match filter.limit {
            Some(limit) => self.count(&condition, &values).saturating_sub(limit),
            None => 0,
        };
        let sql = format!("SELECT {COLUMNS} FROM events WHERE {condition} ORDER BY time_ns, id");
        self.rows(&sql, &values, |row| {
            if skip > 0 {
                skip -= 1;
                return Ok(());
            }
            each(event(row)?)
        })
    }

    /// Calls `each` with every row of a query, a file after the other. A row that cannot be read ends
    /// its file, with a warning; another error of `each` ends it all.
    fn rows(
        &mut self,
        sql: &str,
        values: &[Value],
        mut each: impl FnMut(&rusqlite::Row<'_>) -> Result<()>,
    ) -> Result<()> {
        let Self { days, warnings } = self;
        for (name, connection) in days {
            let result = (|| -> Result<()> {
                let mut statement = connection.prepare(sql)?;
                let mut rows = statement.query(rusqlite::params_from_iter(values))?;
                while let Some(row) = rows.next()? {
                    each(row)?;
                }
                Ok(())
            })();
            if let Err(error) = result {
                if !error.is::<rusqlite::Error>() {
                    return Err(error);
                }
                warnings.push(format!(
                    "{name} is damaged: {error}; the rest of it is not read"
                ));
            }
        }
        Ok(())
    }

    fn count(&self, condition: &str, values: &[Value]) -> usize {
        let sql = format!("SELECT count(*) FROM events WHERE {condition}");
        let count = |connection: &Connection| -> usize {
            let n: Result<i64, _> =
                connection.query_row(&sql, rusqlite::params_from_iter(values), |row| row.get(0));
            n.ok().and_then(|n| usize::try_from(n).ok()).unwrap_or(0)
        };
        self.days
            .iter()
            .map(|(_, connection)| count(connection))
            .sum()
    }

    /// The findings that are asked for, in order of time. Kinds and limit do not matter. What cannot
    /// be read is a warning.
    ///
    /// # Errors
    ///
    /// None so far.
    pub fn findings(&mut self, filter: &Filter) -> Result<Vec<StoredFinding>> {
        let events = Filter {
            kinds: Vec::new(),
            limit: None,
            ..filter.clone()
        };
        let (condition, values) = condition(&events);
        let sql = format!(
            "SELECT time_ns, run, finding, id FROM findings WHERE {condition} ORDER BY time_ns, rowid"
        );
        let mut found = Vec::new();
        let mut damaged = Vec::new();
        self.rows(&sql, &values, |row| {
            match serde_json::from_str(&row.get::<_, String>(2)?) {
                Ok(finding) => found.push(StoredFinding {
                    time_ns: row.get(0)?,
                    run: row.get(1)?,
                    finding,
                }),
                Err(error) => {
                    let id: String = row.get(3)?;
                    damaged.push(format!("the finding {id:?} is damaged: {error}"));
                }
            }
            Ok(())
        })?;
        self.warnings.extend(damaged);
        Ok(found)
    }

    /// The runs, oldest first. One that went over midnight is in two files; what its end says counts.
    /// What cannot be read is a warning.
    ///
    /// # Errors
    ///
    /// None so far.
    pub fn runs(&mut self) -> Result<Vec<Run>> {
        let sql = "SELECT run, agent, command, started_ns, ended_ns, exit_status, killed_by, dropped, tally \
                   FROM runs ORDER BY started_ns, rowid";
        let mut runs: Vec<Run> = Vec::new();
        let mut known: HashMap<String, usize> = HashMap::new();
        self.rows(sql, &[], |row| {
            let run = Run {
                run: row.get(0)?,
                agent: row.get(1)?,
                command: serde_json::from_str(&row.get::<_, String>(2)?).unwrap_or_default(),
                started_ns: row.get(3)?,
                ended_ns: row.get(4)?,
                exit_status: row.get(5)?,
                killed_by: row.get(6)?,
                dropped: row.get::<_, Option<i64>>(7)?.map(i64::cast_unsigned),
                tally: row.get(8)?,
            };
            match known.get(&run.run) {
                Some(at) if run.ended_ns.is_some() => runs[*at] = run,
                Some(_) => {}
                None => {
                    known.insert(run.run.clone(), runs.len());
                    runs.push(run);
                }
            }
            Ok(())
        })?;
        Ok(runs)
    }

    /// The run that is asked for: the latest, or the one with this id.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn run(&mut self, id: Option<&str>, agent: Option<&str>) -> Result<Run> {
        let mut runs = self.runs()?;
        runs.retain(|run| {
            id.is_none_or(|id| run.run == id) && agent.is_none_or(|agent| run.agent == agent)
        });
        match (runs.pop(), id, agent) {
            (Some(run), _, _) => Ok(run),
            (None, Some(id), _) => bail!("no run {id:?} in the history"),
            (None, None, Some(agent)) => bail!("no run of agent {agent:?} in the history"),
            (None, None, None) => bail!("no run in the history yet"),
        }
    }
}

/// The files of a folder: the day of each, `2026-11-21`, and its path; oldest first.
///
/// # Errors
///
/// When the folder cannot be read.
pub(super) fn day_files(dir: &Path) -> Result<Vec<(String, PathBuf)>> {
    let entries = fs::read_dir(dir).with_context(|| format!("no history in {}", dir.display()))?;
    let mut files: Vec<(String, PathBuf)> = entries
        .filter_map(Result::ok)
        .filter_map(|entry| {
            let name = entry.file_name();
            let day = name
                .to_str()?
                .strip_prefix("agentwatch-")?
                .strip_suffix(".db")?;
            Some((day.to_owned(), entry.path()))
        })
        .collect();
    files.sort();
    Ok(files)
}

/// Opens a file for reading, beside a writer.
///
/// # Errors
///
/// When it cannot be read, or is of another version.
pub(super) fn read_only(path: &Path) -> Result<Connection> {
    read(&format!("file:{}", percent(&path.to_string_lossy())))
}

fn read(uri: &str) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    let connection = Connection::open_with_flags(uri, flags)?;
    connection.busy_timeout(std::time::Duration::from_secs(1))?;
    match schema::version(&connection)? {
        schema::VERSION => Ok(connection),
        0 => bail!("it has no tables"),
        other => bail!(
            "its tables are of version {other}, this agentwatch knows version {}",
            schema::VERSION
        ),
    }
}

/// Whether a file is damaged, or of another version: trying again does not help.
pub(super) fn is_damage(error: &anyhow::Error) -> bool {
    match error.downcast_ref::<rusqlite::Error>() {
        Some(error) => matches!(
            error.sqlite_error_code(),
            None | Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
        ),
        None => error.downcast_ref::<std::io::Error>().is_none(),
    }
}

/// Opens a file for reading, beside a writer or on a disk that cannot be written; with a warning where
/// that hides rows.
fn open(path: &Path) -> Result<(Connection, Option<String>)> {
    let uri = format!("file:{}", percent(&path.to_string_lossy()));
    let error = match read(&uri) {
        Ok(connection) => return Ok((connection, None)),
        Err(error) => error,
    };
    if !cannot_write_beside(&error) {
        return Err(error);
    }
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    let said = fs::metadata(&log).is_ok_and(|log| log.len() > 0).then(|| {
        format!(
            "the last rows of {0} are not read: they are in {0}-wal, for which SQLite must write in \
             the folder; copy both to where it can",
            path.display()
        )
    });
    match read(&format!("{uri}?immutable=1")) {
        Ok(connection) => Ok((connection, said)),
        Err(_) => Err(match said {
            Some(said) => error.context(said),
            None => error,
        }),
    }
}

/// Reading a WAL file wants to write an index beside it. Where that is not possible (no right, no
/// room) nobody writes to it either, and it can be read without its log. After another failure that
/// would be wrong: with a writer at work it gives torn pages.
fn cannot_write_beside(error: &anyhow::Error) -> bool {
    let Some(rusqlite::Error::SqliteFailure(error, _)) = error.downcast_ref() else {
        return false;
    };
    matches!(error.code, ErrorCode::CannotOpen | ErrorCode::ReadOnly)
        || matches!(
            error.extended_code,
            ffi::SQLITE_IOERR_SHMOPEN | ffi::SQLITE_IOERR_SHMSIZE | ffi::SQLITE_IOERR_SHMMAP
        )
}

/// What has a meaning in a URI, escaped.
fn percent(path: &str) -> String {
    path.replace('%', "%25")
        .replace('?', "%3f")
        .replace('#', "%23")
}

pub(super) const COLUMNS: &str = "time_ns, run, agent, kind, pid, start_ns, ppid, uid, comm, exe, path, path2, result, \
    dev, ino, protocol, direction, local, remote, remote_port, bytes_in, bytes_out, cookie, detail";

pub(super) fn event(row: &rusqlite::Row<'_>) -> Result<Row, rusqlite::Error> {
    let unsigned = |at: usize| -> Result<Option<u64>, rusqlite::Error> {
        Ok(row.get::<_, Option<i64>>(at)?.map(i64::cast_unsigned))
    };
    Ok(Row {
        time_ns: row.get(0)?,
        run: row.get(1)?,
        agent: row.get(2)?,
        kind: row.get(3)?,
        pid: row.get(4)?,
        start_ns: row.get::<_, i64>(5)?.cast_unsigned(),
        ppid: row.get(6)?,
        uid: row.get(7)?,
        comm: row.get(8)?,
        exe: row.get(9)?,
        path: row.get(10)?,
        path2: row.get(11)?,
        result: row.get(12)?,
        dev: row.get(13)?,
        ino: unsigned(14)?,
        protocol: row.get(15)?,
        direction: row.get(16)?,
        local: row.get(17)?,
        remote: row.get(18)?,
        remote_port: row.get(19)?,
        bytes_in: unsigned(20)?,
        bytes_out: unsigned(21)?,
        cookie: unsigned(22)?,
        detail: row
            .get::<_, Option<String>>(23)?
            .and_then(|json| serde_json::from_str::<serde_json::Value>(&json).ok())
            .map(Detail::from),
    })
}

/// The condition of a filter, and its values.
pub(super) fn condition(filter: &Filter) -> (String, Vec<Value>) {
    let Filter {
        since,
        until,
        agent,
        run,
        kinds,
        pid,
        limit: _,
    } = filter;
    let mut parts = vec!["1".to_owned()];
    let mut values = Vec::new();
    let mut add = |part: &str, value: Value| {
        parts.push(part.to_owned());
        values.push(value);
    };
    if let Some(since) = since {
        add("time_ns >= ?", (*since).into());
    }
    if let Some(until) = until {
        add("time_ns <= ?", (*until).into());
    }
    if let Some(agent) = agent {
        add("agent = ?", agent.clone().into());
    }
    if let Some(run) = run {
        add("run = ?", run.clone().into());
    }
    if let Some(pid) = pid {
        add("pid = ?", i64::from(*pid).into());
    }
    if !kinds.is_empty() {
        let marks = vec!["?"; kinds.len()].join(",");
        parts.push(format!("kind IN ({marks})"));
        values.extend(kinds.iter().map(|kind| Value::from(kind.clone())));
    }
    (parts.join(" AND "), values)
}
