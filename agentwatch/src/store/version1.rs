//! Files of version 1: one wide table of events.

use anyhow::Result;
use rusqlite::Connection;

use super::{detail::Detail, insert::Inserter, row::Row};

/// The columns of its events.
pub const COLUMNS: &str = "time_ns, run, agent, kind, pid, start_ns, ppid, uid, comm, exe, path, path2, result, \
    dev, ino, protocol, direction, local, remote, remote_port, bytes_in, bytes_out, cookie, detail";

/// An event of its columns.
///
/// # Errors
///
/// When they are others.
pub fn event(row: &rusqlite::Row<'_>) -> Result<Row, rusqlite::Error> {
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

/// Makes the tables of this version in a file of version 1, within a transaction. Ids stay as they are.
///
/// # Errors
///
/// When the file cannot be read or written.
pub fn migrate(file: &Connection, tables: &str) -> Result<()> {
    file.execute_batch(
        "DROP INDEX IF EXISTS events_by_run;
         ALTER TABLE events RENAME TO old_events;
         ALTER TABLE findings RENAME TO old_findings;
         ALTER TABLE runs RENAME TO old_runs;",
    )?;
    file.execute_batch(tables)?;
    file.execute_batch(
        "INSERT INTO findings SELECT rowid, * FROM old_findings;
         INSERT INTO runs SELECT rowid, * FROM old_runs;
         DROP TABLE old_findings;
         DROP TABLE old_runs;",
    )?;
    let mut inserter = Inserter::default();
    let mut statement =
        file.prepare(&format!("SELECT {COLUMNS}, id FROM old_events ORDER BY id"))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let old = event(row)?;
        inserter.event(file, &old.run, &old, Some(row.get("id")?))?;
    }
    drop(rows);
    drop(statement);
    inserter.finish(file)?;
    Ok(file.execute_batch("DROP TABLE old_events;")?)
}
