//! `emitted = delivered + Σ lost`, to the record.

use std::{fs, process::Command};

use agentwatch::{
    probe::{Options, Probe},
    source::Source,
};
use agentwatch_common::loss::Tally;
use anyhow::{Result, ensure};

use crate::{
    support::{Cgroup, Place},
    tests,
};

tests! {
    the_sum_holds_under_a_load_that_loses;
    nothing_is_lost_of_an_ordinary_load;
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
