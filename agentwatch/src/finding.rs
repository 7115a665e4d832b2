//! What a detector says, and what was done about it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Unusual.
    Low,
    /// Look at it.
    Medium,
    /// Almost surely wrong.
    High,
    /// Stop it.
    Critical,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Info => "info",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        })
    }
}

/// What a policy wants done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Into the history only.
    Log,
    /// Shown as it happens.
    Alert,
    /// The agent's network is cut, but for what its policy keeps.
    Quarantine,
    /// None of the agent's processes runs until a person says so.
    Freeze,
    /// The whole agent, at once.
    Kill,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Log => "log",
            Self::Alert => "alert",
            Self::Quarantine => "quarantine",
            Self::Freeze => "freeze",
            Self::Kill => "kill",
        })
    }
}

/// A technique of MITRE ATT&CK (<https://attack.mitre.org>).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Technique {
    /// `T1572`, say.
    pub id: &'static str,
    /// Its name there.
    pub name: &'static str,
}

/// A process, as a finding shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessInfo {
    /// Process id.
    pub pid: u32,
    /// Start, `CLOCK_BOOTTIME` nanoseconds.
    pub start_ns: u64,
    /// User id.
    pub uid: u32,
    /// Path of the binary, empty where it is not known.
    pub exe: String,
    /// The arguments.
    pub argv: Vec<String>,
    /// It is the agent's, not an ancestor of the agent.
    pub member: bool,
}

/// A piece of evidence: one event, told in a line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Evidence {
    /// `CLOCK_BOOTTIME` nanoseconds.
    pub time_ns: u64,
    /// Kind of the event.
    pub kind: String,
    /// Who.
    pub pid: u32,
    /// What.
    pub what: String,
    /// The file that it was about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The peer that it was about: address and port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote: Option<String>,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    /// What the policy asks for.
    pub requested: Action,
    /// What was done: the same, unless the policy only observes or it failed.
    pub taken: Action,
    /// Why they differ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// From the deciding event to the order to kill, microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ordered_us: Option<u64>,
    /// From the deciding event to the cgroup seen empty, microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub empty_us: Option<u64>,
    /// Processes of the agent outside its cgroup that were killed one by one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outside: Vec<u32>,
}

/// A finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The same for the same events, so that a replay gives it again.
    pub id: String,
    /// The deciding event, RFC 3339.
    pub time: String,
    /// The same, `CLOCK_BOOTTIME` nanoseconds.
    pub time_ns: u64,
    /// The agent's name.
    pub agent: String,
    /// The detector's stable id.
    pub detector: &'static str,
    /// How bad.
    pub severity: Severity,
    /// MITRE ATT&CK.
    pub techniques: Vec<Technique>,
    /// A sentence that a person can act on.
    pub message: String,
    /// Who did it.
    pub process: ProcessInfo,
    /// From its parent up.
    pub ancestry: Vec<ProcessInfo>,
    /// The events that it rests on, in order.
    pub evidence: Vec<Evidence>,
    /// What was done.
    pub response: Response,
}
