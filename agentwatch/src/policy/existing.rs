//! The sensitive files that exist now. The kernel knows them by inode, so that a hard link or a bind
//! mount does not hide them behind another name.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use super::{paths::PathSet, pattern};
use crate::text::escape;

/// How many are looked for; the kernel's map of inodes holds as many (`SENSITIVE_INODES`).
pub const MAX_EXISTING_FILES: usize = 4096;

/// How many directory entries are read for it, since a pattern may have `*` at every level.
const MAX_ENTRIES: usize = 1 << 16;

/// Files that exist.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExistingFiles {
    /// Regular files, or symbolic links to such, in order.
    pub paths: Vec<PathBuf>,
    /// There may be more.
    pub truncated: bool,
}

impl PathSet {
    /// The files of this set that exist now, as far as they can be found without searching the whole
    /// file system: those of patterns without `**`, and of patterns with `**/` only in front, which
    /// are looked for in the home directories and in `homes`. Not those in `/proc` and `/sys`, which
    /// have no lasting inodes. Directories that cannot be read are as if they were empty.
    pub fn existing_files(&self, homes: &[PathBuf]) -> ExistingFiles {
        let mut search = Search {
            set: self,
            entries: 0,
            found: BTreeSet::new(),
            truncated: false,
        };
        let mut folders = search.children(Path::new("/home"), "*");
        folders.push("/root".into());
        folders.extend(self.homes.iter().chain(homes).cloned());
        let patterns = self.patterns.iter().filter(|p| !p.excludes);
        for components in patterns.flat_map(|p| &p.alternatives) {
            match components.split_first() {
                Some((first, _)) if ["proc", "sys"].contains(&first.as_str()) => {}
                Some((first, rest)) if ["~", "**"].contains(&first.as_str()) => {
                    search.expand(folders.clone(), rest);
                }
                _ => search.expand(vec![PathBuf::from("/")], components),
            }
        }
        ExistingFiles {
            paths: search.found.into_iter().collect(),
            truncated: search.truncated,
        }
    }
}

struct Search<'a> {
    set: &'a PathSet,
    entries: usize,
    found: BTreeSet<PathBuf>,
    truncated: bool,
}

impl Search<'_> {
    /// Goes down from `folders` by `components`, and notes what lies at the end.
    fn expand(&mut self, mut folders: Vec<PathBuf>, components: &[String]) {
        if components.iter().any(|component| component == "**") {
            return;
        }
        for component in components {
            folders = if pattern::is_literal(component) {
                folders
                    .into_iter()
                    .map(|folder| folder.join(component))
                    .collect()
            } else {
                folders
                    .iter()
                    .flat_map(|folder| self.children(folder, component))
                    .collect()
            };
        }
        for path in folders {
            let excluded = self
                .set
                .exclude
                .is_match(escape(path.as_os_str().as_encoded_bytes()));
            if excluded || !path.metadata().is_ok_and(|m| m.is_file()) {
                continue;
            }
            if self.found.len() == MAX_EXISTING_FILES && !self.found.contains(&path) {
                self.truncated = true;
                return;
            }
            self.found.insert(path);
        }
    }

    /// The entries of a folder that match a component.
    fn children(&mut self, folder: &Path, component: &str) -> Vec<PathBuf> {
        let (Ok(matcher), Ok(entries)) = (pattern::matcher(component), fs::read_dir(folder)) else {
            return Vec::new();
        };
        let mut children = Vec::new();
        for entry in entries.map_while(Result::ok) {
            if self.entries == MAX_ENTRIES {
                self.truncated = true;
                break;
            }
            self.entries += 1;
            let name = entry.file_name();
            if matcher.is_match(escape(name.as_encoded_bytes())) {
                children.push(folder.join(name));
            }
        }
        children
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::policy::Policy;

    fn set(patterns: &[String]) -> PathSet {
        let head = "apiVersion: agentwatch/v1\nkind: Policy\n";
        let list = serde_json::to_string(patterns).unwrap();
        Policy::parse(&format!("{head}sensitive_paths: {list}\n"), "test")
            .unwrap()
            .sensitive
    }

    /// Those found below a folder, without its name.
    fn below(set: &PathSet, folder: &Path) -> Vec<String> {
        let found = set.existing_files(&[]);
        assert!(!found.truncated);
        let below = found
            .paths
            .iter()
            .filter_map(|path| path.strip_prefix(folder).ok());
        below
            .map(|path| path.to_str().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn files_that_exist() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        for dir in ["keys/a", "keys/b", "deep/er"] {
            fs::create_dir_all(folder.join(dir)).unwrap();
        }
        for file in [
            "keys/a/id_rsa",
            "keys/a/id_rsa.pub",
            "keys/b/id_dsa",
            "keys/b/x",
            "deep/er/id_rsa",
        ] {
            fs::write(folder.join(file), "").unwrap();
        }
        fs::create_dir(folder.join("keys/a/id_dir")).unwrap();
        symlink("../b/x", folder.join("keys/a/id_link")).unwrap();
        symlink("nowhere", folder.join("keys/a/id_broken")).unwrap();
        let at = |pattern: &str| format!("{}/{pattern}", folder.display());

        let all = ["keys/a/id_link", "keys/a/id_rsa", "keys/b/id_dsa"];
        assert_eq!(
            below(&set(&[at("keys/*/id_*"), "!**/*.pub".into()]), folder),
            all
        );
        assert_eq!(
            below(&set(&[at("keys/{a,none}/id_rsa")]), folder),
            ["keys/a/id_rsa"]
        );
        assert_eq!(below(&set(&[at("**/id_rsa")]), folder), [""; 0]);

        let mut homes = set(&["~/id_rsa".into(), "**/er/id_rsa".into()]);
        homes.add_home(&folder.join("keys/a")).unwrap();
        assert_eq!(below(&homes, folder), ["keys/a/id_rsa"]);
        let given = homes.existing_files(&[folder.join("deep")]).paths;
        assert!(given.contains(&folder.join("deep/er/id_rsa")));
        assert!(given.contains(&folder.join("keys/a/id_rsa")));
    }

    #[test]
    fn what_is_found_is_bounded() {
        let folder = tempfile::tempdir().unwrap();
        for i in 0..=MAX_EXISTING_FILES {
            fs::write(folder.path().join(i.to_string()), "").unwrap();
        }
        let all = set(&[format!("{}/*", folder.path().display())]).existing_files(&[]);
        assert_eq!(all.paths.len(), MAX_EXISTING_FILES);
        assert!(all.truncated);
    }

    #[test]
    fn proc_is_left_out() {
        assert_eq!(
            set(&["/proc/*/environ".into()]).existing_files(&[]),
            ExistingFiles::default()
        );
    }
}
