//! `agentwatch run` where a daemon runs.

use std::{fs, process::Command, process::Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{Daemon, Tree, walk};
use crate::{
    support::{program, until},
    tests,
};

tests! {
    the_daemon_watches_a_run;
    a_run_is_killed_and_its_finding_shown;
    a_run_that_cannot_be_watched_does_not_start;
    a_run_whose_agentwatch_is_killed_stays_watched;
    the_daemon_goes_away_for_good;
    an_agent_may_not_act;
}

/// A daemon that looks for no agents itself, but in a folder where nothing is.
fn daemon(tree: &Tree) -> Result<Daemon> {
    Daemon::start(&format!("  - cgroup: {}/*\n", tree.cgroup()), "")
}

/// `agentwatch run` against it: what is said goes to `said`.
pub(super) fn run(daemon: &Daemon, options: &[&str], command: &[&str]) -> Result<Command> {
    let said = fs::File::create(daemon.place.path("said"))?;
    let mut run = Command::new("timeout");
    run.args(["-k", "5", "60"])
        .arg(program())
        .args(["run", "--socket"])
        .arg(daemon.place.path("socket"))
        .args(options)
        .arg("--")
        .args(command)
        .current_dir(daemon.place.path("work"))
        .stdin(Stdio::null())
        .stderr(said);
    Ok(run)
}

pub(super) fn said(daemon: &Daemon) -> String {
    fs::read_to_string(daemon.place.path("said")).unwrap_or_default()
}

fn the_daemon_watches_a_run() -> Result<()> {
    let tree = Tree::new("run")?;
    let mut daemon = daemon(&tree)?;
    let go = daemon.place.text("go");
    let script = format!("while [ ! -e {go} ]; do sleep .02; done; /bin/true seen; exit 3");
    let mut command = run(
        &daemon,
        &["--name", "a", "-o", "json"],
        &["sh", "-c", &script],
    )?;
    let mut child = command.spawn()?;
    until("the agent", || daemon.agent("a").is_some())?;
    let agent = daemon.agent("a").context("no agent")?;
    ensure!(agent["found_by"]["by"] == "run", "{agent}");
    ensure!(
        agent["workspace"].as_str() == daemon.place.path("work").to_str(),
        "{agent}"
    );
    let cgroup = agent["cgroup"].as_str().context("no cgroup")?.to_owned();
    fs::write(go, "")?;
    let status = child.wait()?;
    ensure!(status.code() == Some(3), "{status}: {}", said(&daemon));
    ensure!(daemon.agent("a").is_none(), "it is watched still");
    let root = agentwatch::probe::support::cgroup2()?;
    ensure!(!root.join(&cgroup[1..]).exists(), "{cgroup} is left");
    let said = said(&daemon);
    let account: Value = serde_json::from_str(said.lines().last().unwrap_or_default())
        .with_context(|| said.clone())?;
    ensure!(account["ended"]["exit_status"] == 3, "{account}");
    ensure!(account["programs"]["/usr/bin/true"] == 1, "{account}");
    ensure!(
        account["events"]["lost"] == serde_json::json!([]),
        "{account}"
    );
    daemon.stop()?;
    let execs = daemon.events(&["exec"])?;
    ensure!(
        execs
            .iter()
            .any(|row| row.agent == "a" && row.argv() == ["/bin/true", "seen"]),
        "{execs:#?}"
    );
    Ok(())
}

fn a_run_is_killed_and_its_finding_shown() -> Result<()> {
    let tree = Tree::new("runkill")?;
    let daemon = daemon(&tree)?;
    let files = daemon.place.tree("files", 400)?;
    let shown = files.display().to_string();
    let mut command = run(&daemon, &["--name", "a"], &["rm", "-r", &shown])?;
    let status = command.status()?;
    let said = said(&daemon);
    ensure!(status.code() == Some(137), "{status}: {said}");
    ensure!(walk(&files) > 350, "{} of 400 files are left", walk(&files));
    let found: Vec<&str> = said
        .lines()
        .filter(|line| line.contains("critical mass-deletion: "))
        .collect();
    ensure!(found.len() == 1, "{said}");
    ensure!(said.contains("killed the agent"), "{said}");
    Ok(())
}

fn a_run_that_cannot_be_watched_does_not_start() -> Result<()> {
    let tree = Tree::new("runbad")?;
    let daemon = daemon(&tree)?;
    let bad = daemon.ask(
        "POST",
        "/v1/agents",
        r#"{"name":"a","cgroup":"/../x","cgroup_id":1}"#,
    )?;
    ensure!(bad.0 == 409 && bad.1.contains("below the root"), "{bad:?}");
    let other = format!(
        r#"{{"name":"a","cgroup":"{}","cgroup_id":1}}"#,
        tree.cgroup()
    );
    let other = daemon.ask("POST", "/v1/agents", &other)?;
    ensure!(
        other.0 == 409 && other.1.contains("sees other cgroups"),
        "{other:?}"
    );
    let policy = format!(
        r#"{{"name":"a","cgroup":"{}","cgroup_id":{},"policy":"kind: Nothing"}}"#,
        tree.cgroup(),
        std::os::unix::fs::MetadataExt::ino(&fs::metadata(&tree.0)?)
    );
    let policy = daemon.ask("POST", "/v1/agents", &policy)?;
    ensure!(policy.0 == 409 && policy.1.contains("kind"), "{policy:?}");
    ensure!(daemon.get("/v1/agents")? == serde_json::json!([]));
    let missing = run(&daemon, &[], &["/nothing/is/here"])?.status()?;
    ensure!(missing.code() == Some(127), "{missing}: {}", said(&daemon));
    until("nobody to be watched", || {
        daemon
            .get("/v1/agents")
            .is_ok_and(|all| all == serde_json::json!([]))
    })?;
    Ok(())
}

/// `agentwatch run` is killed: what it started is watched until its last process has ended, and then its
/// cgroup goes too.
fn a_run_whose_agentwatch_is_killed_stays_watched() -> Result<()> {
    let tree = Tree::new("runleft")?;
    let daemon = daemon(&tree)?;
    let go = daemon.place.text("go");
    let script = format!("while [ ! -e {go} ]; do sleep .02; done; /bin/true late");
    let mut command = run(&daemon, &["--name", "a"], &["sh", "-c", &script])?;
    let mut child = command.spawn()?;
    until("the agent", || {
        daemon
            .agent("a")
            .is_some_and(|agent| agent["processes"].as_u64() > Some(0))
    })?;
    let cgroup = daemon.agent("a").context("no agent")?["cgroup"].clone();
    // `timeout` passes no SIGKILL on.
    let runner = format!("/proc/{0}/task/{0}/children", child.id());
    let runner = fs::read_to_string(runner)?;
    Command::new("kill").args(["-9", runner.trim()]).status()?;
    child.wait()?;
    ensure!(daemon.is("a", "watched"), "{:?}", daemon.agent("a"));
    fs::write(go, "")?;
    until("the agent to be gone", || daemon.agent("a").is_none())?;
    let root = agentwatch::probe::support::cgroup2()?;
    let cgroup = cgroup.as_str().unwrap_or_default();
    until("its cgroup to be gone", || {
        !root.join(&cgroup[1..]).exists()
    })?;
    Ok(())
}

/// Nobody watches, so nothing runs; then `agentwatch run` watches by itself.
fn the_daemon_goes_away_for_good() -> Result<()> {
    let tree = Tree::new("rungone")?;
    let mut daemon = daemon(&tree)?;
    let files = daemon.place.tree("files", 400)?;
    let go = daemon.place.text("go");
    let script = format!(
        "while [ ! -e {go} ]; do sleep .02; done; rm -r {}",
        files.display()
    );
    let mut command = run(&daemon, &["--name", "a"], &["sh", "-c", &script])?;
    let mut child = command.spawn()?;
    until("the agent", || daemon.agent("a").is_some())?;
    let cgroup = daemon.agent("a").context("no agent")?["cgroup"].clone();
    let root = agentwatch::probe::support::cgroup2()?;
    let cgroup = root.join(&cgroup.as_str().unwrap_or_default()[1..]);
    let pid = daemon.get("/v1/health")?["pid"].to_string();
    Command::new("kill").args(["-9", &pid]).status()?;
    daemon.child.wait()?;
    until("the agent to stand still", || {
        fs::read_to_string(cgroup.join("cgroup.events"))
            .is_ok_and(|events| events.contains("frozen 1"))
    })
    .with_context(|| said(&daemon))?;
    fs::write(&go, "")?;
    let status = child.wait()?;
    let said = said(&daemon);
    ensure!(status.code() == Some(137), "{status}: {said}");
    ensure!(
        said.contains("the daemon has gone away; the agent stands still"),
        "{said}"
    );
    ensure!(said.contains("watching without one"), "{said}");
    ensure!(said.contains("critical mass-deletion: "), "{said}");
    ensure!(walk(&files) > 350, "{} of 400 files are left", walk(&files));
    Ok(())
}

/// An agent that is root and finds the socket may not let itself go.
fn an_agent_may_not_act() -> Result<()> {
    let tree = Tree::new("runself")?;
    let daemon = daemon(&tree)?;
    let answer = daemon.place.text("answer");
    let script = format!(
        "sleep .5; {} release a > {answer} 2>&1",
        program().display()
    );
    let agent = tree.start(
        "a",
        &format!(
            "export AGENTWATCH_SOCKET={}; {script}",
            daemon.place.text("socket")
        ),
    )?;
    agent.finish()?;
    let said = fs::read_to_string(&answer)?;
    ensure!(said.contains("agents may read and not act"), "{said}");
    Ok(())
}
