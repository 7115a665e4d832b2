//! Calls upon files.

use std::fmt;

use super::Inode;

/// What was done to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileOp {
    /// Opened.
    Open,
    /// A name removed.
    Unlink,
    /// A directory removed.
    Rmdir,
    /// Renamed.
    Rename,
    /// Its mode changed.
    Chmod,
    /// Cut or extended.
    Truncate,
    /// A directory made.
    Mkdir,
    /// A second name made.
    Link,
    /// A symbolic link made.
    Symlink,
    /// Its owner changed.
    Chown,
    /// An extended attribute set or removed: access control lists are such.
    Xattr,
    /// A node made: a device, a FIFO, a socket, an empty file.
    Mknod,
    /// A file system mounted, or a mount moved.
    Mount,
    /// A file system unmounted.
    Umount,
    /// The root file system exchanged.
    PivotRoot,
    /// The root directory changed.
    Chroot,
    /// Mapped as code.
    MmapExec,
}

impl FileOp {
    /// The stable name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Unlink => "unlink",
            Self::Rmdir => "rmdir",
            Self::Rename => "rename",
            Self::Chmod => "chmod",
            Self::Truncate => "truncate",
            Self::Mkdir => "mkdir",
            Self::Link => "link",
            Self::Symlink => "symlink",
            Self::Chown => "chown",
            Self::Xattr => "xattr",
            Self::Mknod => "mknod",
            Self::Mount => "mount",
            Self::Umount => "umount",
            Self::PivotRoot => "pivot_root",
            Self::Chroot => "chroot",
            Self::MmapExec => "mmap_exec",
        }
    }
}

/// A device by its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Device {
    /// The driver's number.
    pub major: u32,
    /// The number that the driver knows it by.
    pub minor: u32,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// How a path came to be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathSource {
    /// From the kernel's dentries: symlinks and `..` are resolved.
    Kernel,
    /// From the caller's string and the kernel's idea of the directory it is relative to: `.` and
    /// `..` are removed, symlinks within the string are not followed.
    Caller,
}

impl PathSource {
    /// As in a row.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Caller => "caller",
        }
    }
}

/// A call upon a file.
#[derive(Debug, Clone)]
pub struct File {
    /// What.
    pub op: FileOp,
    /// 0 or a descriptor, or a negative errno.
    pub result: i32,
    /// The file. For a symbolic link its target, as written.
    pub path: String,
    /// How `path` is known.
    pub path_source: PathSource,
    /// The second path of a rename or link; where a symbolic link is; what is mounted, by path or by
    /// name.
    pub path2: Option<String>,
    /// The extended attribute.
    pub attribute: Option<String>,
    /// The device that was opened or made.
    pub device: Option<Device>,
    /// chown: the user and group that were asked for, `None` for one that stays.
    pub owner: Option<(Option<u32>, Option<u32>)>,
    /// The file, where the kernel told.
    pub inode: Option<Inode>,
    /// The file that a rename replaced, where the kernel told.
    pub replaced: Option<Inode>,
    /// Hard links before the call had its full effect.
    pub nlink: u32,
    /// `st_mode` of the file, 0 where it is not known.
    pub file_mode: u32,
    /// The mode asked for; of a file that is mapped the protection.
    pub mode: u32,
    /// Flags of the call.
    pub flags: u32,
    /// Bytes after the call, where they are known.
    pub size: u64,
    /// How many calls it stands for: more than one where they repeat one that was told, and the policy
    /// has that thinned.
    pub count: u32,
    /// The open made it.
    pub created: bool,
    /// Opened for writing.
    pub write: bool,
    /// Through io_uring, not by a system call of its own.
    pub uring: bool,
}

impl File {
    /// A rename that exchanges two files: both are there afterwards (renameat2(2)).
    pub fn exchanges(&self) -> bool {
        const RENAME_EXCHANGE: u32 = 2;
        self.op == FileOp::Rename && self.flags & RENAME_EXCHANGE != 0
    }
}
