//! `emitted = delivered + Σ lost`, to the record.

use std::{fs, process::Command};

use agentwatch::{
    cli::replay,
    decode,
    event::{Event, Kind},
    finding::Severity,
    policy::Policy,
    probe::{Options, Probe},
    recording,
    source::Source,
};
use agentwatch_common::loss::Tally;
use anyhow::{Result, bail, ensure};

use crate::{
    support::{Cgroup, Place},
    tests,
};

tests! {
    the_sum_holds_under_a_load_that_loses;
    nothing_is_lost_of_an_ordinary_load;
    what_agents_can_fill_is_less_than_32_mib;
    a_flood_costs_no_other_agent_an_event needs "/usr/bin/python3";
}

const AGENT: u32 = 1;

/// Runs a load as an agent; nobody reads meanwhile unless `read`. The counters, and what was read.
fn load(name: &str, options: &Options, read: bool) -> Result<(Tally, u64)> {
    use std::os::unix::fs::MetadataExt as _;
    let place = Place::new()?;
    let cgroup = Cgroup::new(name)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let _inside = runtime.enter();
    let mut probe = Probe::load(options)?;
    let mut source = Source::new(probe.take_rings()?)?;
    probe.watch(AGENT, &cgroup.0, fs::metadata(&cgroup.0)?.ino())?;
    let script = format!(
        "echo $$ > {0}/cgroup.procs; cd {1}; for i in $(seq 400); do for j in 1 2 3 4 5 6 7 8 9; do : > f$j; done; rm -f f*; done",
        cgroup.0.display(),
        place.text("work"),
    );
    let mut child = Command::new("sh").args(["-c", &script]).spawn()?;
    let (mut batch, mut delivered) = (Vec::new(), 0);
    loop {
        let ended = child.try_wait()?.is_some();
        if read {
            source.drain(&mut batch);
        }
        if ended {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    // Without programs nothing is sent any more.
    drop(probe);
    source.drain(&mut batch);
    delivered += batch.len() as u64;
    Ok((source.tally(AGENT), delivered))
}

fn the_sum_holds_under_a_load_that_loses() -> Result<()> {
    let options = Options {
        bulk_bytes: Some(16 * 4096),
        prio_bytes: Some(4096),
        ..Options::DEFAULT
    };
    let (tally, delivered) = load("loses", &options, false)?;
    let lost: u64 = tally.lost.iter().sum();
    ensure!(
        tally.lost[0] > 0 && tally.lost[1] > 0,
        "both rings were to be full: {:?}",
        tally.lost
    );
    ensure!(
        delivered > 0 && delivered == tally.delivered,
        "{delivered} of {} delivered",
        tally.delivered
    );
    ensure!(
        tally.emitted == tally.delivered + lost,
        "{} ≠ {} + {lost}",
        tally.emitted,
        tally.delivered
    );
    Ok(())
}

fn nothing_is_lost_of_an_ordinary_load() -> Result<()> {
    let (tally, delivered) = load("keeps", &Options::DEFAULT, true)?;
    ensure!(tally.lost.iter().sum::<u64>() == 0, "{:?}", tally.lost);
    // 3600 files made and as many removed, 400 times rm.
    ensure!(
        delivered >= 3600 * 2 + 400 * 3 && tally.emitted == delivered,
        "{delivered} of {}",
        tally.emitted
    );
    Ok(())
}

/// By the kernel's own count of what is there at the start, and of what the rest takes when it is full.
fn what_agents_can_fill_is_less_than_32_mib() -> Result<()> {
    let full = |options: &Options| -> Result<(u64, u64)> {
        let probe = Probe::load(options)?;
        let maps = probe.memory()?;
        probe.leave()?;
        ensure!(
            maps.iter().any(|map| map.name == "EVENTS_BULK") && maps.len() > 30,
            "not all maps: {maps:#?}"
        );
        let of_agents = maps.iter().filter(|map| !map.of_policies);
        let full = of_agents.map(|map| map.full).sum();
        Ok((full, maps.iter().map(|map| map.now).sum()))
    };
    let (most, now) = full(&Options::DEFAULT)?;
    // What each processor has of its own comes on top: the scratch memory and the counters.
    let cpus = std::thread::available_parallelism()?.get() as u64;
    let limit = (32 << 20) + cpus.saturating_sub(8) * (64 << 10);
    ensure!(most < limit, "{most} bytes with {cpus} processors");
    ensure!(now <= most + (4 << 20), "{now} now, {most} when full");
    let small = Options {
        map_mib: 8,
        ..Options::DEFAULT
    };
    let (small, _) = full(&small)?;
    ensure!(small < most / 3, "{small} of {most}");
    Ok(())
}

/// One agent floods both rings while nobody reads; then another one does its work.
fn a_flood_costs_no_other_agent_an_event() -> Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    const FLOOD: u32 = 1;
    const QUIET: u32 = 2;
    const RING: u32 = 64 * 4096;
    let place = Place::new()?;
    let cgroups = [Cgroup::new("flood")?, Cgroup::new("quiet")?];
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let _inside = runtime.enter();
    let mut probe = Probe::load(&Options {
        bulk_bytes: Some(RING),
        prio_bytes: Some(RING),
        ..Options::DEFAULT
    })?;
    let mut source = Source::new(probe.take_rings()?)?;
    for (agent, cgroup) in [(FLOOD, &cgroups[0]), (QUIET, &cgroups[1])] {
        probe.share(agent, u64::from(RING / 4), u64::from(RING / 4))?;
        probe.watch(agent, &cgroup.0, fs::metadata(&cgroup.0)?.ino())?;
    }
    let run = |cgroup: &Cgroup, script: &str| -> Result<()> {
        let script = format!("echo $$ > {}/cgroup.procs; {script}", cgroup.0.display());
        let status = Command::new("sh")
            .args(["-c", &script])
            .current_dir(place.path("work"))
            .status()?;
        ensure!(status.success(), "{script}: {status}");
        Ok(())
    };
    run(
        &cgroups[0],
        "for i in $(seq 400); do for j in 1 2 3 4 5 6 7 8 9; do : > f$j; done; rm -f f*; done",
    )?;
    let port = crate::support::port();
    let _server = crate::support::echo(port)?;
    run(
        &cgroups[1],
        &format!(
            "echo 1 > quiet; rm quiet; exec /usr/bin/python3 -c \"import socket; \
             s = socket.create_connection(('127.0.0.1', {port})); s.send(b'hello'); s.recv(5)\""
        ),
    )?;
    drop(probe);
    let mut batch = Vec::new();
    source.drain(&mut batch);
    for agent in [FLOOD, QUIET] {
        let tally = source.tally(agent);
        let lost: u64 = tally.lost.iter().sum();
        ensure!(
            tally.emitted == tally.delivered + lost,
            "agent {agent}: {} ≠ {} + {lost}",
            tally.emitted,
            tally.delivered
        );
    }
    let share_full = 5;
    let mut recorded = batch.clone();
    source.losses(&[FLOOD, QUIET], u64::MAX, &mut recorded);
    is_found(&recorded, FLOOD)?;
    let flood = source.tally(FLOOD);
    ensure!(flood.lost[share_full] > 0, "{:?}", flood.lost);
    ensure!(flood.delivered > 0, "nothing of the flood came");
    let quiet = source.tally(QUIET);
    ensure!(quiet.lost.iter().all(|n| *n == 0), "{:?}", quiet.lost);
    let events: Vec<Event> = batch
        .iter()
        .filter_map(|record| decode::decode(record).ok())
        .filter(|event| event.agent == QUIET)
        .collect();
    let has = |what: &str, is: fn(&Kind) -> bool| {
        ensure!(events.iter().any(|event| is(&event.kind)), "no {what}");
        Ok(())
    };
    has("exec", |kind| matches!(kind, Kind::Exec(_)))?;
    has("connect", |kind| matches!(kind, Kind::Connect(_)))?;
    has("flow_open", |kind| matches!(kind, Kind::FlowOpen(_)))?;
    has(
        "flow_close",
        |kind| matches!(kind, Kind::FlowClose(close) if close.bytes_out == 5 && close.bytes_in == 5),
    )?;
    has("exit", |kind| matches!(kind, Kind::Exit(_)))?;
    for name in ["open", "unlink"] {
        let one = events.iter().any(|event| event.kind.name() == name);
        ensure!(one, "no {name}");
    }
    Ok(())
}

/// A replay of these records finds the flood of an agent, once, and nothing else.
fn is_found(records: &[bytes::Bytes], agent: u32) -> Result<()> {
    let mut bytes = recording::MAGIC.to_vec();
    for record in records {
        bytes.extend_from_slice(record);
    }
    let mut recording = recording::Recording::new(&bytes[..], "it".to_owned())?;
    let findings = replay::findings(&mut recording, Policy::default())?;
    let [finding] = &findings[..] else {
        bail!("not one finding: {findings:#?}");
    };
    ensure!(
        finding.detector == "event-flood" && finding.agent == format!("agent-{agent}"),
        "{finding:#?}"
    );
    ensure!(
        finding.severity == Severity::Medium && finding.process.pid != 0,
        "{finding:#?}"
    );
    Ok(())
}
