//! What the daemon's API says, and hears: the same types on both sides of the socket.
//!
//! Names are those of `agentwatch events -o json` where that has them. Times are RFC 3339 in UTC;
//! `…_ns` is `CLOCK_BOOTTIME` nanoseconds, with `pid` the identity of a process. What is not known is
//! absent. Fields may be added; those that are here stay.
//!
//! | method | path | gives |
//! |---|---|---|
//! | GET | `/v1/agents` | `[Agent]` |
//! | GET | `/v1/agents/{agent}` | [`Agent`] |
//! | GET | `/v1/agents/{agent}/processes` | `[Process]` |
//! | GET | `/v1/agents/{agent}/flows` | `[Flow]` |
//! | GET | `/v1/agents/{agent}/files` | `[FileChange]` |
//! | POST | `/v1/agents/{agent}/actions` | [`ActionRequest`] → [`Action`] |
//! | GET | `/v1/events?agent=&kind=&since=&limit=&after=` | [`EventPage`] |
//! | GET | `/v1/events/stream?agent=&kind=` | server-sent events, see [`StreamItem`] |
//! | GET | `/v1/findings?agent=&since=` | `[Finding]` |
//! | GET | `/v1/actions?agent=&since=` | `[Action]` |
//! | GET | `/v1/policy/{agent}` | [`PolicyInForce`] |
//! | GET | `/v1/doctor` | [`Doctor`] |
//! | GET | `/v1/health` | [`Health`] |
//! | GET | `/metrics` | Prometheus' text format |
//! | GET | `/v1/openapi.json` | this, for machines |
//!
//! `{agent}` is a name or an id. An error is [`ApiError`] with a status of 400 and above.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};

pub use crate::finding::Severity;

/// An agent: a cgroup that is watched.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Agent {
    /// The agent's number: the inode of its cgroup. Not given again while the daemon runs.
    pub id: u32,
    /// The agent's name, as events have it. Of several with one name the later ones end in `-2`, `-3` …
    pub name: String,
    /// How it is with it.
    pub state: AgentState,
    /// Why it is so, where that is not plain: the finding or the request that it was frozen for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_reason: Option<String>,
    /// How it was found.
    pub found_by: FoundBy,
    /// Its cgroup, below the root of the cgroup2 file system: `/kubepods/pod1/c1`.
    pub cgroup: String,
    /// The run's id in the history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// The policy: the file's path, or `default` for the one that ships.
    pub policy: String,
    /// The folder that is the agent's own to change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<String>,
    /// Watched since, RFC 3339.
    pub since: String,
    /// Processes that are alive, those that left the cgroup too.
    pub processes: u64,
    /// How much of what happened in the last interval.
    pub rates: Rates,
    /// The same since the agent is watched.
    pub totals: Totals,
    /// Memory of its processes, bytes: `memory.current` of the cgroup, else their resident sets together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Findings so far.
    pub findings: FindingCounts,
    /// What the kernel lets it delete; absent where the policy stops no deletions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_budget: Option<DeletionBudget>,
    /// What was sent and lost.
    pub events: EventCounts,
}

/// How it is with an agent.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum AgentState {
    /// It runs, and is watched.
    #[default]
    Watched,
    /// It is watched, and its network is cut but for what its policy keeps.
    Quarantined,
    /// None of its processes runs until somebody thaws it.
    Frozen,
    /// agentwatch ended its processes.
    Killed,
    /// Its cgroup is no more.
    Gone,
}

impl fmt::Display for AgentState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Watched => "watched",
            Self::Quarantined => "quarantined",
            Self::Frozen => "frozen",
            Self::Killed => "killed",
            Self::Gone => "gone",
        })
    }
}

/// How an agent was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "by", rename_all = "lowercase")]
pub enum FoundBy {
    /// A glob of the configuration matches its cgroup.
    Cgroup {
        /// The glob.
        glob: String,
    },
    /// `agentwatch run` asked for it.
    Run {
        /// The command.
        command: Vec<String>,
    },
}

impl Default for FoundBy {
    fn default() -> Self {
        Self::Cgroup {
            glob: String::new(),
        }
    }
}

/// What happened in a second, over the last interval.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Rates {
    /// Length of the interval, seconds; 0 before the first one is over.
    pub interval_s: f64,
    /// Programs started, a second.
    pub execs: f64,
    /// Files opened, a second: for reading too.
    pub opens: f64,
    /// Files deleted, a second.
    pub deletes: f64,
    /// Connections asked for, a second.
    pub connects: f64,
    /// Payload bytes in, a second.
    pub bytes_in: f64,
    /// Payload bytes out, a second.
    pub bytes_out: f64,
    /// Processor time: 1.0 is one processor all the time.
    pub cpu: f64,
}

/// What happened since an agent is watched.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Totals {
    /// Programs started.
    pub execs: u64,
    /// Files opened, for reading too.
    pub opens: u64,
    /// Files deleted.
    pub deletes: u64,
    /// Connections asked for.
    pub connects: u64,
    /// Payload bytes in.
    pub bytes_in: u64,
    /// Payload bytes out.
    pub bytes_out: u64,
    /// Processor time, microseconds.
    pub cpu_us: u64,
}

/// Findings by severity.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FindingCounts {
    /// `critical`
    pub critical: u64,
    /// `high`
    pub high: u64,
    /// `medium`
    pub medium: u64,
    /// `low`
    pub low: u64,
    /// `info`
    pub info: u64,
}

impl FindingCounts {
    /// Counts one.
    pub fn add(&mut self, severity: Severity) {
        *match severity {
            Severity::Critical => &mut self.critical,
            Severity::High => &mut self.high,
            Severity::Medium => &mut self.medium,
            Severity::Low => &mut self.low,
            Severity::Info => &mut self.info,
        } += 1;
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.critical + self.high + self.medium + self.low + self.info
    }
}

/// How many files an agent may still delete before the kernel stops it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeletionBudget {
    /// Left outside the workspace.
    pub left: u64,
    /// In a window, outside the workspace.
    pub limit: u64,
    /// Left inside the workspace.
    pub workspace_left: u64,
    /// In a window, inside the workspace.
    pub workspace_limit: u64,
}

/// What was sent and lost: `emitted = delivered + Σ lost`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EventCounts {
    /// Records that the kernel was to send.
    pub emitted: u64,
    /// Records that arrived.
    pub delivered: u64,
    /// Lost, by reason; only what is not 0.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub lost: BTreeMap<String, u64>,
    /// Events that are not in the history, since the disk was too slow or could not be written.
    pub not_stored: u64,
}

impl EventCounts {
    /// All losses between the kernel and the detectors.
    pub fn lost_total(&self) -> u64 {
        self.lost.values().sum()
    }
}

/// A process of an agent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Process {
    /// Process id.
    pub pid: u32,
    /// Start, `CLOCK_BOOTTIME` nanoseconds.
    pub start_ns: u64,
    /// Who started it; a reaper that it was given to later does not count.
    pub ppid: u32,
    /// User id.
    pub uid: u32,
    /// Path of the binary; empty where it is not known.
    pub exe: String,
    /// The arguments.
    pub argv: Vec<String>,
    /// Processor time so far, microseconds; absent when the process is gone meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_us: Option<u64>,
    /// Resident memory, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rss_bytes: Option<u64>,
}

/// A flow that is open.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Flow {
    /// The kernel's cookie of the socket.
    pub cookie: u64,
    /// `tcp`, `udp`.
    pub protocol: String,
    /// `out`: the agent opened it; `in`; `unknown`.
    pub direction: String,
    /// Own address and port.
    pub local: String,
    /// The peer's address and port.
    pub remote: String,
    /// The peer's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// Process id of the owner, 0 where it is not known.
    pub pid: u32,
    /// Path of its binary; empty where it is not known.
    pub exe: String,
    /// Open since, RFC 3339.
    pub since: String,
    /// Payload bytes in.
    pub bytes_in: u64,
    /// Payload bytes out.
    pub bytes_out: u64,
}

/// A change of a file, from the history.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FileChange {
    /// When, RFC 3339.
    pub time: String,
    /// `open`, `unlink`, `rename` …: as in events.
    pub kind: String,
    /// The file.
    pub path: String,
    /// The second file of a rename or link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path2: Option<String>,
    /// Who.
    pub pid: u32,
    /// Path of its binary; empty where it is not known.
    pub exe: String,
}

/// An event: a line of `agentwatch events -o json`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// RFC 3339.
    pub time: String,
    /// The run.
    pub run: String,
    /// The agent's name.
    pub agent: String,
    /// `exec`, `connect`, `open` …
    pub kind: String,
    /// Process id, 0 where there is none.
    pub pid: u32,
    /// Start of the process, `CLOCK_BOOTTIME` nanoseconds.
    pub start_ns: u64,
    /// The parent's process id.
    pub ppid: u32,
    /// User id.
    pub uid: u32,
    /// The task's name.
    pub comm: String,
    /// All else, by kind: `exe`, `path`, `remote`, `bytes_out`, `detail` …
    #[serde(flatten)]
    #[schema(value_type = Object)]
    pub rest: Map<String, Value>,
}

/// Events, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EventPage {
    /// The events.
    pub events: Vec<Event>,
    /// Pass it as `after` to get what follows. Absent when there was nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// There is more already.
    pub more: bool,
}

/// One item of `/v1/events/stream`; `type` is the name of the server-sent event, the rest its data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", content = "data", rename_all = "lowercase")]
pub enum StreamItem {
    /// Something happened. Its run is empty: it may not be in the history yet.
    Event(Event),
    /// Something was found.
    Finding(Finding),
    /// The reader was too slow: so many items are missing here.
    Missed(Missed),
}

/// What a slow reader missed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Missed {
    /// Items.
    pub missed: u64,
}

/// A finding: a line of `agentwatch findings -o json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Finding {
    /// Its id.
    pub id: String,
    /// The deciding event, RFC 3339.
    pub time: String,
    /// The agent's name.
    pub agent: String,
    /// The detector's id.
    pub detector: String,
    /// How bad.
    #[schema(value_type = String, example = "critical")]
    pub severity: Severity,
    /// A sentence that a person can act on.
    pub message: String,
    /// The rest: `techniques`, `process`, `ancestry`, `evidence`, `response`.
    #[serde(flatten)]
    #[schema(value_type = Object)]
    pub rest: Map<String, Value>,
}

/// What can be done to an agent as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Verb {
    /// Stop all its processes where they are, until thawed.
    Freeze,
    /// Let them go on.
    Thaw,
    /// Cut its network but for what its policy keeps.
    Quarantine,
    /// End the quarantine.
    Release,
    /// End all its processes.
    Kill,
}

impl Verb {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Freeze => "freeze",
            Self::Thaw => "thaw",
            Self::Quarantine => "quarantine",
            Self::Release => "release",
            Self::Kill => "kill",
        }
    }
}

/// A request to do something to an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ActionRequest {
    /// What.
    pub action: Verb,
    /// Why, for those who read it later; at most 1000 characters.
    #[serde(default)]
    pub reason: String,
}

/// Something that was done to an agent, or was asked for and refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Action {
    /// When it was asked for, RFC 3339.
    pub time: String,
    /// The agent's name.
    pub agent: String,
    /// The run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// What.
    pub action: Verb,
    /// Why.
    pub reason: String,
    /// Who asked.
    pub asked_by: AskedBy,
    /// Whether it was done.
    pub done: bool,
    /// What came of it, or why it was refused, in a sentence.
    pub outcome: String,
    /// From the request to the order to the kernel, microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ordered_us: Option<u64>,
    /// From the request until it was seen to be in force, microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done_us: Option<u64>,
}

/// Who asked for an action: the peer of the socket, as the kernel tells.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AskedBy {
    /// User id.
    pub uid: u32,
    /// The user's name, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Process id, when it connected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Path of its binary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exe: Option<String>,
}

/// The policy that an agent is under.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PolicyInForce {
    /// The agent's name.
    pub agent: String,
    /// The file's path, or `default`.
    pub source: String,
    /// All of it, with what the file leaves out.
    #[schema(value_type = Object)]
    pub policy: Value,
    /// What it asks for and is not in force on this kernel.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_in_force: Vec<String>,
}

/// What the kernel let the daemon do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Doctor {
    /// The kernel's release.
    pub kernel: String,
    /// What was tried.
    pub checks: Vec<Check>,
}

/// One thing that was tried.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Check {
    /// What is attached.
    pub what: String,
    /// What it gives.
    pub gives: String,
    /// It is there.
    pub ok: bool,
    /// Why it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<String>,
}

/// How it is with the daemon.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// agentwatch's version.
    pub version: String,
    /// The node's name.
    pub node: String,
    /// Process id.
    pub pid: u32,
    /// Running since, RFC 3339.
    pub since: String,
    /// Agents that are watched now.
    pub agents: u64,
    /// Agents that were watched and are gone.
    pub agents_gone: u64,
    /// When the figures of agents were taken, RFC 3339.
    pub snapshot: String,
    /// Records of cgroups that turned out to be no agent's.
    pub strays: u64,
    /// Events that stream readers missed, all together.
    pub stream_missed: u64,
    /// Why the history cannot be written, now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history_error: Option<String>,
}

/// Why a request was not served.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ApiError {
    /// What is wrong, and what to do.
    pub error: String,
}

/// Which events.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct EventQuery {
    /// Of this agent, by its name.
    pub agent: Option<String>,
    /// Of these kinds, by commas.
    pub kind: Option<String>,
    /// From then on: `10m`, `2h`, `3d` ago, or RFC 3339.
    pub since: Option<String>,
    /// At most so many: 1 to 1000, else 100.
    pub limit: Option<usize>,
    /// What follows this: [`EventPage::next`] of the page before. Without it the last ones are given.
    pub after: Option<String>,
}

/// Which findings or actions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct SinceQuery {
    /// Of this agent, by its name.
    pub agent: Option<String>,
    /// From then on: `10m`, `2h`, `3d` ago, or RFC 3339.
    pub since: Option<String>,
}

/// Which items of the stream.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct StreamQuery {
    /// Of this agent, by its name.
    pub agent: Option<String>,
    /// Events of these kinds, by commas; findings always.
    pub kind: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::row::Row;

    /// What a client reads is what the program prints.
    #[test]
    fn an_event_reads_as_it_is_printed() {
        let row = Row {
            time_ns: 1_500_000_000,
            agent: "a".to_owned(),
            kind: "exec".to_owned(),
            pid: 7,
            exe: Some("/bin/sh".to_owned()),
            detail: Some(serde_json::json!({"argv": ["sh"]}).into()),
            ..Row::default()
        };
        let printed = serde_json::to_value(&row).unwrap();
        let event: Event = serde_json::from_value(printed.clone()).unwrap();
        assert_eq!(event.time, "1970-01-01T00:00:01.500000000Z");
        assert_eq!(event.rest["detail"]["argv"][0], "sh");
        assert_eq!(serde_json::to_value(&event).unwrap(), printed);
    }

    #[test]
    fn a_request_with_something_unknown_is_refused() {
        let read = |text: &str| serde_json::from_str::<ActionRequest>(text);
        assert_eq!(read(r#"{"action":"freeze"}"#).unwrap().action, Verb::Freeze);
        assert!(read(r#"{"action":"freeze","force":true}"#).is_err());
        assert!(read(r#"{"action":"obliterate"}"#).is_err());
    }

    #[test]
    fn how_it_was_found_says_how() {
        let found = FoundBy::Cgroup {
            glob: "a/*".to_owned(),
        };
        assert_eq!(
            serde_json::to_string(&found).unwrap(),
            r#"{"by":"cgroup","glob":"a/*"}"#
        );
    }
}
