//! The events are the same in meaning whichever tier of the kernel made them: one agent does the same once
//! for each, and its events are compared.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{Agent, POLICY, Test, agentwatch};

pub const TESTS: &[(&str, Test)] = &[("every_tier_tells_the_same", every_tier_tells_the_same)];

/// What every tier tells on every kernel: kind, paths, result. Printed where it is not what came.
const EXPECTED: &str = include_str!("tiers.txt");

/// From the lowest to the best.
const TIERS: [&str; 3] = ["tracepoint", "trampoline", "lsm"];

/// What tells of a process, a time, or an amount that is never twice the same.
const NOT_COMPARED: [&str; 17] = [
    "time",
    "run",
    "agent",
    "pid",
    "ppid",
    "start_ns",
    "cookie",
    "dev",
    "remote_port",
    "max_rss_pages",
    "user_ns",
    "system_ns",
    "open_ns",
    "target_agent",
    "target_pid",
    "target_start_ns",
    "value",
];

/// What only a tier can tell that knows the file itself: where a lower one has the caller's string only.
const KNOWN_BY_INODE: [&str; 5] = ["ino", "path_source", "size", "before", "inode"];

fn every_tier_tells_the_same() -> Result<()> {
    let mut told: Vec<(&str, Events)> = Vec::new();
    let lacking = lacking()?;
    for tier in TIERS {
        if let Some(reason) = lacking.get(tier) {
            eprintln!("skipped for the tier {tier}: {reason}");
            continue;
        }
        told.push((tier, act(tier)?));
    }
    for (tier, events) in &told {
        expected(tier, events)?;
    }
    for pair in told.windows(2) {
        compare(&pair[0], &pair[1])?;
    }
    Ok(())
}

/// The tiers that this kernel does not have, and why.
fn lacking() -> Result<HashMap<&'static str, String>> {
    let output = agentwatch(&["doctor", "-o", "json"]).output()?;
    let said = String::from_utf8(output.stdout)?;
    let checks: Vec<Value> = said
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| line.to_owned()))
        .collect::<Result<_>>()?;
    let mut lacking = HashMap::new();
    for (tier, what) in [("trampoline", "files"), ("lsm", "deny-exec")] {
        let check = checks.iter().find(|check| check["what"] == what);
        let check = check.with_context(|| format!("doctor says nothing of {what}: {said}"))?;
        if check["tier"] != tier || check["state"] != "ok" {
            lacking.insert(tier, check["detail"].to_string());
        }
    }
    Ok(lacking)
}

/// The events of a run, by kind, each in the order in which they happened.
type Events = BTreeMap<String, Vec<Value>>;

fn act(tier: &str) -> Result<Events> {
    let agent = Agent::new(&format!("tier-{tier}"))?;
    fs::write(
        agent.path(POLICY),
        "apiVersion: agentwatch/v1\nkind: Policy\nmode: observe\n",
    )?;
    let running = agent.start_with(&["--tier", tier], &["everything"])?;
    let outcome = agent.end(running)?;
    ensure!(outcome.status == 0, "{tier}: {}", outcome.said);
    let folder = agent.folder.path().display().to_string();
    let mut events: Events = BTreeMap::new();
    let mut names = HashMap::new();
    for mut event in agent.every_event()? {
        let kind = event["kind"].as_str().context("no kind")?.to_owned();
        // What was there before, and what came before the program.
        if matches!(&*kind, "seed" | "agent" | "tally" | "cgroup_move") {
            continue;
        }
        name_inode(&mut event, &mut names);
        if let Some(event) = event.as_object_mut()
            && kind == "exit"
        {
            // Told by the last thread, which may be a worker of the ring.
            event.remove("comm");
            event.remove("uid");
        }
        normalise(&mut event, &folder);
        events.entry(kind).or_default().push(event);
    }
    Ok(events)
}

/// An inode's number becomes the name by which it was made or opened for writing first: that, every tier
/// knows.
fn name_inode(event: &mut Value, names: &mut HashMap<String, String>) {
    if event.get("ino").is_none() {
        return;
    }
    let number = format!("{}:{}", event["dev"], event["ino"]);
    let path = event["path"].as_str().unwrap_or_default().to_owned();
    if event["kind"] == "open" || event["kind"] == "exec" {
        names.entry(number.clone()).or_insert(path);
    }
    let name = names.get(&number).map_or("another", String::as_str);
    event["ino"] = name.into();
}

/// Takes away what is never twice the same.
fn normalise(value: &mut Value, folder: &str) {
    match value {
        Value::Object(members) => {
            members.retain(|name, _| !NOT_COMPARED.contains(&name.as_str()));
            for member in members.values_mut() {
                normalise(member, folder);
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| normalise(value, folder)),
        Value::String(text) => {
            *text = text.replace(folder, "FOLDER");
            if text.starts_with("127.0.0.1:") {
                "127.0.0.1:PORT".clone_into(text);
            }
            // A worker of a ring has the number of its thread in its name.
            if text.starts_with("iou-wrk-") {
                "iou-wrk".clone_into(text);
            }
        }
        _ => {}
    }
}

/// Compares with what is expected on every kernel.
fn expected(tier: &str, events: &Events) -> Result<()> {
    let mut lines = String::new();
    let me = std::env::current_exe()?.display().to_string();
    for (kind, events) in events {
        // A kernel may be without some calls, and a program has the libraries of its machine.
        for event in events.iter().filter(|event| !is_optional(event)) {
            let text = |name: &str| match &event[name] {
                Value::Null => String::new(),
                Value::String(text) => format!(" {}", simple(text).replace(&me, "SELF")),
                other => format!(" {other}"),
            };
            let paths = text("path") + &text("path2") + &text("local") + &text("remote");
            lines.push_str(&[kind, &*paths, &text("result"), "\n"].concat());
        }
    }
    ensure!(
        lines == EXPECTED,
        "not what is expected of the tier {tier} (tests/smoke/tiers.txt):\n{lines}"
    );
    Ok(())
}

fn is_optional(event: &Value) -> bool {
    let kind = event["kind"].as_str().unwrap_or_default();
    matches!(
        kind,
        "io_uring_setup" | "module_load" | "module_unload" | "mmap_exec"
    ) || event["detail"]["io_uring"] == true
        || (kind == "chmod" && event["path"] == "FOLDER/work/target")
}

/// A path without the symbolic link that leads to the folder: who has the caller's string only, does not
/// know of it.
fn simple(path: &str) -> String {
    path.replace("/work/link/", "/work/folder/")
}

fn compare((lower, a): &(&str, Events), (better, b): &(&str, Events)) -> Result<()> {
    for kind in a.keys().chain(b.keys()) {
        let empty = Vec::new();
        let (of_a, of_b) = (a.get(kind).unwrap_or(&empty), b.get(kind).unwrap_or(&empty));
        ensure!(
            of_a.len() == of_b.len(),
            "{kind}: {} of {lower}, {} of {better}:\n{of_a:#?}\n{of_b:#?}",
            of_a.len(),
            of_b.len()
        );
        for (one, other) in of_a.iter().zip(of_b) {
            ensure!(
                is_same(one, other),
                "{kind} is not the same:\n{lower}: {one}\n{better}: {other}"
            );
        }
    }
    Ok(())
}

/// Whether both tell the same, or the better one more where it knows the file by its inode.
fn is_same(lower: &Value, better: &Value) -> bool {
    if lower == better {
        return true;
    }
    let (mut lower, mut better) = (lower.clone(), better.clone());
    let source = |event: &Value| event["detail"]["path_source"].clone();
    // What a symbolic link leads to is the caller's word in every tier; its own inode is not. The new name of a
    // hard link is the caller's where nothing tells of the folder.
    let kind = better["kind"].as_str().unwrap_or_default();
    let better_knows =
        source(&lower) == "caller" && (source(&better) == "kernel" || kind == "symlink");
    if !better_knows && kind != "link" {
        return false;
    }
    for event in [&mut lower, &mut better] {
        for name in ["path", "path2"] {
            if let Some(text) = event[name].as_str() {
                event[name] = simple(text).into();
            }
        }
        for members in [event.as_object_mut(), None].into_iter().flatten() {
            members.retain(|name, _| !KNOWN_BY_INODE.contains(&name.as_str()));
        }
        if let Some(detail) = event["detail"].as_object_mut() {
            detail.retain(|name, _| !KNOWN_BY_INODE.contains(&name.as_str()));
        }
    }
    lower == better
}
