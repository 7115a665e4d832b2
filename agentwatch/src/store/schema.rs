//! Tables. What people filter by has a column; the rest is JSON in `detail`.
//!
//! Rows are narrow: who did it (`actors`), on which connection (`flows`), and what repeats (`texts`:
//! folders, names of agents, domains) stand once in tables of their own, and a row of `event_rows` has
//! their numbers. The view `events` puts it together, so a query needs to know nothing of that. The same
//! text may stand in such a table twice (two writers, a restart): only numbers are relied upon.

use anyhow::{Result, bail};
use rusqlite::Connection;

/// The version of the tables, in `PRAGMA user_version`. Files of version 1 are read, and made anew in
/// this one where something is written to them.
pub const VERSION: i64 = 2;
/// The oldest version that is read.
pub const OLDEST: i64 = 1;

/// Kinds that tell how processes began and ended: they have the first numbers, and an index.
pub const LIFE: [&str; 5] = ["seed", "fork", "exec", "exit", "cgroup_move"];

const TABLES: &str = "
CREATE TABLE texts (id INTEGER PRIMARY KEY, text TEXT NOT NULL) STRICT;
CREATE TABLE kinds (id INTEGER PRIMARY KEY, kind TEXT NOT NULL UNIQUE) STRICT;
INSERT INTO kinds VALUES (1, 'seed'), (2, 'fork'), (3, 'exec'), (4, 'exit'), (5, 'cgroup_move');
CREATE TABLE actors (
    id INTEGER PRIMARY KEY,
    run INTEGER NOT NULL, agent INTEGER NOT NULL, pid INTEGER NOT NULL, start_ns INTEGER NOT NULL,
    ppid INTEGER NOT NULL, uid INTEGER NOT NULL, comm INTEGER NOT NULL, exe INTEGER
) STRICT;
CREATE TABLE flows (
    id INTEGER PRIMARY KEY,
    protocol TEXT, direction TEXT, local TEXT, remote TEXT, remote_port INTEGER, cookie INTEGER
) STRICT;
CREATE TABLE event_rows (
    id INTEGER PRIMARY KEY,
    time_ns INTEGER NOT NULL, kind INTEGER NOT NULL, actor INTEGER NOT NULL,
    dir INTEGER, name TEXT, dir2 INTEGER, name2 TEXT, result INTEGER, dev INTEGER, ino INTEGER,
    flow INTEGER, bytes_in INTEGER, bytes_out INTEGER,
    facts INTEGER NOT NULL, flags INTEGER, mode INTEGER, count INTEGER,
    signal INTEGER, user_ns INTEGER, system_ns INTEGER, max_rss_pages INTEGER,
    offset INTEGER, len INTEGER, argv TEXT, cwd INTEGER, domain INTEGER, server_name INTEGER,
    device INTEGER, dns_name TEXT, head TEXT, detail TEXT
) STRICT;
CREATE INDEX lives ON event_rows (actor) WHERE kind <= 5;
CREATE TABLE findings (
    place INTEGER PRIMARY KEY,
    id TEXT NOT NULL, time_ns INTEGER NOT NULL, run TEXT NOT NULL, agent TEXT NOT NULL,
    detector TEXT NOT NULL, severity TEXT NOT NULL, pid INTEGER NOT NULL, finding TEXT NOT NULL
) STRICT;
CREATE TABLE runs (
    place INTEGER PRIMARY KEY,
    run TEXT NOT NULL UNIQUE, agent TEXT NOT NULL, command TEXT NOT NULL, started_ns INTEGER NOT NULL,
    ended_ns INTEGER, exit_status INTEGER, killed_by TEXT, stored INTEGER, dropped INTEGER, tally TEXT
) STRICT;
CREATE TABLE IF NOT EXISTS actions (
    place INTEGER PRIMARY KEY,
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
-- The time of the newest event, and whether the ids of all events are in the order of their times.
CREATE TABLE newest (one INTEGER PRIMARY KEY CHECK (one = 1), time_ns INTEGER NOT NULL, sorted INTEGER NOT NULL) STRICT;
INSERT INTO newest VALUES (1, 0, 1);
CREATE VIEW events AS SELECT
    e.id, e.time_ns, strftime('%Y-%m-%dT%H:%M:%fZ', e.time_ns / 1e9, 'unixepoch') AS time,
    run.text AS run, agent.text AS agent, k.kind, a.pid, a.start_ns, a.ppid, a.uid,
    comm.text AS comm, exe.text AS exe,
    coalesce(dir.text, '') || e.name AS path, coalesce(dir2.text, '') || e.name2 AS path2,
    e.result, e.dev, e.ino, f.protocol, f.direction, f.local, f.remote, f.remote_port,
    e.bytes_in, e.bytes_out, f.cookie,
    e.flags, e.mode, coalesce(e.count, 1) AS count, e.facts & 1 != 0 AS created, e.facts & 2 != 0 AS write,
    e.facts & 4 != 0 AS io_uring, e.facts & 8 != 0 AS partial,
    CASE WHEN e.facts & 16 THEN 'in' WHEN e.facts & 32 THEN 'out' END AS way,
    CASE WHEN e.facts & 64 THEN 'kernel' WHEN e.facts & 128 THEN 'caller' END AS path_source,
    e.signal, e.user_ns, e.system_ns, e.max_rss_pages, e.offset, e.len, e.argv, cwd.text AS cwd,
    domain.text AS domain, server.text AS server_name, e.dns_name, device.text AS device, e.head, e.detail
FROM event_rows e
    LEFT JOIN kinds k ON k.id = e.kind
    LEFT JOIN actors a ON a.id = e.actor
    LEFT JOIN texts run ON run.id = a.run
    LEFT JOIN texts agent ON agent.id = a.agent
    LEFT JOIN texts comm ON comm.id = a.comm
    LEFT JOIN texts exe ON exe.id = a.exe
    LEFT JOIN texts dir ON dir.id = e.dir
    LEFT JOIN texts dir2 ON dir2.id = e.dir2
    LEFT JOIN flows f ON f.id = e.flow
    LEFT JOIN texts cwd ON cwd.id = e.cwd
    LEFT JOIN texts domain ON domain.id = e.domain
    LEFT JOIN texts server ON server.id = e.server_name
    LEFT JOIN texts device ON device.id = e.device;
";

/// Makes the tables in a new file; accepts one that has them, and makes those of an older version new.
///
/// # Errors
///
/// When the file is of a newer version, or cannot be written.
pub fn prepare(connection: &mut Connection) -> Result<()> {
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    // Fewer, longer checkpoints: a page that many commits change is written to the file once.
    connection.pragma_update(None, "wal_autocheckpoint", 4000)?;
    connection.set_prepared_statement_cache_capacity(32);
    // Another `agentwatch run` may write to the same file.
    connection.busy_timeout(std::time::Duration::from_secs(1))?;
    match version(connection)? {
        VERSION => Ok(()),
        0 | OLDEST => make(connection),
        other => {
            bail!("its tables are of version {other}, this agentwatch knows version {VERSION}")
        }
    }
}

/// Makes the tables, all or none.
fn make(connection: &mut Connection) -> Result<()> {
    use rusqlite::TransactionBehavior::Immediate;
    let transaction = connection.transaction_with_behavior(Immediate)?;
    // Somebody else may have made them since.
    match version(&transaction)? {
        0 => transaction.execute_batch(TABLES)?,
        OLDEST => super::version1::migrate(&transaction, TABLES)?,
        _ => return Ok(()),
    }
    transaction.pragma_update(None, "user_version", VERSION)?;
    Ok(transaction.commit()?)
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
