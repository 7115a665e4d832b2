//! What the API tells of one agent: its processes with what they do, and what it changed.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{Daemon, Tree, api::CLIENT};
use crate::{
    support::{Place, echo, port, until},
    tests,
};

tests! {
    processes_with_what_each_does needs "/usr/bin/python3";
    devices_are_no_changed_files;
    findings_of_one_script_are_one_incident needs "/usr/bin/python3";
}

fn processes_with_what_each_does() -> Result<()> {
    let tree = Tree::new("rates")?;
    let daemon = Daemon::start(&format!("  - cgroup: {}/*\n", tree.cgroup()), "")?;
    let port = port();
    let _server = echo(port)?;
    let (work, said) = (daemon.place.text("work"), daemon.place.text("said"));
    let client = daemon.place.file("client.py", CLIENT)?;
    // Two processes: one makes files and removes them, the other makes one short connection after the other.
    let _agent = tree.start(
        "a",
        &format!(
            "cd {work}; /usr/bin/python3 {client} {port} {said} & \
             exec sh -c 'while :; do : > f; unlink f; done'"
        ),
    )?;
    let processes = || daemon.get("/v1/agents/a/processes");
    let find = |all: &Value, word: &str| -> Option<Value> {
        let all = all.as_array()?;
        let exe = |process: &&Value| {
            process["exe"]
                .as_str()
                .is_some_and(|exe| exe.contains(word))
        };
        all.iter().find(exe).cloned()
    };
    let more = |value: &Value| value.as_f64().is_some_and(|n| n > 0.0);
    // The shell itself opens; `unlink` is a program of its own, of which there are many.
    until("the rates of the shell", || {
        processes().is_ok_and(|all| {
            all.as_array().is_some_and(|all| {
                all.iter().any(|process| {
                    more(&process["rates"]["opens"]) && more(&process["did"]["opens"])
                })
            })
        })
    })?;
    until("the bytes of connections that are over", || {
        processes().is_ok_and(|all| {
            find(&all, "python").is_some_and(|python| {
                more(&python["rates"]["bytes_out"]) && more(&python["rates"]["bytes_in"])
            })
        })
    })?;
    let python = find(&processes()?, "python").context("no python")?;
    ensure!(python["did"]["execs"] == 1, "{python}");
    let (sent, got) = (&python["did"]["bytes_out"], &python["did"]["bytes_in"]);
    let (sent, got) = (sent.as_u64().context("sent")?, got.as_u64().context("got")?);
    // A byte each way in each connection.
    ensure!(sent.abs_diff(got) <= 1, "{python}");
    Ok(())
}

fn devices_are_no_changed_files() -> Result<()> {
    let tree = Tree::new("devices")?;
    let daemon = Daemon::start(&format!("  - cgroup: {}/*\n", tree.cgroup()), "")?;
    let work = daemon.place.text("work");
    let _agent = tree.start(
        "a",
        &format!("cd {work}; echo x > /dev/null; echo x > real; exec sleep 60"),
    )?;
    until("the file that was written", || {
        daemon.get("/v1/agents/a/files").is_ok_and(|files| {
            let text = files.to_string();
            text.contains("/real")
        })
    })?;
    let files = daemon.get("/v1/agents/a/files")?.to_string();
    ensure!(!files.contains("/dev/"), "{files}");
    let opened = daemon.events(&["open"])?;
    let null = opened
        .iter()
        .any(|row| row.path.as_deref() == Some("/dev/null"));
    ensure!(null, "the open itself is an event");
    Ok(())
}

/// A script that deletes what is not the agent's, and then connects to where it must not.
fn findings_of_one_script_are_one_incident() -> Result<()> {
    let tree = Tree::new("incident")?;
    let files = Place::new()?;
    let (mail, port) = (files.tree("mail", 60)?, port());
    let policy = files.file(
        "policy.yaml",
        &format!(
            "apiVersion: agentwatch/v1\nkind: Policy\nmode: observe\nnetwork: {{deny: ['127.0.0.1:{port}']}}\n"
        ),
    )?;
    let daemon = Daemon::start(
        &format!("  - cgroup: {}/*\n    policy: {policy}\n", tree.cgroup()),
        "",
    )?;
    let connect = format!("import socket; socket.socket().connect_ex(('127.0.0.1', {port}))");
    // Not before the policy is in force.
    let go = files.path("go");
    let wait = format!("while [ ! -e {} ]; do sleep .02; done; ", go.display());
    let script = files.file(
        "script.sh",
        &format!(
            "{wait}rm -r {}\n/usr/bin/python3 -c \"{connect}\"\n:\n",
            mail.display()
        ),
    )?;
    // The other one does one of both, and has nothing to do with it.
    let both = tree.start("both", &format!("exec sh -c 'sh {script}; sleep 60'"))?;
    let other = tree.start(
        "other",
        &format!("{wait}/usr/bin/python3 -c \"{connect}\"; sleep 60"),
    )?;
    until("both to be watched", || {
        daemon.is("both", "watched") && daemon.is("other", "watched")
    })?;
    fs::write(&go, "")?;
    let incidents = |path: &str| -> Vec<Value> {
        let all = daemon.get(path).unwrap_or_default();
        all.as_array().cloned().unwrap_or_default()
    };
    until("both findings as one", || {
        let all = incidents("/v1/agents/both/incidents");
        all.len() == 1 && all[0]["findings"].as_array().map(Vec::len) == Some(2)
    })?;
    let one = incidents("/v1/agents/both/incidents").remove(0);
    let detectors = serde_json::json!(["mass-deletion", "policy-violation"]);
    ensure!(one["detectors"] == detectors, "{one}");
    ensure!(one["linked_by"][0]["by"] == "process", "{one}");
    let story = one["story"].as_array().context("no story")?;
    let times: Vec<&str> = story
        .iter()
        .filter_map(|step| step["time"].as_str())
        .collect();
    ensure!(times.is_sorted() && times.len() == story.len(), "{times:?}");
    let findings = story
        .iter()
        .filter(|step| step["kind"] == "finding")
        .count();
    ensure!(findings == 2, "{one}");
    until("those of all agents", || {
        incidents("/v1/incidents").len() == 2
    })?;
    ensure!(incidents("/v1/incidents?agent=other").len() == 1, "by name");
    // The same by the verb, from the history.
    let id = one["id"].as_str().context("no id")?;
    let data = daemon.place.text("history");
    let (ok, said) = daemon.verb(&[
        "findings",
        "--incidents",
        id,
        "--data-dir",
        &data,
        "-o",
        "json",
    ])?;
    let told: Value = serde_json::from_str(&said)?;
    ensure!(ok && told == one, "{said} is not {one}");
    drop((both, other));
    Ok(())
}
