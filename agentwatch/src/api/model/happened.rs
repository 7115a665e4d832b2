//! What happened: events, findings, actions.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::finding::Severity;

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
    /// An agent's watching has ended. Nothing of it follows.
    Gone(Gone),
}

/// An agent whose watching has ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Gone {
    /// Its name.
    pub agent: String,
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
