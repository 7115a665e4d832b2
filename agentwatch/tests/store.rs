//! What the history promises, through what others see of it: nothing lost without being counted,
//! whatever the disk does.

#![expect(
    clippy::unwrap_used,
    reason = "helpers fail as their test does; clippy.toml allows it in #[test] functions only"
)]

mod kinds;

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use agentwatch::{
    event::{Exit, Kind, Tally},
    finding::{Action, Finding, ProcessInfo, Response, Severity},
    store::{
        Store,
        query::{Filter, History},
        row::Row,
    },
};

use kinds::{event, every_kind};

/// 2026-11-18T11:06:40Z, what `CLOCK_BOOTTIME` 0 stands for here.
const WALL: u64 = 1_795_000_000_000_000_000;

fn row(time_ns: u64, kind: Kind) -> Row {
    Row::new(&event(time_ns, kind), Some("/bin/sh"), "a", WALL)
}

fn exit(time_ns: u64) -> Row {
    row(
        time_ns,
        Kind::Exit(Exit {
            max_rss_pages: 0,
            code: Some(0),
            signal: None,
            utime_ns: 5,
            stime_ns: 6,
        }),
    )
}

fn finding() -> Finding {
    Finding {
        id: "f-1".to_owned(),
        time: "2026-11-18T10:13:20.000000001Z".to_owned(),
        time_ns: 5,
        agent: "a".to_owned(),
        detector: "reverse-tunnel",
        severity: Severity::Critical,
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
            requested: Action::Kill,
            taken: Action::Kill,
            reason: None,
            ordered_us: Some(100),
            empty_us: Some(900),
            outside: Vec::new(),
        },
    }
}

fn open(dir: &Path) -> Store {
    Store::open(dir, "a", &["sh".to_owned()], WALL).unwrap()
}

fn read(dir: &Path) -> (Vec<Row>, Vec<String>) {
    let mut history = History::open(dir).unwrap();
    let mut rows = Vec::new();
    history
        .events(&Filter::default(), |row| {
            rows.push(row);
            Ok(())
        })
        .unwrap();
    (rows, history.warnings)
}

/// Waits until something is so, and fails where it never is.
fn until(what: &str, mut so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !so() {
        assert!(start.elapsed() < Duration::from_secs(20), "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn every_kind_is_read_as_it_was_stored() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let run = store.run.clone();
    let mut expected = Vec::new();
    for (n, kind) in every_kind().into_iter().enumerate() {
        let row = row(n as u64, kind);
        store.event(row.clone());
        expected.push(Row {
            run: run.clone(),
            ..row
        });
    }
    let mut names: Vec<&str> = expected.iter().map(|row| row.kind.as_str()).collect();
    names.sort_unstable();
    let mut all = Kind::NAMES.to_vec();
    all.sort_unstable();
    assert_eq!(names, all, "a kind is missing here");

    let stats = store.finish(Some(0), None, &Tally::default());
    assert_eq!(
        (stats.stored, stats.dropped, stats.error),
        (expected.len() as u64, 0, None)
    );
    let (rows, warnings) = read(dir.path());
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!(rows, expected);
    for row in &rows {
        let json = serde_json::to_string(row).unwrap();
        assert!(!json.contains("null"), "{json}");
        assert!(!json.contains(char::is_control), "{json}");
    }
}

#[test]
fn the_end_waits_no_longer_than_it_says() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.event(exit(0));
    until("the first event stored", || store.stats().stored == 1);
    let holder = rusqlite::Connection::open(dir.path().join("agentwatch-2026-11-18.db")).unwrap();
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    for n in 0..20_000 {
        store.event(exit(n));
    }
    store.finding(&finding());
    let start = Instant::now();
    let stats = store.finish(Some(0), None, &Tally::default());
    // Two seconds, and one in which SQLite waits for the other to let go.
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
    assert!(stats.error.is_some());
    // The finding could not be written either.
    assert_eq!((stats.stored, stats.dropped), (1, 20_001));
}

#[test]
fn damaged_files_cost_only_themselves() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for n in 0..5000 {
        store.event(exit(n));
    }
    store.finding(&finding());
    store.finish(Some(0), None, &Tally::default());
    let good = dir.path().join("agentwatch-2026-11-18.db");
    let bytes = fs::read(&good).unwrap();
    let name = |day: u32| dir.path().join(format!("agentwatch-2020-01-{day:02}.db"));
    fs::write(name(1), &bytes[..bytes.len() / 2]).unwrap();
    fs::write(name(2), &bytes[..4096]).unwrap();
    let mut holes = bytes.clone();
    holes[4096..8 * 4096].fill(0xa5);
    fs::write(name(3), holes).unwrap();
    fs::write(name(4), "no database").unwrap();
    fs::write(name(5), "").unwrap();
    fs::create_dir(name(6)).unwrap();
    fs::write(name(7), &bytes).unwrap();
    rusqlite::Connection::open(name(7))
        .unwrap()
        .pragma_update(None, "user_version", 99)
        .unwrap();

    let (rows, warnings) = read(dir.path());
    let whole = rows.iter().filter(|row| row.run.is_empty()).count();
    assert_eq!(whole, 0);
    assert!(rows.len() >= 5000, "{}", rows.len());
    for day in 1..=7 {
        let name = name(day).display().to_string();
        let said = warnings.iter().any(|warning| warning.contains(&name));
        assert!(said, "nothing is said of day {day}: {warnings:?}");
    }
    assert!(
        warnings
            .iter()
            .any(|warning| warning.contains("version 99"))
    );
    assert!(
        !warnings
            .iter()
            .any(|warning| warning.contains("2026-11-18"))
    );

    // Findings and runs are read past the damage as well.
    let mut history = History::open(dir.path()).unwrap();
    let findings = history.findings(&Filter::default()).unwrap();
    assert!(findings.iter().any(|stored| stored.finding["id"] == "f-1"));
    let mut history = History::open(dir.path()).unwrap();
    assert!(!history.runs().unwrap().is_empty());
}

#[test]
fn it_is_read_while_it_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut seen = 0;
    for n in 0..5 {
        store.event(exit(n));
        until("the event stored", || store.stats().stored == n + 1);
        let (rows, warnings) = read(dir.path());
        assert!(warnings.is_empty(), "{warnings:?}");
        assert!(rows.len() > seen);
        seen = rows.len();
    }
    store.finish(None, None, &Tally::default());
}

#[test]
fn a_folder_is_its_owners() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("deep/er");
    open(&folder).finish(None, None, &Tally::default());
    let mode = fs::metadata(&folder).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

/// Runs `agentwatch` on a history: exit status, standard output, standard error.
fn agentwatch(dir: &Path, args: &[&str]) -> (i32, String, String) {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_agentwatch"))
        .args(args)
        .arg("--data-dir")
        .arg(dir)
        .output()
        .unwrap();
    (
        output.status.code().unwrap(),
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

#[test]
fn the_verbs_read_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let run = store.run.clone();
    let kinds = every_kind();
    let sent = kinds.len();
    for (n, kind) in kinds.into_iter().enumerate() {
        store.event(row(n as u64, kind));
    }
    store.finding(&finding());
    store.finish(Some(137), Some("f-1"), &Tally::default());

    let (status, out, err) = agentwatch(dir.path(), &["events"]);
    assert_eq!((status, out.lines().count(), err.as_str()), (0, sent, ""));
    let (status, out, _) = agentwatch(dir.path(), &["events", "-o", "json", "--kind", "exec,exit"]);
    let rows: Vec<serde_json::Value> = out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!((status, rows.len()), (0, 2));
    assert_eq!(rows[0]["time"], "2026-11-18T11:06:40.000000000Z");
    assert_eq!(rows[0]["run"], run);
    assert_eq!(
        agentwatch(dir.path(), &["events", "-n", "3"])
            .1
            .lines()
            .count(),
        3
    );

    let (status, out, err) = agentwatch(dir.path(), &["events", "--pid", "4711"]);
    assert_eq!((status, out.as_str()), (0, ""));
    assert!(err.contains("no such events"), "{err}");
    let (status, _, err) = agentwatch(dir.path(), &["events", "--kind", "exce"]);
    assert_ne!(status, 0);
    assert!(
        err.contains("\"exce\"") && err.contains("flow_close"),
        "{err}"
    );

    let (status, out, _) = agentwatch(dir.path(), &["findings", "f-1"]);
    assert_eq!(status, 0);
    assert!(out.contains("a tunnel") && out.contains(&run), "{out}");
    let (status, out, _) = agentwatch(dir.path(), &["tree"]);
    assert_eq!(status, 0);
    assert!(out.contains("! 42"), "{out}");
    let (status, out, _) = agentwatch(dir.path(), &["report"]);
    assert_eq!(status, 0);
    assert!(
        out.contains("killed by agentwatch: reverse-tunnel"),
        "{out}"
    );
    let history = format!("{sent} events in {}", dir.path().display());
    assert!(out.contains(&history), "{out}");
}

#[test]
fn the_verbs_say_what_they_cannot_read() {
    let dir = tempfile::tempdir().unwrap();
    for verb in ["events", "findings", "tree", "report"] {
        let (status, out, err) = agentwatch(&dir.path().join("none"), &[verb]);
        assert_eq!((status, out.as_str()), (1, ""), "{verb}: {err}");
        assert!(err.contains("no history in"), "{verb}: {err}");
    }
    open(dir.path()).finish(Some(0), None, &Tally::default());
    fs::write(dir.path().join("agentwatch-2020-01-01.db"), "no database").unwrap();
    for verb in ["events", "findings", "tree", "report"] {
        let (status, _, err) = agentwatch(dir.path(), &[verb]);
        assert_eq!(status, 0, "{verb}: {err}");
        assert_eq!(
            err.matches("2020-01-01.db is not read").count(),
            1,
            "{verb}: {err}"
        );
    }
}

#[test]
fn a_closed_pipe_ends_it_quietly() {
    use std::io::{BufRead as _, BufReader};
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    // More than a pipe holds.
    for n in 0..5000 {
        store.event(exit(n));
    }
    store.finish(Some(0), None, &Tally::default());
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_agentwatch"))
        .args(["events", "--data-dir"])
        .arg(dir.path())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut first)
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(first.contains("exit"), "{first}");
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0));
}
