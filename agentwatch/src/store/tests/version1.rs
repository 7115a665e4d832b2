//! Files of version 1.

use super::*;
use crate::store::{
    follow::{Follower, Rows},
    query::Filter,
};

/// As version 1 made them.
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
INSERT INTO runs VALUES ('r1', 'old', '[\"sh\"]', 1795000000000000000, NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO events VALUES
    (1, 1795000000000000002, 'r1', 'old', 'exec', 7, 70, 1, 1000, 'sh', '/bin/sh', '/bin/sh', NULL, NULL, 8, -1,
     NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '{\"argv\":[\"sh\",\"-c\",\"x\"],\"cwd\":\"/\",\"filename\":\"sh\"}'),
    (2, 1795000000000000001, 'r1', 'old', 'flow_close', 7, 70, 1, 1000, 'sh', NULL, NULL, NULL, NULL, NULL, NULL,
     'tcp', 'out', '127.0.0.1:1', '127.0.0.1:2', 2, 3, -1, 9, '{\"alive\":false,\"open_ns\":5}');
INSERT INTO findings VALUES
    ('f-1', 1795000000000000003, 'r1', 'old', 'reverse-tunnel', 'high', 7, '{\"id\":\"f-1\"}');
PRAGMA user_version = 1;
";

fn old() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("agentwatch-2026-11-18.db");
    let connection = rusqlite::Connection::open(file).unwrap();
    connection
        .pragma_update(None, "journal_mode", "WAL")
        .unwrap();
    connection.execute_batch(TABLES).unwrap();
    dir
}

/// What a file of version 1 says of an agent named `old`.
fn check(rows: &[Row]) {
    // In order of time.
    assert_eq!([&*rows[0].kind, &*rows[1].kind], ["flow_close", "exec"]);
    assert_eq!(
        (rows[0].bytes_out, rows[0].remote_port),
        (Some(u64::MAX), Some(2))
    );
    assert_eq!((rows[1].ino, rows[1].run.as_str()), (Some(u64::MAX), "r1"));
    assert_eq!(rows[1].argv(), ["sh", "-c", "x"]);
    assert_eq!(rows[1].told("cwd"), Some("/"));
    assert_eq!(rows[0].number("open_ns"), Some(5));
}

#[test]
fn a_file_of_version_1_is_read() {
    let dir = old();
    let (rows, warnings) = read(dir.path(), &Filter::default());
    assert!(warnings.is_empty(), "{warnings:?}");
    check(&rows);
    let filter = Filter {
        agent: Some("old".to_owned()),
        run: Some("r1".to_owned()),
        pid: Some(7),
        kinds: vec!["exec".to_owned()],
        limit: Some(5),
        ..Filter::default()
    };
    assert_eq!(read(dir.path(), &filter).0.len(), 1);
    let mut history = History::open(dir.path()).unwrap();
    assert_eq!(history.findings(&Filter::default()).unwrap().len(), 1);
    assert!(history.actions(&Filter::default()).unwrap().is_empty());
    assert!(history.warnings.is_empty(), "{:?}", history.warnings);
    let mut follower = Follower::open(dir.path(), "test").unwrap();
    let mut seen = 0;
    while let Some(batch) = follower.next(1).unwrap() {
        if let Rows::Events(rows) = &batch.rows {
            seen += rows.len();
        }
        follower.advance(&batch).unwrap();
    }
    assert_eq!(seen, 2);
}

#[test]
fn what_is_written_to_makes_it_one_of_version_2_with_all_that_it_had() {
    let dir = old();
    let before = read(dir.path(), &Filter::default()).0;
    let store = open(dir.path());
    store.event(row(&exit(9), Some("/bin/sh")));
    store.finish(Some(0), None, &Tally::default());
    let (rows, warnings) = read(dir.path(), &Filter::default());
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!(rows.len(), 3);
    assert_eq!(rows[..2], before);
    check(&rows);
    let mut history = History::open(dir.path()).unwrap();
    assert_eq!(history.findings(&Filter::default()).unwrap().len(), 1);
    let runs = history.runs().unwrap();
    assert!(
        runs.iter()
            .any(|run| run.run == "r1" && run.command == ["sh"])
    );
    let file = dir.path().join("agentwatch-2026-11-18.db");
    let connection = rusqlite::Connection::open(file).unwrap();
    assert_eq!(schema::version(&connection).unwrap(), schema::VERSION);
}
