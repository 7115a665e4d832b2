//! Where an agent is looked for: by its cgroup, by its unit of systemd, or by its container's label.

use std::{collections::BTreeMap, path::Path};

use serde::{Deserialize, Serialize};

use super::CgroupGlob;

/// The unit of systemd whose cgroup is an agent's: a glob of its name, `agent-*.service`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UnitGlob {
    text: String,
    glob: CgroupGlob,
}

impl TryFrom<String> for UnitGlob {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let kinds = [".service", ".scope", ".slice"];
        if text.contains('/') || !kinds.iter().any(|kind| text.ends_with(kind)) {
            return Err(format!(
                "`{text}` is no unit with a cgroup: it ends with {}",
                kinds.join(", ")
            ));
        }
        if kinds
            .iter()
            .any(|kind| text.trim_end_matches(kind).trim_matches('*').is_empty())
        {
            return Err(format!("`{text}` matches every unit of the host"));
        }
        Ok(Self {
            // A unit may be in any slice, of the system or of a user.
            glob: CgroupGlob::anywhere(&text)?,
            text,
        })
    }
}

impl From<UnitGlob> for String {
    fn from(unit: UnitGlob) -> Self {
        unit.text
    }
}

/// The containers that are agents.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContainerMatch {
    /// The label that they have: `KEY=VALUE`, or `KEY` with any value.
    pub label: Label,
}

/// A label of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Label {
    key: String,
    value: Option<String>,
}

impl TryFrom<String> for Label {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let (key, value) = match text.split_once('=') {
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (text.as_str(), None),
        };
        if key.is_empty() {
            return Err(format!("`{text}` is no label: KEY=VALUE, or KEY"));
        }
        Ok(Self {
            key: key.to_owned(),
            value,
        })
    }
}

impl From<Label> for String {
    fn from(label: Label) -> Self {
        match label.value {
            Some(value) => format!("{}={value}", label.key),
            None => label.key,
        }
    }
}

/// What a container runtime says of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Container {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The runtime's socket.
    pub runtime: String,
}

impl Label {
    /// Whether a container has it.
    pub fn is_on(&self, container: &Container) -> bool {
        match (container.labels.get(&self.key), &self.value) {
            (Some(has), Some(wanted)) => has == wanted,
            (has, _) => has.is_some(),
        }
    }
}

/// What a match goes by.
#[derive(Debug, Clone, Copy)]
pub enum By<'a> {
    /// The cgroup's path.
    Cgroup(&'a CgroupGlob),
    /// The unit's name.
    Unit(&'a str, &'a CgroupGlob),
    /// The container's label.
    Container(&'a Label),
}

impl UnitGlob {
    /// What a match goes by.
    pub fn by(&self) -> By<'_> {
        By::Unit(&self.text, &self.glob)
    }
}

/// The id of the container whose cgroup this is: 64 hexadecimal digits, alone or as runtimes wrap them.
///
/// `docker-ID.scope`, `libpod-ID.scope`, `cri-containerd-ID.scope`, `crio-ID.scope`, `nerdctl-ID.scope` with
/// systemd's cgroups; `/docker/ID`, `/libpod_parent/libpod-ID`, `/kubepods/…/ID`, `/NAMESPACE/ID` without.
pub fn container_id(cgroup: &Path) -> Option<&str> {
    let name = cgroup.file_name()?.to_str()?;
    let name = name.strip_suffix(".scope").unwrap_or(name);
    // conmon watches over a container, beside it.
    if name.contains("conmon") {
        return None;
    }
    let id = name.rsplit(['-', ':']).next()?;
    let is_id = id.len() == 64
        && id
            .bytes()
            .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    is_id.then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn containers_by_their_cgroups() {
        for name in [
            "/system.slice/docker-ID.scope",
            "/machine.slice/libpod-ID.scope",
            "/kubepods.slice/kubepods-podx.slice/cri-containerd-ID.scope",
            "/docker/ID",
            "/libpod_parent/libpod-ID",
            "/kubepods/besteffort/pod1/ID",
            "/kubepods/pod1/k8s.io:cri:ID",
        ] {
            let path = name.replace("ID", ID);
            assert_eq!(container_id(Path::new(&path)), Some(ID), "{path}");
        }
        for name in [
            "/",
            "/docker",
            "/machine.slice/libpod-conmon-ID.scope",
            "/docker/ID/init",
            "/system.slice/ssh.service",
        ] {
            let path = name.replace("ID", ID);
            assert_eq!(container_id(Path::new(&path)), None, "{path}");
        }
        let upper = format!("/docker/{}", ID.to_uppercase());
        assert_eq!(container_id(Path::new(&upper)), None);
    }

    #[test]
    fn units_are_anywhere() {
        let unit = |text: &str| UnitGlob::try_from(text.to_owned());
        let agents = unit("agent-*.service").unwrap();
        let By::Unit(_, glob) = agents.by() else {
            panic!("{agents:?}");
        };
        for path in [
            "/system.slice/agent-1.service",
            "/user.slice/user-1.slice/user@1.service/app.slice/agent-x.service",
        ] {
            assert!(glob.matches(Path::new(path)), "{path}");
        }
        assert!(!glob.matches(Path::new("/system.slice/agent-1.service/sub")));
        assert!(!glob.matches(Path::new("/system.slice/my-agent-1.service")));
        assert_eq!(glob.parent(), Path::new("/"));
        assert_eq!(glob.levels(Path::new("/")), u32::MAX);
        for bad in ["*.service", "**.scope", "agent", "a/b.service", "x.timer"] {
            assert!(unit(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn labels() {
        let label = |text: &str| Label::try_from(text.to_owned()).unwrap();
        let container = Container {
            labels: [("a".to_owned(), "b=c".to_owned())].into(),
            ..Container::default()
        };
        assert!(label("a=b=c").is_on(&container));
        assert!(label("a").is_on(&container));
        assert!(!label("a=").is_on(&container));
        assert!(!label("b").is_on(&container));
        assert!(Label::try_from("=x".to_owned()).is_err());
    }
}
