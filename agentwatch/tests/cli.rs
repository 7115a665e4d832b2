//! The command line's texts: of every verb its help, and tables of a history that is always the same.
//!
//! What they were is in tests/snapshots; `INSTA_UPDATE=always cargo test --test cli` takes what they are.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::{fmt::Write as _, fs, path::Path, process::Command};

use agentwatch::{
    event::Tally,
    finding::{Action, Evidence, Finding, ProcessInfo, Response, Severity, Technique},
    store::{Store, row::Row},
};
use serde_json::json;

/// 2026-01-02T03:04:05Z, Unix nanoseconds.
const WALL: i64 = 1_767_323_045_000_000_000;

/// What a verb prints, and how it ends.
fn said(words: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_agentwatch"))
        .args(words)
        .env("TZ", "EST5")
        .env_remove("NO_COLOR")
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8(text).unwrap();
    assert!(
        !text.contains('\u{1b}'),
        "colours where there is no terminal: {text:?}"
    );
    format!("{}\n{text}", output.status)
}

/// The verbs that `--help` lists, but for `help` itself.
fn verbs(of: &[&str]) -> Vec<String> {
    let help = said(&[of, &["--help"]].concat());
    let (_, rest) = help.split_once("\nCommands:\n").unwrap_or_default();
    let lines = rest.lines().take_while(|line| !line.is_empty());
    lines
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|verb| *verb != "help")
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_verb_has_a_help() {
    let mut all = said(&["--help"]);
    for verb in verbs(&[]) {
        let own = said(&[&verb, "--help"]);
        // In its own help, or in that of each of its verbs.
        assert!(
            own.contains("Exit status:"),
            "{verb} does not say how it ends: {own}"
        );
        assert!(own.contains("Example"), "{verb} has no example: {own}");
        let _ = write!(all, "\n=== {verb}\n{own}");
        for second in verbs(&[&verb]) {
            let own = said(&[&verb, &second, "--help"]);
            let _ = write!(
                all,
                "
=== {verb} {second}
{own}"
            );
        }
    }
    assert!(verbs(&[]).len() > 15 && verbs(&["policy"]).len() == 2);
    insta::assert_snapshot!("help", all);
}

#[test]
fn shells_take_the_completions() {
    for shell in ["bash", "zsh", "fish"] {
        let text = said(&["completions", shell]);
        assert!(
            text.contains("quarantine") && text.contains("--since"),
            "{shell}"
        );
    }
    // Only bash is on every machine.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("agentwatch.bash");
    let text = said(&["completions", "bash"]);
    let (_, text) = text.split_once('\n').unwrap();
    fs::write(&file, text).unwrap();
    let script = format!(
        ". {} && COMP_WORDS=(agentwatch quar) COMP_CWORD=1 && _agentwatch agentwatch quar agentwatch && echo ${{COMPREPLY[@]}}",
        file.display()
    );
    let output = Command::new("bash").args(["-c", &script]).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "quarantine\n");
}

#[test]
fn manual_pages() {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("man");
    assert!(said(&["man", "--to", &to.display().to_string()]).starts_with("exit status: 0"));
    for verb in verbs(&[]) {
        let page = fs::read_to_string(to.join(format!("agentwatch-{verb}.1"))).unwrap();
        assert!(
            page.contains(".SH SYNOPSIS") && page.contains("Exit status"),
            "{verb}"
        );
    }
    assert!(to.join("agentwatch.1").exists());
}

/// A history in which a shell was started, opened a file, deleted it, made a connection and was found.
/// Its run's id differs each time.
fn history(dir: &Path) -> String {
    let command = ["sh".to_owned(), "agent.sh".to_owned()];
    let store = Store::open(dir, "rome", &command, 0).unwrap();
    let run = store.run.clone();
    let row = |ms: i64, kind: &str| Row {
        time_ns: WALL + ms * 1_000_000,
        run: run.clone(),
        agent: "rome".to_owned(),
        kind: kind.to_owned(),
        pid: 4711,
        start_ns: 7_000_000_000,
        ppid: 4700,
        uid: 1000,
        comm: "sh".to_owned(),
        exe: Some("/usr/bin/sh".to_owned()),
        ..Row::default()
    };
    let rows = [
        Row {
            path: Some("/usr/bin/sh".to_owned()),
            detail: Some(json!({"argv": ["sh", "agent.sh"]}).into()),
            ..row(0, "exec")
        },
        Row {
            path: Some("/project/a\\x1b[31m".to_owned()),
            detail: Some(json!({"created": true, "write": true}).into()),
            result: Some(3),
            ..row(12, "open")
        },
        Row {
            path: Some("/project/a\\x1b[31m".to_owned()),
            result: Some(-2),
            ..row(13, "unlink")
        },
        Row {
            protocol: Some("tcp".to_owned()),
            direction: Some("out".to_owned()),
            remote: Some("198.51.100.2:22".to_owned()),
            remote_port: Some(22),
            result: Some(0),
            ..row(500, "connect")
        },
        Row {
            result: Some(1),
            ..row(2000, "exit")
        },
    ];
    for row in rows {
        store.event(row);
    }
    store.finding(&finding());
    store.finish(Some(1), Some("f-9c2f1e0d5b7a6c31"), &Tally::default());
    run
}

fn finding() -> Finding {
    let process = |pid, exe: &str, member| ProcessInfo {
        pid,
        start_ns: 7_000_000_000,
        uid: 1000,
        exe: exe.to_owned(),
        argv: vec![exe.to_owned(), "agent.sh".to_owned()],
        member,
    };
    let time_ns = u64::try_from(WALL).unwrap() + 600_000_000;
    Finding {
        id: "f-9c2f1e0d5b7a6c31".to_owned(),
        time: "2026-01-02T03:04:05.600000000Z".to_owned(),
        time_ns,
        agent: "rome".to_owned(),
        detector: "reverse-tunnel",
        severity: Severity::Critical,
        techniques: vec![Technique {
            id: "T1572",
            name: "Protocol Tunneling",
        }],
        message: "it holds a connection and opens others on its peer's request".to_owned(),
        process: process(4711, "/usr/bin/sh", true),
        ancestry: vec![process(4700, "/usr/bin/bash", false)],
        evidence: vec![Evidence {
            time_ns: time_ns - 100_000_000,
            kind: "connect".to_owned(),
            pid: 4711,
            what: "connected to 198.51.100.2:22".to_owned(),
            path: None,
            remote: Some("198.51.100.2:22".to_owned()),
        }],
        response: Response {
            requested: Action::Kill,
            taken: Action::Kill,
            reason: None,
            ordered_us: Some(120),
            empty_us: Some(900),
            outside: Vec::new(),
        },
    }
}

#[test]
fn tables_and_objects() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().display().to_string();
    let run = history(folder.path());
    let mut all = String::new();
    for words in [
        "events",
        "events --utc",
        "events --utc --kind exec -o json",
        "events --utc --kind exec -o yaml",
        "events --since 2026-01-02T03:04:05.4Z -n 1",
        "events --kind dns",
        "findings",
        "findings --utc f-9c2f1e0d5b7a6c31",
        "findings -o yaml",
        "findings --incidents --utc",
        "findings --severity absurd",
        "tree",
        "tree -o yaml",
        "events --run none",
    ] {
        let words: Vec<&str> = words.split(' ').chain(["--data-dir", &dir]).collect();
        let text = said(&words).replace(&run, "RUN").replace(&dir, "DIR");
        let shown = words[..words.len() - 2].join(" ");
        let _ = write!(
            all,
            "$ agentwatch {shown}
{text}
"
        );
    }
    insta::assert_snapshot!("tables", all);
}

/// What a verb writes as a document is what it writes as a line.
#[test]
fn a_replay_as_yaml() {
    let file = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/recordings/ssh-reverse.awrec"
    );
    let as_form = |form: &str| {
        let text = said(&["replay", file, "-o", form]);
        let (status, text) = text.split_once('\n').unwrap();
        assert_eq!(status, "exit status: 3");
        text.to_owned()
    };
    let (json, yaml) = (as_form("json"), as_form("yaml"));
    assert!(json.contains("reverse-tunnel") && yaml.starts_with("---\n"));
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let yaml: serde_json::Value = serde_saphyr::from_str(&yaml).unwrap();
    assert_eq!(json, yaml);
}

#[test]
fn sql_and_export() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().display().to_string();
    history(folder.path());
    let ask = |words: &[&str]| said(&[words, &["--data-dir", &dir]].concat());
    let sql = "SELECT kind, pid, exe FROM events WHERE kind = 'exec' ORDER BY time_ns LIMIT 1";
    let text = ask(&["db", "query", sql]);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "exit status: 0");
    assert!(lines[1].starts_with("kind  pid"), "{text}");
    assert!(lines[2].starts_with("exec  "), "{text}");
    let text = ask(&["db", "query", "-o", "json", sql]);
    assert!(
        text.contains(r#"{"exe":"#) && text.contains(r#""kind":"exec""#),
        "{text}"
    );
    let text = ask(&["db", "query", "DELETE FROM events"]);
    assert!(text.starts_with("exit status: 125\n"), "{text}");
    assert!(ask(&["db", "query", "--agent", "a", sql]).starts_with("exit status: 125\n"));

    let file = folder.path().join("out.jsonl");
    for (format, of_event) in [("jsonl", "type"), ("ocsf", "class_uid")] {
        let out = file.display().to_string();
        let text = ask(&["export", "--format", format, "--out", &out]);
        assert_eq!(text, "exit status: 0\n");
        let text = fs::read_to_string(&file).unwrap();
        let lines: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let events = said(&["events", "-o", "json", "--data-dir", &dir])
            .lines()
            .count()
            - 1;
        let findings = said(&["findings", "-o", "json", "--data-dir", &dir])
            .lines()
            .count()
            - 1;
        assert_eq!(lines.len(), events + findings, "{format}");
        assert!(lines.iter().all(|line| !line[of_event].is_null()), "{text}");
        assert_eq!(
            ask(&["export", "--format", format]),
            format!("exit status: 0\n{text}")
        );
    }
    let text = ask(&["export", "--out", "/nonexistent/x"]);
    assert!(text.starts_with("exit status: 125\n"), "{text}");
}

#[test]
fn where_there_is_nothing() {
    let nowhere = ["--data-dir", "/nonexistent/history"];
    for words in [&["export"][..], &["db", "query", "SELECT 1"]] {
        let text = said(&[words, &nowhere].concat());
        assert!(text.starts_with("exit status: 1\n"), "{text}");
    }
    let text = said(&[&["events"][..], &nowhere].concat());
    assert!(
        text.starts_with("exit status: 1\n") && text.contains("no such folder"),
        "{text}"
    );
    for verb in ["agents", "health"] {
        let text = said(&[verb, "--socket", "/nonexistent/socket"]);
        assert!(
            text.starts_with("exit status: 125\n") && text.contains("no daemon listens"),
            "{text}"
        );
    }
    let text = said(&["events", "-f", "--socket", "/nonexistent/socket"]);
    assert!(
        text.starts_with("exit status: 125\n") && text.contains("cannot reach"),
        "{text}"
    );
}
