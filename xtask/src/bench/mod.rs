//! `cargo xtask bench`: what watching costs, beside running without.
//!
//! A work runs without agentwatch, beside it, and as the agent, one after the other in each round, and
//! without it once more: what differs between the two is noise, and no target is missed by less.

mod cell;
mod clickhouse;
mod parts;
mod peer;
mod server;
mod store;
mod table;
mod watcher;
mod work;

use std::{fs, process::ExitCode};

use anyhow::{Context as _, Result, bail};

use crate::{build, workspace};
use cell::{Place, Setting};
use clickhouse::CLICKHOUSE;
use parts::PARTS;
use peer::PEERS;
use store::STORE;
use table::{Measured, Row};
use work::{RATE, RATE_CPU_US, RATE_EVENTS, RATE_RSS_MB, WORKS, Work};

/// What `bench` can be told.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only these [default: all; `--list` names them]
    names: Vec<String>,
    /// How often each is measured.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Name the works and what is asked of them, and end.
    #[arg(long)]
    list: bool,
    /// Fail where a target is missed by more than the noise.
    #[arg(long)]
    check: bool,
    /// Leave out other programs that watch the same.
    #[arg(long)]
    no_peers: bool,
}

/// Measures, and prints the table.
pub fn run(args: &Args) -> Result<ExitCode> {
    if args.list {
        table::list(WORKS);
        return Ok(ExitCode::SUCCESS);
    }
    let known = |name: &String| {
        [RATE, PARTS, STORE, CLICKHOUSE].contains(&&**name)
            || WORKS.iter().any(|work| work.name == name)
    };
    if let Some(unknown) = args.names.iter().find(|name| !known(name)) {
        bail!("there is no work named {unknown:?}: `cargo xtask bench --list` names them");
    }
    if args.names == [STORE] {
        let over = !store::measure()?;
        return Ok(ExitCode::from(u8::from(over && args.check)));
    }
    if args.names == [CLICKHOUSE] {
        clickhouse::measure()?;
        return Ok(ExitCode::SUCCESS);
    }
    if !workspace::is_root()? {
        bail!("watching needs root, to load programs into the kernel: run this as root");
    }
    let dir = workspace::target_dir()?.join("bench");
    fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    let place = Place {
        agentwatch: build::agentwatch(true)?,
        workload: build_workload()?,
        dir,
        servers: server::start()?,
    };
    let wanted = |name: &str| args.names.is_empty() || args.names.iter().any(|it| it == name);
    let mut over = false;
    let mut beside = watcher::watchers()?;
    table::head();
    for work in WORKS.iter().filter(|work| wanted(work.name)) {
        for row in measure(&place, work, args)? {
            over |= row.is_over();
            println!("{row}");
        }
        beside = beside.max(watcher::watchers()?);
    }
    if wanted(RATE) {
        over |= !rate(&place)?;
    }
    if wanted(PARTS) {
        over |= !parts::measure()?;
    }
    if wanted(STORE) {
        over |= !store::measure()?;
    }
    if wanted(CLICKHOUSE) {
        clickhouse::measure()?;
    }
    if beside > 0 {
        println!(
            "\nNot to be relied on: up to {beside} other processes had programs attached to the kernel. \
             What they cost is in every setting, also in that without agentwatch."
        );
    }
    Ok(if over && args.check {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// The workload is linked statically: what is timed at an exec is the kernel, not the dynamic linker.
fn build_workload() -> Result<std::path::PathBuf> {
    let mut cargo = workspace::cargo()?;
    cargo
        .args([
            "rustc",
            "--quiet",
            "--release",
            "--package",
            "agentwatch-workload",
        ])
        .args(["--", "-Ctarget-feature=+crt-static", "-Cstrip=symbols"])
        .env_remove("CARGO_BUILD_TARGET");
    workspace::run(&mut cargo)?;
    Ok(workspace::target_dir()?.join("release/agentwatch-workload"))
}

/// Measures one work in all settings.
fn measure(place: &Place, work: &'static Work, args: &Args) -> Result<Vec<Row>> {
    let mut settings = vec![
        Setting::None,
        Setting::Outside,
        Setting::Control,
        Setting::Agent,
    ];
    let mut absent = Vec::new();
    for peer in PEERS
        .iter()
        .filter(|peer| peer.watches.contains(&work.name))
    {
        if args.no_peers {
            continue;
        }
        if peer.program().is_some() {
            settings.push(Setting::Peer(peer));
        } else {
            absent.push(peer.name);
        }
    }
    let mut cells = vec![Vec::new(); settings.len()];
    // The first run warms caches, and is not counted.
    place.cell((work.name, work.count), Setting::None, true, work.each)?;
    for round in 0..args.rounds {
        for step in 0..settings.len() {
            // Another one is the first in each round: a drift costs all the same.
            let at = (step + usize::try_from(round)?) % settings.len();
            let cell = place
                .cell((work.name, work.count), settings[at], true, work.each)
                .with_context(|| format!("{} in the setting {:?}", work.name, settings[at]))?;
            cells[at].push(cell);
        }
    }
    let measured: Vec<Measured> = settings
        .into_iter()
        .zip(cells)
        .map(|(setting, cells)| Measured { setting, cells })
        .collect();
    let mut rows = table::rows(work, &measured);
    rows.extend(absent.into_iter().map(|name| Row::absent(work, name)));
    Ok(rows)
}

/// Whether the rate is held for a minute, without a loss.
fn rate(place: &Place) -> Result<bool> {
    let cell = place.cell((RATE, RATE_EVENTS), Setting::Agent, false, true)?;
    let daemon = cell.daemon.context("nobody watched")?;
    let seconds = cell.wall_ns * cell.operations / 1e9;
    let reached = cell.operations / seconds;
    let cpu_us = daemon.cpu_ns / 1e3 / cell::float(daemon.emitted);
    let (peak, idle) = RATE_RSS_MB;
    let said = [
        (
            format!("{reached:.0} events a second for {seconds:.0} s, target {RATE_EVENTS}"),
            // The pace is checked at every stretch: the last one may miss.
            reached >= cell::float(RATE_EVENTS) * 0.999,
        ),
        (
            format!("{} emitted, {} lost, target 0", daemon.emitted, daemon.lost),
            daemon.lost == 0,
        ),
        (
            format!("agentwatch's CPU an event {cpu_us:.2} µs, target {RATE_CPU_US}"),
            cpu_us <= RATE_CPU_US,
        ),
        (
            format!("memory {:.0} MB, target {peak}", daemon.peak_mb),
            daemon.peak_mb <= peak,
        ),
        (
            format!("memory idle {:.0} MB, target {idle}", daemon.idle_mb),
            daemon.idle_mb <= idle,
        ),
    ];
    println!();
    for (text, holds) in &said {
        println!("{RATE}: {text}: {}", if *holds { "ok" } else { "OVER" });
    }
    Ok(said.iter().all(|(_, holds)| *holds))
}
