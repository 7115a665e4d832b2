//! Sysctls, by name.

use agentwatch_common::deny::SYSCTL_NAME;
use serde::{Deserialize, Serialize};

/// One entry: a name as sysctl(8) writes it, or the beginning of names and `*`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sysctl {
    /// As the policy writes it.
    text: String,
    /// With slashes, as below /proc/sys; a whole name ends with NUL.
    key: Vec<u8>,
}

impl TryFrom<String> for Sysctl {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let (name, whole) = match text.strip_suffix('*') {
            Some(name) => (name, false),
            None => (text.as_str(), true),
        };
        let is_plain = |name: &str| !name.contains(['*', '?', '[', ' ', '\0']);
        if !is_plain(name) || (whole && name.is_empty()) || name.starts_with(['/', '.']) {
            return Err(format!(
                "`{text}` is no sysctl; write a name (kernel.core_pattern), the beginning of names \
                 (\"net.*\") or \"*\""
            ));
        }
        if !whole && !name.is_empty() && !name.ends_with(['.', '/']) {
            return Err(format!("`{text}`: before `*` comes a dot"));
        }
        // sysctl(8): where a slash is the first separator, a dot belongs to a name.
        let first = name.find(['.', '/']).map(|at| &name[at..=at]);
        let mut key = if first == Some("/") {
            name.as_bytes().to_vec()
        } else {
            name.replace('.', "/").into_bytes()
        };
        if whole {
            key.push(0);
        }
        if key.len() >= SYSCTL_NAME {
            return Err(format!("`{text}`: no sysctl has so long a name"));
        }
        Ok(Self { text, key })
    }
}

impl From<Sysctl> for String {
    fn from(sysctl: Sysctl) -> Self {
        sysctl.text
    }
}

impl Sysctl {
    /// What a name begins with that it denies.
    pub fn key(&self) -> &[u8] {
        &self.key
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (text, key) in [
            ("kernel.core_pattern", &b"kernel/core_pattern\0"[..]),
            ("kernel/core_pattern", b"kernel/core_pattern\0"),
            (
                "net/ipv4/conf/eth0.1/forwarding",
                b"net/ipv4/conf/eth0.1/forwarding\0",
            ),
            ("net.*", b"net/"),
            ("*", b""),
        ] {
            let sysctl = Sysctl::try_from(text.to_owned()).unwrap();
            assert_eq!(sysctl.key(), key, "{text}");
        }
    }

    #[test]
    fn bad_entries_say_why() {
        for (bad, why) in [
            ("", "is no sysctl"),
            ("net.*.x", "is no sysctl"),
            ("/proc/sys/kernel", "is no sysctl"),
            ("ne*", "before `*` comes a dot"),
            (&"a".repeat(200), "so long a name"),
        ] {
            let error = Sysctl::try_from(bad.to_owned()).unwrap_err();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }
}
