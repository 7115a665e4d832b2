//! What the API tells of one agent: its processes with what they do, and what it changed.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{Daemon, Tree, api::CLIENT};
use crate::{
    support::{echo, port, until},
    tests,
};

tests! {
    processes_with_what_each_does needs "/usr/bin/python3";
    devices_are_no_changed_files;
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
