//! A run that the daemon watches: `agentwatch run` makes the cgroup and starts the command in it.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::AgentState;

/// A request to watch a cgroup for whoever made it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RunRequest {
    /// The agent's name: 1 to 64 letters, digits, `.`, `_` and `-`. Where an agent has it already, `-2`,
    /// `-3` … is added.
    pub name: String,
    /// The cgroup, below the root of the cgroup2 file system.
    pub cgroup: String,
    /// Its id: the inode of its folder. So that both mean the same one, whatever each calls it.
    pub cgroup_id: u64,
    /// The command, for the record.
    #[serde(default)]
    pub command: Vec<String>,
    /// The policy's text; the policy that ships, where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// What the policy is called: its file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_source: Option<String>,
    /// The folder that is the agent's own to change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<String>,
    /// Home folders, for the policy's `~`.
    #[serde(default)]
    pub homes: Vec<String>,
}

/// The agent that a cgroup has become.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RunStarted {
    /// The agent's number.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// How it is with it: frozen or quarantined, where the daemon knew it before it was started again.
    pub state: AgentState,
    /// The run's id in the history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// The folder of the history.
    pub data_dir: String,
    /// What the policy asks for and is not in force on this kernel.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_in_force: Vec<String>,
}

/// A run has ended: its watching does, and its account is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RunEnd {
    /// The command's exit status, 128 + N for signal N.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 255)]
    pub exit_status: Option<u8>,
    /// Processes that the command left running, and that were ended.
    #[serde(default)]
    pub left_running: usize,
    /// The account's text is for a terminal with colours.
    #[serde(default)]
    pub colour: bool,
}

/// What came of a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RunEnded {
    /// The finding for which the agent was killed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub killed_by: Option<String>,
    /// What the agent did: a line of `agentwatch report -o json`.
    #[schema(value_type = Object)]
    pub account: Value,
    /// The same for people.
    pub text: String,
}
