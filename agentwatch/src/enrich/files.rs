//! Which files are the agent's own, because it made them.

use std::collections::{HashMap, HashSet};

use super::Before;
use crate::event::{File, FileOp, Inode};

/// Most paths that are remembered by themselves. What is in a folder that the agent made needs none.
const PATHS: usize = 256 * 1024;

/// Whose a path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// The agent made it, or the folder.
    Own,
    /// It was there before, and has been moved into a folder of the agent's, say.
    Foreign,
}

/// What an agent made.
#[derive(Default)]
pub struct Files {
    paths: HashMap<String, Whose>,
    /// Files that it made, by inode: a path that only the caller named may be another's by a
    /// symbolic link.
    inodes: HashSet<Inode>,
}

impl Files {
    /// Takes a call in. Failed ones change nothing.
    pub fn observe(&mut self, file: &File) -> Before {
        let known = |inode: Option<Inode>| inode.is_some_and(|inode| self.inodes.contains(&inode));
        let own = self.is_own(&file.path) || known(file.inode);
        let before = Before {
            own,
            own_replaced: file.path2.as_deref().is_some_and(|path| self.is_own(path))
                || known(file.replaced),
        };
        if file.result < 0 {
            return before;
        }
        match file.op {
            FileOp::Open if file.created => {
                self.set(&file.path, Whose::Own);
                if let Some(inode) = file.inode
                    && self.inodes.len() < PATHS
                {
                    self.inodes.insert(inode);
                }
            }
            FileOp::Mkdir | FileOp::Mknod => self.set(&file.path, Whose::Own),
            FileOp::Unlink | FileOp::Rmdir => {
                self.paths.remove(&file.path);
                // Without a name its number will be given again.
                if let Some(inode) = file.inode
                    && file.nlink == 0
                {
                    self.inodes.remove(&inode);
                }
            }
            FileOp::Rename => {
                if let Some(to) = &file.path2 {
                    self.paths.remove(&file.path);
                    if file.exchanges() {
                        let other = if before.own_replaced {
                            Whose::Own
                        } else {
                            Whose::Foreign
                        };
                        self.paths.remove(to);
                        self.set(&file.path, other);
                    }
                    self.set(to, if own { Whose::Own } else { Whose::Foreign });
                }
            }
            FileOp::Link | FileOp::Symlink => {
                if let Some(at) = &file.path2 {
                    self.set(at, Whose::Own);
                }
            }
            // These make no file and take none away.
            FileOp::Open
            | FileOp::Chmod
            | FileOp::Chown
            | FileOp::Xattr
            | FileOp::Truncate
            | FileOp::Mount
            | FileOp::Umount
            | FileOp::PivotRoot
            | FileOp::Chroot
            | FileOp::MmapExec => {}
        }
        before
    }

    /// Whether the agent made this file, or the nearest folder above it of which that is known.
    pub fn is_own(&self, path: &str) -> bool {
        let mut at = path;
        loop {
            match self.paths.get(at) {
                Some(Whose::Own) => return true,
                Some(Whose::Foreign) => return false,
                None => {}
            }
            match at.rsplit_once('/') {
                Some((above, _)) if !above.is_empty() => at = above,
                _ => return false,
            }
        }
    }

    fn set(&mut self, path: &str, whose: Whose) {
        // What the folder says already needs no entry.
        if self.is_own(path) == (whose == Whose::Own) && !self.paths.contains_key(path) {
            return;
        }
        // Beyond the bound the agent's new files count as foreign: that errs to the safe side.
        if self.paths.len() < PATHS || whose == Whose::Foreign {
            self.paths.insert(path.to_owned(), whose);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::PathSource;

    fn op(op: FileOp, path: &str, path2: Option<&str>) -> File {
        File {
            op,
            result: 0,
            path: path.to_owned(),
            path_source: PathSource::Kernel,
            path2: path2.map(str::to_owned),
            attribute: None,
            device: None,
            owner: None,
            inode: None,
            replaced: None,
            nlink: 1,
            file_mode: 0,
            mode: 0,
            flags: 0,
            size: 0,
            count: 1,
            created: op == FileOp::Open,
            write: true,
            uring: false,
        }
    }

    #[test]
    fn what_the_agent_made_is_its_own() {
        let mut files = Files::default();
        files.observe(&op(FileOp::Open, "/w/a", None));
        assert!(files.is_own("/w/a"));
        assert!(!files.is_own("/w/b"));
        files.observe(&op(FileOp::Rename, "/w/a", Some("/w/b")));
        assert!(files.is_own("/w/b"));
        assert!(!files.is_own("/w/a"));
        assert!(files.observe(&op(FileOp::Unlink, "/w/b", None)).own);
        assert!(!files.is_own("/w/b"));
    }

    #[test]
    fn a_folder_speaks_for_what_is_in_it_unless_that_came_from_elsewhere() {
        let mut files = Files::default();
        files.observe(&op(FileOp::Mkdir, "/w/target", None));
        assert!(files.is_own("/w/target/debug/x.o"));
        files.observe(&op(FileOp::Rename, "/home/u/mail", Some("/w/target/mail")));
        assert!(!files.is_own("/w/target/mail/1"));
        assert!(files.is_own("/w/target/other"));
    }

    #[test]
    fn an_exchange_changes_owners() {
        let mut files = Files::default();
        files.observe(&op(FileOp::Mkdir, "/w/own", None));
        let mut exchange = op(FileOp::Rename, "/home/u/mail/1", Some("/w/own/1"));
        exchange.flags = 2;
        files.observe(&exchange);
        assert!(!files.is_own("/w/own/1"));
        assert!(files.is_own("/home/u/mail/1"));
    }

    #[test]
    fn a_failed_call_changes_nothing() {
        let mut files = Files::default();
        let mut failed = op(FileOp::Mkdir, "/w/target", None);
        failed.result = -13;
        files.observe(&failed);
        assert!(!files.is_own("/w/target"));
    }
}
