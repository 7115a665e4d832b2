//! A command, run as an agent: in a cgroup of its own, with the terminal, its signals and its exit
//! status passed through, as a shell passes them to a job.

use std::{
    ffi::{CString, OsString},
    fs, io,
    os::{fd::AsFd as _, unix::process::CommandExt as _},
    path::PathBuf,
    process::{Child, Command},
};

use anyhow::{Context as _, Result, bail};
use rustix::{
    process::{Pid, Signal, WaitOptions, kill_process, kill_process_group},
    termios::{isatty, tcgetpgrp, tcsetpgrp},
};

use crate::respond::cgroup::AgentCgroup;

/// Who the command runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The name, as it was given.
    pub name: String,
    uid: u32,
    gid: u32,
    /// The home folder.
    pub home: PathBuf,
    shell: PathBuf,
}

impl User {
    /// Looks a user up, by name or number.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn find(name: &str) -> Result<Self> {
        let users = fs::read_to_string("/etc/passwd").context("cannot read /etc/passwd")?;
        match find_in(&users, name) {
            Some(user) => Ok(user),
            None => bail!("no user {name:?} in /etc/passwd"),
        }
    }
}

/// A line is name:password:uid:gid:comment:home:shell (passwd(5)).
fn find_in(users: &str, name: &str) -> Option<User> {
    users.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [login, _, uid, gid, _, home, shell] = fields[..] else {
            return None;
        };
        (login == name || uid == name).then_some(User {
            name: login.to_owned(),
            uid: uid.parse().ok()?,
            gid: gid.parse().ok()?,
            home: home.into(),
            shell: shell.into(),
        })
    })
}

/// How the command shares the terminal with agentwatch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Terminal {
    /// The command is in the foreground, in a process group of its own.
    Foreground,
    /// The command is in agentwatch's process group, with whatever else is in the pipeline.
    Shared,
    /// There is no terminal: the command has a process group of its own.
    None,
}

/// A command that runs.
pub struct Job {
    child: Child,
    pid: Pid,
    terminal: Terminal,
    /// The group that had the terminal before.
    own_group: Option<Pid>,
}

/// What happened to the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It gave this exit status.
    Exited(i32),
    /// A signal ended it.
    Signaled(i32),
    /// It was stopped by the terminal, by Ctrl-Z say.
    Stopped,
}

impl Change {
    /// The exit status that a shell would give.
    pub fn status(self) -> u8 {
        match self {
            Self::Exited(code) => u8::try_from(code & 0xff).unwrap_or(1),
            Self::Signaled(signal) => u8::try_from(128 + signal).unwrap_or(255),
            Self::Stopped => 0,
        }
    }
}

impl Job {
    /// Starts a command in a cgroup.
    ///
    /// # Errors
    ///
    /// What `execve` says, `NotFound` and `PermissionDenied` among it.
    pub fn spawn(
        command: &[OsString],
        cgroup: &AgentCgroup,
        user: Option<&User>,
    ) -> io::Result<Self> {
        let [program, arguments @ ..] = command else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let procs = fs::File::options()
            .write(true)
            .open(cgroup.path().join("cgroup.procs"))?;
        let own_group = own_group();
        let terminal = terminal(own_group);
        let mut command = Command::new(program);
        command.args(arguments);
        let mut login = None;
        if let Some(user) = user {
            command
                .env("HOME", &user.home)
                .env("USER", &user.name)
                .env("LOGNAME", &user.name)
                .env("SHELL", &user.shell);
            login = Some((CString::new(user.name.as_str())?, user.uid, user.gid));
        }
        let enter = move || {
            // Into the cgroup first: while still root, and before anything of the agent runs.
            rustix::io::write(&procs, b"0")?;
            if terminal != Terminal::Shared {
                rustix::process::setpgid(None, None)?;
            }
            if terminal == Terminal::Foreground {
                // Both this side and agentwatch do it: whoever comes first. SIGTTOU is ignored here.
                // Its group has its own number, since it leads it.
                let _ = tcsetpgrp(rustix::stdio::stdin(), rustix::process::getpid());
            }
            // SAFETY: only async-signal-safe calls between fork and exec; dispositions that agentwatch
            // changed go back to what a program expects.
            unsafe { libc::signal(libc::SIGTTOU, libc::SIG_DFL) };
            if let Some((name, uid, gid)) = &login {
                become_user(name, *uid, *gid)?;
            }
            Ok(())
        };
        // SIGTTOU would stop agentwatch when it hands the terminal over from the background.
        // SAFETY: sets a disposition; no handler is involved.
        unsafe { libc::signal(libc::SIGTTOU, libc::SIG_IGN) };
        // SAFETY: the closure calls only what may be called between fork and exec: system calls, and
        // initgroups, which reads files but is the one way to get a user's groups (as in sudo).
        unsafe { command.pre_exec(enter) };
        let child = command.spawn()?;
        let pid = i32::try_from(child.id())
            .ok()
            .and_then(Pid::from_raw)
            .ok_or(io::ErrorKind::Other)?;
        let job = Self {
            child,
            pid,
            terminal,
            own_group,
        };
        job.to_foreground();
        Ok(job)
    }

    /// The command's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Looks whether something happened to the command, without waiting.
    ///
    /// # Errors
    ///
    /// When it is no child any more.
    pub fn poll(&mut self) -> io::Result<Option<Change>> {
        let options = WaitOptions::NOHANG | WaitOptions::UNTRACED;
        let Some((_, status)) = rustix::process::waitpid(Some(self.pid), options)? else {
            return Ok(None);
        };
        Ok(if let Some(code) = status.exit_status() {
            Some(Change::Exited(code))
        } else if let Some(signal) = status.terminating_signal() {
            Some(Change::Signaled(signal))
        } else {
            // By SIGSTOP it was not the terminal: the deletion budget, which lets it go on, or somebody
            // who means this process alone.
            let by = status.stopping_signal();
            by.filter(|signal| *signal != libc::SIGSTOP)
                .map(|_| Change::Stopped)
        })
    }

    /// Passes a signal on to the command. What comes from the terminal of a shared group has reached
    /// it already.
    pub fn signal(&self, signal: Signal) {
        let from_terminal = matches!(signal, Signal::INT | Signal::QUIT);
        if !(from_terminal && self.terminal == Terminal::Shared) {
            let _ = kill_process(self.pid, signal);
        }
    }

    /// The command was stopped: agentwatch stops too, so that the shell gives its prompt. Nothing of
    /// the agent runs meanwhile, since nobody would watch it.
    ///
    /// # Errors
    ///
    /// When the agent cannot be frozen; then agentwatch does not stop.
    pub fn stop(&self, cgroup: &AgentCgroup) -> Result<()> {
        if self.terminal == Terminal::None {
            return Ok(());
        }
        cgroup.freeze(true)?;
        self.to_background();
        let _ = kill_process(rustix::process::getpid(), Signal::STOP);
        // Here again after `fg` or `bg`.
        cgroup.freeze(false)?;
        if tcgetpgrp(rustix::stdio::stdin()).is_ok_and(|group| Some(group) == self.own_group) {
            self.to_foreground();
        }
        if self.terminal == Terminal::Shared {
            let _ = kill_process(self.pid, Signal::CONT);
        } else {
            let _ = kill_process_group(self.pid, Signal::CONT);
        }
        Ok(())
    }

    fn to_foreground(&self) {
        if self.terminal == Terminal::Foreground {
            let _ = tcsetpgrp(rustix::stdio::stdin(), self.pid);
        }
    }

    /// Takes the terminal back.
    pub fn to_background(&self) {
        if self.terminal == Terminal::Foreground
            && let Some(before) = self.own_group
        {
            let _ = tcsetpgrp(rustix::stdio::stdin(), before);
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.to_background();
    }
}

/// agentwatch's process group; `None` where it is one of another pid namespace, as for what is started
/// in a container from outside.
fn own_group() -> Option<Pid> {
    // SAFETY: no arguments. Not rustix's: that takes for granted that the number is not 0.
    Pid::from_raw(unsafe { libc::getpgrp() })
}

/// Whether the command can have the terminal for itself.
fn terminal(own_group: Option<Pid>) -> Terminal {
    let stdin = rustix::stdio::stdin();
    if !isatty(stdin.as_fd()) {
        return Terminal::None;
    }
    let foreground = tcgetpgrp(stdin).is_ok_and(|group| Some(group) == own_group);
    // In a pipeline the other programs belong to the same job and may want the terminal too.
    if foreground && isatty(rustix::stdio::stdout()) {
        Terminal::Foreground
    } else {
        Terminal::Shared
    }
}

fn become_user(name: &CString, uid: u32, gid: u32) -> io::Result<()> {
    let check = |result: i32| {
        if result == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    };
    // SAFETY: a valid string and plain numbers; groups before the user, while it is still allowed.
    unsafe {
        check(libc::initgroups(name.as_ptr(), gid))?;
        check(libc::setgid(gid))?;
        check(libc::setuid(uid))
    }
}

/// A name for an agent that can be part of a cgroup's path.
///
/// # Errors
///
/// When it cannot.
pub fn check_name(name: &str) -> Result<()> {
    let ok = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if name.is_empty() || name.len() > 64 || name.starts_with('.') || !name.chars().all(ok) {
        bail!(
            "an agent's name has 1 to 64 letters, digits, `.`, `_` and `-`, and does not begin with `.`: {name:?} does not fit"
        );
    }
    Ok(())
}

/// A name made from the command.
pub fn name_of(command: &[OsString]) -> String {
    let program = command
        .first()
        .map(|program| program.to_string_lossy())
        .unwrap_or_default();
    let base = program.rsplit('/').next().unwrap_or_default();
    let name: String = base
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || "._-".contains(c) {
                c
            } else {
                '_'
            }
        })
        .take(64)
        .collect();
    let name = name.trim_start_matches('.');
    if name.is_empty() {
        "agent".to_owned()
    } else {
        name.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert!(check_name("claude-1.x_y").is_ok());
        for bad in ["", ".x", "a/b", "a b", &"x".repeat(65)] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
        assert_eq!(name_of(&["/usr/bin/python3".into()]), "python3");
        assert_eq!(name_of(&["/x/..".into()]), "agent");
        assert_eq!(name_of(&["my tool".into()]), "my_tool");
    }

    #[test]
    fn users() {
        let users =
            "root:x:0:0:root:/root:/bin/bash\nbad line\nada:x:1000:1001:A,,:/home/ada:/bin/sh\n";
        let ada = find_in(users, "ada").unwrap();
        assert_eq!(
            (ada.uid, ada.gid, ada.home.to_str()),
            (1000, 1001, Some("/home/ada"))
        );
        assert_eq!(find_in(users, "1000"), Some(ada));
        assert_eq!(find_in(users, "eve"), None);
    }

    #[test]
    fn statuses() {
        assert_eq!(Change::Exited(3).status(), 3);
        assert_eq!(Change::Signaled(9).status(), 137);
    }
}
