//! Agents, and what they have: processes and flows.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::finding::Severity;

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
    /// The name of its unit of systemd.
    Unit {
        /// The glob of names.
        glob: String,
    },
    /// A label of its container.
    Container {
        /// The label.
        label: String,
        /// The container's id.
        id: String,
        /// The container's name.
        name: String,
        /// The runtime that told of it: its socket.
        runtime: String,
    },
    /// `agentwatch run` asked for it.
    Run {
        /// The command.
        command: Vec<String>,
    },
}

impl FoundBy {
    /// In a few words; `None` where that is not known.
    pub fn words(&self) -> Option<String> {
        match self {
            Self::Cgroup { glob } if glob.is_empty() => None,
            Self::Cgroup { glob } => Some(format!("the glob {glob}")),
            Self::Unit { glob } => Some(format!("the unit {glob}")),
            Self::Container { name, .. } => Some(format!("the container {name}")),
            Self::Run { command } => Some(format!("run: {}", command.join(" "))),
        }
    }
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

    /// Adds those of another.
    pub fn add_all(&mut self, other: &Self) {
        let Self {
            critical,
            high,
            medium,
            low,
            info,
        } = other;
        self.critical += critical;
        self.high += high;
        self.medium += medium;
        self.low += low;
        self.info += info;
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
    /// What it did itself since the agent is watched.
    pub did: ProcessTotals,
    /// The same in a second, since it was asked for before; absent where nobody has asked in the last minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rates: Option<ProcessRates>,
}

/// What a process did itself, as far as events tell: opens for reading are counted by agent, and of them only
/// those of what a policy calls sensitive are events.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProcessTotals {
    /// Programs started.
    pub execs: u64,
    /// Files opened for writing, or that are sensitive.
    pub opens: u64,
    /// Files deleted.
    pub deletes: u64,
    /// Payload bytes in, of flows that it opened or took.
    pub bytes_in: u64,
    /// The same, out.
    pub bytes_out: u64,
}

/// What a process did in a second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ProcessRates {
    /// Over how long, seconds.
    pub interval_s: f64,
    /// Programs started, a second.
    pub execs: f64,
    /// Files opened, a second: see [`ProcessTotals::opens`].
    pub opens: f64,
    /// Files deleted, a second.
    pub deletes: f64,
    /// Payload bytes in, a second.
    pub bytes_in: f64,
    /// Payload bytes out, a second.
    pub bytes_out: f64,
    /// Processor time: 1.0 is one processor all the time. 0 where it is not known.
    pub cpu: f64,
}

impl Process {
    /// What it did in a second since it was as `before`, `interval_s` ago. `None` where no time has gone by.
    pub fn rates_since(&self, before: &Self, interval_s: f64) -> Option<ProcessRates> {
        if interval_s <= 0.0 {
            return None;
        }
        #[expect(
            clippy::cast_precision_loss,
            reason = "a rate for people: 52 bits are enough"
        )]
        let rate = |before: u64, now: u64| now.saturating_sub(before) as f64 / interval_s;
        let (old, new) = (&before.did, &self.did);
        let used = before.cpu_us.zip(self.cpu_us);
        Some(ProcessRates {
            interval_s,
            execs: rate(old.execs, new.execs),
            opens: rate(old.opens, new.opens),
            deletes: rate(old.deletes, new.deletes),
            bytes_in: rate(old.bytes_in, new.bytes_in),
            bytes_out: rate(old.bytes_out, new.bytes_out),
            cpu: used.map_or(0.0, |(before, now)| rate(before, now) / 1e6),
        })
    }
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
