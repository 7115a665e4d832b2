//! What is in the tables is what happened.

use agentwatch::{
    event::Tally,
    finding::{Action, Evidence, Finding, ProcessInfo, Response, Severity, Technique},
    store::Writer,
};
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::filling::{self, DATABASE, agentwatch, fill, once, push, server, settings};

crate::tests! {
    an_event_has_the_names_and_values_that_it_has_elsewhere;
    findings_and_runs_arrive;
    tables_are_made_once_and_looked_at;
    a_day_is_caught_up;
}

/// Each field of `agentwatch events -o json` is a column, or in `detail`.
fn an_event_has_the_names_and_values_that_it_has_elsewhere() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let engine = server()?;
    let run = fill(dir.path(), 0..10)?;
    // Ten events, the run's begin on its day and today, its end.
    ensure!(
        push(dir.path(), &settings(&engine.url()), 1000)? == 13,
        "all are sent"
    );
    once(&engine, 10)?;
    let answer = engine.query(
        "SELECT * EXCEPT time, toUnixTimestamp64Nano(time) AS time_ns FROM aw.events ORDER BY time \
         FORMAT JSONEachRow SETTINGS output_format_json_quote_64bit_integers = 0",
    )?;
    for (n, line) in answer.lines().enumerate() {
        let there: Value = serde_json::from_str(line)?;
        let n = i64::try_from(n)?;
        let row = filling::row(n);
        ensure!(there["time_ns"] == row.time_ns, "{line}");
        ensure!(
            there["node"] == filling::NODE && there["run"] == *run,
            "{line}"
        );
        let told: Value = serde_json::to_value(&row)?;
        for (name, value) in told.as_object().context("a row is an object")? {
            match name.as_str() {
                "time" | "run" => {}
                "detail" => {
                    let detail: Value =
                        serde_json::from_str(there["detail"].as_str().unwrap_or(""))?;
                    ensure!(detail == *value, "{detail} is not {value}");
                }
                name => ensure!(
                    there[name] == *value,
                    "{name}: {} is not {value}",
                    there[name]
                ),
            }
        }
        ensure!(there["count"] == if n % 5 == 0 { 1 } else { 3 }, "{line}");
    }
    let flow = engine
        .query("SELECT remote_ip, domain, sum(bytes_in) FROM aw.traffic_per_minute GROUP BY ALL")?;
    ensure!(flow.trim() == "::ffff:10.1.2.3\texample.org\t100", "{flow}");
    let command = engine.query("SELECT command FROM aw.events WHERE kind = 'exec'")?;
    ensure!(command.trim() == "cc -c 0.c", "{command}");
    let changes =
        engine.query("SELECT folder, sum(changes) FROM aw.changes_per_hour GROUP BY ALL")?;
    // Of eight opens for writing one failed; each stands for three.
    ensure!(changes.trim() == "/src/deep/er\t21", "{changes}");
    Ok(())
}

fn findings_and_runs_arrive() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let engine = server()?;
    let writer = Writer::open(dir.path())?;
    let store = writer.begin("builder", &["sh".to_owned(), "-c".to_owned()], 0);
    let run = store.run.clone();
    store.finding(&finding());
    let tally = Tally {
        lost: vec![("ring", 7)],
        ..Tally::default()
    };
    store.finish(Some(137), Some("f-1"), &tally);
    ensure!(writer.finish().is_none(), "it is written");
    push(dir.path(), &settings(&engine.url()), 1000)?;
    let found = engine.query(
        "SELECT id, detector, severity, techniques, pid, taken, severity >= 'high', \
         JSONExtractString(finding, 'evidence', 1, 'what') FROM aw.findings",
    )?;
    ensure!(
        found.trim() == "f-1\treverse-tunnel\tcritical\t['T1572']\t42\tkill\t1\tit \"is\"",
        "{found}"
    );
    let sum =
        engine.number("SELECT sum(findings) FROM aw.findings_per_hour WHERE taken = 'kill'")?;
    ensure!(sum == 1, "{sum}");
    let agent = engine.query(
        "SELECT run, agent, command, exit_status, killed_by, lost, isNull(started), isNull(ended) \
         FROM aw.agents FINAL",
    )?;
    ensure!(
        agent.trim() == format!("{run}\tbuilder\t['sh','-c']\t137\tf-1\t7\t0\t0"),
        "{agent}"
    );
    Ok(())
}

fn finding() -> Finding {
    Finding {
        id: "f-1".to_owned(),
        time: "2026-11-18T06:00:00Z".to_owned(),
        time_ns: filling::MORNING.cast_unsigned(),
        agent: "builder".to_owned(),
        detector: "reverse-tunnel",
        severity: Severity::Critical,
        techniques: vec![Technique {
            id: "T1572",
            name: "Protocol Tunneling",
        }],
        message: "a tunnel".to_owned(),
        process: ProcessInfo {
            pid: 42,
            start_ns: 43,
            uid: 0,
            exe: "/usr/bin/ssh".to_owned(),
            argv: vec!["ssh".to_owned()],
            member: true,
        },
        ancestry: Vec::new(),
        evidence: vec![Evidence {
            time_ns: 1,
            kind: "connect".to_owned(),
            pid: 42,
            what: "it \"is\"".to_owned(),
            path: None,
            remote: None,
        }],
        response: Response {
            requested: Action::Kill,
            taken: Action::Kill,
            reason: None,
            ordered_us: None,
            empty_us: None,
            outside: Vec::new(),
        },
    }
}

fn tables_are_made_once_and_looked_at() -> Result<()> {
    let engine = agentwatch_engine::Engine::start()?;
    let url = engine.url();
    let none = agentwatch(&["db", "status"], &url)
        .err()
        .context("it is refused")?
        .to_string();
    ensure!(none.contains("`agentwatch db init` makes them"), "{none}");
    let none = agentwatch(&["db", "migrate"], &url)
        .err()
        .context("it is refused")?
        .to_string();
    ensure!(none.contains("`agentwatch db init` makes them"), "{none}");
    let made = agentwatch(&["db", "init"], &url)?;
    ensure!(made.contains("made the tables"), "{made}");
    let again = agentwatch(&["db", "init"], &url)?;
    ensure!(again.contains("already"), "{again}");
    // One that was made half-way is completed.
    engine
        .query("ALTER TABLE aw.migrations DELETE WHERE version >= 5 SETTINGS mutations_sync = 1")?;
    engine.query("DROP TABLE aw.events_to_hour")?;
    let status = agentwatch(&["db", "status"], &url)
        .err()
        .context("it is refused")?
        .to_string();
    ensure!(status.contains("`agentwatch db migrate`"), "{status}");
    let more = agentwatch(&["db", "migrate"], &url)?;
    ensure!(more.contains("from version 4 to"), "{more}");
    ensure!(
        engine.number("SELECT count() FROM system.tables WHERE name = 'events_to_hour'")? == 1,
        "again"
    );
    // What a newer one made is left alone.
    engine.query("INSERT INTO aw.migrations (version, name) VALUES (1000, 'x')")?;
    let newer = agentwatch(&["db", "init"], &url)
        .err()
        .context("it is refused")?
        .to_string();
    ensure!(newer.contains("of version 1000"), "{newer}");
    let printed = agentwatch(&["db", "init", "--print", "--cluster", "fleet"], &url)?;
    ensure!(
        printed.contains("ReplicatedMergeTree") && printed.contains(DATABASE),
        "{printed}"
    );
    Ok(())
}

/// A day of a million events, while more come.
fn a_day_is_caught_up() -> Result<()> {
    const EVENTS: i64 = 1_000_000;
    let dir = tempfile::tempdir()?;
    let engine = server()?;
    fill(dir.path(), 0..EVENTS)?;
    let settings = settings(&engine.url());
    let (first, second) = std::thread::scope(|scope| -> Result<_> {
        let late = scope.spawn(|| fill(dir.path(), EVENTS..EVENTS + 1000));
        let first = push(dir.path(), &settings, 20_000)?;
        late.join().expect("it is stored")?;
        Ok((first, push(dir.path(), &settings, 20_000)?))
    })?;
    ensure!(first + second == 1_001_000 + 6, "{first} + {second}");
    once(&engine, EVENTS + 1000)?;
    let status: Value = serde_json::from_str(&agentwatch(
        &[
            "db",
            "status",
            "-o",
            "json",
            "--data-dir",
            &dir.path().to_string_lossy(),
        ],
        &engine.url(),
    )?)?;
    ensure!(
        status["lag_rows"] == 0 && status["lost_rows"] == 0,
        "{status}"
    );
    let events = &status["tables"][0];
    ensure!(
        events["table"] == "events" && events["rows"] == 1_001_000,
        "{status}"
    );
    Ok(())
}
