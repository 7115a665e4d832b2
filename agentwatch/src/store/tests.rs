use std::{process::Command, time::Instant};

use super::{
    query::{Filter, History},
    *,
};
use crate::event::{
    Address, Direction, Endpoint, Event, Exit, FlowClose, Kind, ProcessKey, Protocol,
};

const WALL: u64 = 1_795_000_000_000_000_000;

fn event(time_ns: u64, kind: Kind) -> Event {
    Event {
        time_ns,
        agent: 1,
        process: ProcessKey {
            pid: 42,
            start_ns: 7,
        },
        tid: 42,
        ppid: 1,
        uid: 1000,
        gid: 1000,
        cgroup: 9,
        comm: "sh".to_owned(),
        partial: false,
        kind,
    }
}

fn exit(time_ns: u64) -> Event {
    event(
        time_ns,
        Kind::Exit(Exit {
            code: Some(3),
            signal: None,
            utime_ns: 5,
            stime_ns: 6,
        }),
    )
}

fn row(event: &Event, exe: Option<&str>) -> Row {
    Row::new(event, exe, "a", WALL)
}

fn close() -> Kind {
    let address = |port| Address {
        ip: [127, 0, 0, 1].into(),
        port,
    };
    Kind::FlowClose(FlowClose {
        endpoint: Endpoint {
            cookie: u64::MAX,
            local: address(1),
            remote: address(443),
            protocol: Protocol::Tcp,
            direction: Direction::Out,
        },
        bytes_in: 10,
        bytes_out: u64::MAX,
        open_ns: 1,
        established: true,
        alive: false,
    })
}

fn read(dir: &Path, filter: &Filter) -> (Vec<Row>, Vec<String>) {
    let mut history = History::open(dir).unwrap();
    let mut rows = Vec::new();
    history
        .events(filter, |row| {
            rows.push(row);
            Ok(())
        })
        .unwrap();
    (rows, history.warnings)
}

#[test]
fn what_is_stored_is_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), "a", &["sh".to_owned()], WALL).unwrap();
    let run = store.run.clone();
    store.event(row(&exit(1), Some("/bin/sh")));
    store.event(row(&event(2, close()), None));
    let stats = store.finish(Some(3), None, &Tally::default());
    assert_eq!((stats.stored, stats.dropped, stats.error), (2, 0, None));

    let (rows, warnings) = read(dir.path(), &Filter::default());
    assert!(warnings.is_empty(), "{warnings:?}");
    let expected = Row {
        run,
        ..row(&exit(1), Some("/bin/sh"))
    };
    assert_eq!(rows[0], expected);
    assert_eq!(
        (rows[1].bytes_out, rows[1].cookie),
        (Some(u64::MAX), Some(u64::MAX))
    );

    let by_kind = |kind: &str| Filter {
        kinds: vec![kind.to_owned()],
        ..Filter::default()
    };
    assert_eq!(read(dir.path(), &by_kind("exit")).0.len(), 1);
    assert_eq!(read(dir.path(), &by_kind("exec")).0.len(), 0);
    let last = Filter {
        limit: Some(1),
        ..Filter::default()
    };
    assert_eq!(read(dir.path(), &last).0[0].kind, "flow_close");

    let found = History::open(dir.path()).unwrap().run(None, None).unwrap();
    assert_eq!(
        (found.exit_status, found.command),
        (Some(3), vec!["sh".to_owned()])
    );
}

#[test]
fn each_day_has_its_file_and_order_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), "a", &[], WALL).unwrap();
    let day = 86_400_000_000_000;
    for n in [0, day, 2 * day] {
        store.event(row(&exit(n), None));
    }
    store.finish(None, None, &Tally::default());
    let files = fs::read_dir(dir.path())
        .unwrap()
        .filter(|entry| {
            entry
                .as_ref()
                .unwrap()
                .file_name()
                .to_string_lossy()
                .ends_with(".db")
        })
        .count();
    // Today's, in which the run begins and ends, and one for each day of the events.
    assert_eq!(files, 4);
    let times: Vec<i64> = read(dir.path(), &Filter::default())
        .0
        .iter()
        .map(|row| row.time_ns)
        .collect();
    assert!(times.is_sorted() && times.len() == 3, "{times:?}");
    assert_eq!(History::open(dir.path()).unwrap().runs().unwrap().len(), 1);
}

#[test]
fn a_damaged_file_is_said_and_the_others_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), "a", &[], WALL).unwrap();
    store.event(row(&exit(1), None));
    store.finish(None, None, &Tally::default());
    fs::write(dir.path().join("agentwatch-2020-01-01.db"), [7; 5000]).unwrap();
    fs::write(dir.path().join("agentwatch-2020-01-02.db"), "").unwrap();
    let (rows, warnings) = read(dir.path(), &Filter::default());
    assert_eq!(rows.len(), 1);
    assert_eq!(warnings.len(), 2, "{warnings:?}");
}

#[test]
fn a_newer_file_is_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    let today = jiff::Timestamp::now().strftime("%Y-%m-%d").to_string();
    let file = dir.path().join(format!("agentwatch-{today}.db"));
    let connection = rusqlite::Connection::open(&file).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    drop(connection);
    let error = Store::open(dir.path(), "a", &[], WALL).err().unwrap();
    assert!(format!("{error:#}").contains("version 99"), "{error:#}");
}

/// The writer's side of the test below: it runs in a process of its own, which is killed.
#[test]
fn write_until_killed() {
    let Some(dir) = std::env::var_os("AGENTWATCH_TEST_WRITE_TO") else {
        return;
    };
    let store = Store::open(Path::new(&dir), "a", &[], WALL).unwrap();
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(30) {
        store.event(row(
            &exit(u64::try_from(start.elapsed().as_nanos()).unwrap()),
            None,
        ));
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_writer_that_is_killed_loses_less_than_a_second() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "store::tests::write_until_killed",
            "--test-threads=1",
        ])
        .env("AGENTWATCH_TEST_WRITE_TO", dir.path())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(2500));
    child.kill().unwrap();
    child.wait().unwrap();
    for entry in fs::read_dir(dir.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "db") {
            let connection = rusqlite::Connection::open(&path).unwrap();
            let ok: String = connection
                .query_row("PRAGMA integrity_check", [], |row| row.get(0))
                .unwrap();
            assert_eq!(ok, "ok");
        }
    }
    let (rows, warnings) = read(dir.path(), &Filter::default());
    assert!(warnings.is_empty(), "{warnings:?}");
    let last = rows.last().unwrap().time_ns - i64::try_from(WALL).unwrap();
    // Written for some 2.5 s from its start: what is missing at the end is less than a second.
    assert!(
        last > 1_000_000_000,
        "the last row is {last} ns after the start"
    );
}
