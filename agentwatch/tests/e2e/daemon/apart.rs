//! Processes that have left their agent's cgroup, cgroups that are made again under a name, and what happens in
//! one while it is asked whose it is.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::net::UnixListener,
    process::Command,
    thread,
    time::Duration,
};

use agentwatch::store::query::History;
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{Daemon, Tree, walk};
use crate::{
    support::{Place, until},
    tests,
};

tests! {
    a_frozen_process_outside_stands_still;
    the_last_process_outside_ends_it;
    one_that_is_made_again_under_its_name;
    a_flood_while_it_is_asked_for needs "/usr/bin/python3";
}

fn a_frozen_process_outside_stands_still() -> Result<()> {
    let tree = Tree::new("still")?;
    let place = Place::new()?;
    let policy = place.file(
        "freeze.yaml",
        "apiVersion: agentwatch/v1\nkind: Policy\ndetectors:\n  mass-deletion:\n    action: freeze\n",
    )?;
    let files = place.tree("files", 400)?;
    let agents = format!("  - cgroup: {}/in/*\n    policy: {policy}\n", tree.cgroup());
    let daemon = Daemon::start(&agents, "")?;
    fs::create_dir_all(tree.0.join("out"))?;
    let go = place.text("go");
    let script = format!(
        "while [ ! -e {go} ]; do sleep .02; done; echo $$ > {}/out/cgroup.procs; exec rm -r {}",
        tree.0.display(),
        files.display()
    );
    let _agent = tree.start("in/a", &script)?;
    until("it to be watched", || daemon.is("a", "watched"))?;
    fs::write(go, "")?;
    until("it to be frozen", || daemon.is("a", "frozen")).with_context(|| daemon.said())?;
    let outside = fs::read_to_string(tree.0.join("out/cgroup.procs"))?;
    let is_stopped = || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", outside.trim()));
        stat.is_ok_and(|stat| stat.contains(") T "))
    };
    until("it to be stopped", is_stopped)?;
    let left = walk(&files);
    for _ in 0..50 {
        thread::sleep(Duration::from_millis(20));
        ensure!(
            walk(&files) == left && is_stopped(),
            "{left}, then {} are left",
            walk(&files)
        );
    }
    ensure!(left > 350, "{left} of 400 files are left");
    let (ok, said) = daemon.verb(&["thaw", "a"])?;
    ensure!(ok, "{said}");
    until("it to go on", || walk(&files) < left)?;
    let (ok, said) = daemon.verb(&["kill", "a"])?;
    ensure!(ok, "{said}");
    Ok(())
}

/// Its cgroup is removed before.
fn the_last_process_outside_ends_it() -> Result<()> {
    let tree = Tree::new("last")?;
    let daemon = Daemon::start(&format!("  - cgroup: {}/in/*\n", tree.cgroup()), "")?;
    fs::create_dir_all(tree.0.join("out"))?;
    let go = daemon.place.text("go");
    let out = tree.0.join("out/cgroup.procs");
    let script = format!(
        "echo $$ > {}; while [ ! -e {go} ]; do sleep .02; done",
        out.display()
    );
    let _agent = tree.start("in/a", &script)?;
    until("it to have left", || {
        fs::read_to_string(&out).is_ok_and(|pids| !pids.is_empty())
    })?;
    tree.remove("in/a")?;
    until("the cgroup to be gone", || daemon.is("a", "gone"))?;
    fs::write(go, "")?;
    until("the agent to be gone", || daemon.agent("a").is_none())
}

/// The daemon sees neither before the second is there.
fn one_that_is_made_again_under_its_name() -> Result<()> {
    let tree = Tree::new("remade")?;
    let mut daemon = Daemon::start(&format!("  - cgroup: {}/*\n", tree.cgroup()), "")?;
    let pid = daemon.get("/v1/health")?["pid"].to_string();
    let signal = |signal: &str| Command::new("kill").args([signal, &pid]).status();
    signal("-STOP")?;
    for n in 1..=3 {
        tree.start("a", &format!("exec /bin/true n{n}"))?.finish()?;
        tree.remove("a")?;
    }
    let _last = tree.start("a", "/bin/true n4; exec sleep 60")?;
    let procs = tree.0.join("a/cgroup.procs");
    until("the last one", || {
        fs::read_to_string(&procs).is_ok_and(|pids| {
            fs::read(format!("/proc/{}/cmdline", pids.trim()))
                .is_ok_and(|line| line == b"sleep\x0060\0")
        })
    })?;
    signal("-CONT")?;
    let health = || daemon.get("/v1/health").unwrap_or_default();
    until("the others to be gone", || {
        let health = health();
        health["agents_gone"] == 3 && health["agents"] == 1
    })
    .with_context(|| format!("{:?} {}", health(), daemon.said()))?;
    let agents = || daemon.get("/v1/agents").unwrap_or_default();
    until("its processes", || agents()[0]["processes"] == 1)
        .with_context(|| agents().to_string())?;
    let maps = health()["maps"].take();
    ensure!(maps["CGROUPS"] == 1 && maps["TASKS"] == 1, "{maps}");
    daemon.stop()?;
    let execs = daemon.events(&["exec"])?;
    let seen: BTreeMap<_, _> = execs
        .iter()
        .filter(|row| row.argv().first() == Some(&"/bin/true"))
        .map(|row| (row.agent.as_str(), row.argv()[1]))
        .collect();
    let words: BTreeSet<_> = seen.values().copied().collect();
    ensure!(words == ["n1", "n2", "n3", "n4"].into(), "{seen:?}");
    Ok(())
}

/// A runtime that does not answer: what is kept until then is bounded, and the sum holds.
fn a_flood_while_it_is_asked_for() -> Result<()> {
    let tree = Tree::new("asked")?;
    let place = Place::new()?;
    let socket = place.path("docker.sock");
    let listener = UnixListener::bind(&socket)?;
    let go = place.text("go");
    let other = go.clone();
    thread::spawn(move || {
        // They are closed, which is no answer either, when the flood is over.
        let mut open = Vec::new();
        for stream in listener.incoming().flatten() {
            open.push(stream);
            if fs::exists(&other).unwrap_or(false) {
                open.clear();
            }
        }
    });
    let agents = format!(
        "  - container: {{label: agentwatch.io/agent=true}}\n  - cgroup: {0}/other\n  - cgroup: {0}/*\n    \
         name: flood\n",
        tree.cgroup()
    );
    let mut daemon = Daemon::start(
        &agents,
        &format!("container_sockets: [{}]\n", socket.display()),
    )?;
    let count =
        "n=0; while [ ! -e GO ]; do n=$((n+1)); : > WORK/f$n; rm -f WORK/f$n; sleep .05; done";
    let script = count
        .replace("GO", &go)
        .replace("WORK", &place.text("work"));
    let _other = tree.start("other", &script)?;
    let flood = place.file("flood.py", FLOOD)?;
    let id = format!("a7{:062x}", std::process::id());
    let _flood = tree.start(
        &format!("docker-{id}.scope"),
        &format!(
            "/usr/bin/python3 {flood} {}; touch {go}",
            place.text("many")
        ),
    )?;
    until("it to be an agent", || daemon.agent("flood").is_some())
        .with_context(|| daemon.said())?;
    until("the end of the flood", || place.path("go").exists())?;
    daemon.stop()?;
    let runs = History::open(&daemon.place.path("history"))?.runs()?;
    let tally = |name: &str| -> Result<Value> {
        let run = runs.iter().find(|run| run.agent == name);
        let tally = run.and_then(|run| run.tally.clone());
        Ok(serde_json::from_str(&tally.context("no tally")?)?)
    };
    let flood = tally("flood")?;
    for tally in [&flood, &tally("other")?] {
        let lost = tally["lost"].as_array().context("no losses")?;
        let lost: u64 = lost.iter().filter_map(|reason| reason[1].as_u64()).sum();
        let sum = tally["delivered"].as_u64().context("nothing")? + lost;
        ensure!(tally["emitted"] == sum, "{tally}");
    }
    ensure!(
        flood["lost"]
            .to_string()
            .contains("too much before it was known"),
        "{flood}"
    );
    Ok(())
}

/// Makes files as fast as it can, for as long as a runtime may take to answer.
const FLOOD: &str = "
import os, sys, time
folder = sys.argv[1]
for part in range(10):
    os.mkdir(folder)
    folder += '/' + 'x' * 250
end, n = time.monotonic() + 6, 0
while time.monotonic() < end:
    n += 1
    name = folder[:-20] + str(n)
    os.close(os.open(name, os.O_CREAT | os.O_WRONLY))
    os.unlink(name)
";
