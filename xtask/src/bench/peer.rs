//! Programs of others that watch the same, where they are installed.

use std::{
    fs::File,
    path::Path,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result};

use super::watcher::Watcher;
use crate::workspace;

/// Another program.
#[derive(Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its name in the table.
    pub name: &'static str,
    /// Names of its program, the first that is there is taken.
    programs: &'static [&'static str],
    arguments: &'static [&'static str],
    /// What it watches, by name of the work.
    pub watches: &'static [&'static str],
}

/// Prints what agentwatch records: program starts, opens, deletions, connections.
const SCRIPT: &str = r#"
tracepoint:syscalls:sys_enter_execve { printf("exec %d %s\n", pid, str(args->filename)); }
tracepoint:syscalls:sys_enter_openat { @path[tid] = args->filename; }
tracepoint:syscalls:sys_exit_openat /@path[tid]/ {
    printf("open %d %s %d\n", pid, str(@path[tid]), args->ret); delete(@path[tid]);
}
tracepoint:syscalls:sys_enter_unlink { printf("unlink %d %s\n", pid, str(args->pathname)); }
tracepoint:syscalls:sys_enter_unlinkat { printf("unlink %d %s\n", pid, str(args->pathname)); }
tracepoint:syscalls:sys_enter_connect { printf("connect %d %d\n", pid, args->fd); }
"#;

/// Those that are known.
pub const PEERS: &[Peer] = &[
    Peer {
        name: "opensnoop",
        programs: &["opensnoop", "opensnoop-bpfcc"],
        arguments: &[],
        watches: &["open-read", "open-each"],
    },
    Peer {
        name: "execsnoop",
        programs: &["execsnoop", "execsnoop-bpfcc"],
        arguments: &[],
        watches: &["exec"],
    },
    Peer {
        name: "bpftrace",
        programs: &["bpftrace"],
        arguments: &["-e", SCRIPT],
        watches: &["exec", "open-read", "open-each", "unlink", "connect"],
    },
];

impl Peer {
    /// Its program, if it is installed.
    pub fn program(&self) -> Option<&'static str> {
        self.programs
            .iter()
            .copied()
            .find(|name| workspace::has_program(name))
    }

    /// Starts it, with its output to a file, and waits until it watches.
    pub fn start(&self, dir: &Path) -> Result<Child> {
        let program = self.program().context("it is not installed")?;
        let output = File::create(dir.join("peer.out")).context("making the peer's output")?;
        let mut child = Command::new(program)
            .args(self.arguments)
            .stdin(Stdio::null())
            .stderr(output.try_clone()?)
            .stdout(output)
            .spawn()
            .with_context(|| format!("starting {program}"))?;
        if let Err(error) = Watcher::new(child.id()).wait_attached() {
            child.kill()?;
            child.wait()?;
            return Err(error.context(format!("{program} does not begin to watch")));
        }
        Ok(child)
    }
}
