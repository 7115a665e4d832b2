//! The kill, where a cgroup is made so that the kernel's own lists and switches do not reach it.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use agentwatch::{
    probe::{seed, support},
    respond::cgroup::AgentCgroup,
};
use anyhow::{Context as _, Result, bail, ensure};

use super::{Agent, Guarded, PATIENCE, POLICY, Test, make_files, myself, remove_cgroup};

pub const TESTS: &[(&str, Test)] = &[
    (
        "a_threaded_cgroup_saves_no_agent",
        a_threaded_cgroup_saves_no_agent,
    ),
    ("a_hostage_saves_no_agent", a_hostage_saves_no_agent),
    (
        "hostages_are_freed_where_nothing_is_killed",
        hostages_are_freed_where_nothing_is_killed,
    ),
    (
        "a_chain_of_forks_in_a_threaded_cgroup_is_killed",
        a_chain_of_forks_in_a_threaded_cgroup_is_killed,
    ),
];

/// How many processes a chain may have, should nothing end it.
const LINKS: u32 = 3000;

/// What an agent does in these tests.
pub fn act(words: &[&str]) -> Result<()> {
    match *words {
        ["hide-and-remove", folder] => hide_and_remove(Path::new(folder)),
        ["take-and-remove", folder] => take_and_remove(Path::new(folder)),
        ["take"] => take(std::os::unix::process::parent_id()),
        ["take", agentwatch] => take(agentwatch.parse()?),
        ["chain-in", cgroup] => chain_in(Path::new(cgroup)),
        ["chain", left] => chain(left.parse()?),
        _ => bail!("what is {words:?}?"),
    }
}

/// Enters a threaded cgroup below its own, then deletes.
fn hide_and_remove(folder: &Path) -> Result<()> {
    enter_threaded(&own_cgroup()?.join("hidden"))?;
    remove_all(folder)
}

/// Moves agentwatch, and what started it, into its own cgroup.
fn take(agentwatch: u32) -> Result<()> {
    let above = seed::parent(agentwatch).context("nobody started agentwatch")?;
    for hostage in [agentwatch, above] {
        fs::write(own_cgroup()?.join("cgroup.procs"), hostage.to_string())?;
    }
    Ok(())
}

/// Three processes take hostages, and one of them deletes.
fn take_and_remove(folder: &Path) -> Result<()> {
    let agentwatch = std::os::unix::process::parent_id().to_string();
    let command = myself(&["kill", "take", &agentwatch])?;
    for _ in 0..2 {
        Command::new(&command[0]).args(&command[1..]).spawn()?;
    }
    fs::write(own_cgroup()?.join("cgroup.procs"), agentwatch)?;
    remove_all(folder)
}

fn own_cgroup() -> Result<PathBuf> {
    let cgroups = fs::read_to_string("/proc/self/cgroup")?;
    let own = cgroups
        .lines()
        .find_map(|line| line.strip_prefix("0::/"))
        .context("in no cgroup v2")?;
    Ok(support::cgroup2()?.join(own))
}

fn remove_all(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        fs::remove_file(entry?.path())?;
    }
    Ok(())
}

/// Starts the next of the chain and ends.
fn chain(left: u32) -> Result<()> {
    if left > 0 {
        let next = (left - 1).to_string();
        let command = myself(&["kill", "chain", &next])?;
        Command::new(&command[0]).args(&command[1..]).spawn()?;
    }
    Ok(())
}

/// Enters a cgroup, then a threaded one below it, and begins a chain.
fn chain_in(cgroup: &Path) -> Result<()> {
    fs::write(cgroup.join("cgroup.procs"), "0")?;
    enter_threaded(&cgroup.join("threaded"))?;
    chain(LINKS)
}

/// This program has one thread when it does so.
fn enter_threaded(path: &Path) -> Result<()> {
    fs::create_dir_all(path)?;
    fs::write(path.join("cgroup.type"), "threaded").context("making it threaded")?;
    fs::write(path.join("cgroup.threads"), "0").context("entering it")
}

fn a_threaded_cgroup_saves_no_agent() -> Result<()> {
    let agent = Agent::new("threaded")?;
    let folder = agent.path("precious");
    make_files(&folder)?;
    let outcome = agent.run(&["kill", "hide-and-remove", &folder.display().to_string()])?;
    outcome.killed(&agent, "mass-deletion")?;
    Ok(())
}

fn a_hostage_saves_no_agent() -> Result<()> {
    let home = own_cgroup()?;
    let agent = Agent::new("hostage")?;
    let folder = agent.path("precious");
    make_files(&folder)?;
    let before = fs::read_dir(&folder)?.count();
    let outcome = agent.run(&["kill", "take-and-remove", &folder.display().to_string()])?;
    // As many as were quick enough to take one.
    ensure!(
        outcome.status == 137 && !outcome.findings.is_empty(),
        "{}",
        outcome.said
    );
    for finding in &outcome.findings {
        ensure!(finding["detector"] == "monitor-tampering", "{finding}");
        ensure!(finding["response"]["taken"] == "kill", "{finding}");
    }
    let left = fs::read_dir(&folder)?.count();
    ensure!(left == before, "{left} of {before} are left");
    ensure!(own_cgroup()? == home, "this test was not moved back");
    Ok(())
}

fn hostages_are_freed_where_nothing_is_killed() -> Result<()> {
    let home = own_cgroup()?;
    let agent = Agent::new("freed")?;
    fs::write(
        agent.path(POLICY),
        "apiVersion: agentwatch/v1\nkind: Policy\nmode: observe\n",
    )?;
    let outcome = agent.run(&["kill", "take"])?;
    ensure!(outcome.status == 0, "{}", outcome.said);
    let finding = outcome
        .findings
        .iter()
        .find(|finding| finding["detector"] == "monitor-tampering")
        .with_context(|| outcome.said.clone())?;
    ensure!(finding["severity"] == "critical", "{finding}");
    ensure!(own_cgroup()? == home, "this test was not moved back");
    Ok(())
}

/// No kernel has `cgroup.kill` for a threaded cgroup: each is killed by itself.
fn a_chain_of_forks_in_a_threaded_cgroup_is_killed() -> Result<()> {
    let parent = Parent::new()?;
    let command = myself(&["kill", "chain-in", &parent.0.display().to_string()])?;
    let mut first = Guarded(
        Command::new(&command[0])
            .args(&command[1..])
            .stdin(Stdio::null())
            .spawn()?,
    );
    let threaded = parent.0.join("threaded");
    let mut seen = BTreeSet::new();
    let end = Instant::now() + PATIENCE;
    while seen.len() < 4 {
        ensure!(Instant::now() < end, "no chain begins: {seen:?}");
        seen.extend(threads(&threaded)?);
        thread::sleep(Duration::from_millis(1));
    }
    ensure!(first.wait()? == 0, "the first of the chain failed");

    let cgroup = AgentCgroup::adopt(threaded.clone())?;
    cgroup.kill()?;
    ensure!(cgroup.wait_empty(PATIENCE), "{:?}", cgroup.processes()?);
    ensure!(
        seen.len() < LINKS as usize && threads(&threaded)?.is_empty(),
        "not ended by the kill"
    );
    Ok(())
}

/// The threads in a cgroup, none where there is no such cgroup yet.
fn threads(cgroup: &Path) -> Result<Vec<u32>> {
    match fs::read_to_string(cgroup.join("cgroup.threads")) {
        Ok(list) => Ok(list.lines().filter_map(|line| line.parse().ok()).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).context("reading cgroup.threads"),
    }
}

/// A cgroup for one below it, both ended and removed when dropped.
struct Parent(PathBuf);

impl Parent {
    fn new() -> Result<Self> {
        let path = support::cgroup2()?.join(format!("smoke-chain-{}", std::process::id()));
        fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Parent {
    fn drop(&mut self) {
        let _ = fs::write(self.0.join("cgroup.kill"), "1");
        remove_cgroup(&self.0.join("threaded"));
        remove_cgroup(&self.0);
    }
}
