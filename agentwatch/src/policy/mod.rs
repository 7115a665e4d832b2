//! The policy: what an agent may do, and what happens when it does something else.
//!
//! A policy is a YAML file. [`Policy`] is that file, read and checked: its lists are compiled into
//! matchers as they are read, so a policy that exists is one that can be used. What a file leaves
//! out is as in `policies/default.yaml`, which is inside the program.

mod denial;
mod destination;
mod duration;
mod error;
mod existing;
pub mod file;
mod paths;
mod pattern;

use std::{
    path::{Path, PathBuf},
    sync::LazyLock,
    time::Duration,
};

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

pub use self::{
    denial::{
        DeniedPath, Device, DeviceNumbers, Devices, Enforcement, Files, Need, Network, Node,
        Operation, Peer, ResolvedFiles, Rules, SocketKind, Sockets, Sysctl, Sysctls, rule_name,
    },
    destination::{Destination, Destinations},
    error::{Place, PolicyError},
    existing::{ExistingFiles, MAX_EXISTING_FILES},
    paths::{PathSet, Prefilter},
    pattern::Pattern,
};
use crate::finding::{Action, Severity};

/// The policy that holds where no other is given.
pub const DEFAULT_YAML: &str = include_str!("../../../policies/default.yaml");

/// How many names the kernel compares the opened files with (`SENSITIVE_NAMES`).
pub const MAX_NAMES: usize = 1024;

static DEFAULT: LazyLock<Policy> = LazyLock::new(|| {
    Policy::parse(DEFAULT_YAML, "policies/default.yaml")
        .expect("a constant; `default_policy_is_valid` parses it")
});

/// A policy.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// The version of this format.
    #[serde(rename = "apiVersion")]
    api_version: ApiVersion,
    /// What the file is.
    kind: Kind,
    /// Whether actions are taken.
    #[serde(default)]
    pub mode: Mode,
    /// How the daemon leaves an agent when it is stopped.
    #[serde(default)]
    pub on_stop: OnStop,
    /// Where an agent may connect to.
    #[serde(default)]
    pub destinations: Destinations,
    /// Files whose reading is reported.
    #[serde(rename = "sensitive_paths", default = "default_sensitive")]
    pub sensitive: PathSet,
    /// Files that may be deleted in any number, since tools make them again.
    #[serde(default = "default_disposable")]
    pub disposable: PathSet,
    /// Which events are told, and how.
    #[serde(default)]
    pub events: Events,
    /// What is looked for, and what is done about it.
    #[serde(default)]
    pub detectors: Detectors,
    /// Whether a denial that this kernel cannot hold is an error.
    #[serde(default)]
    pub enforcement: Enforcement,
    /// Peers and own addresses that the kernel refuses.
    #[serde(default)]
    pub network: Network,
    /// Kinds of sockets that it refuses.
    #[serde(default)]
    pub sockets: Sockets,
    /// Devices that it refuses.
    #[serde(default)]
    pub devices: Devices,
    /// Sysctls that it refuses to write.
    #[serde(default)]
    pub sysctl: Sysctls,
    /// Files that it refuses.
    #[serde(default)]
    pub files: Files,
    /// What it refuses as a whole.
    #[serde(default, deserialize_with = "list")]
    pub deny: Vec<Operation>,
    /// What is allowed in the file but has a price that its author may not know.
    #[serde(skip)]
    pub warnings: Vec<String>,
}

/// The version of the format.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum ApiVersion {
    #[serde(rename = "agentwatch/v1")]
    V1,
}

/// What the file is. The only kind so far.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum Kind {
    Policy,
}

/// Whether actions are taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// They are.
    #[default]
    Enforce,
    /// They are not: findings say what would have been done.
    Observe,
}

/// How the daemon leaves an agent when it is stopped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnStop {
    /// As it is: it goes on, and nobody watches.
    #[default]
    Leave,
    /// None of its processes runs until a daemon watches it again.
    Freeze,
    /// All its processes are ended.
    Kill,
}

/// Which events are told, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Events {
    /// Opens that repeat one within a second are told as one event with their number.
    pub thin: bool,
}

impl Default for Events {
    fn default() -> Self {
        Self { thin: true }
    }
}

/// The detectors, each by its stable id.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Detectors {
    /// A way in from outside, through a connection that the agent made.
    pub reverse_tunnel: ReverseTunnel,
    /// Many files deleted that the agent did not create.
    pub mass_deletion: MassDeletion,
    /// Something was done to agentwatch itself.
    pub monitor_tampering: MonitorTampering,
    /// Something that the policy denies was tried.
    pub policy_violation: PolicyViolation,
    /// The agent does more than can be told of it.
    pub event_flood: EventFlood,
}

/// `event-flood`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EventFlood {
    /// Whether it looks at all.
    pub enabled: bool,
    /// What is done about a finding.
    pub action: Action,
}

impl Default for EventFlood {
    fn default() -> Self {
        Self {
            enabled: true,
            action: Action::Alert,
        }
    }
}

/// `monitor-tampering`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MonitorTampering {
    /// Whether it looks at all.
    pub enabled: bool,
    /// What is done about a finding.
    pub action: Action,
}

impl Default for MonitorTampering {
    fn default() -> Self {
        Self {
            enabled: true,
            action: Action::Kill,
        }
    }
}

/// `policy-violation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PolicyViolation {
    /// Whether it looks at all.
    pub enabled: bool,
    /// What is done about a finding.
    pub action: Action,
    /// How bad it is.
    pub severity: Severity,
}

impl Default for PolicyViolation {
    fn default() -> Self {
        Self {
            enabled: true,
            action: Action::Alert,
            severity: Severity::Medium,
        }
    }
}

/// `reverse-tunnel`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReverseTunnel {
    /// Whether it looks at all.
    pub enabled: bool,
    /// What is done about a finding.
    pub action: Action,
}

impl Default for ReverseTunnel {
    fn default() -> Self {
        Self {
            enabled: true,
            action: Action::Kill,
        }
    }
}

/// `mass-deletion`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MassDeletion {
    /// Whether it looks at all.
    pub enabled: bool,
    /// What is done about a finding.
    pub action: Action,
    /// Deletions that lie further apart are not counted together.
    #[serde(with = "duration")]
    pub window: Duration,
    /// How many files may be deleted in a window outside the agent's workspace. One more is a
    /// finding.
    pub max_files: u64,
    /// The same inside the workspace.
    pub workspace_max_files: u64,
}

impl Default for MassDeletion {
    fn default() -> Self {
        Self {
            enabled: true,
            action: Action::Kill,
            window: Duration::from_secs(60),
            max_files: 40,
            workspace_max_files: 1000,
        }
    }
}

impl Default for Policy {
    fn default() -> Self {
        DEFAULT.clone()
    }
}

impl Policy {
    /// Reads a policy from a file.
    ///
    /// # Errors
    ///
    /// When it cannot be read or is no policy; the error says where.
    pub fn load(path: &Path) -> Result<Self, PolicyError> {
        Self::parse(&file::read(path, "policy")?, &path.display().to_string())
    }

    /// Reads a policy from text. Errors call it `name`.
    ///
    /// # Errors
    ///
    /// When it is no policy; the error says where.
    pub fn parse(text: &str, name: &str) -> Result<Self, PolicyError> {
        let options = serde_saphyr::options! {
            // Lines are shown in our own way, escaped.
            with_snippet: false,
            // `enabled: no` would be false to some readers of YAML and text to others.
            strict_booleans: true,
        };
        let mut policy: Self = serde_saphyr::from_str_with_options(text, options)
            .map_err(|e| PolicyError::from_yaml(name, text, &e))?;
        if let Err(message) = policy.denials() {
            return Err(PolicyError::whole(name, &message));
        }
        match policy.sensitive.prefilter() {
            Prefilter::Names(names) if names.len() > MAX_NAMES => {
                let message = format!(
                    "sensitive_paths has {} different fixed names; the kernel compares with at most \
                     {MAX_NAMES}",
                    names.len()
                );
                return Err(PolicyError::whole(name, &message));
            }
            Prefilter::Names(_) => {}
            Prefilter::Everything { because } => policy.warnings.push(format!(
                "sensitive_paths: `{because}` has no fixed name among its last three components, so \
                 the kernel sends every open for reading; this costs more"
            )),
        }
        Ok(policy)
    }

    /// The sensitive files that exist now, at most [`MAX_EXISTING_FILES`], with those in these home
    /// directories; see [`PathSet::existing_files`], which also tells whether there may be more.
    pub fn existing_sensitive_files(
        &self,
        homes: &[PathBuf],
    ) -> impl Iterator<Item = PathBuf> + use<> {
        self.sensitive.existing_files(homes).paths.into_iter()
    }
}

impl Detectors {
    /// The action of a detector, by its id. `log` where the policy knows none of that name.
    pub fn action(&self, detector: &str) -> Action {
        match detector {
            "reverse-tunnel" => self.reverse_tunnel.action,
            "mass-deletion" => self.mass_deletion.action,
            "event-flood" => self.event_flood.action,
            "monitor-tampering" => self.monitor_tampering.action,
            "policy-violation" => self.policy_violation.action,
            _ => Action::Log,
        }
    }
}

/// Reads a list, where nothing after the colon is a mistake: it would otherwise be an empty list,
/// and somebody who commented all entries out would not know that.
fn list<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::deserialize(deserializer)?
        .ok_or_else(|| D::Error::custom("no value; for an empty list write `[]`"))
}

fn default_sensitive() -> PathSet {
    DEFAULT.sensitive.clone()
}

fn default_disposable() -> PathSet {
    DEFAULT.disposable.clone()
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, sample::Index};

    use super::*;

    const MINIMAL: &str = "apiVersion: agentwatch/v1\nkind: Policy\n";

    fn yaml(policy: &Policy) -> String {
        serde_saphyr::to_string(policy).unwrap()
    }

    #[test]
    fn default_policy_is_valid() {
        let policy = Policy::parse(DEFAULT_YAML, "default.yaml").unwrap();
        assert_eq!(policy.warnings, Vec::<String>::new());
        assert_eq!(policy.mode, Mode::Enforce);
        assert!(!policy.destinations.is_limited());
    }

    #[test]
    fn what_is_left_out_is_the_default() {
        let minimal = Policy::parse(MINIMAL, "minimal").unwrap();
        assert_eq!(
            yaml(&minimal),
            yaml(&Policy::parse(DEFAULT_YAML, "default").unwrap())
        );
        assert_eq!(yaml(&minimal), yaml(&Policy::default()));
        let partly = format!("{MINIMAL}detectors:\n  mass-deletion:\n    window: 5m\n");
        let partly = Policy::parse(&partly, "partly").unwrap();
        let expected = MassDeletion {
            window: Duration::from_secs(300),
            ..MassDeletion::default()
        };
        assert_eq!(partly.detectors.mass_deletion, expected);
        assert_eq!(partly.detectors.reverse_tunnel, ReverseTunnel::default());
    }

    #[test]
    fn every_detector_has_its_action() {
        let ids = serde_json::to_value(Detectors::default()).unwrap();
        for (id, settings) in ids.as_object().unwrap() {
            let action = serde_json::to_value(Detectors::default().action(id)).unwrap();
            assert_eq!(action, settings["action"], "{id}");
        }
        assert_eq!(Detectors::default().action("none"), Action::Log);
    }

    #[test]
    fn the_default_names_every_field() {
        // Each field of the format stands in the default file, where it is explained.
        let value = serde_json::to_value(Policy::default()).unwrap();
        let mut left = vec![&value];
        while let Some(value) = left.pop() {
            for (key, value) in value.as_object().into_iter().flatten() {
                assert!(
                    DEFAULT_YAML.contains(&format!("{key}:")),
                    "{key} is not in default.yaml"
                );
                left.push(value);
            }
        }
    }

    #[test]
    fn what_is_shown_reads_the_same() {
        let text = format!(
            "{MINIMAL}mode: observe\ndestinations:\n  allow: ['*:443', '[2001:db8::/32]:22']\n\
             sensitive_paths: ['~/a', '!**/b', '**/{{c,d}}', '/x y: #z', '/[!a]']\n"
        );
        let policy = Policy::parse(&text, "text").unwrap();
        let shown = yaml(&policy);
        assert_eq!(yaml(&Policy::parse(&shown, "shown").unwrap()), shown);
        assert!(shown.contains("2001:db8::/32"));
    }

    #[test]
    fn too_many_names_are_refused() {
        let list: Vec<String> = (0..=MAX_NAMES).map(|i| format!("/etc/{i}")).collect();
        let error = Policy::parse(
            &format!("{MINIMAL}sensitive_paths: [{}]\n", list.join(", ")),
            "p",
        )
        .unwrap_err();
        assert_eq!(
            error.to_string(),
            "p: sensitive_paths has 1025 different fixed names; the kernel compares with at most 1024"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn any_text_is_read_or_refused(text in any::<String>(), at in any::<Index>(), cut in 0..40_usize) {
            // As it is, and in place of a piece of a right policy.
            let _ = Policy::parse(&text, "p").map_err(|e| e.to_string());
            let right: Vec<char> = DEFAULT_YAML.chars().collect();
            let (before, after) = right.split_at(at.index(right.len()));
            let after = &after[cut.min(after.len())..];
            let text: String = before.iter().copied().chain(text.chars()).chain(after.iter().copied()).collect();
            if let Err(error) = Policy::parse(&text, "p") {
                prop_assert!(error.to_string().chars().all(|c| c == '\n' || !c.is_control()));
            }
        }
    }
}
