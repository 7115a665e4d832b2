//! Files and folders that may not be read, written, removed or executed: found on this machine by
//! pattern, and given to the kernel by device and inode number, so that no symbolic link, bind mount or
//! `..` leads around.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use agentwatch_common::{
    deny::{
        DeniedInode,
        section::{self, rule},
    },
    file::LEAF_MAX,
};
use serde::{Deserialize, Serialize};

use crate::{
    policy::pattern::{self, Pattern},
    text::escape,
};

/// How many files and folders the patterns of a policy may stand for.
pub const MAX_INODES: usize = 16384;

/// `files`: what is denied, by what is to be done. A folder stands for all that is below it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Files {
    /// May not be opened for reading, or executed.
    #[serde(deserialize_with = "crate::policy::list")]
    pub deny_read: Vec<DeniedPath>,
    /// May not be opened for writing, truncated, or have its attributes changed.
    #[serde(deserialize_with = "crate::policy::list")]
    pub deny_write: Vec<DeniedPath>,
    /// May not be removed or renamed.
    #[serde(deserialize_with = "crate::policy::list")]
    pub deny_delete: Vec<DeniedPath>,
    /// May not be executed or mapped for it.
    #[serde(deserialize_with = "crate::policy::list")]
    pub deny_exec: Vec<DeniedPath>,
}

/// One entry: a pattern that can be looked up.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "Pattern", into = "Pattern")]
pub struct DeniedPath(Pattern);

impl TryFrom<Pattern> for DeniedPath {
    type Error = String;

    fn try_from(pattern: Pattern) -> Result<Self, String> {
        let text = &pattern.text;
        if pattern.excludes {
            return Err(format!("`{text}`: nothing can be taken out of this list"));
        }
        let is_open = |parts: &Vec<String>| {
            let last = parts.len().saturating_sub(1);
            parts.iter().take(last).any(|part| part == "**") || parts == &["**"]
        };
        if pattern.alternatives.iter().any(is_open) {
            return Err(format!(
                "`{text}`: `**` can only be last here, since the kernel is given files that are there"
            ));
        }
        Ok(Self(pattern))
    }
}

impl From<DeniedPath> for Pattern {
    fn from(path: DeniedPath) -> Self {
        path.0
    }
}

/// Which of an inode's rules.
type Slot = fn(&mut DeniedInode) -> &mut u32;

/// What the patterns stand for on this machine.
#[derive(Debug, Default)]
pub struct ResolvedFiles {
    /// By device (the kernel's encoding) and inode number.
    pub inodes: BTreeMap<(u32, u64), DeniedInode>,
    /// By the folder's device and inode number and a name in it: what is not there yet, and what takes
    /// the place of what is.
    pub names: BTreeMap<(u32, u64, Vec<u8>), DeniedInode>,
    /// What cannot be watched: its folder is not there either, or its name is too long.
    pub unresolved: Vec<String>,
    /// There were more than [`MAX_INODES`].
    pub truncated: bool,
}

impl Files {
    /// Whether nothing is denied.
    pub fn is_empty(&self) -> bool {
        let Self {
            deny_read,
            deny_write,
            deny_delete,
            deny_exec,
        } = self;
        [deny_read, deny_write, deny_delete, deny_exec]
            .iter()
            .all(|list| list.is_empty())
    }

    /// Looks the patterns up. `~` stands for these home directories.
    pub fn resolve(&self, homes: &[PathBuf]) -> ResolvedFiles {
        let Self {
            deny_read,
            deny_write,
            deny_delete,
            deny_exec,
        } = self;
        let mut found = ResolvedFiles::default();
        let lists: [(_, _, Slot); 4] = [
            (deny_read, section::FILES_READ, |inode| &mut inode.read),
            (deny_write, section::FILES_WRITE, |inode| &mut inode.write),
            (deny_delete, section::FILES_DELETE, |inode| {
                &mut inode.delete
            }),
            (deny_exec, section::FILES_EXEC, |inode| &mut inode.exec),
        ];
        for (list, section, slot) in lists {
            for (index, DeniedPath(pattern)) in list.iter().enumerate() {
                let number = rule(section, u16::try_from(index).unwrap_or(u16::MAX));
                for parts in &pattern.alternatives {
                    for path in expand(parts, homes) {
                        found.add(&path, number, slot);
                    }
                }
            }
        }
        found
    }
}

impl ResolvedFiles {
    fn add(&mut self, path: &Path, number: u32, slot: Slot) {
        let mut known = false;
        if let Ok(metadata) = fs::metadata(path) {
            let key = (kernel_device(metadata.dev()), metadata.ino());
            known = true;
            if self.inodes.len() < MAX_INODES || self.inodes.contains_key(&key) {
                set(
                    slot(self.inodes.entry(key).or_insert(DeniedInode::NONE)),
                    number,
                );
            } else {
                self.truncated = true;
            }
        }
        // Its name too: a file that is saved anew is another inode.
        let folder = path.parent().and_then(|folder| fs::metadata(folder).ok());
        let name = path.file_name().map(|name| name.as_bytes().to_vec());
        match (folder, name) {
            // With its NUL, and one byte to see that it is not cut.
            (Some(folder), Some(name)) if name.len() + 1 < LEAF_MAX => {
                let key = (kernel_device(folder.dev()), folder.ino(), name);
                if self.names.len() < MAX_INODES || self.names.contains_key(&key) {
                    set(
                        slot(self.names.entry(key).or_insert(DeniedInode::NONE)),
                        number,
                    );
                } else {
                    self.truncated = true;
                }
            }
            // Of the root there is no name.
            _ if known => {}
            _ => self.unresolved.push(path.display().to_string()),
        }
    }
}

/// The first rule is the one that is told.
fn set(slot: &mut u32, number: u32) {
    if *slot == 0 {
        *slot = number;
    }
}

/// The paths that components stand for: wildcards by what is there, names as they are.
fn expand(parts: &[String], homes: &[PathBuf]) -> Vec<PathBuf> {
    let (mut folders, parts) = match parts.split_first() {
        Some((first, rest)) if first == "~" => (all_homes(homes), rest),
        _ => (vec![PathBuf::from("/")], parts),
    };
    for part in parts.iter().filter(|part| *part != "**") {
        folders = if pattern::is_literal(part) {
            folders
                .into_iter()
                .map(|folder| folder.join(part))
                .collect()
        } else {
            folders
                .iter()
                .flat_map(|folder| children(folder, part))
                .take(MAX_INODES + 1)
                .collect()
        };
    }
    folders
}

/// `/root`, those in `/home`, and the given ones.
fn all_homes(homes: &[PathBuf]) -> Vec<PathBuf> {
    let mut all = vec![PathBuf::from("/root")];
    all.extend(children(Path::new("/home"), "*"));
    all.extend(homes.iter().filter(|home| home.is_absolute()).cloned());
    all.sort();
    all.dedup();
    all
}

fn children(folder: &Path, part: &str) -> Vec<PathBuf> {
    let (Ok(matcher), Ok(entries)) = (pattern::matcher(part), fs::read_dir(folder)) else {
        return Vec::new();
    };
    entries
        .map_while(Result::ok)
        .filter(|entry| matcher.is_match(escape(entry.file_name().as_encoded_bytes())))
        .map(|entry| entry.path())
        .collect()
}

/// `MKDEV` of `include/linux/kdev_t.h`: 12 bits of major, 20 of minor.
fn kernel_device(dev: u64) -> u32 {
    (libc::major(dev) << 20) | (libc::minor(dev) & 0xf_ffff)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Policy;

    fn files(text: &str) -> Result<Files, String> {
        let head = "apiVersion: agentwatch/v1\nkind: Policy\nfiles:\n";
        Policy::parse(&format!("{head}{text}"), "p")
            .map(|policy| policy.files)
            .map_err(|error| error.message)
    }

    #[test]
    fn files_are_found_by_inode_and_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("d")).unwrap();
        fs::write(at("d/one"), "").unwrap();
        std::os::unix::fs::symlink("d/one", at("link")).unwrap();
        let root = folder.path().display();
        let found = files(&format!(
            "  deny_read: ['{root}/d/**', '{root}/link', '{root}/none/such']\n  deny_write: ['{root}/d', '{root}/later', '{root}/d/o*']\n"
        ))
        .unwrap()
        .resolve(&[]);
        let key = |path: PathBuf| {
            let metadata = fs::metadata(path).unwrap();
            (kernel_device(metadata.dev()), metadata.ino())
        };
        let read = |index| rule(section::FILES_READ, index);
        let write = |index| rule(section::FILES_WRITE, index);
        let d = found.inodes[&key(at("d"))];
        assert_eq!((d.read, d.write, d.delete), (read(0), write(0), 0));
        // Through the symbolic link, the file.
        let one = found.inodes[&key(at("d/one"))];
        assert_eq!((one.read, one.write), (read(1), write(2)));
        let (dev, ino) = key(folder.path().to_owned());
        let later = found.names[&(dev, ino, b"later".to_vec())];
        assert_eq!((later.read, later.write), (0, write(1)));
        assert_eq!(found.unresolved, [format!("{root}/none/such")]);
    }

    #[test]
    fn what_cannot_be_looked_up_is_refused() {
        for (bad, why) in [
            ("  deny_read: ['**/.ssh']\n", "`**` can only be last here"),
            ("  deny_read: ['/a/**/b']\n", "`**` can only be last here"),
            ("  deny_read: ['!/a']\n", "nothing can be taken out"),
            ("  deny_read: [a]\n", "a pattern begins with"),
            ("  deny_reed: [/a]\n", "did you mean `deny_read`?"),
        ] {
            let error = files(bad).unwrap_err();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }
}
