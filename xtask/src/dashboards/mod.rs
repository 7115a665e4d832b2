//! `cargo xtask dashboards`: whether the dashboards are what their source says, keep Grafana's schema, and get what they
//! ask for, from a real ClickHouse and a real Prometheus. The checks themselves are in `dashboards/check`.

mod live;

use std::{
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Command, ExitCode, Stdio},
};

use agentwatch_engine::Engine;
use anyhow::{Context as _, Result, bail};

use crate::{
    build,
    outcome::{Outcome, Tally},
    setup::{self, Group, npm},
    workspace,
};

/// What `dashboards` can be told.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Write dashboards/grafana/*.json from dashboards/source first.
    #[arg(long)]
    write: bool,
    /// Draw each as Grafana would, into target/pictures, and those that the README shows into docs/; in place of the checks.
    #[arg(long)]
    pictures: bool,
}

/// Runs all checks, by themselves.
pub fn run(args: &Args) -> Result<ExitCode> {
    setup::ensure(&[Group::Bpf, Group::E2e, Group::Clickhouse, Group::Dashboards])?;
    if args.write {
        workspace::run(&mut node("source/build.mjs")?)?;
    }
    if args.pictures {
        setup::ensure(&[Group::Pictures])?;
        return pictures();
    }
    let mut tally = Tally::default();
    let outcome = test(&mut tally)?;
    if let Outcome::Skipped(reason) = outcome {
        bail!("the dashboards cannot be checked: {reason}");
    }
    println!("{tally}");
    Ok(ExitCode::SUCCESS)
}

/// Runs all checks, as a step of the tests.
pub fn test(tally: &mut Tally) -> Result<Outcome> {
    if !workspace::has_program("node") {
        return Ok(Outcome::Skipped("node is not installed".to_owned()));
    }
    let mut failed = Vec::new();
    let mut check = |name: &'static str, command: &mut Command| -> Result<()> {
        println!("{name}");
        if !counted(command, tally)? {
            failed.push(name);
        }
        Ok(())
    };
    check(
        "as their source says",
        node("source/build.mjs")?.arg("--check"),
    )?;
    check("names, links, units", &mut node("check/static.mjs")?)?;
    check(
        "Grafana's schema",
        node("check/schema.mjs")?.arg(npm::schema()?),
    )?;
    let engine = match Engine::start() {
        Ok(engine) => engine,
        Err(error) => return Ok(Outcome::Skipped(format!("{error:#}"))),
    };
    check("queries of ClickHouse", &mut queries(&engine)?)?;
    drop(engine);
    match live::Prometheus::start()? {
        Ok(prometheus) => check(
            "queries of Prometheus",
            node("check/promql.mjs")?.arg(prometheus.url()),
        )?,
        Err(reason) => {
            eprintln!("skipped: queries of Prometheus: {reason}");
            tally.skipped += 1;
        }
    }
    if !failed.is_empty() {
        bail!("not well: {}; see above", failed.join("; "));
    }
    Ok(Outcome::Passed)
}

/// Draws each.
fn pictures() -> Result<ExitCode> {
    let to = workspace::target_dir()?.join("pictures");
    let engine = Engine::start()?;
    let prometheus = live::Prometheus::start()?.map_err(anyhow::Error::msg)?;
    let mut command = node("check/pictures/draw.mjs")?;
    command
        .arg(npm::pictures()?)
        .arg(&to)
        .arg(prometheus.url())
        .arg(workspace::root()?.join("docs"));
    with_data(&mut command, &engine)?;
    workspace::run(&mut command)?;
    Ok(ExitCode::SUCCESS)
}

/// What is asked of ClickHouse, by a program that fills its tables.
fn queries(engine: &Engine) -> Result<Command> {
    let mut command = node("check/queries.mjs")?;
    with_data(&mut command, engine)?;
    Ok(command)
}

/// Tells a program where ClickHouse is, and what fills it.
fn with_data(command: &mut Command, engine: &Engine) -> Result<()> {
    command
        .arg(engine.url())
        .arg(build::agentwatch(false)?)
        .arg(rows()?)
        .arg(workspace::root()?.join("agentwatch/tests/recordings"));
    Ok(())
}

/// The program that reads rows out of recordings.
fn rows() -> Result<PathBuf> {
    let mut cargo = workspace::cargo()?;
    workspace::run(
        cargo
            .args([
                "build",
                "--quiet",
                "--package",
                "agentwatch",
                "--example",
                "rows",
            ])
            .env_remove("CARGO_BUILD_TARGET"),
    )?;
    Ok(workspace::target_dir()?.join("debug/examples/rows"))
}

/// node with a program of `dashboards/`.
fn node(program: &str) -> Result<Command> {
    let mut command = Command::new("node");
    command.arg(workspace::root()?.join("dashboards").join(program));
    Ok(command)
}

/// Runs a check, shows what it says, and counts it. False if it failed.
fn counted(command: &mut Command, tally: &mut Tally) -> Result<bool> {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {}", workspace::shown(command)))?;
    let stdout = child.stdout.take().context("node has no output")?;
    for line in BufReader::new(stdout).lines() {
        let line = line.context("reading what node prints")?;
        println!("  {line}");
        tally.read_line(&line);
    }
    Ok(child.wait().context("waiting for node")?.success())
}
