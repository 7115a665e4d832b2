//! `agentwatch tree`.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt::Write as _,
    process::ExitCode,
    time::Duration,
};

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::history::{self, Selection};
use crate::store::{query::Filter, row::Row};

/// Show who started whom in a run.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentwatch tree
  agentwatch tree --run 20261121T090000-4711 -o json

The latest run, unless --run or --agent says another. A process with a finding is marked with !.

Exit status: 0; 1 where there is no history; 125 where there is no such run.")]
pub struct TreeArgs {
    #[command(flatten)]
    selection: Selection,
}

/// A process: its id and start.
type Key = (u32, u64);

/// A process of a run.
#[derive(Debug, Default, Serialize)]
struct Node {
    pid: u32,
    start_ns: u64,
    ppid: u32,
    uid: u32,
    comm: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    exe: Option<String>,
    argv: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_status: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signal: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lived_ns: Option<i64>,
    finding: bool,
    #[serde(skip)]
    since: i64,
}

/// Runs `agentwatch tree`.
pub fn run(args: &TreeArgs) -> Result<ExitCode> {
    let selection = &args.selection;
    let Some(mut history) = selection.open()? else {
        return Ok(ExitCode::FAILURE);
    };
    let run = history.run(selection.run(), selection.agent())?;
    let kinds = ["seed", "fork", "exec", "exit", "cgroup_move"]
        .map(str::to_owned)
        .to_vec();
    let filter = Filter {
        run: Some(run.run.clone()),
        kinds,
        ..Filter::default()
    };
    // A process by its id and start; a parent is the process with its id that was there last.
    let mut nodes: BTreeMap<Key, Node> = BTreeMap::new();
    let mut order: Vec<Key> = Vec::new();
    let mut last: HashMap<u32, Key> = HashMap::new();
    let mut parents: HashMap<Key, Key> = HashMap::new();
    history.events(&filter, |row| {
        if row.kind == "seed" && !row.is("member") {
            return Ok(());
        }
        let key: Key = (row.pid, row.start_ns);
        if !nodes.contains_key(&key) {
            order.push(key);
            if let Some(parent) = last.get(&row.ppid) {
                parents.insert(key, *parent);
            }
            last.insert(row.pid, key);
        }
        let node = nodes.entry(key).or_insert_with(|| Node {
            pid: row.pid,
            start_ns: row.start_ns,
            ppid: row.ppid,
            since: row.time_ns,
            ..Node::default()
        });
        take_in(node, &row);
        Ok(())
    })?;
    for stored in history.findings(&Filter {
        run: Some(run.run.clone()),
        ..Filter::default()
    })? {
        let process = &stored.finding["process"];
        let key = (process["pid"].as_u64(), process["start_ns"].as_u64());
        if let (Some(pid), Some(start_ns)) = key
            && let Some(node) = u32::try_from(pid)
                .ok()
                .and_then(|pid| nodes.get_mut(&(pid, start_ns)))
        {
            node.finding = true;
        }
    }
    history::warn(&mut history);
    if let Some(form) = selection.output.form() {
        for node in order.iter().filter_map(|key| nodes.get(key)) {
            super::print(&form.text(node)?)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let drawn = draw(&order, &nodes, &parents);
    super::print(&format!("{} (run {})\n{drawn}", run.agent, run.run))?;
    Ok(ExitCode::SUCCESS)
}

fn take_in(node: &mut Node, row: &Row) {
    node.uid = row.uid;
    if !row.comm.is_empty() && row.kind != "fork" && row.kind != "cgroup_move" {
        node.comm.clone_from(&row.comm);
    }
    match row.kind.as_str() {
        "exec" | "seed" => {
            node.exe.clone_from(&row.path);
            node.argv = row.argv().into_iter().map(str::to_owned).collect();
        }
        "exit" => {
            node.exit_status = row.result;
            node.signal = row.number("signal");
            node.lived_ns = Some(row.time_ns - node.since);
        }
        _ => {}
    }
}

/// The deepest level that is indented. What is below is drawn there too: nobody hides by forking.
const DEPTH: usize = 64;

fn draw(order: &[Key], nodes: &BTreeMap<Key, Node>, parents: &HashMap<Key, Key>) -> String {
    let mut children: HashMap<Option<Key>, Vec<Key>> = HashMap::new();
    for key in order {
        children
            .entry(parents.get(key).copied())
            .or_default()
            .push(*key);
    }
    let mut out = String::new();
    let mut drawn = HashSet::new();
    // Depth first: what is to be drawn, with the lines before it.
    let mut todo: Vec<(Key, String, bool)> = Vec::new();
    push(&mut todo, children.get(&None), "");
    while let Some((key, prefix, is_last)) = todo.pop() {
        let Some(node) = nodes.get(&key) else {
            continue;
        };
        if !drawn.insert(key) {
            continue;
        }
        let _ = writeln!(
            out,
            "{prefix}{} {}",
            if is_last { "└─" } else { "├─" },
            label(node)
        );
        let deeper = if prefix.chars().count() < DEPTH * 3 {
            format!("{prefix}{} ", if is_last { "  " } else { "│ " })
        } else {
            prefix
        };
        push(&mut todo, children.get(&Some(key)), &deeper);
    }
    out
}

fn push(todo: &mut Vec<(Key, String, bool)>, keys: Option<&Vec<Key>>, prefix: &str) {
    for (n, key) in keys.into_iter().flatten().rev().enumerate() {
        todo.push((*key, prefix.to_owned(), n == 0));
    }
}

fn label(node: &Node) -> String {
    let mut command = if node.argv.is_empty() {
        node.comm.clone()
    } else {
        node.argv.join(" ")
    };
    if command.chars().count() > 80 {
        command = command.chars().take(79).collect::<String>() + "…";
    }
    let end = match (node.signal, node.exit_status) {
        (Some(signal), _) => format!("  signal {signal}"),
        (None, Some(0)) => String::new(),
        (None, Some(status)) => format!("  exit {status}"),
        (None, None) => "  …".to_owned(),
    };
    let lived = node
        .lived_ns
        .and_then(|ns| u64::try_from(ns).ok())
        .map(|ns| format!("  {:.1?}", Duration::from_nanos(ns)))
        .unwrap_or_default();
    format!(
        "{}{} {command}{end}{lived}",
        if node.finding { "! " } else { "" },
        node.pid
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(of: Vec<Node>) -> (Vec<Key>, BTreeMap<Key, Node>) {
        let order = of.iter().map(|node| (node.pid, node.start_ns)).collect();
        let nodes = of
            .into_iter()
            .map(|node| ((node.pid, node.start_ns), node))
            .collect();
        (order, nodes)
    }

    fn node(pid: u32, command: &str) -> Node {
        Node {
            pid,
            argv: command.split(' ').map(str::to_owned).collect(),
            exit_status: Some(0),
            lived_ns: Some(1_500_000_000),
            ..Node::default()
        }
    }

    #[test]
    fn a_tree() {
        let (order, nodes) = nodes(vec![
            node(1, "sh -c make"),
            Node {
                exit_status: Some(2),
                ..node(2, "make")
            },
            Node {
                signal: Some(9),
                finding: true,
                lived_ns: Some(12_340_000),
                ..node(3, "ssh -R 1:h:2 x")
            },
            Node {
                exit_status: None,
                lived_ns: None,
                ..node(4, "sleep 9")
            },
        ]);
        let parents = HashMap::from([((2, 0), (1, 0)), ((3, 0), (2, 0)), ((4, 0), (1, 0))]);
        let expected = "\
└─ 1 sh -c make  1.5s
   ├─ 2 make  exit 2  1.5s
   │  └─ ! 3 ssh -R 1:h:2 x  signal 9  12.3ms
   └─ 4 sleep 9  …
";
        assert_eq!(draw(&order, &nodes, &parents), expected);
    }

    #[test]
    fn nothing_hides_by_depth() {
        let (order, nodes) = nodes((1..=500).map(|pid| node(pid, "sh")).collect());
        let parents = (2..=500).map(|pid| ((pid, 0), (pid - 1, 0))).collect();
        let drawn = draw(&order, &nodes, &parents);
        assert_eq!(drawn.lines().count(), 500);
        let longest = drawn.lines().map(|line| line.chars().count()).max();
        assert!(longest.is_some_and(|n| n < 250), "{longest:?}");
    }
}
