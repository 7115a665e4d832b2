//! Debian's suites beside those of the machine: packages of other releases, with apt's lists and
//! sources in the cache folder, so that the machine's own configuration stays as it is.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{setup::apt, workspace};

/// Debian's keys, as its package debian-archive-keyring brings them.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// One of Debian's two archives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Archive {
    /// Releases and backports.
    Main,
    /// Security updates.
    Security,
}

impl Archive {
    /// What its Release files call themselves.
    fn label(self) -> &'static str {
        match self {
            Self::Main => "Debian",
            Self::Security => "Debian-Security",
        }
    }

    /// Debian's own address of it, for machines that have none of their own.
    fn everywhere(self) -> &'static str {
        match self {
            Self::Main => "http://deb.debian.org/debian/",
            Self::Security => "http://deb.debian.org/debian-security/",
        }
    }

    /// The address that the machine's own sources have, in what [`sources_of_machine`] prints.
    fn address(self, sources: &str) -> &str {
        let own = sources.lines().find_map(|line| {
            let mut fields = line.split('|');
            (fields.next() == Some("Debian") && fields.next() == Some(self.label()))
                .then(|| fields.next())
                .flatten()
        });
        own.unwrap_or(self.everywhere())
    }
}

/// A suite: the archive and its name there.
pub type Suite = (Archive, &'static str);

/// Packages of some suites.
#[derive(Debug)]
pub struct Suites {
    dir: PathBuf,
}

impl Suites {
    /// Writes the sources and fetches the lists into a folder.
    pub fn fetch(dir: &Path, suites: &[Suite]) -> Result<Self> {
        if !workspace::has_program("apt-get") {
            bail!("kernels come from Debian's packages, and this machine has no apt-get");
        }
        if !Path::new(KEYRING).is_file() {
            bail!("{KEYRING} is missing: install Debian's package debian-archive-keyring");
        }
        for folder in ["lists/partial", "cache/archives/partial", "none"] {
            let folder = dir.join(folder);
            fs::create_dir_all(&folder)
                .with_context(|| format!("creating {}", folder.display()))?;
        }
        let file = dir.join("suites.sources");
        fs::write(&file, sources(&sources_of_machine(), suites))
            .with_context(|| format!("writing {}", file.display()))?;
        let suites = Self {
            dir: dir.to_owned(),
        };
        workspace::run(
            suites
                .apt("apt-get")
                .args(["-qq", "update"])
                .env("LC_ALL", "C"),
        )
        .context("fetching the lists of Debian's suites")?;
        Ok(suites)
    }

    /// The names of packages that there are, by a regular expression.
    pub fn names(&self, pattern: &str) -> Result<Vec<String>> {
        let mut search = self.apt("apt-cache");
        // Not `pkgnames`: that lists packages, too, that others only name.
        let printed = workspace::output(search.args(["search", "--names-only", pattern]))?;
        let names = printed
            .lines()
            .filter_map(|line| line.split_whitespace().next());
        Ok(names.map(str::to_owned).collect())
    }

    /// Takes one file out of a package, with nothing installed.
    pub fn unpack_file(&self, package: &str, find: fn(&Path) -> bool, to: &Path) -> Result<()> {
        apt::unpack_file_with(self.apt("apt-get"), package, find, to)
    }

    /// A program of apt, with these suites instead of the machine's.
    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let place = |name: &str, path: &str| format!("{name}={}", self.dir.join(path).display());
        for option in [
            place("Dir::Etc::SourceList", "suites.sources"),
            place("Dir::Etc::SourceParts", "none"),
            place("Dir::Etc::Preferences", "none/preferences"),
            place("Dir::Etc::PreferencesParts", "none"),
            place("Dir::State::Lists", "lists"),
            place("Dir::Cache", "cache"),
            // apt's own user cannot write into a home folder.
            "APT::Sandbox::User=root".to_owned(),
        ] {
            command.args(["-o", &option]);
        }
        command
    }
}

/// `origin|label|address` of each list that the machine's own sources have, a line each; nothing where
/// that cannot be told, for then Debian's own address is as good.
fn sources_of_machine() -> String {
    let mut targets = Command::new("apt-get");
    targets.args([
        "indextargets",
        "--format",
        "$(ORIGIN)|$(LABEL)|$(REPO_URI)",
        "Created-By: Packages",
    ]);
    workspace::output(&mut targets).unwrap_or_default()
}

/// A file of sources (`sources.list(5)`, the deb822 style).
fn sources(machine: &str, suites: &[Suite]) -> String {
    let stanzas = suites.iter().map(|(archive, suite)| {
        format!(
            "Types: deb\nURIs: {}\nSuites: {suite}\nComponents: main\nTargets: Packages\n\
             Languages: none\nArchitectures: amd64\nSigned-By: {KEYRING}\n",
            archive.address(machine)
        )
    });
    stanzas.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_mirror_is_used() {
        let machine = "Ubuntu|Ubuntu|http://ubuntu.example/u/\n\
                       Debian|Debian Backports|http://backports.example/\n\
                       Debian|Debian|http://mirror.example/debian/\n";
        let text = sources(
            machine,
            &[
                (Archive::Main, "bullseye"),
                (Archive::Security, "bullseye-security"),
            ],
        );
        let uris: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("URIs: "))
            .collect();
        // No security archive of its own: Debian's.
        assert_eq!(
            uris,
            [
                "http://mirror.example/debian/",
                "http://deb.debian.org/debian-security/"
            ]
        );
        assert_eq!(text.matches("Signed-By: ").count(), 2);
    }
}
