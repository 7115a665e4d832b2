//! The daemon's configuration: one YAML file, read and checked as policies are.

mod glob;
mod place;
mod template;

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock},
};

use serde::{Deserialize, Serialize};

pub use self::{
    glob::CgroupGlob,
    place::{By, Container, ContainerMatch, Label, UnitGlob, container_id},
    template::NameTemplate,
};
use crate::{
    policy::{Policy, PolicyError, file},
    probe::memory,
    store::{
        Retention, clickhouse, default_data_dir,
        export::{LinesSettings, OtlpSettings},
    },
};

/// A configuration with every field, explained.
pub const EXAMPLE_YAML: &str = include_str!("../../../policies/daemon.yaml");

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
    /// How much of the history is kept, and how long.
    #[serde(default)]
    pub history: Retention,
    /// What the kernel's maps may take at most, MiB: 8 to 1024.
    #[serde(default = "default_map_memory")]
    pub map_memory_mib: u32,
    /// Where docker and podman serve docker's API, and containerd its own, as a socket with `containerd` in its
    /// name does [default: `/run/docker.sock`, `/run/podman/podman.sock`, `/run/containerd/containerd.sock`].
    #[serde(default = "default_container_sockets")]
    pub container_sockets: Vec<PathBuf>,
    /// What the daemon says of itself.
    #[serde(default)]
    pub log: Log,
    /// Where the history goes beside the local disk [default: nowhere].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clickhouse: Option<clickhouse::Settings>,
    /// A file with a JSON object a line of all that goes into the history [default: none].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lines: Option<LinesSettings>,
    /// A collector of OpenTelemetry logs that gets a copy of the history [default: none].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub otlp: Option<OtlpSettings>,
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

/// Which cgroups are agents, and what holds for them: one of `cgroup`, `unit` and `container` says which.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Match {
    /// The cgroups, below the root of the cgroup2 file system: `/kubepods/*/pod*/*`. `*` stands for
    /// anything in a name, `**` for any number of levels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cgroup: Option<CgroupGlob>,
    /// The units of systemd, by their names: `agent-*.service`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unit: Option<UnitGlob>,
    /// The containers, by a label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    container: Option<ContainerMatch>,
    /// The agents' names [default: `{name}`, of containers `{container}`]. `{name}` is the cgroup's name,
    /// `{parent}` that of the one above, `{path}` all of its path with `-` for `/`; `{container}` the
    /// container's name, `{label:KEY}` one of its labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<NameTemplate>,
    /// The policy's file, from the folder of the configuration on [default: the policy that ships].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<PathBuf>,
    /// The folder that is an agent's own to change; the same words stand for the same in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<NameTemplate>,
}

impl Match {
    /// What it goes by.
    pub fn by(&self) -> By<'_> {
        match (&self.cgroup, &self.unit, &self.container) {
            (Some(glob), ..) => By::Cgroup(glob),
            (_, Some(unit), _) => unit.by(),
            (_, _, Some(container)) => By::Container(&container.label),
            // Refused when it is read.
            (None, None, None) => By::Unit("", &NOWHERE),
        }
    }

    /// Where the cgroups are that may be meant.
    pub fn glob(&self) -> &CgroupGlob {
        match self.by() {
            By::Cgroup(glob) | By::Unit(_, glob) => glob,
            By::Container(_) => &ANYWHERE,
        }
    }

    /// What it goes by, for people.
    pub fn text(&self) -> String {
        match self.by() {
            By::Cgroup(glob) => glob.text().to_owned(),
            By::Unit(name, _) => format!("units {name}"),
            By::Container(label) => format!("containers with {}", String::from(label.clone())),
        }
    }

    /// The agents' names.
    pub fn name(&self) -> NameTemplate {
        let usual = || match self.by() {
            By::Container(_) => NameTemplate::container(),
            _ => NameTemplate::cgroup(),
        };
        self.name.clone().unwrap_or_else(usual)
    }

    /// Why it cannot be, if that is so.
    fn wrong(&self) -> Option<&'static str> {
        let of = [
            self.cgroup.is_some(),
            self.unit.is_some(),
            self.container.is_some(),
        ];
        let templates = [&self.name, &self.workspace];
        let by_container = |template: &&Option<NameTemplate>| {
            template.as_ref().is_some_and(NameTemplate::needs_container)
        };
        if of.into_iter().filter(|is| *is).count() != 1 {
            return Some("exactly one of `cgroup`, `unit` and `container` says which they are");
        }
        if self.container.is_none() && templates.iter().any(by_container) {
            return Some("`{container}` and `{label:…}` are there for `container` only");
        }
        None
    }
}

/// Where a container's cgroup may be.
static ANYWHERE: LazyLock<CgroupGlob> =
    LazyLock::new(|| CgroupGlob::anywhere("*").expect("a constant, which a test compiles"));
/// Where nothing is: no name has that in it.
static NOWHERE: LazyLock<CgroupGlob> =
    LazyLock::new(|| CgroupGlob::anywhere("\0").expect("a constant, which a test compiles"));

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

impl Config {
    /// Reads a configuration from a file, with what the environment says.
    ///
    /// # Errors
    ///
    /// When it cannot be read or is none; the error says where.
    pub fn load(path: &Path) -> Result<Self, PolicyError> {
        let name = path.display().to_string();
        let text = file::read(path, "configuration")?;
        let mut config = Self::parse(&text, &name)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        for agents in &mut config.agents {
            if let Some(policy) = &mut agents.policy {
                *policy = folder.join(&policy);
            }
        }
        if let Some(collector) = &mut config.otlp {
            collector.ca_file = collector.ca_file.take().map(|file| folder.join(file));
        }
        if let Some(server) = &mut config.clickhouse {
            for file in [&mut server.password_file, &mut server.ca_file] {
                *file = file.take().map(|file| folder.join(file));
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
        if let Some(wrong) = config.history.wrong() {
            return Err(PolicyError::whole(name, &format!("history: {wrong}")));
        }
        let sections = [
            (
                "clickhouse",
                config.clickhouse.as_ref().map(clickhouse::Settings::check),
            ),
            ("lines", config.lines.as_ref().map(LinesSettings::check)),
            ("otlp", config.otlp.as_ref().map(OtlpSettings::check)),
        ];
        for (section, checked) in sections {
            if let Some(Err(error)) = checked {
                return Err(PolicyError::whole(name, &format!("{section}: {error:#}")));
            }
        }
        for (at, agents) in config.agents.iter().enumerate() {
            if let Some(wrong) = agents.wrong() {
                let message = format!("agents[{at}]: {wrong}");
                return Err(PolicyError::whole(name, &message));
            }
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

fn default_container_sockets() -> Vec<PathBuf> {
    [
        "/run/docker.sock",
        "/run/podman/podman.sock",
        "/run/containerd/containerd.sock",
    ]
    .map(PathBuf::from)
    .into()
}

fn default_map_memory() -> u32 {
    memory::DEFAULT_MIB
}

/// The host's name.
pub fn host_name() -> String {
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
        assert!(
            text.contains("{name}, {parent}, {path}, {container}"),
            "{text}"
        );
        assert!(error("map_memory_mib: 4\n").contains("8 to 1024"));
        let empty = Config::parse(" \n", "c.yaml").unwrap_err().to_string();
        assert!(empty.contains("kind: Config"), "{empty}");
    }

    #[test]
    fn one_thing_says_which_they_are() {
        assert!(ANYWHERE.matches(Path::new("/a")) && ANYWHERE.matches(Path::new("/a/b")));
        assert!(!NOWHERE.matches(Path::new("/x")) && !NOWHERE.matches(Path::new("/a/x")));
        let text = error("agents:\n  - name: x\n");
        assert!(text.contains("agents[0]: exactly one of"), "{text}");
        let text = error("agents:\n  - cgroup: /a/*\n    unit: a.service\n");
        assert!(text.contains("exactly one of"), "{text}");
        let text = error("agents:\n  - unit: a.service\n    name: '{label:x}'\n");
        assert!(text.contains("for `container` only"), "{text}");
        let config =
            format!("{HEAD}agents:\n  - container: {{label: a=b}}\n    name: 'x-{{label:app}}'\n");
        assert!(Config::parse(&config, "c").is_ok());
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
        let unit = UnitGlob::try_from("a.service".to_owned()).unwrap();
        all.clickhouse = Some(clickhouse::Settings {
            user: Some("u".into()),
            password_file: Some("p".into()),
            ca_file: Some("c".into()),
            ..clickhouse::Settings::new("https://x")
        });
        all.lines = Some(LinesSettings::new(Path::new("/x")));
        all.otlp = Some(OtlpSettings {
            ca_file: Some("c".into()),
            ..OtlpSettings::new("http://x")
        });
        all.metrics = Some(([127, 0, 0, 1], 9464).into());
        all.agents = vec![Match {
            unit: Some(unit),
            container: Some(ContainerMatch {
                label: Label::try_from("a".to_owned()).unwrap(),
            }),
            policy: Some("p".into()),
            workspace: Some(NameTemplate::cgroup()),
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
