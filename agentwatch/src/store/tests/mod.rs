mod days;
mod killed;
mod version1;

use std::{process::Command, time::Instant};

use super::{
    query::{Filter, History},
    *,
};
use crate::event::{
    Address, Direction, Endpoint, Event, Exit, FlowClose, Kind, ProcessKey, Protocol,
};

pub(super) const WALL: u64 = 1_795_000_000_000_000_000;

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
        domain: None,
        kind,
    }
}

pub(super) fn exit(time_ns: u64) -> Event {
    event(
        time_ns,
        Kind::Exit(Exit {
            max_rss_pages: 0,
            code: Some(3),
            signal: None,
            utime_ns: 5,
            stime_ns: 6,
        }),
    )
}

pub(super) fn row(event: &Event, exe: Option<&str>) -> Row {
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
        retransmits: None,
        origin: None,
        partial: false,
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

fn open(dir: &Path) -> Store {
    Store::open(dir, "a", &["sh".to_owned()], WALL).unwrap()
}

/// Waits until something is so, and fails where it never is.
pub(super) fn until(what: &str, mut so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !so() {
        assert!(start.elapsed() < Duration::from_secs(20), "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_full_queue_drops_and_counts() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    // Somebody holds the file of the events' day: the writer stands still.
    store.event(row(&exit(0), None));
    until("the first event stored", || store.stats().stored == 1);
    let holder = rusqlite::Connection::open(dir.path().join("agentwatch-2026-11-18.db")).unwrap();
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    let sent = QUEUE as u64 + 10_000;
    let mut longest = Duration::ZERO;
    for n in 0..sent {
        let row = row(&exit(n), None);
        let start = Instant::now();
        store.event(row);
        longest = longest.max(start.elapsed());
    }
    assert!(store.stats().dropped > 0);
    assert!(
        longest < Duration::from_millis(200),
        "an event waited for {longest:?}"
    );
    until("the error is said", || store.stats().error.is_some());
    holder.execute_batch("ROLLBACK").unwrap();
    until("the error is over", || store.stats().error.is_none());

    let stats = store.finish(Some(0), None, &Tally::default());
    assert_eq!(stats.error, None);
    assert_eq!(stats.stored + stats.dropped, 1 + sent);
    assert_eq!(
        read(dir.path(), &Filter::default()).0.len() as u64,
        stats.stored
    );
    // What the history says of itself is the same.
    let run = History::open(dir.path()).unwrap().run(None, None).unwrap();
    assert_eq!(run.dropped, Some(stats.dropped));
    let today = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "db"))
        .max()
        .unwrap();
    let stored: i64 = rusqlite::Connection::open(today)
        .unwrap()
        .query_row("SELECT stored FROM runs", [], |row| row.get(0))
        .unwrap();
    assert_eq!(stored.cast_unsigned(), stats.stored);
}

/// A tmpfs of 512 KiB, gone at the end of the test.
struct Tiny(tempfile::TempDir);

impl Tiny {
    fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let flags = rustix::mount::MountFlags::empty();
        match rustix::mount::mount("tmpfs", dir.path(), "tmpfs", flags, c"size=512k") {
            Ok(()) => Some(Self(dir)),
            Err(error) => {
                eprintln!("skipped: a tmpfs cannot be mounted: {error}");
                None
            }
        }
    }
}

impl Drop for Tiny {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH);
    }
}

#[test]
fn a_full_disk_is_said_and_counted_and_over_when_there_is_room() {
    let Some(tiny) = Tiny::mount() else {
        return;
    };
    let dir = tiny.0.path();
    // Room that is given back later.
    let ballast = dir.join("ballast");
    fs::write(&ballast, vec![1; 200 * 1024]).unwrap();
    let store = open(dir);
    let mut sent = 0;
    until("the disk is full", || {
        for _ in 0..100 {
            store.event(row(&exit(sent), None));
            sent += 1;
        }
        store.stats().error.is_some()
    });
    let error = store.stats().error.unwrap();
    assert!(
        error.contains("full") && error.contains(&*dir.to_string_lossy()),
        "the error says what and where: {error}"
    );
    fs::remove_file(&ballast).unwrap();
    let start = Instant::now();
    let stats = store.finish(Some(0), None, &Tally::default());
    assert!(start.elapsed() < Duration::from_secs(5));
    assert!(stats.stored > 0, "{stats:?}");
    assert_eq!(stats.stored + stats.dropped, sent, "{stats:?}");
    // The disk is full again, and reading wants room too: what is not read is said.
    let (rows, warnings) = read(dir, &Filter::default());
    let all = rows.len() as u64 == stats.stored;
    assert!(all || warnings.iter().any(|warning| warning.contains("-wal")));
    // Where there is room it is all there.
    let roomy = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        if !entry.file_name().to_string_lossy().ends_with("-shm") {
            fs::copy(entry.path(), roomy.path().join(entry.file_name())).unwrap();
        }
    }
    let (rows, warnings) = read(roomy.path(), &Filter::default());
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!(rows.len() as u64, stats.stored);
}

#[test]
fn rows_that_cannot_be_read_on_a_read_only_disk_are_said() {
    let from = tempfile::tempdir().unwrap();
    let store = open(from.path());
    store.event(row(&exit(0), None));
    store.finish(None, None, &Tally::default());
    // A writer that is killed leaves rows in the log which are not in the file.
    let store = open(from.path());
    store.event(row(&exit(1), None));
    until("the event stored", || store.stats().stored == 1);
    std::mem::forget(store);

    let Some(tiny) = Tiny::mount() else {
        return;
    };
    for entry in fs::read_dir(from.path()).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name();
        // One file, and its log: the index beside them is of the process that wrote.
        let day = name.to_string_lossy().starts_with("agentwatch-2026-11-18");
        if day && !name.to_string_lossy().ends_with("-shm") {
            fs::copy(entry.path(), tiny.0.path().join(name)).unwrap();
        }
    }
    assert_eq!(read(from.path(), &Filter::default()).0.len(), 2);
    let flags = rustix::mount::MountFlags::RDONLY;
    rustix::mount::mount_remount(tiny.0.path(), flags, c"").unwrap();
    let (rows, warnings) = read(tiny.0.path(), &Filter::default());
    assert_eq!(rows.len(), 1);
    assert!(
        warnings.len() == 1 && warnings[0].contains("-wal"),
        "a row is missing, and this is said of it: {warnings:?}"
    );
}
