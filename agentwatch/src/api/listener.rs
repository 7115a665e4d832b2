//! The socket, and who is at its other end.

use std::{
    fs,
    net::TcpListener,
    os::unix::{
        fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _, chown},
        net::{UnixListener, UnixStream},
    },
    path::PathBuf,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, bail};
use axum::Router;

use super::{
    accept::{Limits, NO_PLACE, Rooms, Who, answer},
    model::AskedBy,
};
use crate::{
    config::Config,
    event::ProcessKey,
    probe::{gauge::Gauge, seed},
};

/// The socket, bound, and the address for Prometheus where there is one.
pub struct Listener {
    api: UnixListener,
    metrics: Option<TcpListener>,
    path: PathBuf,
    /// Device and inode number of the socket's name.
    place: (u64, u64),
    left: Option<SystemTime>,
}

/// Who asks, as the kernel tells.
#[derive(Debug, Clone)]
pub struct Peer {
    /// For the record.
    pub asked_by: AskedBy,
    /// Whether it is root, or the user that the daemon runs as.
    is_root: bool,
    /// The process that connected, where the daemon could see it then.
    process: Option<ProcessKey>,
    /// That was an agent's.
    is_agent: bool,
}

/// Binds the socket that the configuration names.
///
/// # Errors
///
/// When another daemon listens there, or it cannot be made.
pub fn listen(config: &Config) -> Result<Listener> {
    let path = config.socket.clone();
    let shown = path.display();
    if let Some(folder) = path.parent() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    }
    let mut left = None;
    if let Ok(there) = fs::symlink_metadata(&path) {
        if !there.file_type().is_socket() {
            bail!("{shown} is there and is no socket; `socket` in the configuration names another");
        }
        if UnixStream::connect(&path).is_ok() {
            bail!(
                "another daemon listens at {shown}; stop that one first, or name another `socket`"
            );
        }
        left = there.modified().ok();
        // Left by one that was killed.
        fs::remove_file(&path).with_context(|| format!("cannot remove the old {shown}"))?;
    }
    let group = config.socket_group.as_deref().map(group).transpose()?;
    let metrics = config.metrics.map(|address| {
        let bound = TcpListener::bind(address).with_context(|| {
            format!("cannot listen at {address}, the `metrics` of the configuration")
        })?;
        bound.set_nonblocking(true).context("cannot listen")?;
        anyhow::Ok(bound)
    });
    let metrics = metrics.transpose()?;
    // Nobody else between bind and chmod.
    let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let bound = UnixListener::bind(&path);
    rustix::process::umask(before);
    let api = bound.with_context(|| format!("cannot listen at {shown}"))?;
    let there = fs::symlink_metadata(&path).with_context(|| format!("cannot see {shown}"))?;
    let listener = Listener {
        api,
        metrics,
        place: (there.dev(), there.ino()),
        path,
        left,
    };
    if let Some(gid) = group {
        let path = &listener.path;
        chown(path, None, Some(gid))
            .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o660)))
            .with_context(|| format!("cannot give {} to its group", path.display()))?;
    }
    listener
        .api
        .set_nonblocking(true)
        .context("cannot listen")?;
    Ok(listener)
}

/// A group's number, by name or number: name:password:number:members (group(5)).
fn group(name: &str) -> Result<u32> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    let groups = fs::read_to_string("/etc/group").context("cannot read /etc/group")?;
    groups
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.first() == Some(&name))
        .and_then(|fields| fields.get(2)?.parse().ok())
        .with_context(|| format!("socket_group: no group {name:?} in /etc/group"))
}

impl Listener {
    /// When the daemon that had the socket before was there last, if it was killed.
    pub fn left(&self) -> Option<SystemTime> {
        self.left
    }

    /// Answers, for ever: all of it at the socket, and what is for Prometheus at the address that the
    /// configuration names.
    pub async fn serve(self, router: Router, metrics: Router, gauge: &Gauge) {
        let Ok(copy) = self.api.try_clone() else {
            return;
        };
        let listener = match tokio::net::UnixListener::from_std(copy) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!("the API cannot listen: {error}");
                return;
            }
        };
        if let Some(listener) = &self.metrics {
            let own = listener
                .try_clone()
                .and_then(tokio::net::TcpListener::from_std);
            match own {
                Ok(listener) => drop(tokio::spawn(serve_metrics(listener, metrics))),
                Err(error) => eprintln!("agentwatch: the metrics cannot be served: {error}"),
            }
        }
        let rooms = Rooms::new(Limits::DEFAULT);
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    refused("the API", &error).await;
                    continue;
                }
            };
            let Ok(cred) = stream.peer_cred() else {
                continue;
            };
            let peer = Peer::new(cred.uid(), cred.pid(), gauge);
            let Some(place) = rooms.place(peer.who()) else {
                let _ = stream.try_write(NO_PLACE);
                continue;
            };
            let router = router.clone();
            tokio::spawn(answer(stream, router, place, move |request| {
                request.extensions_mut().insert(peer.clone());
            }));
        }
    }
}

async fn serve_metrics(listener: tokio::net::TcpListener, router: Router) {
    let rooms = Rooms::new(Limits::DEFAULT);
    loop {
        match listener.accept().await {
            Ok((stream, _)) => match rooms.place(Who::Other) {
                Some(place) => drop(tokio::spawn(answer(stream, router.clone(), place, |_| {}))),
                None => drop(stream.try_write(NO_PLACE)),
            },
            Err(error) => refused("what serves the metrics", &error).await,
        }
    }
}

/// Too many open files, say: it passes, or not.
async fn refused(who: &str, error: &std::io::Error) {
    eprintln!("agentwatch: {who} cannot take a connection: {error}");
    tokio::time::sleep(Duration::from_millis(500)).await;
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Not one that another daemon has made there since.
        let there = fs::symlink_metadata(&self.path).ok();
        if there.is_some_and(|there| (there.dev(), there.ino()) == self.place) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Peer {
    fn new(uid: u32, pid: Option<i32>, gauge: &Gauge) -> Self {
        let own = fs::metadata("/proc/self").map_or(0, |process| process.uid());
        let pid = pid.and_then(|pid| u32::try_from(pid).ok());
        let exe = pid
            .and_then(|pid| fs::read_link(format!("/proc/{pid}/exe")).ok())
            .map(|exe| crate::text::escape(exe.as_os_str().as_encoded_bytes()));
        Self {
            asked_by: AskedBy {
                uid,
                user: user(uid),
                pid,
                exe,
            },
            is_root: uid == 0 || uid == own,
            process: pid.and_then(|pid| {
                let start_ns = seed::stat(pid)?.start_ns;
                Some(ProcessKey { pid, start_ns })
            }),
            is_agent: pid.is_some_and(|pid| gauge.agent_of(pid).is_some()),
        }
    }

    fn who(&self) -> Who {
        match self {
            Self { is_agent: true, .. } => Who::Agent,
            Self { is_root: true, .. } => Who::Root,
            _ => Who::Other,
        }
    }

    /// Why it may not act. An agent would let itself go, and could leave its connection to another process,
    /// so who has connected must still be there.
    pub fn must_not_act(&self, gauge: &Gauge) -> Option<&'static str> {
        if !self.is_root {
            return Some("you may read and not act: that takes root");
        }
        let Some(process) = self.process.filter(|process| seed::started_at(*process)) else {
            return Some(
                "the process that connected is gone, or in a pid namespace that the daemon does not see",
            );
        };
        if self.is_agent || gauge.agent_of(process.pid).is_some() {
            return Some("you are an agent's process: agents may read and not act");
        }
        None
    }
}

/// The name of a user.
fn user(uid: u32) -> Option<String> {
    let users = fs::read_to_string("/etc/passwd").ok()?;
    users.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        (fields.get(2)?.parse() == Ok(uid)).then(|| crate::text::escape_str(fields[0]))
    })
}
