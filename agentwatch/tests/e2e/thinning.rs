//! Opens that repeat one another: told by their number, and none is missing in the sum.

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::{
    support::{Agent, Outcome, Place},
    tests,
};

tests! {
    repeated_opens_are_a_few_events needs "python3";
    what_decides_is_told_one_by_one needs "python3";
    another_process_and_another_way_are_told needs "python3";
    a_policy_has_every_open_told needs "python3";
}

/// Runs a Python program as an agent.
fn python(agent: &Agent<'_>, script: &str) -> Result<Outcome> {
    let outcome = agent.run(&["/usr/bin/python3", "-c", script])?;
    outcome.is_quiet()?;
    Ok(outcome)
}

/// How many events `open` there are of a file, and of how many opens they tell.
fn opens(outcome: &Outcome, name: &str) -> Result<(usize, u64)> {
    let events = outcome.events("open")?;
    let of_it: Vec<&Value> = events
        .iter()
        .filter(|event| {
            let path = event["path"].as_str().unwrap_or_default();
            path.ends_with(&format!("/{name}"))
        })
        .collect();
    let sum = of_it
        .iter()
        .map(|event| event["detail"]["count"].as_u64().unwrap_or(1))
        .sum();
    Ok((of_it.len(), sum))
}

/// 1,000 times one file, and 3 times another in between.
const REPEATS: &str = "\
import os\n\
for n in range(1000):\n\
\x20   os.close(os.open('much', os.O_WRONLY | os.O_APPEND))\n\
\x20   if n % 400 == 0: os.close(os.open('little', os.O_WRONLY | os.O_APPEND))\n";

fn repeated_opens_are_a_few_events() -> Result<()> {
    let place = Place::new()?;
    place.file("work/much", "x")?;
    place.file("work/little", "x")?;
    let outcome = python(&Agent::new(&place), REPEATS)?;
    let (events, sum) = opens(&outcome, "much")?;
    ensure!(
        sum == 1000 && events < 100,
        "{events} events of {sum} opens"
    );
    let (_, sum) = opens(&outcome, "little")?;
    ensure!(sum == 3, "{sum} opens");
    let tally = &outcome.account["events"];
    let thinned = tally["thinned"].as_u64().unwrap_or(0);
    ensure!(thinned > 900, "{tally}");
    ensure!(tally["emitted"] == tally["delivered"], "{tally}");
    // The account counts opens, not events.
    let written = outcome.account["files"]["written"].as_u64();
    ensure!(written >= Some(1003), "{written:?}");
    Ok(())
}

/// Making, emptying, being refused, a device, a secret: each of them is an event.
fn what_decides_is_told_one_by_one() -> Result<()> {
    let place = Place::new()?;
    place.file("work/emptied", "x")?;
    std::fs::create_dir(place.path("work/.aws"))?;
    place.file("work/.aws/credentials", "x")?;
    let script = "\
import os\n\
for n in range(20):\n\
\x20   os.close(os.open('emptied', os.O_WRONLY | os.O_TRUNC))\n\
\x20   os.close(os.open('made', os.O_WRONLY | os.O_CREAT)); os.unlink('made')\n\
\x20   os.close(os.open('.aws/credentials', os.O_WRONLY))\n\
\x20   os.close(os.open('.aws/credentials', os.O_RDONLY))\n\
\x20   try: os.open('missing/file', os.O_WRONLY)\n\
\x20   except FileNotFoundError: pass\n";
    let outcome = python(&Agent::new(&place), script)?;
    for (name, number) in [
        ("emptied", 20),
        ("made", 20),
        (".aws/credentials", 40),
        ("missing/file", 20),
    ] {
        let (events, sum) = opens(&outcome, name)?;
        ensure!(
            events == number && sum == number as u64,
            "{name}: {events} events of {sum} opens"
        );
    }
    Ok(())
}

fn another_process_and_another_way_are_told() -> Result<()> {
    let place = Place::new()?;
    place.file("work/log", "x")?;
    let script = "\
import os\n\
for n in range(4):\n\
\x20   if os.fork() == 0:\n\
\x20       for k in range(50):\n\
\x20           for way in [os.O_WRONLY, os.O_RDWR]: os.close(os.open('log', way))\n\
\x20       os._exit(0)\n\
for n in range(4): os.wait()\n";
    let outcome = python(&Agent::new(&place), script)?;
    let events = outcome.events("open")?;
    let mut seen: Vec<(u64, u64, u64)> = Vec::new();
    for event in events.iter().filter(|event| {
        let path = event["path"].as_str().unwrap_or_default();
        path == place.text("work/log")
    }) {
        let pid = event["pid"].as_u64().unwrap_or(0);
        let way = event["detail"]["flags"].as_u64().unwrap_or(0) & 3;
        let count = event["detail"]["count"].as_u64().unwrap_or(1);
        match seen.iter_mut().find(|(p, w, _)| (*p, *w) == (pid, way)) {
            Some((_, _, sum)) => *sum += count,
            None => seen.push((pid, way, count)),
        }
    }
    ensure!(
        seen.len() == 8 && seen.iter().all(|(_, _, sum)| *sum == 50),
        "{seen:?}"
    );
    Ok(())
}

fn a_policy_has_every_open_told() -> Result<()> {
    let place = Place::new()?;
    place.file("work/much", "x")?;
    place.file("work/little", "x")?;
    let policy = place.file(
        "policy.yaml",
        "apiVersion: agentwatch/v1\nkind: Policy\nevents:\n  thin: false\n",
    )?;
    let outcome = python(&Agent::new(&place).with("--policy", &policy), REPEATS)?;
    let (events, sum) = opens(&outcome, "much")?;
    ensure!(events == 1000 && sum == 1000, "{events} events of {sum}");
    ensure!(
        outcome.account["events"]["thinned"] == 0,
        "{}",
        outcome.account["events"]
    );
    Ok(())
}
