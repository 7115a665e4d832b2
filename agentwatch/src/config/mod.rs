//! The daemon's configuration: one YAML file, read and checked as policies are.

mod glob;

use std::{
    collections::HashMap,
    fs::File,
    io::Read as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

pub use self::glob::CgroupGlob;
use crate::{
    policy::{Policy, PolicyError},
    probe::memory,
    store::default_data_dir,
};

/// A configuration with every field, explained.
pub const EXAMPLE_YAML: &str = include_str!("../../../policies/daemon.yaml");

/// The largest configuration that is read.
const MAX_BYTES: u64 = 1 << 20;
/// Where the API's socket is when nothing is said.
pub const DEFAULT_SOCKET: &str = "/run/agentwatch/agentwatch.sock";

/// The variables that say something else than the file.
pub const ENVIRONMENT: [&str; 4] = [
    "AGENTWATCH_NODE",
    "AGENTWATCH_SOCKET",
    "AGENTWATCH_DATA_DIR",
    "AGENTWATCH_LOG",
];

/// The configuration.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The version of this format: `agentwatch/v1`.
    #[serde(rename = "apiVersion")]
    api_version: ApiVersion,
    /// What the file is: `Config`.
    kind: Kind,
    /// The node's name [default: the host's]. `AGENTWATCH_NODE` overrides it.
    #[serde(default = "host_name")]
    pub node: String,
    /// Where the API listens [default: `/run/agentwatch/agentwatch.sock`]. `AGENTWATCH_SOCKET` overrides it.
    #[serde(default = "default_socket")]
    pub socket: PathBuf,
    /// A group whose members may read from the API, and not act: a name or a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket_group: Option<String>,
    /// Where Prometheus may read `/metrics`, by TCP [default: nowhere but at the socket]. Whoever reaches it
    /// may read the agents' names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<SocketAddr>,
    /// The folder of the history [default: `/var/lib/agentwatch`]. `AGENTWATCH_DATA_DIR` overrides it.
    #[serde(default = "default_data_dir")]
    pub data_dir: PathBuf,
    /// What the kernel's maps may take at most, MiB: 8 to 1024.
    #[serde(default = "default_map_memory")]
    pub map_memory_mib: u32,
    /// What the daemon says of itself.
    #[serde(default)]
    pub log: Log,
    /// Which cgroups are agents. The first that matches counts.
    #[serde(default)]
    pub agents: Vec<Match>,
}

/// What the daemon says of itself, on standard error. Findings are written there whatever this says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// How bad it must be. `AGENTWATCH_LOG` overrides it.
    pub level: Level,
    /// How it is written.
    pub format: LogFormat,
}

/// How bad it must be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Something is lost, or not in force.
    Error,
    /// Something is not as it should be.
    Warn,
    /// What one wants to know later.
    #[default]
    Info,
    /// What one wants to know when it goes wrong.
    Debug,
}

impl std::str::FromStr for Level {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "error" => Self::Error,
            "warn" => Self::Warn,
            "info" => Self::Info,
            "debug" => Self::Debug,
            _ => return Err(format!("{text:?} is none of error, warn, info, debug")),
        })
    }
}

/// How it is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text on a terminal, else JSON.
    #[default]
    Auto,
    /// A line for people.
    Text,
    /// One object a line.
    Json,
}

/// Which cgroups are agents, and what holds for them.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Match {
    /// The cgroups, below the root of the cgroup2 file system: `/kubepods/*/pod*/*`. `*` stands for
    /// anything in a name, `**` for any number of levels.
    pub cgroup: CgroupGlob,
    /// The agents' names [default: `{name}`]. `{name}` is the cgroup's name, `{parent}` that of the one
    /// above, `{path}` all of its path with `-` for `/`.
    #[serde(default = "default_name")]
    pub name: NameTemplate,
    /// The policy's file, from the folder of the configuration on [default: the policy that ships].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<PathBuf>,
    /// The folder that is an agent's own to change; the same words stand for the same in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<NameTemplate>,
}

/// The version of the format.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum ApiVersion {
    #[serde(rename = "agentwatch/v1")]
    V1,
}

/// What the file is.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum Kind {
    Config,
}

/// Text with `{name}`, `{parent}` and `{path}` in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NameTemplate(String);

/// The words that stand for something.
const WORDS: [&str; 3] = ["{name}", "{parent}", "{path}"];

impl TryFrom<String> for NameTemplate {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let mut rest = text.clone();
        for word in WORDS {
            rest = rest.replace(word, "");
        }
        if text.is_empty() {
            return Err("empty; leave it out for the default".into());
        }
        if rest.contains(['{', '}']) {
            return Err(format!("in braces there may be {}", WORDS.join(", ")));
        }
        Ok(Self(text))
    }
}

impl From<NameTemplate> for String {
    fn from(template: NameTemplate) -> Self {
        template.0
    }
}

impl NameTemplate {
    /// The text for a cgroup.
    pub fn fill(&self, cgroup: &Path) -> String {
        let last = |path: Option<&Path>| {
            path.and_then(Path::file_name)
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default()
        };
        let path = cgroup.to_string_lossy();
        self.0
            .replace(WORDS[0], &last(Some(cgroup)))
            .replace(WORDS[1], &last(cgroup.parent()))
            .replace(WORDS[2], &path.trim_matches('/').replace('/', "-"))
    }
}

impl Config {
    /// Reads a configuration from a file, with what the environment says.
    ///
    /// # Errors
    ///
    /// When it cannot be read or is none; the error says where.
    pub fn load(path: &Path) -> Result<Self, PolicyError> {
        let name = path.display().to_string();
        let refuse = |message: String| PolicyError::whole(&name, &message);
        let mut text = String::new();
        let file = File::open(path).map_err(|e| refuse(format!("cannot open it: {e}")))?;
        file.take(MAX_BYTES)
            .read_to_string(&mut text)
            .map_err(|e| refuse(format!("cannot read it: {e}")))?;
        let mut config = Self::parse(&text, &name)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        for agents in &mut config.agents {
            if let Some(policy) = &mut agents.policy {
                *policy = folder.join(&policy);
            }
        }
        Ok(config)
    }

    /// Reads a configuration from text. Errors call it `name`.
    ///
    /// # Errors
    ///
    /// When it is none; the error says where.
    pub fn parse(text: &str, name: &str) -> Result<Self, PolicyError> {
        if text.trim().is_empty() {
            let message = "there is nothing in it; a configuration begins with \
                           `apiVersion: agentwatch/v1` and `kind: Config`";
            return Err(PolicyError::whole(name, message));
        }
        let options = serde_saphyr::options! {
            with_snippet: false,
            strict_booleans: true,
        };
        let config: Self = serde_saphyr::from_str_with_options(text, options)
            .map_err(|e| PolicyError::from_yaml(name, text, &e))?;
        if !memory::MIB.contains(&i64::from(config.map_memory_mib)) {
            let message = format!(
                "map_memory_mib is {}; it is {} to {}",
                config.map_memory_mib,
                memory::MIB.start(),
                memory::MIB.end()
            );
            return Err(PolicyError::whole(name, &message));
        }
        Ok(config)
    }

    /// What the environment says counts more than the file.
    ///
    /// # Errors
    ///
    /// When it says what makes no sense.
    pub fn with_environment(
        mut self,
        get: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, PolicyError> {
        let [node, socket, data_dir, level] =
            ENVIRONMENT.map(|name| get(name).filter(|v| !v.is_empty()));
        if let Some(node) = node {
            self.node = node;
        }
        if let Some(socket) = socket {
            self.socket = socket.into();
        }
        if let Some(dir) = data_dir {
            self.data_dir = dir.into();
        }
        if let Some(level) = level {
            let refuse = |message: String| PolicyError::whole(ENVIRONMENT[3], &message);
            self.log.level = level.parse().map_err(refuse)?;
        }
        Ok(self)
    }

    /// Reads every policy that it names. Of each match the one, and what it is called.
    ///
    /// # Errors
    ///
    /// When one is not right; the error says which, and where.
    pub fn policies(&self) -> Result<Vec<(Arc<Policy>, String)>, PolicyError> {
        let mut known: HashMap<Option<&PathBuf>, Arc<Policy>> = HashMap::new();
        let mut policies = Vec::new();
        for agents in &self.agents {
            let file = agents.policy.as_ref();
            let policy = match (known.get(&file), file) {
                (Some(policy), _) => Arc::clone(policy),
                (None, Some(path)) => Arc::new(Policy::load(path)?),
                (None, None) => Arc::new(Policy::default()),
            };
            known.insert(file, Arc::clone(&policy));
            let source = file.map_or_else(|| "default".into(), |path| path.display().to_string());
            policies.push((policy, source));
        }
        Ok(policies)
    }
}

fn default_socket() -> PathBuf {
    DEFAULT_SOCKET.into()
}

fn default_map_memory() -> u32 {
    memory::DEFAULT_MIB
}

fn default_name() -> NameTemplate {
    NameTemplate(WORDS[0].to_owned())
}

fn host_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "apiVersion: agentwatch/v1\nkind: Config\n";

    fn error(text: &str) -> String {
        Config::parse(&format!("{HEAD}{text}"), "c.yaml")
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn what_is_not_known_is_refused_with_its_place() {
        let text = error("agents:\n  - cgroup: /a/*\n    polcy: x.yaml\n");
        assert!(
            text.starts_with("c.yaml:5:5: unknown field `polcy`"),
            "{text}"
        );
        assert!(text.contains("did you mean `policy`?"), "{text}");
        let text = error("agents:\n  - cgroup: /a/*\n    name: 'x-{pod}'\n");
        assert!(text.starts_with("c.yaml:5:"), "{text}");
        assert!(text.contains("{name}, {parent}, {path}"), "{text}");
        assert!(error("map_memory_mib: 4\n").contains("8 to 1024"));
        let empty = Config::parse(" \n", "c.yaml").unwrap_err().to_string();
        assert!(empty.contains("kind: Config"), "{empty}");
    }

    #[test]
    fn names_come_from_the_cgroup() {
        let cgroup = Path::new("/jobs/team-a/run.7");
        let fill = |text: &str| {
            NameTemplate::try_from(text.to_owned())
                .unwrap()
                .fill(cgroup)
        };
        assert_eq!(fill("{name}"), "run.7");
        assert_eq!(fill("{parent}/{name}"), "team-a/run.7");
        assert_eq!(fill("x-{path}"), "x-jobs-team-a-run.7");
        assert_eq!(fill("fixed"), "fixed");
    }

    #[test]
    fn the_environment_counts_more() {
        let config = Config::parse(&format!("{HEAD}node: a\ndata_dir: /b\n"), "c").unwrap();
        let config = config.with_environment(|name| match name {
            "AGENTWATCH_NODE" => Some("n1".into()),
            "AGENTWATCH_DATA_DIR" => Some(String::new()),
            "AGENTWATCH_LOG" => Some("debug".into()),
            _ => None,
        });
        let config = config.unwrap();
        assert_eq!(config.log.level, Level::Debug);
        let wrong = config.clone().with_environment(|_| Some("x".into()));
        let wrong = wrong.unwrap_err().to_string();
        assert!(wrong.contains("error, warn, info, debug"), "{wrong}");
        assert_eq!(config.node, "n1");
        assert_eq!(config.data_dir, PathBuf::from("/b"));
    }

    #[test]
    fn the_example_names_every_field() {
        let config = Config::parse(EXAMPLE_YAML, "daemon.yaml").unwrap();
        let mut all = config.clone();
        all.socket_group = Some("g".into());
        all.metrics = Some(([127, 0, 0, 1], 9464).into());
        all.agents = vec![Match {
            policy: Some("p".into()),
            workspace: Some(default_name()),
            ..config.agents[0].clone()
        }];
        let mut left = vec![serde_json::to_value(&all).unwrap()];
        while let Some(value) = left.pop() {
            for (key, value) in value.as_object().into_iter().flatten() {
                assert!(EXAMPLE_YAML.contains(&format!("{key}:")), "{key}");
                left.push(value.clone());
            }
            left.extend(value.as_array().into_iter().flatten().cloned());
        }
    }

    #[test]
    fn what_is_shown_reads_the_same() {
        let config = Config::parse(EXAMPLE_YAML, "daemon.yaml").unwrap();
        let shown = serde_saphyr::to_string(&config).unwrap();
        let again = Config::parse(&shown, "shown").unwrap();
        assert_eq!(serde_saphyr::to_string(&again).unwrap(), shown);
    }
}
