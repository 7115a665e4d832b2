//! What is kept longer than events: findings, actions and runs of days that were compressed or removed, in
//! `kept.db`.
//!
//! A day's rows are copied there before its file goes, and are left out while the file is there.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use rusqlite::{Connection, OptionalExtension as _, params};

use super::{files, schema};

const TABLES: &str = "
CREATE TABLE IF NOT EXISTS days (
    day TEXT PRIMARY KEY, number INTEGER NOT NULL,
    runs INTEGER NOT NULL, findings INTEGER NOT NULL, actions INTEGER NOT NULL, ends INTEGER NOT NULL,
    events INTEGER NOT NULL, removed_ns INTEGER
) STRICT;
CREATE TABLE IF NOT EXISTS findings (
    day TEXT NOT NULL,
    id TEXT NOT NULL, time_ns INTEGER NOT NULL, run TEXT NOT NULL, agent TEXT NOT NULL,
    detector TEXT NOT NULL, severity TEXT NOT NULL, pid INTEGER NOT NULL, finding TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS runs (
    day TEXT NOT NULL,
    run TEXT NOT NULL, agent TEXT NOT NULL, command TEXT NOT NULL, started_ns INTEGER NOT NULL,
    ended_ns INTEGER, exit_status INTEGER, killed_by TEXT, stored INTEGER, dropped INTEGER, tally TEXT
) STRICT;
CREATE TABLE IF NOT EXISTS actions (
    day TEXT NOT NULL,
    time_ns INTEGER NOT NULL, run TEXT, agent TEXT NOT NULL, action TEXT NOT NULL, done INTEGER NOT NULL,
    body TEXT NOT NULL
) STRICT;
";

/// The tables, and the columns that are the same in a day's file.
const COPIED: [(&str, &str); 3] = [
    (
        "findings",
        "id, time_ns, run, agent, detector, severity, pid, finding",
    ),
    (
        "runs",
        "run, agent, command, started_ns, ended_ns, exit_status, killed_by, stored, dropped, tally",
    ),
    ("actions", "time_ns, run, agent, action, done, body"),
];

/// Where it is.
pub fn path(dir: &Path) -> PathBuf {
    dir.join("kept.db")
}

/// Opened for writing.
pub struct Kept(Connection);

impl Kept {
    /// Opens it, and makes it where it is not there.
    pub fn open(dir: &Path) -> Result<Self> {
        let path = path(dir);
        let open = || -> Result<Connection> {
            let connection = Connection::open(&path)?;
            connection.busy_timeout(std::time::Duration::from_secs(5))?;
            connection.pragma_update(None, "journal_mode", "WAL")?;
            connection.execute_batch(TABLES)?;
            connection.pragma_update(None, "user_version", schema::VERSION)?;
            Ok(connection)
        };
        let connection = open().with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self(connection))
    }

    /// Copies a day's findings, actions and runs; again where it has them already.
    pub fn take(&mut self, day: &str, file: &Path) -> Result<()> {
        self.0
            .execute("ATTACH ?1 AS file", [file.to_string_lossy()])?;
        let taken = self.copy(day);
        self.0.execute_batch("DETACH file")?;
        taken.with_context(|| format!("cannot keep the findings of {}", file.display()))
    }

    fn copy(&mut self, day: &str) -> Result<()> {
        let transaction = self.0.transaction()?;
        for (table, columns) in COPIED {
            transaction.execute(&format!("DELETE FROM main.{table} WHERE day = ?1"), [day])?;
            transaction.execute(
                &format!(
                    "INSERT INTO main.{table} (day, {columns}) SELECT ?1, {columns} FROM file.{table} ORDER BY rowid"
                ),
                [day],
            )?;
        }
        transaction.execute(
            "INSERT OR REPLACE INTO main.days (day, number, runs, findings, actions, ends, events) \
             SELECT ?1, (SELECT number FROM file.file), (SELECT coalesce(max(rowid), 0) FROM file.runs),
                (SELECT coalesce(max(rowid), 0) FROM file.findings),
                (SELECT coalesce(max(rowid), 0) FROM file.actions),
                (SELECT coalesce(max(rowid), 0) FROM file.ends),
                (SELECT coalesce(max(rowid), 0) FROM file.event_rows)",
            [day],
        )?;
        Ok(transaction.commit()?)
    }

    /// Notes that a day's file is removed; how many events were in it, where that is known.
    pub fn removed(&self, day: &str, now_ns: i64) -> Result<Option<u64>> {
        let events = self
            .0
            .query_row(
                "UPDATE days SET removed_ns = ?2 WHERE day = ?1 RETURNING events",
                params![day, now_ns],
                |row| row.get::<_, i64>(0),
            )
            .optional()?;
        Ok(events.map(i64::cast_unsigned))
    }

    /// Removes what happened before a time, Unix nanoseconds; how many findings and actions that were.
    pub fn forget(&self, before_ns: i64) -> Result<usize> {
        let mut forgotten = 0;
        for table in ["findings", "actions"] {
            let sql = format!("DELETE FROM {table} WHERE time_ns < ?1");
            forgotten += self.0.execute(&sql, params![before_ns])?;
        }
        self.0
            .execute("DELETE FROM days WHERE removed_ns < ?1", params![before_ns])?;
        self.0.execute(
            "DELETE FROM runs WHERE coalesce(ended_ns, started_ns) < ?1",
            params![before_ns],
        )?;
        Ok(forgotten)
    }
}

/// What a day's file had when it was compressed or removed.
#[derive(Debug, Clone, Copy)]
pub struct Had {
    /// The file's own number.
    pub number: u64,
    /// The last ids of runs, findings, actions, ends and events.
    pub last: [i64; 5],
    /// When it was removed, Unix nanoseconds; `None` where it was compressed.
    pub removed_ns: Option<i64>,
}

/// What the files of days had that were compressed or removed.
pub fn days(dir: &Path) -> Result<HashMap<String, Had>> {
    let Some(connection) = read(dir)? else {
        return Ok(HashMap::new());
    };
    let mut statement = connection.prepare(
        "SELECT day, number, runs, findings, actions, ends, events, removed_ns FROM days",
    )?;
    let days = statement.query_map([], |row| {
        let had = Had {
            number: row.get::<_, i64>(1)?.cast_unsigned(),
            last: [
                row.get(2)?,
                row.get(3)?,
                row.get(4)?,
                row.get(5)?,
                row.get(6)?,
            ],
            removed_ns: row.get(7)?,
        };
        Ok((row.get(0)?, had))
    })?;
    Ok(days.collect::<Result<_, _>>()?)
}

/// Opened for reading; `None` where there is none.
pub fn read(dir: &Path) -> Result<Option<Connection>> {
    let path = path(dir);
    if !path.exists() {
        return Ok(None);
    }
    files::open(&path).map(|(connection, _)| Some(connection))
}
