//! The history: how fast events are stored, how large they are, and how fast they are found again.
//! `cargo xtask bench store` runs it.
//!
//! The events are those of the recordings, again and again, each time of other processes, files and
//! connections. Beside it stands what `SQLite` does by itself: the same rows by one prepared statement into
//! one table of the same columns.

mod recorded;

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use agentwatch::{
    event::Tally,
    publish::account::Account,
    store::{
        QUEUE, Writer,
        follow::{Follower, Table},
        query::{Filter, History},
        row::Row,
    },
};
use recorded::Recorded;
use rusqlite::{Connection, params};

/// Events of a run of the benchmark.
const EVENTS: usize = 1_000_000;
/// How often each way is measured, one after the other.
const ROUNDS: usize = 3;
/// Rows of a transaction where `SQLite` is measured by itself: as many as the history has.
const BATCH: usize = 2048;

fn main() {
    // `cargo test --benches` runs it too, with no such argument.
    if !std::env::args().any(|arg| arg == "--bench") {
        return;
    }
    let dir = std::env::temp_dir().join(format!("agentwatch-bench-store-{}", std::process::id()));
    fs::create_dir_all(&dir).expect("a folder for the files");
    let over = measure(&dir);
    fs::remove_dir_all(&dir).expect("the folder can be removed");
    if over {
        std::process::exit(1);
    }
}

fn measure(dir: &Path) -> bool {
    let rows = Recorded::new();
    let (mut raw, mut own) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        raw.push(raw_rate(&dir.join(format!("raw-{round}.db")), &rows));
        own.push(own_rate(&dir.join(format!("own-{round}")), &rows));
    }
    let (raw, own) = (median(raw), median(own));
    println!("store: SQLite by itself: {raw}");
    println!("store: the history:      {own}");
    let ratio = own.per_cpu_second() / raw.per_cpu_second();
    let mut over = verdict(
        "rows a second of processor time, to SQLite's",
        ratio,
        0.8,
        true,
    );
    over |= verdict(
        "rows a second of processor time",
        own.per_cpu_second(),
        200_000.0,
        true,
    );
    over |= verdict("bytes a row", own.bytes_a_row, 150.0, false);
    over |= find(&dir.join("own-0"));
    follow(&dir.join("own-0"));
    over
}

/// Prints a figure beside its target; whether it is missed.
fn verdict(what: &str, is: f64, target: f64, at_least: bool) -> bool {
    let ok = if at_least { is >= target } else { is <= target };
    let (word, end) = (
        if at_least { "least" } else { "most" },
        if ok { "ok" } else { "OVER" },
    );
    println!("store: {what}: {is:.2}, at {word} {target}: {end}");
    !ok
}

/// What came of a way of storing.
#[derive(Clone)]
struct Rate {
    wall: Duration,
    cpu: Duration,
    bytes_a_row: f64,
    rss_mb: f64,
}

impl Rate {
    #[expect(clippy::cast_precision_loss, reason = "a count of events")]
    fn per_cpu_second(&self) -> f64 {
        EVENTS as f64 / self.cpu.as_secs_f64()
    }
}

impl std::fmt::Display for Rate {
    #[expect(clippy::cast_precision_loss, reason = "a count of events")]
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:.0} rows/s by the clock, {:.2} us of processor time a row, {:.0} bytes a row, +{:.1} MB",
            EVENTS as f64 / self.wall.as_secs_f64(),
            self.cpu.as_secs_f64() * 1e6 / EVENTS as f64,
            self.bytes_a_row,
            self.rss_mb,
        )
    }
}

fn median(mut rates: Vec<Rate>) -> Rate {
    rates.sort_by_key(|rate| rate.cpu);
    rates.swap_remove(rates.len() / 2)
}

/// The same by the crate alone.
fn raw_rate(path: &Path, rows: &Recorded) -> Rate {
    let mut connection = Connection::open(path).expect("a file");
    connection
        .execute_batch(
            "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;
            CREATE TABLE events (
                id INTEGER PRIMARY KEY,
                time_ns INTEGER NOT NULL, run TEXT NOT NULL, agent TEXT NOT NULL, kind TEXT NOT NULL,
                pid INTEGER NOT NULL, start_ns INTEGER NOT NULL, ppid INTEGER NOT NULL, uid INTEGER NOT NULL,
                comm TEXT NOT NULL, exe TEXT,
                path TEXT, path2 TEXT, result INTEGER, dev INTEGER, ino INTEGER,
                protocol TEXT, direction TEXT, local TEXT, remote TEXT, remote_port INTEGER,
                bytes_in INTEGER, bytes_out INTEGER, cookie INTEGER, detail TEXT
            ) STRICT;",
        )
        .expect("tables");
    let (mut cpu, mut wall, mut number) = (Duration::ZERO, Duration::ZERO, 0);
    while number < EVENTS {
        let batch: Vec<Row> = (number..EVENTS.min(number + BATCH))
            .map(|n| rows.get(n))
            .collect();
        number += batch.len();
        let (from, start) = (cpu_of("self"), Instant::now());
        let transaction = connection.transaction().expect("a transaction");
        {
            let mut insert = transaction
                .prepare_cached(
                    "INSERT INTO events VALUES (NULL,?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,\
                     ?16,?17,?18,?19,?20,?21,?22,?23,?24)",
                )
                .expect("a statement");
            for row in &batch {
                insert
                    .execute(params![
                        row.time_ns,
                        "20261121T173812-6290",
                        row.agent,
                        row.kind,
                        row.pid,
                        row.start_ns.cast_signed(),
                        row.ppid,
                        row.uid,
                        row.comm,
                        row.exe,
                        row.path,
                        row.path2,
                        row.result,
                        row.dev,
                        row.ino.map(u64::cast_signed),
                        row.protocol,
                        row.direction,
                        row.local,
                        row.remote,
                        row.remote_port,
                        row.bytes_in.map(u64::cast_signed),
                        row.bytes_out.map(u64::cast_signed),
                        row.cookie.map(u64::cast_signed),
                        row.detail.as_ref().map(ToString::to_string),
                    ])
                    .expect("a row");
            }
        }
        transaction.commit().expect("a commit");
        wall += start.elapsed();
        cpu += cpu_of("self").saturating_sub(from);
    }
    drop(connection);
    Rate {
        wall,
        cpu,
        bytes_a_row: bytes_a_row(path),
        rss_mb: 0.0,
    }
}

/// By the history: as it is used, with its queue and its thread.
fn own_rate(dir: &Path, rows: &Recorded) -> Rate {
    let before = rss_mb();
    let writer = Writer::open(dir).expect("a history");
    let store = writer.begin("bench", &["bench".to_owned()], 0);
    let log = writer.actions();
    let (from, start) = (cpu_of("history"), Instant::now());
    for number in 0..EVENTS {
        // Slower than a queue that is full: nothing is dropped.
        if number % 1024 == 0 {
            while log.totals().waiting > QUEUE as u64 - 2048 {
                std::thread::sleep(Duration::from_micros(500));
            }
        }
        store.event(rows.get(number));
    }
    while log.totals().waiting > 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let (cpu, wall) = (cpu_of("history").saturating_sub(from), start.elapsed());
    // The thread ends when nobody can send to it any more.
    drop(log);
    let stats = store.finish(Some(0), None, &Tally::default());
    let after = rss_mb();
    assert_eq!(writer.finish(), None);
    assert_eq!((stats.stored, stats.dropped), (EVENTS as u64, 0));
    Rate {
        wall,
        cpu,
        bytes_a_row: bytes_a_row(&dir.join("agentwatch-2026-11-21.db")),
        rss_mb: after - before,
    }
}

#[expect(clippy::cast_precision_loss, reason = "sizes of files")]
fn bytes_a_row(path: &Path) -> f64 {
    fs::metadata(path).expect("the file").len() as f64 / EVENTS as f64
}

/// How fast things are found among a million events.
fn find(dir: &Path) -> bool {
    let mut over = false;
    let mut timed =
        |what: &str, target: Option<f64>, work: &mut dyn FnMut(&mut History) -> usize| {
            // The first time warms the cache of pages, as a person's second question finds it.
            work(&mut History::open(dir).expect("the history"));
            let start = Instant::now();
            let found = work(&mut History::open(dir).expect("the history"));
            let seconds = start.elapsed().as_secs_f64();
            match target {
                Some(target) => {
                    over |= verdict(
                        &format!("{what}: {found} rows, seconds"),
                        seconds,
                        target,
                        false,
                    );
                }
                None => println!("store: {what}: {found} rows, {seconds:.2} s"),
            }
        };
    let run = History::open(dir)
        .expect("the history")
        .run(None, None)
        .expect("the run")
        .run;
    let of_run = Filter {
        run: Some(run),
        ..Filter::default()
    };
    let count = |history: &mut History, filter: &Filter| {
        let mut found = 0;
        history
            .events(filter, |_| {
                found += 1;
                Ok(())
            })
            .expect("events");
        found
    };
    timed("all events of a run", None, &mut |history| {
        count(history, &of_run)
    });
    let last = Filter {
        limit: Some(100),
        ..of_run.clone()
    };
    timed("events -n 100", Some(1.0), &mut |history| {
        count(history, &last)
    });
    let kind = Filter {
        kinds: vec!["connect".to_owned()],
        ..of_run.clone()
    };
    timed("events --kind connect", Some(1.0), &mut |history| {
        count(history, &kind)
    });
    let life = ["seed", "fork", "exec", "exit", "cgroup_move"];
    let tree = Filter {
        kinds: life.map(str::to_owned).to_vec(),
        ..of_run.clone()
    };
    timed("tree", Some(1.0), &mut |history| count(history, &tree));
    timed("findings", Some(1.0), &mut |history| {
        history.findings(&of_run).expect("findings").len()
    });
    timed("report", Some(1.0), &mut |history| {
        let mut account = Account::new("bench", &[]);
        let mut seen = 0;
        history
            .events(&of_run, |row| {
                account.observe(&row);
                seen += 1;
                Ok(())
            })
            .expect("events");
        seen
    });
    over
}

/// How fast a follower reads.
fn follow(dir: &Path) {
    let mut follower = Follower::open(dir, "bench").expect("a follower");
    let (start, from, mut rows) = (Instant::now(), cpu_of("self"), 0);
    while let Some(batch) = follower.next(50_000).expect("a batch") {
        if batch.range.table == Table::Events {
            rows += batch.rows.len();
        }
        follower.advance(&batch).expect("the place stored");
    }
    let (wall, cpu) = (start.elapsed(), cpu_of("self").saturating_sub(from));
    assert_eq!(rows, EVENTS);
    #[expect(clippy::cast_precision_loss, reason = "a count of events")]
    let rows = rows as f64;
    println!(
        "store: followed: {:.0} rows/s by the clock, {:.2} us of processor time a row",
        rows / wall.as_secs_f64(),
        cpu.as_secs_f64() * 1e6 / rows
    );
}

/// Processor time of the thread of a name, or of this one.
fn cpu_of(name: &str) -> Duration {
    let of_name = || {
        fs::read_dir("/proc/self/task")
            .expect("threads")
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| {
                fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim() == name)
            })
    };
    let thread = if name == "self" {
        "/proc/thread-self".into()
    } else {
        // A thread gives itself its name, a moment after it was made.
        loop {
            match of_name() {
                Some(path) => break path,
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    };
    let text = fs::read_to_string(thread.join("schedstat")).expect("its times");
    let ns = text.split(' ').next().and_then(|ns| ns.parse().ok());
    Duration::from_nanos(ns.expect("its processor time"))
}

/// Memory of this process, MB.
#[expect(clippy::cast_precision_loss, reason = "a size")]
fn rss_mb() -> f64 {
    let text = fs::read_to_string("/proc/self/statm").expect("its memory");
    let pages = text
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<u64>().ok());
    (pages.expect("its pages") * 4096) as f64 / 1e6
}
