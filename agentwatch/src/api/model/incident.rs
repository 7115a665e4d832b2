//! Findings that belong together.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::finding::{Action, Severity};

/// Findings of one agent that share a chain of processes, a file or a peer, with their story: a line of
/// `agentwatch findings --incidents -o json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Incident {
    /// Its id, from that of its first finding; it changes where an earlier one turns out to belong to it.
    pub id: String,
    /// The agent's name.
    pub agent: String,
    /// The first finding, RFC 3339.
    pub begin: String,
    /// The last one.
    pub end: String,
    /// That of the worst finding.
    #[schema(value_type = String, example = "critical")]
    pub severity: Severity,
    /// What the worst finding says, the first of those.
    pub summary: String,
    /// The detectors' ids.
    pub detectors: Vec<String>,
    /// The techniques' ids (MITRE ATT&CK).
    pub techniques: Vec<String>,
    /// The findings' ids, in order of time.
    pub findings: Vec<String>,
    /// What they have in common; empty where there is only one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub linked_by: Vec<Link>,
    /// The most that was done.
    #[schema(value_type = String, example = "kill")]
    pub taken: Action,
    /// What happened, in order of time.
    pub story: Vec<Step>,
    /// Steps that a story of this length has no room for.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub steps_left_out: u64,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature that serde calls"
)]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// What findings have in common.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(tag = "by", rename_all = "lowercase")]
pub enum Link {
    /// A process did it, or started who did.
    Process {
        /// Its id.
        pid: u64,
    },
    /// They are about the same file.
    File {
        /// It.
        path: String,
    },
    /// They are about the same peer.
    Flow {
        /// Its address and port.
        remote: String,
    },
}

impl std::fmt::Display for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Process { pid } => write!(f, "process {pid}"),
            Self::File { path } => write!(f, "file {path}"),
            Self::Flow { remote } => write!(f, "peer {remote}"),
        }
    }
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Step {
    /// When, RFC 3339.
    pub time: String,
    /// What it is in the story.
    pub kind: StepKind,
    /// Who, 0 where that is not known.
    pub pid: u64,
    /// What.
    pub what: String,
    /// The finding, by its id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finding: Option<String>,
}

/// What a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum StepKind {
    /// Evidence: what the agent did.
    Event,
    /// What was found.
    Finding,
    /// What was done about it.
    Response,
}
