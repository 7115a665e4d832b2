//! Agents that are there, that come and that go.

use std::{fs, process::Command};

use agentwatch::store::query::History;
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::{Daemon, Tree, deletes, walk};
use crate::{
    support::{Background, Place, program, until},
    tests,
};

tests! {
    agents_that_are_there_and_that_come;
    a_thousand_short_lived_cgroups;
    one_is_killed_and_the_others_are_not;
    a_policy_may_ask_for_a_freeze;
    what_is_no_agent_is_not_acted_upon;
    at_any_depth;
    nothing_is_taken_away_from_dev_null;
}

fn agents_that_are_there_and_that_come() -> Result<()> {
    let tree = Tree::new("come")?;
    let _there = tree.start("there", "exec sleep 60")?;
    let agents = format!(
        "  - cgroup: {0}/there\n    name: first\n  - cgroup: {0}/*\n    name: '{{parent}}-{{name}}'\n",
        tree.cgroup()
    );
    let mut daemon = Daemon::start(&agents, "")?;
    let first = daemon.agent("first").context("the one that was there")?;
    ensure!(
        first["processes"] == 1 || first["processes"] == 0,
        "{first}"
    );
    ensure!(
        first["found_by"] == json!({"by": "cgroup", "glob": format!("{}/there", tree.cgroup())}),
        "{first}"
    );
    let _new = tree.start("new", "true here; /bin/true seen; exec sleep 60")?;
    let name = format!("{}-new", &tree.cgroup()[1..]);
    until("the new one", || {
        let processes = daemon.get(&format!("/v1/agents/{name}/processes")).ok();
        processes.is_some_and(|list| list[0]["argv"] == json!(["sleep", "60"]))
    })?;
    let (ok, table) = daemon.verb(&["agents"])?;
    ensure!(
        ok && table.contains("first") && table.contains(&name),
        "{table}"
    );
    daemon.stop()?;
    let seen = daemon.events(&["exec"])?;
    ensure!(
        seen.iter()
            .any(|row| row.agent == name && row.argv() == ["/bin/true", "seen"]),
        "{seen:#?}"
    );
    ensure!(
        daemon
            .events(&["seed"])?
            .iter()
            .any(|row| row.agent == "first"),
        "the process that was there is not told"
    );
    Ok(())
}

fn a_thousand_short_lived_cgroups() -> Result<()> {
    const MANY: usize = 1000;
    let tree = Tree::new("many")?;
    let mut daemon = Daemon::start(&format!("  - cgroup: {}/c*\n", tree.cgroup()), "")?;
    let script = format!(
        "cd {}; for i in $(seq {MANY}); do mkdir c$i; \
         sh -c \"echo \\$\\$ > c$i/cgroup.procs; exec /bin/true n$i\"; rmdir c$i; done; \
         mkdir other; sh -c 'echo $$ > other/cgroup.procs; exec /bin/true other'; rmdir other",
        tree.0.display()
    );
    let status = Command::new("sh").args(["-c", &script]).status()?;
    ensure!(status.success(), "{status}");
    until("all of them to be gone", || {
        let health = daemon.get("/v1/health").unwrap_or_default();
        health["agents_gone"] == MANY && health["agents"] == 0
    })
    .with_context(|| format!("{:?}", daemon.get("/v1/health")))?;
    // What is read of a cgroup that is no agent's is forgotten a moment later.
    let left = || {
        let mut left = daemon.get("/v1/health").unwrap_or_default()["maps"].take();
        // The folder that they were made in is looked below still.
        left["PARENTS"] = (left["PARENTS"].as_u64() != Some(1)).into();
        let all = left.as_object().cloned().unwrap_or_default();
        let left: Vec<_> = all
            .into_iter()
            .filter(|(_, n)| !matches!(n, Value::Bool(false)) && n.as_u64() != Some(0))
            .collect();
        left
    };
    until("nothing to be left in the kernel's maps", || {
        left().is_empty()
    })
    .with_context(|| format!("{:?}", left()))?;
    daemon.stop()?;
    let execs = daemon.events(&["exec"])?;
    ensure!(execs.len() == MANY, "{} of {MANY} are seen", execs.len());
    for row in &execs {
        let n = row.agent.trim_start_matches('c');
        ensure!(row.argv() == ["/bin/true", &format!("n{n}")], "{row:?}");
    }
    let runs = History::open(&daemon.place.path("history"))?.runs()?;
    ensure!(runs.len() == MANY, "{} runs", runs.len());
    for run in runs {
        let tally: Value = serde_json::from_str(&run.tally.context("a run without an end")?)?;
        ensure!(tally["lost"] == json!([]), "{}: {tally}", run.agent);
        ensure!(
            tally["emitted"] == tally["delivered"],
            "{}: {tally}",
            run.agent
        );
    }
    Ok(())
}

fn one_is_killed_and_the_others_are_not() -> Result<()> {
    let tree = Tree::new("one")?;
    let mut daemon = Daemon::start(&format!("  - cgroup: {}/*\n", tree.cgroup()), "")?;
    let files = daemon.place.tree("files", 400)?;
    let _good = tree.start("good", "exec sleep 60")?;
    let (script, go) = deletes(&daemon.place, &files);
    let _bad = tree.start("bad", &script)?;
    until("the bad one to be watched", || daemon.is("bad", "watched"))?;
    fs::write(go, "")?;
    until("the bad one to be killed", || daemon.is("bad", "killed"))
        .with_context(|| daemon.said())?;
    ensure!(daemon.is("good", "watched"), "{:?}", daemon.agent("good"));
    let bad = daemon.agent("bad").context("it is gone")?;
    let reason = bad["state_reason"].as_str().unwrap_or_default();
    ensure!(
        reason.contains("removed") && bad["findings"]["critical"] == 1,
        "{bad}"
    );
    ensure!(walk(&files) > 350, "{} of 400 files are left", walk(&files));
    let empty = fs::read_to_string(tree.0.join("bad/cgroup.procs"))?;
    ensure!(empty.is_empty(), "left: {empty}");
    daemon.stop()?;
    let runs = History::open(&daemon.place.path("history"))?.runs()?;
    let killed: Vec<_> = runs.iter().filter(|run| run.killed_by.is_some()).collect();
    ensure!(killed.len() == 1 && killed[0].agent == "bad", "{runs:?}");
    Ok(())
}

fn a_policy_may_ask_for_a_freeze() -> Result<()> {
    let tree = Tree::new("freeze")?;
    let place = Place::new()?;
    let policy = place.file(
        "freeze.yaml",
        "apiVersion: agentwatch/v1\nkind: Policy\ndetectors:\n  mass-deletion:\n    action: freeze\n",
    )?;
    let files = place.tree("files", 400)?;
    let agents = format!("  - cgroup: {}/*\n    policy: {policy}\n", tree.cgroup());
    let daemon = Daemon::start(&agents, "")?;
    let (script, go) = deletes(&place, &files);
    let _agent = tree.start("a", &script)?;
    until("it to be watched", || daemon.is("a", "watched"))?;
    fs::write(go, "")?;
    until("it to be frozen", || daemon.is("a", "frozen")).with_context(|| daemon.said())?;
    let events = fs::read_to_string(tree.0.join("a/cgroup.events"))?;
    ensure!(events.contains("frozen 1"), "{events}");
    ensure!(walk(&files) > 350, "{} of 400 files are left", walk(&files));
    let findings = daemon.get("/v1/findings?agent=a");
    until("the finding in the history", || {
        daemon
            .get("/v1/findings?agent=a")
            .is_ok_and(|all| all[0]["response"]["taken"] == "freeze")
    })
    .with_context(|| format!("{findings:?}"))?;
    let (ok, said) = daemon.verb(&["kill", "a"])?;
    ensure!(ok, "{said}");
    Ok(())
}

fn what_is_no_agent_is_not_acted_upon() -> Result<()> {
    let tree = Tree::new("none")?;
    // The daemon's own parent is in it.
    let inside = tree.0.join("own");
    fs::create_dir(&inside)?;
    let place = Place::new()?;
    let config = place.file(
        "config.yaml",
        &format!(
            "apiVersion: agentwatch/v1\nkind: Config\nsocket: {}\ndata_dir: {}\nagents:\n  - cgroup: {}/*\n",
            place.text("socket"),
            place.text("history"),
            tree.cgroup()
        ),
    )?;
    let script = format!(
        "echo $$ > {}/cgroup.procs; {} daemon --config {config} & sleep 60; wait",
        inside.display(),
        program().display()
    );
    let log = fs::File::create(place.path("log"))?;
    let _shell = Background::start(Command::new("sh").args(["-c", &script]).stderr(log))?;
    let said = || fs::read_to_string(place.path("log")).unwrap_or_default();
    until("the daemon", || said().contains("the API is at"))?;
    ensure!(
        said().contains("is no agent's cgroup: agentwatch itself is in it"),
        "{}",
        said()
    );
    ensure!(said().contains("watching 0 agents"), "{}", said());
    Ok(())
}

/// A glob of any depth: the cgroup above the agent's might be one itself until its name is looked at.
fn at_any_depth() -> Result<()> {
    let tree = Tree::new("deep")?;
    let mut daemon = Daemon::start(&format!("  - cgroup: {}/**/x\n", tree.cgroup()), "")?;
    let script = format!(
        "cd {}; mkdir p p/q p/q/x; sh -c 'echo $$ > p/q/x/cgroup.procs; exec /bin/true deep'; \
         sh -c 'echo $$ > p/q/cgroup.procs; exec /bin/true none'; rmdir p/q/x p/q p",
        tree.0.display()
    );
    for n in 1..=50 {
        let status = Command::new("sh").args(["-c", &script]).status()?;
        ensure!(status.success(), "{status}");
        until("it to be gone", || {
            daemon
                .get("/v1/health")
                .is_ok_and(|health| health["agents_gone"] == n)
        })?;
    }
    daemon.stop()?;
    let execs = daemon.events(&["exec"])?;
    let seen = execs
        .iter()
        .filter(|row| row.argv() == ["/bin/true", "deep"])
        .count();
    ensure!(seen == 50, "{seen} of 50 are seen");
    ensure!(
        execs.iter().all(|row| !row.argv().contains(&"none")),
        "{execs:#?}"
    );
    Ok(())
}

/// A shell that throws output away opens /dev/null to truncate it: no file is gone, and the budget stays.
fn nothing_is_taken_away_from_dev_null() -> Result<()> {
    let tree = Tree::new("null")?;
    let daemon = Daemon::start(&format!("  - cgroup: {}/*\n", tree.cgroup()), "")?;
    let file = daemon.place.file("there", "before")?;
    let script =
        format!("for i in 1 2 3 4 5 6 7 8 9 10; do : > /dev/null; done; : > {file}; exec sleep 60");
    let _agent = tree.start("a", &script)?;
    let used = || {
        let budget = daemon.agent("a")?["deletion_budget"].take();
        Some(budget["limit"].as_i64()? - budget["left"].as_i64()?)
    };
    until("the file to be counted", || used() > Some(0))?;
    ensure!(used() == Some(1), "{:?} are counted", used());
    Ok(())
}
