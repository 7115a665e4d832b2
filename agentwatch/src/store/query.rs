//! Reading the history, over the files of all days.

use std::{
    collections::HashMap,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};
use rusqlite::{Connection, types::Value};

use super::{
    files, kept,
    reader::{Day, Order, Wanted, names, times},
    row::Row,
};

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

impl Filter {
    /// Whether a day may have something of its times.
    pub(super) fn is_in(&self, day: &str) -> bool {
        files::times(day).is_none_or(|of| {
            self.since.is_none_or(|since| since < of.end)
                && self.until.is_none_or(|until| until >= of.start)
        })
    }
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
    /// The files, oldest first.
    days: Vec<File>,
    /// What is kept of days that are compressed or removed.
    kept: Option<Connection>,
    /// What could not be read, and why.
    pub warnings: Vec<String>,
}

/// The file of a day.
struct File {
    /// The day, `2026-11-21`.
    day: String,
    path: PathBuf,
    /// `None` where it is compressed: it is opened when it is needed, and closed then.
    read: Option<Day>,
}

impl History {
    /// Opens all files of a folder. One that cannot be read is a warning; the others are read.
    ///
    /// # Errors
    ///
    /// When the folder cannot be read.
    pub fn open(dir: &Path) -> Result<Self> {
        let mut history = Self {
            days: Vec::new(),
            kept: None,
            warnings: Vec::new(),
        };
        // First what is kept: a day that goes there meanwhile is read twice rather than not.
        match kept::read(dir) {
            Ok(kept) => history.kept = kept,
            Err(error) => history.warnings.push(format!(
                "{} is not read: {error:#}",
                kept::path(dir).display()
            )),
        }
        for (day, path) in files::day_files(dir)? {
            if files::is_cold(&path) {
                let read = None;
                history.days.push(File { day, path, read });
                continue;
            }
            let opened = files::open(&path)
                .and_then(|(connection, warning)| Ok((Day::new(connection)?, warning)));
            match opened {
                Ok((read, warning)) => {
                    history.warnings.extend(warning);
                    let read = Some(read);
                    history.days.push(File { day, path, read });
                }
                Err(error) => history
                    .warnings
                    .push(format!("{} is not read: {error:#}", path.display())),
            }
        }
        Ok(history)
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
        let Some(limit) = filter.limit else {
            let mut damaged = Vec::new();
            self.each_day(filter, None, false, |of, day| {
                let wanted = Wanted::all(filter, Order::Time);
                let damage = day.events_through(&wanted, |_, row| each(row))?;
                damaged.extend(damage.map(|damage| (of.to_owned(), damage)));
                Ok(ControlFlow::Continue(()))
            })?;
            for (day, (rows, why)) in damaged {
                let rows = match rows {
                    Some(rows) => format!("up to {rows} events cannot be read, all others were"),
                    None => "its events, or the rest of them, cannot be read".to_owned(),
                };
                self.warnings.push(format!(
                    "agentwatch-{day}.db is damaged: {rows} ({why}); `sqlite3 FILE .recover` may find more"
                ));
            }
            return Ok(());
        };
        // The last ones: from the end, so that nothing else is read.
        let mut found: Vec<Row> = Vec::new();
        self.each_day(filter, None, true, |_, day| {
            let wanted = Wanted {
                limit: Some(limit - found.len()),
                ..Wanted::all(filter, Order::LastFirst)
            };
            day.events(&wanted, |_, row| {
                found.push(row);
                Ok(())
            })?;
            Ok(if found.len() == limit {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            })
        })?;
        found.reverse();
        found.sort_by_key(|row| row.time_ns);
        found.into_iter().try_for_each(each)
    }

    /// Calls `each` with every day that a filter's times are in, from a day on, the oldest or the newest
    /// first, until it has enough. What cannot be read ends a file, with a warning; another error ends it all.
    pub(super) fn each_day(
        &mut self,
        filter: &Filter,
        from: Option<&str>,
        newest_first: bool,
        mut each: impl FnMut(&str, &Day) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        let Self { days, warnings, .. } = self;
        let mut order: Vec<&File> = days.iter().collect();
        if newest_first {
            order.reverse();
        }
        for File { day, path, read } in order {
            if !filter.is_in(day) || from.is_some_and(|from| &**day < from) {
                continue;
            }
            let result = match read {
                Some(read) => each(day, read),
                None => {
                    files::open(path).and_then(|(connection, _)| each(day, &Day::new(connection)?))
                }
            };
            match result {
                Ok(ControlFlow::Continue(())) => {}
                Ok(ControlFlow::Break(())) => break,
                Err(error) if error.is::<rusqlite::Error>() || read.is_none() => {
                    warnings.push(format!(
                        "{} is damaged: {error:#}; the rest of it is not read",
                        path.display()
                    ));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Calls `each` with every row of a query upon findings, actions or runs: of what is kept, then of one
    /// file after the other. `condition` and `order` are SQL.
    pub(super) fn rows(
        &mut self,
        select: &str,
        (condition, order): (&str, &str),
        values: &[Value],
        mut each: impl FnMut(&rusqlite::Row<'_>) -> Result<()>,
    ) -> Result<()> {
        let mut read = |connection: &Connection, more: &str| -> Result<()> {
            let sql = format!("{select} WHERE {condition}{more} ORDER BY {order}, rowid");
            let mut statement = match connection.prepare(&sql) {
                // A file of an older agentwatch may have no actions.
                Err(error) if error.to_string().contains("no such table: actions") => return Ok(()),
                other => other?,
            };
            let mut rows = statement.query(rusqlite::params_from_iter(values))?;
            while let Some(row) = rows.next()? {
                each(row)?;
            }
            Ok(())
        };
        let warm = || {
            self.days
                .iter()
                .filter_map(|file| Some((file, file.read.as_ref()?)))
        };
        let mut damaged = Vec::new();
        let mut note = |path: &str, result: Result<()>| match result {
            Err(error) if error.is::<rusqlite::Error>() => {
                damaged.push(format!(
                    "{path} is damaged: {error}; the rest of it is not read"
                ));
                Ok(())
            }
            other => other,
        };
        if let Some(kept) = &self.kept {
            let days: Vec<String> = warm().map(|(file, _)| format!("'{}'", file.day)).collect();
            let more = format!(" AND day NOT IN ({})", days.join(","));
            note("kept.db", read(kept, &more))?;
        }
        for (file, day) in warm() {
            let path = file.path.display().to_string();
            note(&path, read(&day.connection, ""))?;
        }
        self.warnings.append(&mut damaged);
        Ok(())
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
        let (mut condition, mut values) = times(&events);
        let (more, of) = names(&events);
        condition += &more;
        values.extend(of);
        let select = "SELECT time_ns, run, finding, id FROM findings";
        let mut found = Vec::new();
        let mut damaged = Vec::new();
        self.rows(select, (&condition, "time_ns"), &values, |row| {
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
        let select = "SELECT run, agent, command, started_ns, ended_ns, exit_status, killed_by, dropped, tally \
                      FROM runs";
        let mut runs: Vec<Run> = Vec::new();
        let mut known: HashMap<String, usize> = HashMap::new();
        self.rows(select, ("1", "started_ns"), &[], |row| {
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
        runs.sort_by_key(|run| run.started_ns);
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
