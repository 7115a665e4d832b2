//! Programs that are started.

use super::{Credentials, Device, Inode};

/// A program that was started.
#[derive(Debug, Clone)]
pub struct Exec {
    /// Resolved path of the binary that runs: for a script, its interpreter.
    pub path: String,
    /// The file name as the caller gave it: for a script, the script.
    pub filename: String,
    /// What the kernel loaded in the end, as named by a script's first line.
    pub interpreter: String,
    /// The arguments.
    pub argv: Vec<String>,
    /// Bytes of the arguments before any cut.
    pub argv_total: u64,
    /// Arguments were cut.
    pub argv_cut: bool,
    /// Working directory.
    pub cwd: String,
    /// The binary.
    pub file: Inode,
    /// Hard links of the binary: 0 for one that has no name any more, a memfd say.
    pub nlink: u32,
    /// How the program came to run.
    pub means: ExecMeans,
    /// Who the process is from now on.
    pub credentials: Credentials,
    /// What its descriptors 0, 1 and 2 are.
    pub stdio: [Stdio; 3],
    /// Of the environment, what changes how programs run: see [`ENVIRONMENT`].
    pub environment: Vec<(&'static str, String)>,
}

/// What a standard stream of a program is when it is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stdio {
    /// It could not be read, or was not recorded.
    Unknown,
    /// Nothing.
    Closed,
    /// A regular file, a directory or a block device.
    File,
    /// A pipe or FIFO, by its inode number: its other end has the same.
    Pipe(u64),
    /// An IP socket, by its cookie as flows have it; 0 where it has none yet.
    Inet(u64),
    /// A unix socket, by its inode number: its peer has another one.
    Unix(u64),
    /// A socket of another family.
    Socket(u16),
    /// A terminal.
    Tty(Device),
    /// `/dev/null`.
    Null,
    /// Another character device.
    Device(Device),
    /// Without a type: eventfd, epoll and the like.
    Other,
}

impl Stdio {
    /// As it is shown and stored.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Closed => "closed",
            Self::File => "file",
            Self::Pipe(_) => "pipe",
            Self::Inet(_) => "inet",
            Self::Unix(_) => "unix",
            Self::Socket(_) => "socket",
            Self::Tty(_) => "tty",
            Self::Null => "null",
            Self::Device(_) => "device",
            Self::Other => "other",
        }
    }

    /// What tells it from others of its kind: see the kinds.
    pub fn id(self) -> Option<u64> {
        match self {
            Self::Pipe(ino) | Self::Unix(ino) => Some(ino),
            Self::Inet(cookie) => Some(cookie),
            _ => None,
        }
    }
}

/// Names in the environment that change what a program loads and runs, or lead to credentials.
pub const ENVIRONMENT: &[&str] = &[
    "LD_PRELOAD",
    "LD_LIBRARY_PATH",
    "LD_AUDIT",
    "BASH_ENV",
    "ENV",
    "PROMPT_COMMAND",
    "PYTHONPATH",
    "PYTHONSTARTUP",
    "NODE_OPTIONS",
    "PERL5OPT",
    "RUBYOPT",
    "JAVA_TOOL_OPTIONS",
    "GIT_SSH_COMMAND",
    "SSH_AUTH_SOCK",
    "DOCKER_HOST",
    "KUBECONFIG",
];

/// How a program came to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecMeans {
    /// By its file.
    File,
    /// A script, by the interpreter that its first line names.
    Script {
        /// The script, absolute where its name was.
        script: String,
    },
    /// By the dynamic loader as a program of its own (`ld.so PROGRAM`, ld.so(8)).
    Loader {
        /// What the loader was told to run.
        program: String,
    },
    /// From memory: a file that never had a name (`memfd_create(2)`).
    Memfd,
    /// A file whose name is gone.
    Deleted,
    /// By an open descriptor (`/proc/self/fd`, fexecve(3)).
    Descriptor,
}

impl ExecMeans {
    /// The stable name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Script { .. } => "script",
            Self::Loader { .. } => "loader",
            Self::Memfd => "memfd",
            Self::Deleted => "deleted",
            Self::Descriptor => "descriptor",
        }
    }
}
