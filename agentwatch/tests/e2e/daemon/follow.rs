//! `agentwatch events -f`, with a daemon and without.

use std::{
    fs,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{Daemon, Tree};
use crate::{
    support::{Background, Place, program, until},
    tests,
};

tests! {
    what_the_daemon_tells;
    what_comes_into_the_history;
}

/// `agentwatch events -f` with these words, into a file of this name.
fn follow(place: &Place, name: &str, words: &[&str]) -> Result<Background> {
    let out = fs::File::create(place.path(name))?;
    let errors = fs::File::create(place.path(&format!("{name}.errors")))?;
    Background::start(
        Command::new(program())
            .args(["events", "-f"])
            .args(words)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(errors),
    )
}

/// The second argument of each exec that it has shown.
fn shown(place: &Place, name: &str) -> Vec<String> {
    let text = fs::read_to_string(place.path(name)).unwrap_or_default();
    let events = text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    events
        .filter_map(|event: Value| event["detail"]["argv"][1].as_str().map(str::to_owned))
        .filter(|word| word.starts_with('n'))
        .collect()
}

fn numbers(from: u32, to: u32) -> Vec<String> {
    (from..=to).map(|n| format!("n{n}")).collect()
}

fn what_the_daemon_tells() -> Result<()> {
    let tree = Tree::new("follow")?;
    let daemon = Daemon::start(&format!("  - cgroup: {}/*\n", tree.cgroup()), "")?;
    let place = &daemon.place;
    let go = place.path("go");
    let script = format!(
        "for i in 1 2 3; do /bin/true n$i; done; while [ ! -e {0} ]; do sleep .05; done; \
         for i in 4 5 6; do /bin/true n$i; done; exec sleep 60",
        go.display()
    );
    let _a = tree.start("a", &script)?;
    let _b = tree.start("b", "while :; do /bin/true nb; sleep .05; done")?;
    until("the first ones in the history", || {
        let page = daemon
            .get("/v1/events?agent=a&kind=exec")
            .unwrap_or_default();
        page["events"].to_string().contains("\"n3\"")
    })?;
    let socket = place.text("socket");
    let of_a = [
        "--socket", &socket, "--agent", "a", "--kind", "exec", "-o", "json",
    ];
    let all = follow(place, "all", &[&of_a[..], &["--since", "1h"]].concat())?;
    let last = follow(place, "last", &[&of_a[..], &["-n", "200"]].concat())?;
    let new = follow(place, "new", &of_a)?;
    until("those before", || {
        shown(place, "all") == numbers(1, 3) && shown(place, "last") == numbers(1, 3)
    })
    .with_context(|| format!("{:?} {:?}", shown(place, "all"), shown(place, "last")))?;
    // It reads the stream by now, for that was asked for first of all.
    until("three readers", || {
        let (_, page) = daemon.ask("GET", "/metrics", "").unwrap_or_default();
        page.contains("agentwatch_stream_readers 3\n")
    })?;
    fs::write(go, "")?;
    until("those that came since", || {
        shown(place, "all") == numbers(1, 6)
            && shown(place, "last") == numbers(1, 6)
            && shown(place, "new") == numbers(4, 6)
    })
    .with_context(|| format!("{:?} {:?}", shown(place, "all"), shown(place, "new")))?;
    drop((all, last, new));
    Ok(())
}

fn what_comes_into_the_history() -> Result<()> {
    let tree = Tree::new("poll")?;
    let mut daemon = Daemon::start(&format!("  - cgroup: {}/*\n", tree.cgroup()), "")?;
    let _a = tree.start(
        "a",
        "i=0; while :; do i=$((i+1)); /bin/true n$i; sleep .1; done",
    )?;
    until("events in the history", || {
        let page = daemon
            .get("/v1/events?agent=a&kind=exec")
            .unwrap_or_default();
        page["events"].to_string().contains("\"n3\"")
    })?;
    let dir = daemon.place.text("history");
    let words = ["--data-dir", &dir, "--kind", "exec", "-o", "json"];
    let followed = follow(
        &daemon.place,
        "all",
        &[&words[..], &["--since", "1h"]].concat(),
    )?;
    let new = follow(&daemon.place, "new", &words)?;
    until("more of them", || {
        shown(&daemon.place, "all").len() > 15 && shown(&daemon.place, "new").len() > 5
    })?;
    daemon.stop()?;
    let all = shown(&daemon.place, "all");
    let expected = numbers(1, u32::try_from(all.len())?);
    ensure!(all == expected, "not each one once and in order: {all:?}");
    drop((followed, new));
    Ok(())
}
