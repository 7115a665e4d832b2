//! A history with something in it, and a server that it goes to.

use std::{path::Path, time::Duration};

use agentwatch::{
    event::Tally,
    store::{
        Writer,
        clickhouse::{Sender, Settings},
        export::{self, CLICKHOUSE, Options, Sink},
        row::Row,
    },
};
use agentwatch_engine::Engine;
use anyhow::{Context as _, Result, ensure};
use serde_json::json;

/// The node that all rows are of.
pub const NODE: &str = "node-1";
/// The database.
pub const DATABASE: &str = "aw";
/// 2026-11-18, 06:00 UTC, nanoseconds.
pub const MORNING: i64 = 1_795_068_000_000_000_000;

/// A row of a kind of work: every tenth an exec, every fifth a closed flow, else calls upon files.
pub fn row(n: i64) -> Row {
    let nth = n.cast_unsigned();
    let mut row = Row {
        time_ns: MORNING + n * 1_000_000,
        agent: "builder".to_owned(),
        kind: "open".to_owned(),
        pid: 1000 + (nth / 100) as u32,
        start_ns: 7_000_000 + nth / 100,
        ppid: 1000,
        uid: 1001,
        comm: "cc".to_owned(),
        exe: Some("/usr/bin/cc".to_owned()),
        ..Row::default()
    };
    match n % 10 {
        0 => {
            "exec".clone_into(&mut row.kind);
            row.path = Some("/usr/bin/cc".to_owned());
            row.detail =
                Some(json!({"argv": ["cc", "-c", format!("{n}.c")], "cwd": "/src"}).into());
        }
        5 => {
            "flow_close".clone_into(&mut row.kind);
            row.protocol = Some("tcp".to_owned());
            row.direction = Some("out".to_owned());
            row.local = Some("10.0.0.7:40000".to_owned());
            row.remote = Some("10.1.2.3:443".to_owned());
            row.remote_port = Some(443);
            row.bytes_in = Some(100);
            row.bytes_out = Some(u64::MAX / 1_000_000);
            row.cookie = Some(u64::MAX);
            row.detail = Some(json!({"destination.domain": "example.org"}).into());
        }
        _ => {
            row.path = Some(format!("/src/deep/er/file-{n}.o"));
            row.result = Some(if n % 7 == 0 { -2 } else { 3 });
            row.dev = Some(8);
            row.ino = Some(nth);
            row.detail = Some(
                json!({"flags": 577, "write": true, "count": 3, "path_source": "kernel"}).into(),
            );
        }
    }
    row
}

/// Stores rows of one run, that of `row` for each number.
pub fn fill(dir: &Path, numbers: std::ops::Range<i64>) -> Result<String> {
    let writer = Writer::open(dir)?;
    let store = writer.begin("builder", &["make".to_owned(), "all".to_owned()], 0);
    let waiting = writer.actions();
    for n in numbers {
        // The queue drops what does not fit.
        while waiting.totals().waiting > 30_000 {
            std::thread::sleep(Duration::from_millis(1));
        }
        store.event(Row {
            run: store.run.clone(),
            ..row(n)
        });
    }
    let run = store.run.clone();
    drop(waiting);
    let stats = store.finish(Some(0), None, &Tally::default());
    ensure!(stats.dropped == 0, "{stats:?}");
    let error = writer.finish();
    ensure!(error.is_none(), "{error:?}");
    Ok(run)
}

/// A server with the tables.
pub fn server() -> Result<Engine> {
    let engine = Engine::start()?;
    agentwatch(&["db", "init"], &engine.url())?;
    Ok(engine)
}

/// Runs agentwatch's program against a server; what it prints, and an error where its status is not 0.
pub fn agentwatch(words: &[&str], url: &str) -> Result<String> {
    let done = std::process::Command::new(env!("CARGO_BIN_EXE_agentwatch"))
        .args(words)
        .args(["--url", url, "--database", DATABASE])
        .env_remove("AGENTWATCH_CLICKHOUSE_PASSWORD")
        .output()
        .context("starting agentwatch")?;
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    let error = String::from_utf8_lossy(&done.stderr);
    ensure!(
        done.status.success(),
        "{words:?}: {}: {said}{error}",
        done.status
    );
    Ok(said)
}

/// Settings for a server at this address.
pub fn settings(url: &str) -> Settings {
    Settings {
        database: DATABASE.to_owned(),
        ..Settings::new(url)
    }
}

/// How the history in a folder is followed.
pub fn options(dir: &Path, batch_rows: usize) -> Options {
    Options {
        dir: dir.to_owned(),
        name: CLICKHOUSE,
        batch_rows,
        every: Duration::from_millis(10),
    }
}

/// Sends all that is there; how many rows that were.
pub fn push(dir: &Path, settings: &Settings, batch_rows: usize) -> Result<u64> {
    let sender = Sender::new(settings, NODE).within(Duration::from_secs(20));
    export::push(
        &options(dir, batch_rows),
        Sink::ClickHouse(Box::new(sender)),
        Duration::from_secs(60),
    )
}

/// Whether the rows of these numbers are in the tables, and in the sums made from them: each once.
pub fn once(engine: &Engine, numbers: i64) -> Result<()> {
    let expected: u64 = numbers.try_into()?;
    for (what, sql) in [
        ("rows", "SELECT count() FROM aw.events"),
        (
            "different rows",
            "SELECT uniqExact(toDate(time), id) FROM aw.events",
        ),
        (
            "rows per minute",
            "SELECT sum(events) FROM aw.events_per_minute",
        ),
        (
            "rows per hour",
            "SELECT sum(events) FROM aw.events_per_hour",
        ),
    ] {
        let found = engine.number(sql)?;
        ensure!(found == expected, "{what}: {found} of {expected}");
    }
    let flows = engine.number("SELECT sum(flows) FROM aw.traffic_per_hour")?;
    ensure!(
        flows == expected / 10,
        "flows: {flows} of {}",
        expected / 10
    );
    Ok(())
}
