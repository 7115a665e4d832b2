//! Packages of npm's registry, below the target folder. Nothing of theirs is run on installing them.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result};

use super::progress;
use crate::workspace;

/// A set of packages: what is installed, with every version and its hash.
struct Set {
    name: &'static str,
    manifest: &'static str,
    lock: &'static str,
}

const SCHEMA: Set = Set {
    name: "schema",
    manifest: include_str!("../../../dashboards/check/package.json"),
    lock: include_str!("../../../dashboards/check/package-lock.json"),
};

const PICTURES: Set = Set {
    name: "pictures",
    manifest: include_str!("../../../dashboards/check/pictures/package.json"),
    lock: include_str!("../../../dashboards/check/pictures/package-lock.json"),
};

/// Where the packages are that make a schema of Grafana's types, once they are there.
pub fn schema() -> Result<PathBuf> {
    SCHEMA.folder()
}

/// Installs these, where they are not there or of other versions.
pub fn ensure_schema() -> Result<()> {
    SCHEMA.ensure("(about 5 seconds)")
}

/// Where the packages are that draw, once they are there.
pub fn pictures() -> Result<PathBuf> {
    PICTURES.folder()
}

/// Installs these, likewise.
pub fn ensure_pictures() -> Result<()> {
    PICTURES.ensure("(460 MB, about a minute)")
}

impl Set {
    fn folder(&self) -> Result<PathBuf> {
        Ok(workspace::target_dir()?.join("dashboards").join(self.name))
    }

    fn ensure(&self, how_long: &str) -> Result<()> {
        let folder = self.folder()?;
        let done = folder.join("installed.json");
        if fs::read_to_string(&done).is_ok_and(|there| there == self.lock) {
            return Ok(());
        }
        let name = self.name;
        progress(&format!("npm ci, into target/dashboards/{name} {how_long}"));
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        for (file, text) in [
            ("package.json", self.manifest),
            ("package-lock.json", self.lock),
        ] {
            let path = folder.join(file);
            fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        }
        let mut npm = Command::new("npm");
        npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"])
            .args(["--loglevel=error", "--prefix"])
            .arg(&folder)
            .current_dir(&folder);
        workspace::run(&mut npm)?;
        fs::write(&done, self.lock).with_context(|| format!("writing {}", done.display()))
    }
}
