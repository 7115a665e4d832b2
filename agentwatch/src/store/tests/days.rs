//! Days that are over: compressed, removed, and written to again.

use super::*;
use crate::{
    finding::{ProcessInfo, Response, Severity},
    store::{
        follow::{Batch, Follower, Rows, Table},
        query::Filter,
        sql::Sql,
    },
};

const DAY: i64 = 86_400_000_000_000;

fn now() -> i64 {
    wall_ns(jiff::Timestamp::now())
}

fn day_of(days_ago: i64) -> String {
    writer::day(now() - days_ago * DAY)
}

/// An event of so many days ago, by its number.
fn ago(days: i64, number: i64) -> Row {
    Row {
        time_ns: now() / DAY * DAY - days * DAY + number,
        ..row(&exit(0), Some("/bin/sh"))
    }
}

fn finding(id: &str) -> Finding {
    Finding {
        id: id.to_owned(),
        time: String::new(),
        time_ns: 5,
        agent: "a".to_owned(),
        detector: "reverse-tunnel",
        severity: Severity::High,
        techniques: Vec::new(),
        message: "a tunnel".to_owned(),
        process: ProcessInfo {
            pid: 42,
            start_ns: 7,
            uid: 1000,
            exe: "/bin/sh".to_owned(),
            argv: Vec::new(),
            member: true,
        },
        ancestry: Vec::new(),
        evidence: Vec::new(),
        response: Response {
            requested: crate::finding::Action::Alert,
            taken: crate::finding::Action::Alert,
            reason: None,
            ordered_us: None,
            empty_us: None,
            outside: Vec::new(),
        },
    }
}

/// A history with events, and a finding, of the days so many days ago.
fn history(days: &[i64]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for days in days {
        let of = u64::try_from(now() / DAY * DAY - days * DAY).unwrap();
        let store = Store::open(dir.path(), "a", &[], of).unwrap();
        for number in 0..1000 {
            store.event(ago(*days, number));
        }
        store.finding(&finding(&format!("f-{days}")));
        let stats = store.finish(Some(0), None, &Tally::default());
        assert_eq!((stats.stored, stats.error), (1000, None));
    }
    dir
}

fn keep(events_days: u32, compress_after_days: u32) -> Retention {
    Retention {
        events_days,
        compress_after_days,
        ..Retention::default()
    }
}

fn tidied(dir: &Path, retention: &Retention) -> Done {
    let done = tidy(dir, retention, now()).unwrap().unwrap();
    assert_eq!(done.warnings, Vec::<String>::new());
    done
}

fn all(dir: &Path) -> Vec<Row> {
    let (rows, warnings) = read(dir, &Filter::default());
    assert!(warnings.is_empty(), "{warnings:?}");
    rows
}

fn findings(dir: &Path) -> Vec<String> {
    let mut history = History::open(dir).unwrap();
    let found = history.findings(&Filter::default()).unwrap();
    assert!(history.warnings.is_empty(), "{:?}", history.warnings);
    let id = |stored: &query::StoredFinding| stored.finding["id"].as_str().unwrap().to_owned();
    found.iter().map(id).collect()
}

fn file(dir: &Path, days_ago: i64) -> PathBuf {
    dir.join(format!("agentwatch-{}.db", day_of(days_ago)))
}

/// Delivers all; how many events came.
fn drain(follower: &mut Follower) -> usize {
    let mut events = 0;
    while let Some(batch) = follower.next(300).unwrap() {
        if let Rows::Events(rows) = &batch.rows {
            events += rows.len();
        }
        follower.advance(&batch).unwrap();
    }
    events
}

fn first_events(follower: &mut Follower, max: usize) -> Batch {
    loop {
        let batch = follower.next(max).unwrap().unwrap();
        if batch.range.table == Table::Events {
            return batch;
        }
        follower.advance(&batch).unwrap();
    }
}

#[test]
fn a_compressed_day_is_read_as_before_and_followed_by_the_same_tokens() {
    let dir = history(&[5, 3, 0]);
    let before = all(dir.path());
    let mut follower = Follower::open(dir.path(), "test").unwrap();
    let pending = first_events(&mut follower, 300);
    let plain = fs::metadata(file(dir.path(), 5)).unwrap().len();

    let done = tidied(dir.path(), &keep(30, 2));
    assert_eq!(done.compressed, [day_of(5), day_of(3)]);
    assert_eq!(
        tidied(dir.path(), &keep(30, 2)).compressed,
        Vec::<String>::new()
    );
    assert!(!file(dir.path(), 5).exists());
    let small = fs::metadata(cold::compressed(&file(dir.path(), 5)))
        .unwrap()
        .len();
    assert!(small * 3 < plain, "{small} of {plain} bytes");

    assert_eq!(all(dir.path()), before);
    let last = Filter {
        limit: Some(1500),
        ..Filter::default()
    };
    assert_eq!(read(dir.path(), &last).0, before[1500..]);
    assert_eq!(findings(dir.path()), ["f-5", "f-3", "f-0"]);

    drop(follower);
    let mut follower = Follower::open(dir.path(), "test").unwrap();
    let behind = follower.behind().unwrap();
    let again = follower.next(999).unwrap().unwrap();
    assert_eq!((&again.range, &again.rows), (&pending.range, &pending.rows));
    assert_eq!(drain(&mut follower), 3000);
    assert!(behind.rows >= 3000);
    assert_eq!(follower.behind().unwrap().rows, 0);
    // What was uncompressed to be read is gone.
    let names = fs::read_dir(dir.path()).unwrap();
    for name in names.map(|entry| entry.unwrap().file_name()) {
        assert!(!name.to_string_lossy().ends_with(".new"), "{name:?}");
    }
}

#[test]
fn what_comes_late_to_a_compressed_day_is_in_it() {
    let dir = history(&[5, 0]);
    tidied(dir.path(), &keep(30, 2));
    let mut follower = Follower::open(dir.path(), "test").unwrap();
    assert_eq!(drain(&mut follower), 2000);
    let store = open(dir.path());
    store.event(ago(5, 5000));
    assert_eq!(store.finish(None, None, &Tally::default()).error, None);
    assert!(file(dir.path(), 5).exists() && !cold::compressed(&file(dir.path(), 5)).exists());
    assert_eq!(all(dir.path()).len(), 2001);
    assert_eq!(findings(dir.path()), ["f-5", "f-0"], "each once");
    assert_eq!(drain(&mut follower), 1);
    assert_eq!(tidied(dir.path(), &keep(30, 2)).compressed, [day_of(5)]);
    assert_eq!(all(dir.path()).len(), 2001);
    assert_eq!(findings(dir.path()), ["f-5", "f-0"], "each once");
    assert_eq!(drain(&mut follower), 0);
}

#[test]
fn what_is_too_old_goes_and_its_findings_stay() {
    let dir = history(&[5, 4, 3, 0]);
    tidied(dir.path(), &keep(30, 4));
    let mut follower = Follower::open(dir.path(), "test").unwrap();
    // Of the oldest, which is compressed, a part is delivered; of the others nothing.
    let batch = first_events(&mut follower, 300);
    follower.advance(&batch).unwrap();
    let done = tidied(dir.path(), &keep(4, 4));
    assert_eq!(
        done.removed,
        [(day_of(5), Some(1000)), (day_of(4), Some(1000))]
    );
    assert_eq!(all(dir.path()).len(), 2000);
    assert_eq!(findings(dir.path()), ["f-5", "f-4", "f-3", "f-0"]);
    assert_eq!(follower.behind().unwrap().lost, 700 + 1000);
    assert_eq!(drain(&mut follower), 2000);
    assert_eq!(follower.behind().unwrap().lost, 700 + 1000, "counted once");
    // A follower that begins now has lost nothing.
    drop(follower);
    let mut other = Follower::open(dir.path(), "other").unwrap();
    assert_eq!(other.behind().unwrap().lost, 0);

    let short = Retention {
        findings_days: 4,
        ..keep(4, 4)
    };
    assert!(tidied(dir.path(), &short).forgotten >= 2);
    assert_eq!(findings(dir.path()), ["f-3", "f-0"]);
}

#[test]
fn what_is_too_much_goes_oldest_first_and_today_stays() {
    let dir = history(&[2, 1, 0]);
    let small = Retention {
        max_mib: 0,
        ..Retention::default()
    };
    let done = tidy(dir.path(), &small, now()).unwrap().unwrap();
    assert_eq!(
        done.removed,
        [(day_of(2), Some(1000)), (day_of(1), Some(1000))]
    );
    assert!(done.warnings[0].contains("today's"), "{:?}", done.warnings);
    assert_eq!(all(dir.path()).len(), 1000);
    assert_eq!(findings(dir.path()), ["f-2", "f-1", "f-0"]);
}

#[test]
fn a_writer_whose_file_goes_loses_nothing() {
    let dir = history(&[]);
    let store = open(dir.path());
    store.event(ago(5, 1));
    until("it is stored", || store.stats().stored == 1);
    assert_eq!(tidied(dir.path(), &keep(30, 2)).compressed, [day_of(5)]);
    store.event(ago(5, 2));
    until("it is stored", || store.stats().stored == 2);
    assert_eq!(tidied(dir.path(), &keep(2, 2)).removed.len(), 1);
    store.event(ago(5, 3));
    let stats = store.finish(None, None, &Tally::default());
    assert_eq!((stats.stored, stats.dropped, stats.error), (3, 0, None));
    let kept = all(dir.path());
    assert_eq!(kept.len(), 1);
    assert_eq!(kept[0].time_ns % DAY, 3);
}

#[test]
fn a_damaged_compressed_day_is_said_and_the_others_are_read() {
    let dir = history(&[5, 0]);
    tidied(dir.path(), &keep(30, 2));
    let path = cold::compressed(&file(dir.path(), 5));
    let bytes = fs::read(&path).unwrap();
    let mut flipped = bytes.clone();
    flipped[bytes.len() / 2] ^= 0xff;
    for bad in [&bytes[..bytes.len() / 2], &bytes[..7], &[], &flipped] {
        fs::write(&path, bad).unwrap();
        let (rows, warnings) = read(dir.path(), &Filter::default());
        assert_eq!(rows.len(), 1000);
        let said = warnings.iter().any(|said| said.contains(".db.zst"));
        assert!(warnings.len() == 1 && said, "{warnings:?}");
    }
}

#[test]
fn sql_reads_all_days_and_does_nothing_else() {
    let dir = history(&[5, 3, 0]);
    tidied(dir.path(), &keep(30, 4));
    let mut sql = Sql::open(dir.path(), &Filter::default()).unwrap();
    assert_eq!(sql.warnings, Vec::<String>::new());
    let mut ask = |text: &str| -> Result<Vec<String>> {
        let mut rows = Vec::new();
        sql.query(text, Duration::from_secs(20), |_, values| {
            let values = values.iter().map(|value| sql::json(*value).to_string());
            rows.push(values.collect::<Vec<_>>().join(" "));
            Ok(())
        })?;
        Ok(rows)
    };
    assert_eq!(
        ask("SELECT kind, exe, pid, count(*) FROM events GROUP BY 1, 2, 3").unwrap(),
        [r#""exit" "/bin/sh" 42 3000"#]
    );
    assert_eq!(ask("SELECT count(*) FROM findings").unwrap(), ["3"]);
    assert_eq!(ask("SELECT count(*) FROM actions").unwrap(), ["0"]);
    assert_eq!(
        ask("SELECT count(*) FROM events WHERE agent = 'b'").unwrap(),
        ["0"]
    );
    for bad in [
        "DELETE FROM day0.event_rows",
        "ATTACH '/etc/passwd' AS x",
        "PRAGMA query_only = 0",
        "PRAGMA day0.journal_mode = DELETE",
        "CREATE TABLE x (y)",
        "VACUUM INTO '/tmp/x'",
        "SELECT 1; SELECT 2",
        "SELECT ?1",
        "SELECT load_extension('x')",
        "no SQL",
    ] {
        let error = ask(bad);
        assert!(error.is_err(), "{bad}: {error:?}");
    }
    let endless =
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";
    let error = sql.query(endless, Duration::from_millis(50), |_, _| Ok(()));
    assert!(error.unwrap_err().to_string().contains("--timeout"));

    let today = Filter {
        since: Some(now() / DAY * DAY),
        ..Filter::default()
    };
    let mut sql = Sql::open(dir.path(), &today).unwrap();
    let mut count = String::new();
    sql.query(
        "SELECT count(*) FROM events",
        Duration::from_secs(20),
        |_, values| {
            count = sql::json(values[0]).to_string();
            Ok(())
        },
    )
    .unwrap();
    assert_eq!(count, "1000");
}

#[test]
fn a_hole_in_a_file_costs_the_rows_in_it() {
    let dir = history(&[1]);
    let path = file(dir.path(), 1);
    let page = {
        let connection = rusqlite::Connection::open(&path).unwrap();
        connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
            .unwrap();
        let size = connection.pragma_query_value(None, "page_size", |row| row.get::<_, u32>(0));
        size.unwrap() as usize
    };
    let mut bytes = fs::read(&path).unwrap();
    // Leaves of a table with many rows: they are of the events.
    let is_leaf = |page: &&[u8]| page[0] == 13 && u16::from_be_bytes([page[3], page[4]]) > 30;
    let leaves: Vec<usize> = (0..bytes.len() / page)
        .filter(|n| is_leaf(&&bytes[n * page..(n + 1) * page]))
        .collect();
    assert!(leaves.len() > 5, "{leaves:?}");
    let at = leaves[leaves.len() / 2] * page;
    bytes[at..at + page].fill(0xa5);
    fs::write(&path, bytes).unwrap();
    let (rows, warnings) = read(dir.path(), &Filter::default());
    assert!((700..1000).contains(&rows.len()), "{}", rows.len());
    let said = format!("up to {} events", 1000 - rows.len());
    assert!(
        warnings.len() == 1 && warnings[0].contains(&said) && warnings[0].contains(&day_of(1)),
        "{said}: {warnings:?}"
    );
    let mut follower = Follower::open(dir.path(), "test").unwrap();
    assert_eq!(drain(&mut follower), rows.len());
}
