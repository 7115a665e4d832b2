//! The account as a page for people.

use std::{collections::BTreeMap, fmt::Write as _};

use super::{Account, Ended, Files, Found, Kept, Peer};

/// How many lines each part has at most; what is more is counted.
const LINES: usize = 8;
/// How wide a line is, without its label.
const WIDTH: usize = 88;
/// How wide a peer is, at least and at most: beside it there is room for the numbers.
const PEER: (usize, usize) = (36, 53);
/// How wide a label is.
const LABEL: usize = 11;

/// A page of labelled lines.
struct Page {
    text: String,
    colour: bool,
}

impl Page {
    fn line(&mut self, label: &str, what: &str) {
        let (on, off) = if self.colour && !label.is_empty() {
            ("\x1b[1m", "\x1b[0m")
        } else {
            ("", "")
        };
        let _ = writeln!(self.text, "  {on}{label:LABEL$}{off}{}", cut(what));
    }

    /// Several lines under one label, at most [`LINES`].
    fn lines(&mut self, label: &str, lines: Vec<String>, none: &str) {
        if lines.is_empty() {
            return self.line(label, none);
        }
        let more = lines.len().saturating_sub(LINES);
        for (n, line) in lines.into_iter().take(LINES).enumerate() {
            self.line(if n == 0 { label } else { "" }, &line);
        }
        if more > 0 {
            self.line("", &format!("… and {more} more"));
        }
    }
}

/// Renders an account.
pub fn render(account: &Account, colour: bool) -> String {
    let mut page = Page {
        text: String::new(),
        colour,
    };
    let title = format!("── agentwatch: the account of {} ", account.agent);
    let _ = writeln!(page.text, "{title:─<100}");
    if !account.command.is_empty() {
        page.line("command", &account.command.join(" "));
    }
    page.line("ended", &ended(account));
    page.line("processes", &processes(account));
    // The most bytes first: what counts is not to be below the lines that are shown.
    let mut peers: Vec<(&String, &Peer)> = account.peers.iter().collect();
    peers.sort_by_key(|(_, peer)| std::cmp::Reverse(peer.bytes_in.saturating_add(peer.bytes_out)));
    let peers: Vec<(String, &Peer)> = peers
        .into_iter()
        .map(|(key, peer)| (named(key, peer), peer))
        .collect();
    let longest = peers.iter().map(|(name, _)| name.chars().count()).max();
    let width = longest.unwrap_or(0).clamp(PEER.0, PEER.1);
    let mut lines: Vec<String> = peers
        .iter()
        .map(|(name, peer)| network(name, width, peer))
        .collect();
    if lines.len() > LINES {
        lines.insert(0, network("all together", width, &account.traffic));
    }
    page.lines("network", lines, "nothing sent or received");
    if !account.listening.is_empty() {
        page.lines("listened", account.listening.iter().cloned().collect(), "");
    }
    page.line("files", &files(&account.files));
    if !account.files.folders.is_empty() {
        let folders = most(&account.files.folders);
        page.lines(
            "",
            folders
                .into_iter()
                .map(|(folder, n)| format!("{n:6} below {folder}"))
                .collect(),
            "",
        );
    }
    if !account.sensitive_reads.is_empty() {
        page.lines(
            "secrets",
            account
                .sensitive_reads
                .iter()
                .map(|path| format!("read {path}"))
                .collect(),
            "",
        );
    }
    findings(&mut page, account);
    page.line("loss", &loss(account));
    if let Some(kept) = &account.history {
        page.line("history", &history(kept, account.run.as_deref()));
    }
    page.text
}

fn ended(account: &Account) -> String {
    let Ended {
        exit_status,
        killed_by,
        open,
    } = &account.ended;
    let begun = account.started.as_deref().unwrap_or("?");
    let after = format!(", after {}, begun {begun}", duration(account.duration_ns));
    let left = match account.left_running {
        0 => String::new(),
        1 => "; 1 process that it left running was ended".to_owned(),
        n => format!("; {n} processes that it left running were ended"),
    };
    let how = match (killed_by, exit_status) {
        (Some(id), _) => {
            let why = account.findings.iter().find(|found| found.id == *id);
            format!(
                "killed by agentwatch: {}",
                why.map_or(id.as_str(), |found| found.detector.as_str())
            )
        }
        (None, Some(status)) if *status > 128 => format!("by signal {}", status - 128),
        (None, Some(status)) => format!("with exit status {status}"),
        (None, None) if *open => "not yet, or agentwatch was killed".to_owned(),
        (None, None) => "the watching, not the agent".to_owned(),
    };
    format!("{how}{after}{left}")
}

fn processes(account: &Account) -> String {
    let started = account.execs;
    let mut out = format!(
        "{}; {}",
        plural(account.processes, "process", "processes"),
        plural(started, "program started", "programs started")
    );
    let names: Vec<String> = most(&account.programs)
        .into_iter()
        .take(6)
        .map(|(path, n)| {
            let name = path.rsplit('/').next().unwrap_or(path);
            if n > 1 {
                format!("{n} × {name}")
            } else {
                name.to_owned()
            }
        })
        .collect();
    if !names.is_empty() {
        let _ = write!(out, ": {}", names.join(", "));
    }
    if account.programs.len() > 6 {
        out.push_str(", …");
    }
    out
}

/// A peer's address with its names, shortened at the end to what a line has room for.
fn named(key: &str, peer: &Peer) -> String {
    let names: Vec<&str> = peer.names.iter().map(String::as_str).collect();
    let name = if names.is_empty() {
        key.to_owned()
    } else {
        format!("{key} {}", names.join(", "))
    };
    if name.chars().count() <= PEER.1 {
        return name;
    }
    name.chars().take(PEER.1 - 1).chain(['…']).collect()
}

fn network(name: &str, width: usize, peer: &Peer) -> String {
    let Peer {
        names: _,
        flows,
        failed,
        bytes_in,
        bytes_out,
    } = peer;
    let mut out = format!(
        "{name:<width$} {:>16} {:>10} out {:>10} in",
        plural(*flows, "flow", "flows"),
        bytes(*bytes_out),
        bytes(*bytes_in)
    );
    if *failed > 0 {
        let _ = write!(out, ", {failed} failed");
    }
    out
}

fn files(files: &Files) -> String {
    let Files {
        created,
        written,
        deleted,
        renamed,
        mode_changed,
        truncated,
        folders: _,
    } = files;
    let parts: Vec<String> = [
        (created, "created"),
        (written, "opened for writing"),
        (deleted, "deleted"),
        (renamed, "renamed"),
        (mode_changed, "with a changed mode"),
        (truncated, "truncated"),
    ]
    .into_iter()
    .filter(|(n, _)| **n > 0)
    .map(|(n, what)| format!("{n} {what}"))
    .collect();
    if parts.is_empty() {
        "none changed".to_owned()
    } else {
        parts.join(", ")
    }
}

fn findings(page: &mut Page, account: &Account) {
    if account.findings.is_empty() {
        return page.line("findings", "none");
    }
    for (n, found) in account.findings.iter().take(LINES).enumerate() {
        let Found {
            id,
            severity,
            detector,
            message,
            done,
        } = found;
        page.line(
            if n == 0 { "findings" } else { "" },
            &format!("{severity} {detector} ({id})"),
        );
        for line in wrap(message).into_iter().chain(wrap(done)) {
            page.line("", &format!("  {line}"));
        }
    }
    if account.findings.len() > LINES {
        page.line(
            "",
            &format!("… and {} more", account.findings.len() - LINES),
        );
    }
}

fn loss(account: &Account) -> String {
    let Some(tally) = &account.events else {
        return "not known: the run goes on, or agentwatch was killed".to_owned();
    };
    let mut out = if tally.lost.is_empty() {
        format!("none, of {}", plural(tally.emitted, "event", "events"))
    } else {
        let reasons: Vec<String> = tally
            .lost
            .iter()
            .map(|(reason, n)| format!("{n} {reason}"))
            .collect();
        format!(
            "{} of {} events: {}",
            tally.lost_total(),
            tally.emitted,
            reasons.join(", ")
        )
    };
    for (n, what) in [
        (tally.cut, "cut"),
        (tally.faults, "with something that could not be read"),
        (tally.untagged, "processes or cgroups not tagged"),
    ] {
        if n > 0 {
            let _ = write!(out, "; {n} {what}");
        }
    }
    out
}

fn history(kept: &Kept, run: Option<&str>) -> String {
    let Kept {
        dir,
        stored,
        dropped,
        error,
    } = kept;
    let mut out = format!("{} in {dir}", plural(*stored, "event", "events"));
    if let Some(run) = run {
        let _ = write!(out, ", run {run}");
    }
    if *dropped > 0 {
        let _ = write!(out, "; {dropped} NOT STORED");
    }
    if let Some(error) = error {
        let _ = write!(out, " ({error})");
    }
    out
}

/// The entries by count, largest first.
fn most(of: &BTreeMap<String, u64>) -> Vec<(&str, u64)> {
    let mut entries: Vec<(&str, u64)> = of.iter().map(|(name, n)| (name.as_str(), *n)).collect();
    entries.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
    entries
}

fn plural(n: u64, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

/// Bytes with a binary unit.
pub fn bytes(n: u64) -> String {
    let mut value = n;
    let mut rest = 0;
    for unit in ["B", "KiB", "MiB", "GiB", "TiB", "PiB"] {
        if value < 1024 {
            let tenth = rest * 10 / 1024;
            return if unit == "B" {
                format!("{value} B")
            } else {
                format!("{value}.{tenth} {unit}")
            };
        }
        rest = value % 1024;
        value /= 1024;
    }
    format!("{value} EiB")
}

/// A duration with the unit that fits.
pub fn duration(ns: u64) -> String {
    let s = ns / 1_000_000_000;
    match s {
        0 => format!("{} ms", ns / 1_000_000),
        1..60 => format!("{s}.{} s", ns / 100_000_000 % 10),
        60..3600 => format!("{} min {} s", s / 60, s % 60),
        _ => format!("{} h {} min", s / 3600, s / 60 % 60),
    }
}

/// A line that is too long, cut.
fn cut(line: &str) -> String {
    let limit = WIDTH + LABEL;
    if line.chars().count() <= limit {
        return line.to_owned();
    }
    let mut out: String = line.chars().take(limit - 1).collect();
    out.push('…');
    out
}

/// Text in lines that fit.
fn wrap(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let last = lines.last().map_or(0, |line| line.chars().count());
        if last > 0 && last + word.chars().count() >= WIDTH - 2 {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines.retain(|line| !line.is_empty());
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{event::Tally, store::row::Row};

    #[test]
    fn units() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(u64::MAX), "15 EiB");
        assert_eq!(duration(1_500_000), "1 ms");
        assert_eq!(duration(61_000_000_000), "1 min 1 s");
    }

    #[test]
    fn a_page() {
        let mut account = Account::new("sh", &["sh".to_owned(), "-c".to_owned(), "x".to_owned()]);
        let row = |kind: &str, path: Option<&str>| Row {
            kind: kind.to_owned(),
            pid: 7,
            path: path.map(str::to_owned),
            ..Row::default()
        };
        account.observe(&row("exec", Some("/bin/sh")));
        account.observe(&row("unlink", Some("/w/a")));
        account.observe(&Row {
            result: Some(-13),
            ..row("unlink", Some("/w/b"))
        });
        account.observe(&Row {
            protocol: Some("tcp".to_owned()),
            direction: Some("out".to_owned()),
            remote: Some("192.0.2.1:443".to_owned()),
            bytes_out: Some(2048),
            bytes_in: Some(1),
            detail: Some(serde_json::json!({"established": true}).into()),
            ..row("flow_close", None)
        });
        account.observe(&Row {
            protocol: Some("tcp".to_owned()),
            direction: Some("out".to_owned()),
            remote: Some("192.0.2.2:443".to_owned()),
            detail: Some(
                serde_json::json!({
                    "established": true, "destination.domain": "a.long.name.in.the.example.org"
                })
                .into(),
            ),
            ..row("flow_close", None)
        });
        account.tally(&Tally {
            emitted: 4,
            delivered: 4,
            ..Tally::default()
        });
        account.ended(Some(3), None);
        let expected = "\
── agentwatch: the account of sh ───────────────────────────────────────────────────────────────────
  command    sh -c x
  ended      with exit status 3, after 0 ms, begun 1970-01-01T00:00:00Z
  processes  1 process; 1 program started: sh
  network    tcp out 192.0.2.1:443                                          1 flow    2.0 KiB out        1 B in
             tcp out 192.0.2.2:443 a.long.name.in.the.example.org           1 flow        0 B out        0 B in
  files      1 deleted
                  1 below /w
  findings   none
  loss       none, of 4 events
";
        assert_eq!(account.text(false), expected);
    }
}
