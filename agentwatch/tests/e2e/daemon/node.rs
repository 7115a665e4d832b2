//! What runs the node, in a cgroup that the configuration names.

use std::fs;

use anyhow::{Context as _, Result, ensure};

use super::{Daemon, Tree};
use crate::{
    support::{Place, until},
    tests,
};

tests! {
    a_runtime_that_comes_later_is_no_agent;
    what_an_agent_calls_a_runtime_is_its_own;
    a_unit_whose_program_is_not_there_yet;
    a_cgroup_that_was_refused_is_looked_at_again;
}

/// A program of that name that sleeps.
fn program(place: &Place, name: &str) -> Result<String> {
    let path = place.path(name);
    fs::copy("/bin/sleep", &path)?;
    Ok(path.display().to_string())
}

/// `systemctl restart containerd`: the cgroup is empty when it is looked at, and then the runtime comes.
fn a_runtime_that_comes_later_is_no_agent() -> Result<()> {
    let tree = Tree::new("later")?;
    let daemon = Daemon::start(&format!("  - cgroup: {}/*\n", tree.cgroup()), "")?;
    fs::create_dir(tree.0.join("a"))?;
    until("it to be watched", || daemon.is("a", "watched"))?;
    let containerd = program(&daemon.place, "containerd")?;
    let _runtime = tree.start("a", &format!("exec {containerd} 60"))?;
    until("it to be no agent", || daemon.agent("a").is_none()).with_context(|| daemon.said())?;
    let refused = || {
        let said = daemon.said();
        said.matches("is not taken for an agent's cgroup: containerd")
            .count()
    };
    ensure!(refused() == 1, "{}", daemon.said());
    let health = daemon.get("/v1/health")?;
    ensure!(health["maps"]["TASKS"] == 0, "{health}");
    let (ok, said) = daemon.verb(&["kill", "a"])?;
    ensure!(!ok, "{said}");
    Ok(())
}

/// A process that an agent has started does not end its watching by its name.
fn what_an_agent_calls_a_runtime_is_its_own() -> Result<()> {
    let tree = Tree::new("own")?;
    let daemon = Daemon::start(&format!("  - cgroup: {}/*\n", tree.cgroup()), "")?;
    let containerd = program(&daemon.place, "containerd")?;
    // Also where the process that made it has ended.
    let _agent = tree.start(
        "a",
        &format!("({containerd} 60 &); {containerd} 61 & sleep 60"),
    )?;
    let running = || {
        let processes = daemon.get("/v1/agents/a/processes").unwrap_or_default();
        let all = processes.as_array().cloned().unwrap_or_default();
        all.iter()
            .filter(|process| process["exe"].as_str() == Some(&containerd))
            .count()
    };
    until("both of them", || running() == 2)
        .with_context(|| format!("{:?}", daemon.get("/v1/agents/a/processes")))?;
    let (ok, said) = daemon.verb(&["kill", "a"])?;
    ensure!(ok, "{said}");
    ensure!(daemon.is("a", "killed"), "{}", daemon.said());
    Ok(())
}

/// Before version 255 systemd forks into the unit's cgroup, and executes the program there.
fn a_unit_whose_program_is_not_there_yet() -> Result<()> {
    let tree = Tree::new("forked")?;
    let place = Place::new()?;
    let systemd = program(&place, "systemd")?;
    let _unit = tree.start("a.service", &format!("exec {systemd} 60"))?;
    let _manager = tree.start("init.scope", &format!("exec {systemd} 60"))?;
    let exe = |name: &str| {
        let pid = fs::read_to_string(tree.0.join(name).join("cgroup.procs")).ok()?;
        fs::read_link(format!("/proc/{}/exe", pid.trim())).ok()
    };
    until("both of them", || {
        ["a.service", "init.scope"]
            .into_iter()
            .all(|name| exe(name) == Some(place.path("systemd")))
    })?;
    let daemon = Daemon::start(&format!("  - cgroup: {}/*\n", tree.cgroup()), "")?;
    ensure!(daemon.is("a.service", "watched"), "{}", daemon.said());
    ensure!(daemon.agent("init.scope").is_none(), "{}", daemon.said());
    Ok(())
}

/// What was in it has gone.
fn a_cgroup_that_was_refused_is_looked_at_again() -> Result<()> {
    let tree = Tree::new("again")?;
    let place = Place::new()?;
    let containerd = program(&place, "containerd")?;
    let runtime = tree.start("a", &format!("exec {containerd} 60"))?;
    until("the runtime", || {
        fs::read_to_string(tree.0.join("a/cgroup.procs")).is_ok_and(|pids| {
            fs::read_link(format!("/proc/{}/exe", pids.trim()))
                .is_ok_and(|exe| exe == place.path("containerd"))
        })
    })?;
    let daemon = Daemon::start(&format!("  - cgroup: {}/*\n", tree.cgroup()), "")?;
    ensure!(daemon.agent("a").is_none(), "{}", daemon.said());
    drop(runtime);
    let _agent = tree.start("a", "exec sleep 60")?;
    until("it to be watched", || daemon.is("a", "watched")).with_context(|| daemon.said())
}
