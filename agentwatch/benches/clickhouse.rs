//! The history into ClickHouse: how fast a node that was cut off catches up, what a row costs here and
//! there, and how large it is. `cargo xtask bench clickhouse` runs it.
//!
//! Beside it stands what ClickHouse's crate does by itself: the same rows, from memory, in the format that it
//! recommends (`RowBinaryWithNamesAndTypes`), into the same table.

#![expect(
    clippy::cast_precision_loss,
    reason = "figures for people have three digits"
)]

mod recorded;

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use agentwatch::{
    event::Tally,
    store::{
        Writer,
        clickhouse::{Compression, Connection, Password, Sender, Settings, schema::Target},
        export::{self, CLICKHOUSE, Options, Sink},
        follow::{Follower, Rows},
        row::Row,
    },
};
use agentwatch_engine::Engine;
use recorded::Recorded;
use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::Runtime;

/// Events of a measurement.
const EVENTS: usize = 500_000;
/// How often each way is measured, one after the other.
const ROUNDS: usize = 3;
const BATCH: usize = 20_000;

fn main() {
    // `cargo test --benches` runs it too, with no such argument.
    if !std::env::args().any(|arg| arg == "--bench") {
        return;
    }
    if let Err(error) = agentwatch_engine::find() {
        println!("clickhouse: not measured: {error}");
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    fill(dir.path());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let mut ways: Vec<(&str, Vec<Figures>)> = Vec::new();
    for round in 0..ROUNDS {
        for (name, way) in [
            ("the crate, RowBinary, LZ4", crate_alone as Way),
            ("agentwatch, Native, LZ4", push_lz4),
            ("agentwatch, Native, ZSTD", push_zstd),
        ] {
            let figures = measure(&runtime, dir.path(), way);
            match ways.iter_mut().find(|(known, _)| *known == name) {
                Some((_, all)) => all.push(figures),
                None => ways.push((name, vec![figures])),
            }
            eprintln!("clickhouse: round {} of {ROUNDS}: {name}", round + 1);
        }
    }
    let mut rates = Vec::new();
    for (name, all) in ways {
        let figures = median(all);
        println!("clickhouse: {name}: {figures}");
        rates.push(figures.rows / figures.wall.as_secs_f64());
    }
    println!(
        "clickhouse: catching up to the crate's rate: {:.2} (from the disk, where the crate had the rows in memory)",
        rates[1] / rates[0]
    );
}

/// Brings all events into the table; how long that took, and this process's processor time for it.
type Way = fn(&Runtime, &Engine, &Path) -> (Duration, Duration);

/// What a way costs.
#[derive(Clone, Copy)]
struct Figures {
    rows: f64,
    wall: Duration,
    own: Duration,
    server: Duration,
    bytes: f64,
    rss_mb: f64,
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let each = |time: Duration| time.as_secs_f64() * 1e6 / self.rows;
        write!(
            f,
            "{:.0} rows/s; processor time of a row {:.2} µs here, {:.2} µs at the server; {:.1} bytes a row \
             on its disk; {:.0} MB resident here at most",
            self.rows / self.wall.as_secs_f64(),
            each(self.own),
            each(self.server),
            self.bytes / self.rows,
            self.rss_mb
        )
    }
}

fn measure(runtime: &Runtime, dir: &Path, way: Way) -> Figures {
    let engine = Engine::start().expect("a server");
    let target = Target {
        database: "agentwatch".to_owned(),
        cluster: None,
        events_days: 3650,
        findings_days: 3650,
    };
    runtime.block_on(async {
        let connection = Connection::new(&Settings::new(&engine.url()), &Password::default())
            .expect("a connection");
        connection.migrate(&target).await.expect("the tables");
    });
    let server = processor(engine.pid());
    // What it was at most from here on.
    let _ = fs::write("/proc/self/clear_refs", "5");
    let (wall, own) = way(runtime, &engine, dir);
    let server = processor(engine.pid()).saturating_sub(server);
    let rows = engine
        .number("SELECT count() FROM agentwatch.events")
        .expect("a number");
    assert_eq!(rows, EVENTS as u64, "all of them, once");
    engine
        .query("OPTIMIZE TABLE agentwatch.events FINAL")
        .expect("one part a day");
    let bytes = engine
        .number(
            "SELECT sum(bytes_on_disk) FROM system.parts WHERE active AND database = 'agentwatch' \
             AND table = 'events'",
        )
        .expect("a number");
    Figures {
        rows: rows as f64,
        wall,
        own,
        server,
        bytes: bytes as f64,
        rss_mb: peak_mb(),
    }
}

fn push(engine: &Engine, dir: &Path, compression: Compression) -> (Duration, Duration) {
    let settings = Settings {
        compression,
        ..Settings::new(&engine.url())
    };
    let options = Options {
        dir: dir.to_owned(),
        name: CLICKHOUSE,
        batch_rows: BATCH,
        every: Duration::ZERO,
    };
    // From the beginning.
    let _ = fs::remove_dir_all(dir.join("followers"));
    let (begun, own) = (Instant::now(), processor(None));
    let sink = Sink::ClickHouse(Box::new(Sender::new(&settings, "node-1")));
    export::push(&options, sink, Duration::ZERO).expect("all is taken");
    (begun.elapsed(), processor(None).saturating_sub(own))
}

fn push_lz4(_: &Runtime, engine: &Engine, dir: &Path) -> (Duration, Duration) {
    push(engine, dir, Compression::Lz4)
}

fn push_zstd(_: &Runtime, engine: &Engine, dir: &Path) -> (Duration, Duration) {
    push(engine, dir, Compression::Zstd)
}

/// A row as the crate wants it.
#[derive(clickhouse::Row, serde::Serialize)]
struct Flat<'a> {
    time: i64,
    node: &'a str,
    agent: &'a str,
    run: &'a str,
    kind: &'a str,
    id: u64,
    pid: u32,
    start_ns: u64,
    ppid: u32,
    uid: u32,
    comm: &'a str,
    exe: &'a str,
    path: &'a str,
    path2: &'a str,
    result: Option<i32>,
    dev: u32,
    ino: u64,
    protocol: &'a str,
    direction: &'a str,
    local: &'a str,
    remote: &'a str,
    remote_port: u16,
    bytes_in: u64,
    bytes_out: u64,
    cookie: u64,
    count: u32,
    detail: &'a str,
}

fn crate_alone(runtime: &Runtime, engine: &Engine, dir: &Path) -> (Duration, Duration) {
    let _ = fs::remove_dir_all(dir.join("followers"));
    let mut follower = Follower::open(dir, CLICKHOUSE).expect("a place");
    let client = clickhouse::Client::default()
        .with_url(engine.url())
        .with_database("agentwatch")
        .with_compression(clickhouse::Compression::Lz4);
    let (mut wall, mut own) = (Duration::ZERO, Duration::ZERO);
    while let Some(batch) = follower.next(BATCH).expect("a batch") {
        if let Rows::Events(rows) = &batch.rows {
            let details: Vec<String> = rows
                .iter()
                .map(|row| row.what.detail.as_ref().map(ToString::to_string))
                .map(Option::unwrap_or_default)
                .collect();
            let (begun, before) = (Instant::now(), processor(None));
            runtime.block_on(async {
                let mut insert = client.insert::<Flat<'_>>("events").await.expect("a table");
                for (row, detail) in rows.iter().zip(&details) {
                    let flat = flat(&row.what, row.id.cast_unsigned(), detail);
                    insert.write(&flat).await.expect("it is taken");
                }
                insert.end().await.expect("it is taken");
            });
            wall += begun.elapsed();
            own += processor(None).saturating_sub(before);
        }
        follower.advance(&batch).expect("it is noted");
    }
    (wall, own)
}

fn flat<'a>(row: &'a Row, id: u64, detail: &'a str) -> Flat<'a> {
    let some = |text: &'a Option<String>| text.as_deref().unwrap_or_default();
    Flat {
        time: row.time_ns,
        node: "node-1",
        agent: &row.agent,
        run: &row.run,
        kind: &row.kind,
        id,
        pid: row.pid,
        start_ns: row.start_ns,
        ppid: row.ppid,
        uid: row.uid,
        comm: &row.comm,
        exe: some(&row.exe),
        path: some(&row.path),
        path2: some(&row.path2),
        result: row.result,
        dev: row.dev.unwrap_or(0),
        ino: row.ino.unwrap_or(0),
        protocol: some(&row.protocol),
        direction: some(&row.direction),
        local: some(&row.local),
        remote: some(&row.remote),
        remote_port: row.remote_port.unwrap_or(0),
        bytes_in: row.bytes_in.unwrap_or(0),
        bytes_out: row.bytes_out.unwrap_or(0),
        cookie: row.cookie.unwrap_or(0),
        count: row.number("count").map_or(1, |n| n as u32),
        detail,
    }
}

/// Processor time of a process so far; of this one where none is named.
fn processor(pid: Option<u32>) -> Duration {
    let Some(pid) = pid else {
        let time = clock_gettime(ClockId::ProcessCPUTime);
        let nanos = u32::try_from(time.tv_nsec).expect("less than a second");
        return Duration::new(u64::try_from(time.tv_sec).expect("no time before 0"), nanos);
    };
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let (_, fields) = stat.rsplit_once(')').expect("a name");
    let ticks: u64 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|ticks| ticks.parse::<u64>().expect("a number"))
        .sum();
    Duration::from_millis(ticks * 10)
}

/// Most memory that was resident, MB.
fn peak_mb() -> f64 {
    let status = fs::read_to_string("/proc/self/status").expect("of this process");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kb = peak.and_then(|peak| peak.split_whitespace().next());
    kb.and_then(|kb| kb.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}

fn median(mut all: Vec<Figures>) -> Figures {
    all.sort_by_key(|figures| figures.wall);
    all[all.len() / 2]
}

/// A history of the recordings, again and again, each time of other processes, files and connections.
fn fill(dir: &Path) {
    let rows = Recorded::new();
    let writer = Writer::open(dir).expect("a history");
    let store = writer.begin("bench", &[], 0);
    let waiting = writer.actions();
    for number in 0..EVENTS {
        while waiting.totals().waiting > 30_000 {
            std::thread::sleep(Duration::from_millis(1));
        }
        let mut row = rows.get(number);
        row.run.clone_from(&store.run);
        store.event(row);
    }
    drop(waiting);
    let stats = store.finish(Some(0), None, &Tally::default());
    assert_eq!(stats.dropped, 0, "{stats:?}");
    assert_eq!(writer.finish(), None);
}
