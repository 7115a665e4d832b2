//! Tables. What people filter by has a column; the rest is JSON in `detail`.

use anyhow::{Result, bail};
use rusqlite::Connection;

/// The version of the tables, in `PRAGMA user_version`.
pub const VERSION: i64 = 1;

const TABLES: &str = "
CREATE TABLE events (
    id INTEGER PRIMARY KEY,
    time_ns INTEGER NOT NULL, run TEXT NOT NULL, agent TEXT NOT NULL, kind TEXT NOT NULL,
    pid INTEGER NOT NULL, start_ns INTEGER NOT NULL, ppid INTEGER NOT NULL, uid INTEGER NOT NULL,
    comm TEXT NOT NULL, exe TEXT,
    path TEXT, path2 TEXT, result INTEGER, dev INTEGER, ino INTEGER,
    protocol TEXT, direction TEXT, local TEXT, remote TEXT, remote_port INTEGER,
    bytes_in INTEGER, bytes_out INTEGER, cookie INTEGER, detail TEXT
) STRICT;
CREATE INDEX events_by_run ON events (run, kind);
CREATE TABLE findings (
    id TEXT NOT NULL, time_ns INTEGER NOT NULL, run TEXT NOT NULL, agent TEXT NOT NULL,
    detector TEXT NOT NULL, severity TEXT NOT NULL, pid INTEGER NOT NULL, finding TEXT NOT NULL
) STRICT;
CREATE TABLE runs (
    run TEXT PRIMARY KEY, agent TEXT NOT NULL, command TEXT NOT NULL, started_ns INTEGER NOT NULL,
    ended_ns INTEGER, exit_status INTEGER, killed_by TEXT, stored INTEGER, dropped INTEGER, tally TEXT
) STRICT;
";

/// Later than the others, without a version of its own: an older agentwatch does not look at it.
const LATER: &str = "
CREATE TABLE IF NOT EXISTS actions (
    time_ns INTEGER NOT NULL, run TEXT, agent TEXT NOT NULL, action TEXT NOT NULL, done INTEGER NOT NULL,
    body TEXT NOT NULL
) STRICT;
-- How runs ended, once more: rows that are never changed, for who follows the history.
CREATE TABLE IF NOT EXISTS ends (
    id INTEGER PRIMARY KEY,
    run TEXT NOT NULL, agent TEXT NOT NULL, ended_ns INTEGER NOT NULL, exit_status INTEGER, killed_by TEXT,
    stored INTEGER NOT NULL, dropped INTEGER NOT NULL, tally TEXT NOT NULL
) STRICT;
-- One row: the file's own number, drawn when it is made.
CREATE TABLE IF NOT EXISTS file (one INTEGER PRIMARY KEY CHECK (one = 1), number INTEGER NOT NULL) STRICT;
INSERT OR IGNORE INTO file VALUES (1, random());
";

/// Makes the tables in a new file; accepts one that has them.
///
/// # Errors
///
/// When the file is of a newer version, or cannot be written.
pub fn prepare(connection: &Connection) -> Result<()> {
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    // Another `agentwatch run` may write to the same file.
    connection.busy_timeout(std::time::Duration::from_secs(1))?;
    match version(connection)? {
        0 => {
            let tables =
                format!("BEGIN IMMEDIATE; {TABLES} PRAGMA user_version = {VERSION}; COMMIT;");
            if let Err(error) = connection.execute_batch(&tables) {
                let _ = connection.execute_batch("ROLLBACK");
                // Somebody else made them at the same moment?
                if version(connection)? != VERSION {
                    return Err(error.into());
                }
            }
        }
        VERSION => {}
        other => {
            bail!("its tables are of version {other}, this agentwatch knows version {VERSION}")
        }
    }
    Ok(connection.execute_batch(LATER)?)
}

/// A file's own number; `None` where it has none, since an older agentwatch made it.
pub fn file_number(connection: &Connection) -> Option<u64> {
    let number = connection.query_row("SELECT number FROM file", [], |row| row.get::<_, i64>(0));
    number.ok().map(i64::cast_unsigned)
}

/// The version of a file's tables, 0 where it has none.
///
/// # Errors
///
/// When it is no SQLite file.
pub fn version(connection: &Connection) -> Result<i64> {
    Ok(connection.pragma_query_value(None, "user_version", |row| row.get(0))?)
}
