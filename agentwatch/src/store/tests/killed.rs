//! A writer that is killed with SIGKILL at any moment.

use std::collections::BTreeMap;

use super::*;
use crate::store::query::Filter;

/// The writer: it runs in a process of its own, which is killed.
#[test]
fn count_until_killed() {
    let Some(dir) = std::env::var_os("AGENTWATCH_TEST_COUNT_TO") else {
        return;
    };
    let store = open(Path::new(&dir));
    let start = Instant::now();
    let mut n = 0;
    while start.elapsed() < Duration::from_secs(30) {
        // Nothing is dropped, so that what is missing is not missing for that.
        while store.shared.totals().waiting > 30_000 {
            std::thread::yield_now();
        }
        for _ in 0..500 {
            let path = format!("/project/{}/file-{n}", n / 100);
            let open = Row {
                path: Some(path),
                ..row(&exit(n), Some("/bin/sh"))
            };
            store.event(open);
            n += 1;
        }
    }
}

#[test]
fn nothing_is_torn_or_twice_and_only_the_end_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let mut wait = 17;
    let mut rounds = 0;
    while rounds < 8 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "store::tests::killed::count_until_killed",
                "--test-threads=1",
            ])
            .env("AGENTWATCH_TEST_COUNT_TO", dir.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        // At moments that differ; also in the making of the tables.
        wait = (wait * 31 + 7) % 700;
        std::thread::sleep(Duration::from_millis(wait));
        child.kill().unwrap();
        child.wait().unwrap();
        rounds += 1;
    }
    let (rows, warnings) = read(dir.path(), &Filter::default());
    assert!(warnings.is_empty(), "{warnings:?}");
    let mut runs: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for row in &rows {
        let n = row.time_ns - i64::try_from(WALL).unwrap();
        assert_eq!(row.path, Some(format!("/project/{}/file-{n}", n / 100)));
        assert_eq!((&*row.comm, &*row.agent, row.result), ("sh", "a", Some(3)));
        runs.entry(row.run.clone()).or_default().push(n);
    }
    assert!(!runs.is_empty(), "no writer got to write");
    for (run, mut seen) in runs {
        seen.sort_unstable();
        let len = i64::try_from(seen.len()).unwrap();
        assert_eq!(seen, (0..len).collect::<Vec<_>>(), "{run}");
    }
    for (_, path) in files::day_files(dir.path()).unwrap() {
        let connection = rusqlite::Connection::open(&path).unwrap();
        let ok: String = connection
            .query_row("PRAGMA integrity_check", [], |row| row.get(0))
            .unwrap();
        assert_eq!(ok, "ok");
    }
}
