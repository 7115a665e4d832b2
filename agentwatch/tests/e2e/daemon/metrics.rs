//! What Prometheus reads.

use std::{
    fs,
    io::Write as _,
    process::{Command, Stdio},
};

use agentwatch::probe::tiers;
use anyhow::{Context as _, Result, ensure};

use super::{Daemon, Tree, deletes};
use crate::{support::until, tests};

tests! {
    metrics_of_two_agents needs "promtool";
}

/// The value of a series.
fn value(page: &str, series: &str) -> Option<f64> {
    let rest = page.lines().find_map(|line| line.strip_prefix(series))?;
    rest.strip_prefix(' ')?.parse().ok()
}

fn metrics_of_two_agents() -> Result<()> {
    let tree = Tree::new("metrics")?;
    let daemon = Daemon::start(&format!("  - cgroup: {}/*\n", tree.cgroup()), "")?;
    let files = daemon.place.tree("files", 400)?;
    let _good = tree.start("good", "/bin/true; /bin/true; exec sleep 60")?;
    let (script, go) = deletes(&daemon.place, &files);
    let bad = tree.start("bad", &script)?;
    until("both", || {
        daemon.is("good", "watched") && daemon.is("bad", "watched")
    })?;
    fs::write(go, "")?;
    until("the bad one to be killed", || daemon.is("bad", "killed"))
        .with_context(|| daemon.said())?;
    let page = || daemon.ask("GET", "/metrics", "").map(|(_, page)| page);
    let all = [
        (
            "agentwatch_agent_events_total{agent=\"good\",kind=\"exec\"}",
            3.0,
        ),
        (
            "agentwatch_agent_state{agent=\"good\",state=\"watched\"}",
            1.0,
        ),
        (
            "agentwatch_agent_state{agent=\"bad\",state=\"killed\"}",
            1.0,
        ),
        (
            "agentwatch_agent_findings_total{agent=\"bad\",severity=\"critical\"}",
            1.0,
        ),
        (
            "agentwatch_findings_total{detector=\"mass-deletion\",severity=\"critical\"}",
            1.0,
        ),
        (
            "agentwatch_findings_total{detector=\"reverse-tunnel\",severity=\"critical\"}",
            0.0,
        ),
        (
            "agentwatch_actions_total{action=\"kill\",origin=\"policy\",result=\"done\"}",
            1.0,
        ),
        (
            "agentwatch_records_lost_total{reason=\"bulk ring full\"}",
            0.0,
        ),
        ("agentwatch_finding_latency_seconds_count", 1.0),
        ("agentwatch_agents{state=\"killed\"}", 1.0),
        ("agentwatch_map_entries{map=\"CGROUPS\"}", 2.0),
        ("agentwatch_history_up", 1.0),
        (
            "agentwatch_capability_up{capability=\"flows\",required=\"true\"}",
            1.0,
        ),
        (
            "agentwatch_capability_up{capability=\"deny-network\",required=\"false\"}",
            1.0,
        ),
        (
            "agentwatch_agent_events_not_stored_total{agent=\"good\"}",
            0.0,
        ),
    ];
    until("all of it", || {
        page().is_ok_and(|page| {
            all.iter()
                .all(|(series, n)| value(&page, series) == Some(*n))
        })
    })
    .with_context(|| {
        let page = page().unwrap_or_default();
        let wrong = all
            .iter()
            .filter(|(series, n)| value(&page, series) != Some(*n));
        format!("{:?} are not so in\n{page}", wrong.collect::<Vec<_>>())
    })?;
    let text = page()?;
    check(&text)?;
    // What a policy may ask to be refused is there with what it rests on, and why not where it is not.
    for need in tiers::NEEDS {
        let name = tiers::name(need);
        let info = format!("agentwatch_capability_info{{capability=\"{name}\",tier=\"");
        let line = text.lines().find(|line| line.starts_with(&info));
        let line = line.with_context(|| format!("{name} is not in\n{text}"))?;
        let up = format!("agentwatch_capability_up{{capability=\"{name}\",required=\"false\"}}");
        let is_up = value(&text, &up) == Some(1.0);
        ensure!(is_up == line.contains("reason=\"\""), "{line}");
    }
    ensure!(
        value(&text, "agentwatch_map_limit_entries{map=\"CGROUPS\"}") > Some(1000.0),
        "{text}"
    );
    ensure!(
        text.contains(
            "agentwatch_capability_info{capability=\"flows\",tier=\"cgroup\",reason=\"\"} 1"
        ),
        "{text}"
    );
    // An agent that has ended has no series any more; the host has what it did.
    drop(bad);
    tree.remove("bad")?;
    until("it to be gone", || daemon.agent("bad").is_none())?;
    until("its series to be gone", || {
        page().is_ok_and(|page| !page.contains("\"bad\""))
    })?;
    let text = page()?;
    let found = "agentwatch_findings_total{detector=\"mass-deletion\",severity=\"critical\"}";
    ensure!(value(&text, found) == Some(1.0), "{text}");
    ensure!(
        value(&text, "agentwatch_events_total{kind=\"unlink\"}") > Some(1.0),
        "{text}"
    );
    check(&text)
}

/// Has Prometheus' own tool look at a page.
fn check(page: &str) -> Result<()> {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut input = promtool.stdin.take().context("no input")?;
    input.write_all(page.as_bytes())?;
    drop(input);
    let output = promtool.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success() && said.is_empty(), "{said}\n{page}");
    Ok(())
}
