//! A daemon that was away: killed, or stopped.

use std::{fs, process::Command};

use anyhow::{Context as _, Result, ensure};

use super::{Daemon, Tree, runs::said, walk};
use crate::{
    support::{Place, echo, port, until},
    tests,
};

tests! {
    what_it_knew_it_knows_again needs "/usr/bin/python3";
    a_deletion_budget_that_was_used;
    a_run_comes_back;
    a_run_that_does_not_come_back;
    one_that_is_no_agent_any_more_goes_on;
    agents_are_left_as_the_policy_says;
}

impl Daemon {
    /// Kills it.
    fn kill(&mut self) -> Result<()> {
        let pid = self.get("/v1/health")?["pid"].to_string();
        Command::new("kill").args(["-9", &pid]).status()?;
        self.child.wait()?;
        Ok(())
    }

    /// Starts it again.
    pub(super) fn again(&mut self) -> Result<()> {
        self.child = Self::child(&self.place)?;
        until("the daemon again", || self.get("/v1/health").is_ok()).with_context(|| self.said())
    }
}

fn what_it_knew_it_knows_again() -> Result<()> {
    let tree = Tree::new("knew")?;
    let mut daemon = Daemon::start(
        &format!("  - cgroup: {}/*\n    name: same\n", tree.cgroup()),
        "",
    )?;
    let port = port();
    let _server = echo(port)?;
    let (answer, client) = (daemon.place.text("said"), super::api::CLIENT);
    let client = daemon.place.file("client.py", client)?;
    let _frozen = tree.start("f", "exec sleep 60")?;
    until("the first", || daemon.agent("same").is_some())?;
    let _cut = tree.start(
        "q",
        &format!("exec /usr/bin/python3 {client} {port} {answer}"),
    )?;
    let last = || fs::read_to_string(&answer).unwrap_or_default();
    until("an answer", || last() == "ok")?;
    until("the second", || daemon.agent("same-2").is_some())?;
    let (ok, said) = daemon.verb(&["freeze", "same", "--reason", "look at it"])?;
    ensure!(ok, "{said}");
    let (ok, said) = daemon.verb(&["quarantine", "same-2"])?;
    ensure!(ok, "{said}");
    until("no answer", || last() == "refused")?;
    let state = daemon.place.path("history/daemon-state.json");
    until("it to be kept", || {
        fs::read_to_string(&state).is_ok_and(|kept| kept.contains("\"quarantined\":true"))
    })?;
    daemon.kill()?;
    // Nothing of it is in the kernel any more, but the freezing.
    until("an answer", || last() == "ok")?;
    daemon.again()?;
    until("no answer again", || last() == "refused")?;
    let frozen = daemon.agent("same").context("the first is gone")?;
    ensure!(frozen["state"] == "frozen", "{frozen}");
    ensure!(
        frozen["state_reason"] == "asked for by root: look at it",
        "{frozen}"
    );
    ensure!(
        frozen["cgroup"].as_str() == Some(&format!("{}/f", tree.cgroup())),
        "{frozen}"
    );
    ensure!(
        daemon.is("same-2", "quarantined"),
        "{:?}",
        daemon.agent("same-2")
    );
    ensure!(
        daemon.said().contains("the daemon was away for"),
        "{}",
        daemon.said()
    );
    let (ok, said) = daemon.verb(&["thaw", "same"])?;
    ensure!(ok, "{said}");
    let (ok, said) = daemon.verb(&["release", "same-2"])?;
    ensure!(ok, "{said}");
    until("an answer", || last() == "ok")?;
    Ok(())
}

fn a_deletion_budget_that_was_used() -> Result<()> {
    let tree = Tree::new("used")?;
    let mut daemon = Daemon::start(&format!("  - cgroup: {}/*\n", tree.cgroup()), "")?;
    let files = daemon.place.tree("files", 60)?;
    let (first, second) = (daemon.place.text("first"), daemon.place.text("second"));
    let files = files.display();
    // 30 and 30 of 40 in a minute.
    let script = format!(
        "cd {files}/000; while [ ! -e {first} ]; do sleep .02; done; rm 00000* 00001* 00002*; \
         while [ ! -e {second} ]; do sleep .02; done; rm *; exec sleep 60"
    );
    let _agent = tree.start("a", &script)?;
    until("it to be watched", || daemon.is("a", "watched"))?;
    fs::write(&first, "")?;
    let state = daemon.place.path("history/daemon-state.json");
    until("its deletions to be kept", || {
        fs::read_to_string(&state).is_ok_and(|kept| kept.contains("\"outside\":{\"files\":30,"))
    })
    .with_context(|| fs::read_to_string(&state).unwrap_or_default())?;
    daemon.kill()?;
    daemon.again()?;
    let budget = daemon.agent("a").context("no agent")?["deletion_budget"].clone();
    ensure!(budget["left"] == 10, "{budget}");
    ensure!(daemon.is("a", "watched"), "{:?}", daemon.agent("a"));
    fs::write(&second, "")?;
    until("it to be killed", || daemon.is("a", "killed")).with_context(|| daemon.said())?;
    let left = walk(&daemon.place.path("files"));
    ensure!((10..=20).contains(&left), "{left} of 60 files are left");
    Ok(())
}

fn a_run_comes_back() -> Result<()> {
    let tree = Tree::new("back")?;
    let mut daemon = Daemon::start(&format!("  - cgroup: {}/*\n", tree.cgroup()), "")?;
    let go = daemon.place.text("go");
    let script = format!("while [ ! -e {go} ]; do sleep .02; done; /bin/true late; exit 3");
    let mut run = super::runs::run(&daemon, &["--name", "a"], &["sh", "-c", &script])?.spawn()?;
    until("the agent", || daemon.agent("a").is_some())?;
    let state = daemon.place.path("history/daemon-state.json");
    until("it to be kept", || {
        fs::read_to_string(&state).is_ok_and(|kept| kept.contains("\"name\":\"a\""))
    })?;
    daemon.kill()?;
    until("the run to say so", || {
        said(&daemon).contains("the daemon has gone away")
    })?;
    daemon.again()?;
    until("the run to be back", || {
        said(&daemon).contains("the daemon is back and watches a\n")
    })
    .with_context(|| said(&daemon))?;
    ensure!(daemon.is("a", "watched"), "{:?}", daemon.agent("a"));
    fs::write(go, "")?;
    let status = run.wait()?;
    ensure!(status.code() == Some(3), "{status}: {}", said(&daemon));
    daemon.stop()?;
    let execs = daemon.events(&["exec"])?;
    ensure!(
        execs.iter().any(|row| row.argv() == ["/bin/true", "late"]),
        "{execs:#?}"
    );
    Ok(())
}

/// The `agentwatch run` was there when the daemon was started again, and ended before it asked.
fn a_run_that_does_not_come_back() -> Result<()> {
    let tree = Tree::new("never")?;
    let mut daemon = Daemon::start(&format!("  - cgroup: {}/*\n", tree.cgroup()), "")?;
    let mut run =
        super::runs::run(&daemon, &["--name", "a"], &["sh", "-c", "sleep 60"])?.spawn()?;
    until("the agent", || daemon.agent("a").is_some())?;
    let state = daemon.place.path("history/daemon-state.json");
    until("it to be kept", || {
        fs::read_to_string(&state).is_ok_and(|kept| kept.contains("\"name\":\"a\""))
    })?;
    // `timeout` passes neither on.
    let runner = format!("/proc/{0}/task/{0}/children", run.id());
    let runner = fs::read_to_string(runner)?;
    let signal = |signal: &str| Command::new("kill").args([signal, runner.trim()]).status();
    signal("-STOP")?;
    daemon.kill()?;
    daemon.again()?;
    ensure!(daemon.agent("a").is_none(), "{:?}", daemon.agent("a"));
    ensure!(
        daemon.said().contains(" 1 are waited for"),
        "{}",
        daemon.said()
    );
    signal("-KILL")?;
    until("it to be watched", || daemon.is("a", "watched")).with_context(|| daemon.said())?;
    run.wait()?;
    let (ok, answer) = daemon.verb(&["kill", "a"])?;
    ensure!(ok, "{answer}");
    until("it to be gone", || daemon.agent("a").is_none())?;
    // Its name is free.
    let status = super::runs::run(&daemon, &["--name", "a"], &["true"])?.status()?;
    ensure!(status.success(), "{status}: {}", said(&daemon));
    Ok(())
}

/// It was frozen at the stop, until it is watched again: which it never is.
fn one_that_is_no_agent_any_more_goes_on() -> Result<()> {
    let tree = Tree::new("nomore")?;
    let place = Place::new()?;
    let policy = place.file(
        "freeze.yaml",
        "apiVersion: agentwatch/v1\nkind: Policy\non_stop: freeze\n",
    )?;
    let agents = format!("{}/in", tree.cgroup());
    let mut daemon = Daemon::start(
        &format!("  - cgroup: {agents}/*\n    policy: {policy}\n"),
        "",
    )?;
    let _agent = tree.start("in/a", "while :; do sleep .05; done")?;
    until("it to be watched", || daemon.is("a", "watched"))?;
    daemon.stop()?;
    let is = |wanted: &str| {
        let events = fs::read_to_string(tree.0.join("in/a/cgroup.events"));
        events.is_ok_and(|events| events.contains(wanted))
    };
    until("it to stand still", || is("frozen 1"))?;
    let config = fs::read_to_string(daemon.place.path("config.yaml"))?;
    let other = format!("{}/other", tree.cgroup());
    fs::write(
        daemon.place.path("config.yaml"),
        config.replace(&agents, &other),
    )?;
    daemon.again()?;
    until("it to go on", || is("frozen 0")).with_context(|| daemon.said())
}

fn agents_are_left_as_the_policy_says() -> Result<()> {
    let tree = Tree::new("stop")?;
    let place = Place::new()?;
    let mut agents = String::new();
    for how in ["leave", "freeze", "kill"] {
        let policy = place.file(
            &format!("{how}.yaml"),
            &format!("apiVersion: agentwatch/v1\nkind: Policy\non_stop: {how}\n"),
        )?;
        let cgroup = tree.cgroup();
        agents.push_str(
            &[
                "  - cgroup: ",
                &cgroup,
                "/",
                how,
                "\n    policy: ",
                &policy,
                "\n",
            ]
            .concat(),
        );
    }
    let mut daemon = Daemon::start(&agents, "")?;
    let mut all = Vec::new();
    for how in ["leave", "freeze", "kill"] {
        all.push(tree.start(how, "while :; do sleep .05; done")?);
        until("it to be watched", || daemon.is(how, "watched"))?;
    }
    daemon.stop()?;
    let events = |name: &str| fs::read_to_string(tree.0.join(name).join("cgroup.events"));
    until("one to stand still", || {
        events("freeze").is_ok_and(|events| events.contains("frozen 1"))
    })?;
    until("one to be over", || {
        events("kill").is_ok_and(|events| events.contains("populated 0"))
    })?;
    let left = events("leave")?;
    ensure!(
        left.contains("frozen 0") && left.contains("populated 1"),
        "{left}"
    );
    daemon.again()?;
    ensure!(
        daemon.is("freeze", "watched"),
        "{:?}",
        daemon.agent("freeze")
    );
    until("it to go on", || {
        events("freeze").is_ok_and(|events| events.contains("frozen 0"))
    })?;
    ensure!(daemon.is("kill", "killed"), "{:?}", daemon.agent("kill"));
    ensure!(
        daemon.said().contains("the daemon was stopped for"),
        "{}",
        daemon.said()
    );
    // A stop is no reason to be frozen once it is over.
    let agent = daemon.agent("freeze").context("no agent")?;
    ensure!(agent["state_reason"].is_null(), "{agent}");
    Ok(())
}
