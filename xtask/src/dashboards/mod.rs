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
    let mut checks = Checks {
        tally,
        failed: Vec::new(),
    };
    checks.run(
        "as their source says",
        node("source/build.mjs")?.arg("--check"),
    )?;
    checks.run("names, links, units", &mut node("check/static.mjs")?)?;
    checks.run(
        "Grafana's schema",
        node("check/schema.mjs")?.arg(npm::schema()?),
    )?;
    let engine = match agentwatch_engine::find() {
        Ok(_) => {
            let engine = Engine::start()?;
            let mut queries = node("check/queries.mjs")?;
            with_data(&mut queries, &engine)?;
            checks.run("queries of ClickHouse", &mut queries)?;
            Some(engine)
        }
        Err(error) => {
            checks.skip("queries of ClickHouse", &format!("{error:#}"));
            None
        }
    };
    match live::Prometheus::start(engine.as_ref())? {
        Ok(prometheus) => checks.run(
            "queries of Prometheus",
            node("check/promql.mjs")?.arg(prometheus.url()),
        )?,
        Err(reason) => checks.skip("queries of Prometheus", &reason),
    }
    let Checks { failed, .. } = checks;
    if !failed.is_empty() {
        bail!("not well: {}; see above", failed.join("; "));
    }
    Ok(Outcome::Passed)
}

/// The checks so far.
struct Checks<'a> {
    tally: &'a mut Tally,
    failed: Vec<&'static str>,
}

impl Checks<'_> {
    /// Runs one, shows what it says, and counts it.
    fn run(&mut self, name: &'static str, command: &mut Command) -> Result<()> {
        println!("{name}");
        let mut child = command
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {}", workspace::shown(command)))?;
        let stdout = child.stdout.take().context("node has no output")?;
        for line in BufReader::new(stdout).lines() {
            let line = line.context("reading what node prints")?;
            println!("  {line}");
            self.tally.read_line(&line);
        }
        if !child.wait().context("waiting for node")?.success() {
            self.failed.push(name);
        }
        Ok(())
    }

    /// One that cannot run here.
    fn skip(&mut self, name: &str, reason: &str) {
        eprintln!("skipped: {name}: {reason}");
        self.tally.skipped += 1;
    }
}

/// Draws each.
fn pictures() -> Result<ExitCode> {
    let to = workspace::target_dir()?.join("pictures");
    let engine = Engine::start()?;
    let prometheus = live::Prometheus::start(Some(&engine))?.map_err(anyhow::Error::msg)?;
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
