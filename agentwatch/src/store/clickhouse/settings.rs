//! The section `clickhouse` of the daemon's configuration.

use std::{fmt, fs, net::IpAddr, path::PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};

/// The variables that say something else than the file: where the server is, the user and the password.
pub const ENVIRONMENT: [&str; 3] = [
    "AGENTWATCH_CLICKHOUSE_URL",
    "AGENTWATCH_CLICKHOUSE_USER",
    "AGENTWATCH_CLICKHOUSE_PASSWORD",
];

/// Where ClickHouse is, and how it is spoken to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The address of its HTTP interface: `https://clickhouse.example:8443`. `AGENTWATCH_CLICKHOUSE_URL`
    /// overrides it.
    pub url: String,
    /// The database [default: `agentwatch`].
    #[serde(default = "default_database")]
    pub database: String,
    /// The user [default: the server's `default`]. `AGENTWATCH_CLICKHOUSE_USER` overrides it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// A file with the user's password, and nothing else but a line end. `AGENTWATCH_CLICKHOUSE_PASSWORD` is
    /// the password itself, and overrides it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// A PEM file with the certificates that vouch for the server's [default: the system's].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// How what is sent is compressed.
    #[serde(default)]
    pub compression: Compression,
    /// Let the server gather the batches of many nodes before it writes them: fewer and larger parts where
    /// hundreds of nodes send little each. The server still says yes only when they are written.
    #[serde(default)]
    pub async_insert: bool,
    /// Most rows of a batch: 100 to 500000. A batch is in memory as a whole, about 1 KiB a row.
    #[serde(default = "default_batch_rows")]
    pub batch_rows: u32,
    /// How often is looked for what is new, seconds: 1 to 300. Each time is at least one part on the server.
    #[serde(default = "default_every")]
    pub every_seconds: u32,
}

/// How what is sent is compressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Not at all.
    None,
    /// Quickly.
    #[default]
    Lz4,
    /// Smaller, for narrow lines.
    Zstd,
}

/// A password: never shown.
#[derive(Clone, Default)]
pub struct Password(pub String);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

fn default_database() -> String {
    "agentwatch".to_owned()
}

fn default_batch_rows() -> u32 {
    20_000
}

fn default_every() -> u32 {
    5
}

impl Settings {
    /// A server, with everything else as it is when nothing is said.
    pub fn new(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            database: default_database(),
            user: None,
            password_file: None,
            ca_file: None,
            compression: Compression::default(),
            async_insert: false,
            batch_rows: default_batch_rows(),
            every_seconds: default_every(),
        }
    }

    /// What the environment says counts more.
    #[must_use]
    pub fn with_environment(mut self, get: impl Fn(&str) -> Option<String>) -> Self {
        let [url, user, _] = ENVIRONMENT.map(|name| get(name).filter(|value| !value.is_empty()));
        if let Some(url) = url {
            self.url = url;
        }
        self.user = user.or(self.user);
        self
    }

    /// Whether it makes sense.
    ///
    /// # Errors
    ///
    /// When it does not; the error says what and why.
    pub fn check(&self) -> Result<()> {
        let uri: hyper::Uri = self
            .url
            .parse()
            .with_context(|| format!("url: {:?} is no address", self.url))?;
        ensure!(
            matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some(),
            "url: {:?} does not begin with http:// or https:// and a host",
            self.url
        );
        ensure!(
            uri.authority()
                .is_none_or(|authority| !authority.as_str().contains('@')),
            "url: the user and the password have places of their own: `user`, `password_file`"
        );
        ensure!(!self.database.is_empty(), "database: empty");
        ensure!(
            (100..=500_000).contains(&self.batch_rows),
            "batch_rows is {}; it is 100 to 500000",
            self.batch_rows
        );
        ensure!(
            (1..=300).contains(&self.every_seconds),
            "every_seconds is {}; it is 1 to 300",
            self.every_seconds
        );
        if self.ca_file.is_some() && uri.scheme_str() == Some("http") {
            bail!("ca_file: there are no certificates at an http:// address");
        }
        Ok(())
    }

    /// What is allowed and yet should not be, if anything.
    pub fn warning(&self) -> Option<String> {
        let uri: hyper::Uri = self.url.parse().ok()?;
        let host = uri.host()?.trim_matches(['[', ']']);
        let local = host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
        (uri.scheme_str() == Some("http") && !local)
            .then(|| format!("events and the password go to {host} as plain text: use https://"))
    }

    /// The user's password: of the environment, else of the file; empty where there is none.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub fn password(&self, get: impl Fn(&str) -> Option<String>) -> Result<Password> {
        if let Some(password) = get(ENVIRONMENT[2]) {
            return Ok(Password(password));
        }
        let Some(file) = &self.password_file else {
            return Ok(Password::default());
        };
        let text = fs::read_to_string(file)
            .with_context(|| format!("cannot read the password file {}", file.display()))?;
        Ok(Password(text.trim_end_matches(['\n', '\r']).to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_is_refused() {
        let wrong = |change: fn(&mut Settings)| {
            let mut settings = Settings::new("https://ch:8443");
            change(&mut settings);
            settings.check().unwrap_err().to_string()
        };
        assert!(Settings::new("https://ch:8443").check().is_ok());
        assert!(wrong(|s| s.url = "ch:9000".into()).contains("http://"));
        assert!(wrong(|s| s.url = "https://u:p@ch".into()).contains("password_file"));
        assert!(wrong(|s| s.batch_rows = 1).contains("100 to 500000"));
        let plain = wrong(|s| {
            s.url = "http://ch:8123".into();
            s.ca_file = Some("/ca.pem".into());
        });
        assert!(plain.contains("ca_file"), "{plain}");
    }

    #[test]
    fn plain_text_is_for_this_machine() {
        for (url, warns) in [
            ("http://127.0.0.1:8123", false),
            ("http://[::1]:8123", false),
            ("http://localhost", false),
            ("https://ch.example:8443", false),
            ("http://ch.example:8123", true),
        ] {
            assert_eq!(Settings::new(url).warning().is_some(), warns, "{url}");
        }
    }

    #[test]
    fn the_password_is_the_environments_else_the_files_and_is_not_shown() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("password");
        fs::write(&file, "secret \n").unwrap();
        let mut settings = Settings::new("http://x");
        assert_eq!(settings.password(|_| None).unwrap().0, "");
        settings.password_file = Some(file);
        let password = settings.password(|_| None).unwrap();
        assert_eq!(password.0, "secret ");
        assert_eq!(format!("{password:?}"), "***");
        assert_eq!(settings.password(|_| Some("e".into())).unwrap().0, "e");
        settings.password_file = Some("/nowhere".into());
        let error = settings.password(|_| None).unwrap_err().to_string();
        assert!(error.contains("/nowhere"), "{error}");
    }
}
