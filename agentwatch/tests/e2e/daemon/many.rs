//! More cgroups than the kernel can be told to look below.

use std::fs;

use anyhow::{Context as _, Result, ensure};

use super::{Daemon, Tree};
use crate::{support::until, tests};

tests! {
    discovery_goes_on;
    what_is_below_an_agent_takes_no_room;
}

/// Entries of the kernel's map.
const PARENTS: usize = 16384;

fn discovery_goes_on() -> Result<()> {
    let tree = Tree::new("full")?;
    fs::create_dir(tree.0.join("user"))?;
    let mut daemon = Daemon::start(&format!("  - cgroup: {}/**/x\n", tree.cgroup()), "")?;
    for n in 0..PARENTS + 10 {
        fs::create_dir(tree.0.join(format!("user/{n}")))?;
    }
    // Below one that the kernel does not look below.
    let _agent = tree.start("late/x", "exec sleep 60")?;
    let parents = || daemon.get("/v1/health").unwrap_or_default()["maps"]["PARENTS"].take();
    ensure!(parents() == PARENTS, "{}", parents());
    until("the agent", || daemon.is("x", "watched"))
        .with_context(|| format!("{} {:?}", daemon.said(), daemon.get("/v1/health")))?;
    daemon.stop()?;
    daemon.again()?;
    ensure!(daemon.is("x", "watched"), "{}", daemon.said());
    ensure!(
        daemon.said().contains("does not tell of all new cgroups"),
        "{}",
        daemon.said()
    );
    Ok(())
}

fn what_is_below_an_agent_takes_no_room() -> Result<()> {
    let tree = Tree::new("below")?;
    let daemon = Daemon::start(&format!("  - cgroup: {}/**\n", tree.cgroup()), "")?;
    fs::create_dir(tree.0.join("a"))?;
    until("the agent", || daemon.is("a", "watched"))?;
    for n in 0..50 {
        fs::create_dir_all(tree.0.join(format!("a/{n}/deeper")))?;
    }
    let maps = daemon.get("/v1/health")?["maps"].take();
    ensure!(maps["PARENTS"] == 1 && maps["CGROUPS"] == 101, "{maps}");
    Ok(())
}
