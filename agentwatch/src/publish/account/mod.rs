//! The account of a run: one page of what an agent did. `agentwatch run` makes it while it watches,
//! `agentwatch report` from the history, both from the same rows.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    path::Path,
};

use serde::Serialize;
use serde_json::Value;

use super::notice;
use crate::{
    event::Tally,
    finding::Finding,
    store::{Stats, row::Row},
};

mod text;

/// Most names of a peer.
const NAMES: usize = 4;
/// Most different things that are kept of each sort; of the rest only the number is.
const KEPT: usize = 1024;

/// What an agent did.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Account {
    /// The agent's name.
    pub agent: String,
    /// The command.
    pub command: Vec<String>,
    /// The run's id, where there is a history.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// How it ended.
    pub ended: Ended,
    /// The first event, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started: Option<String>,
    /// From the first to the last event, nanoseconds.
    pub duration_ns: u64,
    /// Processes that were seen.
    pub processes: u64,
    /// Programs that were started.
    pub execs: u64,
    /// The same by path of the binary, at most 1024 of them.
    pub programs: BTreeMap<String, u64>,
    /// All flows together.
    pub traffic: Peer,
    /// Peers, by protocol, direction and address, at most 1024 of them.
    pub peers: BTreeMap<String, Peer>,
    /// Sockets that listened.
    pub listening: BTreeSet<String>,
    /// What was done to files.
    pub files: Files,
    /// Files read that the policy calls sensitive.
    pub sensitive_reads: BTreeSet<String>,
    /// What was found.
    pub findings: Vec<Found>,
    /// Processes that the command left running, and that were ended.
    pub left_running: usize,
    /// What was sent and lost; `None` where nobody counted: the run goes on, or agentwatch was killed.
    pub events: Option<Tally>,
    /// Events in the history, and not in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub history: Option<Kept>,
    /// The names of peers, by the same keys.
    #[serde(skip)]
    names: BTreeMap<String, BTreeSet<String>>,
    #[serde(skip)]
    seen: HashSet<(u32, u64)>,
    #[serde(skip)]
    first_ns: Option<i64>,
}

/// How a run ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Ended {
    /// The command's exit status, 128 + N for signal N; `None` where it is not known.
    pub exit_status: Option<i32>,
    /// The finding for which agentwatch killed the agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub killed_by: Option<String>,
    /// It runs still, or agentwatch was killed.
    pub open: bool,
}

/// What was said with a peer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Peer {
    /// What the agent called it, or was told that it is called, at most 4 names.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub names: BTreeSet<String>,
    /// Connections, or UDP sockets.
    pub flows: u64,
    /// Of these, those that were refused or had no answer.
    pub failed: u64,
    /// Payload bytes in.
    pub bytes_in: u64,
    /// Payload bytes out.
    pub bytes_out: u64,
}

/// What was done to files. Failed calls do not count.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Files {
    /// Made.
    pub created: u64,
    /// Opened for writing.
    pub written: u64,
    /// Deleted.
    pub deleted: u64,
    /// Renamed.
    pub renamed: u64,
    /// Mode changed.
    pub mode_changed: u64,
    /// Cut or extended.
    pub truncated: u64,
    /// How many changes below which folder.
    pub folders: BTreeMap<String, u64>,
}

/// A finding in short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Found {
    /// Its id.
    pub id: String,
    /// How bad.
    pub severity: String,
    /// The detector.
    pub detector: String,
    /// What.
    pub message: String,
    /// What was done.
    pub done: String,
}

/// The history's part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Kept {
    /// The folder.
    pub dir: String,
    /// Events in it.
    pub stored: u64,
    /// Events that are missing in it.
    pub dropped: u64,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Peer {
    fn add(&mut self, row: &Row) {
        let Self {
            names: _,
            flows,
            failed,
            bytes_in,
            bytes_out,
        } = self;
        *flows += 1;
        *failed += u64::from(!row.is("established"));
        *bytes_in = bytes_in.saturating_add(row.bytes_in.unwrap_or(0));
        *bytes_out = bytes_out.saturating_add(row.bytes_out.unwrap_or(0));
    }
}

impl Account {
    /// Begins an account.
    pub fn new(agent: &str, command: &[String]) -> Self {
        Self {
            agent: agent.to_owned(),
            command: command.to_vec(),
            ..Self::default()
        }
    }

    /// Takes an event in.
    pub fn observe(&mut self, row: &Row) {
        if row.kind == "seed" && !row.is("member") {
            return; // an ancestor of the agent, from before
        }
        let first = *self.first_ns.get_or_insert(row.time_ns);
        if self.started.is_none() {
            let time = jiff::Timestamp::from_second(first / 1_000_000_000).unwrap_or_default();
            self.started = Some(time.to_string());
        }
        self.duration_ns = u64::try_from(row.time_ns - first).unwrap_or(0);
        if row.pid != 0
            && (self.seen.len() < 64 * KEPT)
            && self.seen.insert((row.pid, row.start_ns))
        {
            self.processes += 1;
        }
        match row.kind.as_str() {
            "exec" => {
                self.execs += 1;
                count(&mut self.programs, row.path.as_deref().unwrap_or("?"));
            }
            "listen" if self.listening.len() < KEPT => self.listening.extend(row.local.clone()),
            "connect" | "flow_open" => self.name(row),
            "flow_close" => self.flow(row),
            _ if row.path.is_some() => self.file(row),
            _ => {}
        }
    }

    /// Keeps the name of a peer: at the end of a long flow it may have been forgotten.
    fn name(&mut self, row: &Row) {
        let (Some(key), Some(name)) = (peer(row), row.told("destination.domain")) else {
            return;
        };
        if self.names.len() < KEPT || self.names.contains_key(&key) {
            let names = self.names.entry(key).or_default();
            if names.len() < NAMES {
                names.insert(name.to_owned());
            }
        }
    }

    fn flow(&mut self, row: &Row) {
        let Some(key) = peer(row) else {
            return;
        };
        self.name(row);
        self.traffic.add(row);
        let names = self.names.get(&key).cloned().unwrap_or_default();
        if self.peers.len() < KEPT || self.peers.contains_key(&key) {
            let peer = self.peers.entry(key).or_default();
            peer.add(row);
            peer.names = names;
        }
    }

    fn file(&mut self, row: &Row) {
        let path = row.path.as_deref().unwrap_or_default();
        if row.result.is_some_and(|result| result < 0) {
            return;
        }
        let files = &mut self.files;
        let counter = match row.kind.as_str() {
            "open" if row.is("created") => &mut files.created,
            // Devices and pipes hold nothing.
            "open" if row.is("write") && !path.starts_with("/dev/") => &mut files.written,
            "open" if !row.is("write") => {
                if self.sensitive_reads.len() < KEPT {
                    self.sensitive_reads.insert(path.to_owned());
                }
                return;
            }
            "unlink" | "rmdir" => &mut files.deleted,
            "mkdir" | "link" | "symlink" => &mut files.created,
            "rename" => &mut files.renamed,
            "chmod" => &mut files.mode_changed,
            "truncate" => &mut files.truncated,
            _ => return,
        };
        let calls = row.number("count").unwrap_or(1);
        *counter += calls;
        let changed = match row.kind.as_str() {
            "link" | "symlink" => row.path2.as_deref().unwrap_or(path),
            _ => path,
        };
        let folder =
            changed.rsplit_once('/').map_or(
                "/",
                |(folder, _)| if folder.is_empty() { "/" } else { folder },
            );
        add(&mut files.folders, folder, calls);
    }

    /// Takes a finding in.
    pub fn finding(&mut self, finding: &Finding) {
        self.findings.push(Found {
            id: finding.id.clone(),
            severity: finding.severity.to_string(),
            detector: finding.detector.to_owned(),
            message: finding.message.clone(),
            done: notice::done(&finding.response),
        });
    }

    /// Takes a finding of the history in.
    pub fn stored_finding(&mut self, finding: &Value) {
        let text = |name: &str| finding[name].as_str().unwrap_or_default().to_owned();
        self.findings.push(Found {
            id: text("id"),
            severity: text("severity"),
            detector: text("detector"),
            message: text("message"),
            done: serde_json::from_value(finding["response"].clone())
                .map(|response| notice::done(&response))
                .unwrap_or_default(),
        });
    }

    /// Says what was sent and lost.
    pub fn tally(&mut self, tally: &Tally) {
        self.events = Some(tally.clone());
    }

    /// Says what was sent and lost, from the history.
    pub fn stored_tally(&mut self, tally: &Value) {
        let number = |name: &str| tally[name].as_u64().unwrap_or(0);
        let lost = |entry: &Value| {
            let reason = entry[0].as_str()?;
            let known = crate::decode::LOSS_REASONS
                .into_iter()
                .find(|known| *known == reason);
            Some((known.unwrap_or("other"), entry[1].as_u64()?))
        };
        self.events = Some(Tally {
            emitted: number("emitted"),
            delivered: number("delivered"),
            lost: tally["lost"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(lost)
                .collect(),
            thinned: number("thinned"),
            cut: number("cut"),
            faults: number("faults"),
            untagged: number("untagged"),
            opens_read: number("opens_read"),
            opens_write: number("opens_write"),
        });
    }

    /// Says how many processes were left running, and ended.
    pub fn left(&mut self, processes: usize) {
        self.left_running = processes;
    }

    /// Says where the history is.
    pub fn history(&mut self, dir: &Path, run: &str, stats: &Stats) {
        let Stats {
            stored,
            dropped,
            error,
        } = stats;
        self.run = Some(run.to_owned());
        self.history = Some(Kept {
            dir: dir.display().to_string(),
            stored: *stored,
            dropped: *dropped,
            error: error.clone(),
        });
    }

    /// Says how it ended.
    pub fn ended(&mut self, exit_status: Option<i32>, killed_by: Option<&str>) {
        self.ended = Ended {
            exit_status,
            killed_by: killed_by.map(str::to_owned),
            open: false,
        };
    }

    /// As JSON, in a line.
    pub fn json(&self) -> String {
        match serde_json::to_string(self) {
            Ok(json) => json + "\n",
            Err(error) => format!("{{\"error\":{:?}}}\n", error.to_string()),
        }
    }

    /// For people.
    pub fn text(&self, colour: bool) -> String {
        text::render(self, colour)
    }
}

/// A peer's key.
fn peer(row: &Row) -> Option<String> {
    let protocol = row.protocol.as_deref().unwrap_or("?");
    // A peer that came in has a port of no meaning; the one it came to has.
    match (row.direction.as_deref(), &row.local, &row.remote) {
        (Some("in"), Some(local), _) => Some(format!("{protocol} in  {local}")),
        (_, _, Some(remote)) => Some(format!("{protocol} out {remote}")),
        _ => None,
    }
}

fn count(of: &mut BTreeMap<String, u64>, name: &str) {
    add(of, name, 1);
}

fn add(of: &mut BTreeMap<String, u64>, name: &str, number: u64) {
    if let Some(n) = of.get_mut(name) {
        *n += number;
    } else if of.len() < KEPT {
        of.insert(name.to_owned(), number);
    }
}
