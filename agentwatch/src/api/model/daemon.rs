//! The daemon itself, and what may be asked of it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Result, Value};
use utoipa::{
    IntoParams, PartialSchema, ToSchema,
    openapi::{
        RefOr,
        schema::{ObjectBuilder, Schema, Type},
    },
};

use super::FoundBy;
use crate::{event::Kind, policy::Policy};

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
    /// Why this one: the match of the configuration, or the run, by which the agent was found.
    #[serde(default)]
    pub found_by: FoundBy,
    /// The fields that are not as in the policy that ships, by name: `network.deny`. All others are.
    #[serde(default)]
    pub differs: Vec<String>,
    /// What it asks for and is not in force on this kernel.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_in_force: Vec<String>,
}

impl PolicyInForce {
    /// Of a policy.
    ///
    /// # Errors
    ///
    /// Never, in truth: a policy can be written.
    pub fn new(agent: &str, source: &str, policy: &Policy, found_by: FoundBy) -> Result<Self> {
        let policy = serde_json::to_value(policy)?;
        let mut differs = Vec::new();
        differ(
            &serde_json::to_value(Policy::default())?,
            &policy,
            "",
            &mut differs,
        );
        Ok(Self {
            agent: agent.to_owned(),
            source: source.to_owned(),
            policy,
            found_by,
            differs,
            not_in_force: Vec::new(),
        })
    }

    /// Why it is as it is, in two lines.
    pub fn why(&self) -> Vec<String> {
        let found = self.found_by.words();
        let found = found.map_or_else(String::new, |found| format!(", by {found}"));
        let differs = if self.differs.is_empty() {
            "all as in the policy that ships".to_owned()
        } else {
            format!(
                "as in the policy that ships, but for {}",
                self.differs.join(", ")
            )
        };
        vec![format!("{}{found}", self.source), differs]
    }
}

/// The names of the fields that are not the same.
fn differ(before: &Value, now: &Value, name: &str, out: &mut Vec<String>) {
    let (Value::Object(old), Value::Object(new)) = (before, now) else {
        if before != now {
            out.push(name.to_owned());
        }
        return;
    };
    let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    for key in keys {
        let inner = if name.is_empty() {
            key.clone()
        } else {
            format!("{name}.{key}")
        };
        let of = |all: &Map<String, Value>| all.get(key).cloned().unwrap_or_default();
        differ(&of(old), &of(new), &inner, out);
    }
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
    /// What it rests on: `tracepoint`, `cgroup`, `trampoline` or `lsm`.
    #[serde(default)]
    pub tier: String,
    /// Without it nothing can be watched.
    #[serde(default)]
    pub required: bool,
    /// It is there.
    pub ok: bool,
    /// Why it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<String>,
    /// Why it rests on nothing better, where there is something better.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lower: Option<String>,
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
    /// Entries of the kernel's maps that have some for each agent, by name.
    pub maps: BTreeMap<String, u64>,
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

/// The name of a kind of events.
pub struct KindName;

impl PartialSchema for KindName {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .enum_values(Some(Kind::NAMES.iter().copied()))
            .into()
    }
}

impl ToSchema for KindName {}

/// Which events.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct EventQuery {
    /// Of this agent, by its name.
    pub agent: Option<String>,
    /// Of these kinds, by commas.
    #[param(value_type = Option<Vec<KindName>>, style = Form, explode = false, min_items = 1)]
    pub kind: Option<String>,
    /// Of this process, by its id.
    #[param(value_type = Option<i64>, minimum = 0, maximum = 4_294_967_295_u64)]
    pub pid: Option<u32>,
    /// From then on: `10m`, `2h`, `3d` ago, or RFC 3339.
    #[param(
        pattern = "^([0-9]{1,9}[smhd]|[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,9})?(Z|[+-](0[0-9]|1[0-4]):[0-5][0-9]))$",
        example = "10m"
    )]
    pub since: Option<String>,
    /// At most so many: 1 to 1000, else 100.
    #[param(minimum = 1, maximum = 1000)]
    pub limit: Option<usize>,
    /// What follows this: [`super::EventPage::next`] of the page before. Without it the last ones are given.
    #[param(pattern = "^[0-9]{4}-[0-9]{2}-[0-9]{2}:[0-9]{1,18}$")]
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
    #[param(
        pattern = "^([0-9]{1,9}[smhd]|[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,9})?(Z|[+-](0[0-9]|1[0-4]):[0-5][0-9]))$",
        example = "10m"
    )]
    pub since: Option<String>,
}

/// Which items of the stream.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct StreamQuery {
    /// Of this agent, by its name.
    pub agent: Option<String>,
    /// Events of these kinds, by commas, or `none`; findings always.
    #[param(value_type = Option<Vec<KindName>>, style = Form, explode = false, min_items = 1)]
    pub kind: Option<String>,
}
