//! What breaks, and that nothing is lost or stored twice by it.

use std::{
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use agentwatch::store::{
    clickhouse::{Sender, Settings},
    export::{self, CLICKHOUSE, Class, Exporter, Fault, Sink},
    follow::Follower,
};
use agentwatch_engine::{Engine, PASSWORD, USER};
use anyhow::{Context as _, Result, bail, ensure};

use super::{
    filling::{NODE, fill, once, options, push, server, settings},
    proxy::{Line, Proxy},
};

crate::tests! {
    an_answer_that_is_lost_is_no_second_copy;
    a_request_that_is_cut_is_sent_again;
    a_byte_that_changes_on_the_way_is_noticed;
    a_server_that_stalls_is_waited_for;
    a_batch_that_was_not_noted_comes_once;
    a_server_that_dies_again_and_again_has_all_of_it_once;
    a_server_that_is_away_is_noted_and_caught_up_with;
    a_wrong_password_is_permanent_until_the_file_has_the_right_one;
    a_column_that_is_missing_is_permanent_until_it_is_there;
}

fn fault(error: &anyhow::Error) -> Result<&Fault> {
    error
        .downcast_ref()
        .with_context(|| format!("{error:?} is no fault"))
}

/// Waits until something is so.
fn until(what: &str, mut is: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(120);
    while !is()? {
        ensure!(Instant::now() < end, "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Sends a history over a line that does something to the first batch of events.
fn over(line: Line) -> Result<(Engine, Proxy)> {
    let dir = tempfile::tempdir()?;
    let engine = server()?;
    fill(dir.path(), 0..5000)?;
    let proxy = Proxy::to(engine.port())?;
    // What comes before events goes through.
    let settings = settings(&proxy.url());
    let sender = Sender::new(&settings, NODE);
    let mut follower = Follower::open(dir.path(), CLICKHOUSE)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut sender = sender;
        for _ in 0..3 {
            let batch = follower.next(1000)?.context("a batch of runs")?;
            sender.deliver(&batch).await?;
            follower.advance(&batch)?;
        }
        anyhow::Ok(())
    })?;
    drop(follower);
    proxy.set(line);
    ensure!(push(dir.path(), &settings, 1000)? == 5000, "all are sent");
    ensure!(proxy.line() == Line::Pass, "{line:?} did not happen");
    once(&engine, 5000)?;
    Ok((engine, proxy))
}

fn an_answer_that_is_lost_is_no_second_copy() -> Result<()> {
    let (engine, _) = over(Line::CutAnswer)?;
    // It did come twice, and the server dropped the second.
    let dropped = engine
        .number("SELECT sum(value) FROM system.events WHERE event = 'DuplicatedInsertedBlocks'")?;
    ensure!(dropped >= 1, "nothing was sent twice: {dropped}");
    Ok(())
}

fn a_request_that_is_cut_is_sent_again() -> Result<()> {
    over(Line::CutRequest(9000)).map(drop)
}

fn a_byte_that_changes_on_the_way_is_noticed() -> Result<()> {
    over(Line::Corrupt(9000)).map(drop)
}

fn a_server_that_stalls_is_waited_for() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let engine = server()?;
    fill(dir.path(), 0..1000)?;
    let proxy = Proxy::to(engine.port())?;
    proxy.set(Line::Stall);
    let sender = Sender::new(&settings(&proxy.url()), NODE).within(Duration::from_millis(500));
    let exporter = Exporter::start(
        options(dir.path(), 1000),
        Sink::ClickHouse(Box::new(sender)),
    )?;
    let status = Arc::clone(&exporter.status);
    until("it is noticed", || Ok(status.fault().is_some()))?;
    let fault = status.fault().context("a fault")?;
    ensure!(fault.class == Class::Timeout, "{fault}");
    ensure!(
        status.rows() == 0 && engine.number("SELECT count() FROM aw.events")? == 0,
        "stalled"
    );
    proxy.set(Line::Pass);
    until("all are sent", || Ok(status.rows() == 1003))?;
    ensure!(status.fault().is_none(), "{:?}", status.fault());
    exporter.stop();
    once(&engine, 1000)
}

/// As where the exporter dies between the server's yes and the note of it.
fn a_batch_that_was_not_noted_comes_once() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let engine = server()?;
    fill(dir.path(), 0..5000)?;
    let settings = settings(&engine.url());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    for _ in 0..4 {
        let mut follower = Follower::open(dir.path(), CLICKHOUSE)?;
        let batch = follower.next(1000)?.context("a batch")?;
        runtime.block_on(Sender::new(&settings, NODE).deliver(&batch))?;
        // More rows, and another limit: the same batch again.
        runtime.block_on(Sender::new(&settings, NODE).deliver(&batch))?;
    }
    push(dir.path(), &settings, 700)?;
    once(&engine, 5000)
}

fn a_server_that_dies_again_and_again_has_all_of_it_once() -> Result<()> {
    const EVENTS: i64 = 100_000;
    let dir = tempfile::tempdir()?;
    let mut engine = server()?;
    fill(dir.path(), 0..EVENTS)?;
    let sender = Sender::new(&settings(&engine.url()), NODE);
    let exporter = Exporter::start(options(dir.path(), 500), Sink::ClickHouse(Box::new(sender)))?;
    let status = Arc::clone(&exporter.status);
    for death in 1..=5_u64 {
        until("some are sent", || Ok(status.rows() > death * 8000))?;
        engine.kill();
        let failures = || status.faults().map(|(_, n)| n).sum::<u64>();
        let before = failures();
        until("it is noticed", || Ok(failures() > before))?;
        engine.restart()?;
    }
    until("all are sent", || Ok(status.rows() == 100_003))?;
    exporter.stop();
    once(&engine, EVENTS)
}

fn a_server_that_is_away_is_noted_and_caught_up_with() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut engine = server()?;
    engine.kill();
    fill(dir.path(), 0..1000)?;
    let sender = Sender::new(&settings(&engine.url()), NODE);
    let exporter = Exporter::start(
        options(dir.path(), 1000),
        Sink::ClickHouse(Box::new(sender)),
    )?;
    let status = Arc::clone(&exporter.status);
    until("it is noted", || {
        Ok(export::noted(dir.path(), CLICKHOUSE)?.is_some())
    })?;
    let noted = export::noted(dir.path(), CLICKHOUSE)?.context("noted")?;
    ensure!(noted.fault.class == Class::Unreachable, "{}", noted.fault);
    ensure!(
        noted.fault.to_string().contains("whether ClickHouse runs"),
        "{}",
        noted.fault
    );
    until("it is counted", || Ok(status.behind_rows() == 1003))?;
    ensure!(status.behind_seconds() > 0.0, "it waits");
    let look = Follower::look(dir.path(), CLICKHOUSE)?.context("it follows")?;
    ensure!(look.rows == 1003, "{look:?}");
    engine.restart()?;
    until("all are sent", || Ok(status.rows() == 1003))?;
    until("the note is gone", || {
        Ok(export::noted(dir.path(), CLICKHOUSE)?.is_none())
    })?;
    until("nothing waits", || Ok(status.behind_rows() == 0))?;
    exporter.stop();
    once(&engine, 1000)
}

fn a_wrong_password_is_permanent_until_the_file_has_the_right_one() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let engine = server()?;
    fill(dir.path(), 0..100)?;
    let file = dir.path().join("password");
    fs::write(&file, "wrong\n")?;
    let settings = Settings {
        user: Some(USER.to_owned()),
        password_file: Some(file.clone()),
        ..settings(&engine.url())
    };
    let error = refused(push(dir.path(), &settings, 1000))?;
    let refusal = fault(&error)?;
    ensure!(
        refusal.class == Class::Authentication && refusal.class.is_permanent(),
        "{refusal}"
    );
    ensure!(refusal.to_string().contains("password_file"), "{refusal}");
    ensure!(
        !refusal.message.contains("wrong"),
        "the password is not told: {refusal}"
    );
    fs::remove_file(&file)?;
    let error = refused(push(dir.path(), &settings, 1000))?;
    ensure!(
        fault(&error)?
            .message
            .contains("cannot read the password file"),
        "{error}"
    );
    fs::write(&file, format!("{PASSWORD}\n"))?;
    push(dir.path(), &settings, 1000)?;
    once(&engine, 100)
}

fn refused(sent: Result<u64>) -> Result<anyhow::Error> {
    match sent {
        Ok(rows) => bail!("{rows} rows were taken"),
        Err(error) => Ok(error),
    }
}

fn a_column_that_is_missing_is_permanent_until_it_is_there() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let engine = server()?;
    fill(dir.path(), 0..100)?;
    let settings = settings(&engine.url());
    engine.query("ALTER TABLE aw.events DROP COLUMN cookie")?;
    let error = refused(push(dir.path(), &settings, 1000))?;
    let refusal = fault(&error)?;
    ensure!(refusal.class == Class::Schema, "{refusal}");
    ensure!(refusal.message.contains("cookie"), "{refusal}");
    ensure!(
        refusal.to_string().contains("agentwatch db init"),
        "{refusal}"
    );
    engine.query("ALTER TABLE aw.events ADD COLUMN cookie UInt64")?;
    push(dir.path(), &settings, 1000)?;
    once(&engine, 100)?;
    // Without tables at all.
    engine.query("DROP DATABASE aw SYNC")?;
    fill(dir.path(), 100..200)?;
    let error = refused(push(dir.path(), &settings, 1000))?;
    ensure!(fault(&error)?.class == Class::Schema, "{error}");
    Ok(())
}
