//! The socket, and who is at its other end.

use std::{
    fs,
    os::unix::{
        fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _, chown},
        net::{UnixListener, UnixStream},
    },
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, bail};
use axum::{Router, body::Body, extract::Request};
use hyper::{
    body::Incoming,
    server::conn::http1,
    service::{Service as _, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::sync::Semaphore;

use super::model::AskedBy;
use crate::config::Config;

/// Connections at once. A further one waits.
const CONNECTIONS: usize = 64;
/// How long a client may take for a request's head, and be silent between two.
const HEAD_WITHIN: Duration = Duration::from_secs(10);

/// The socket, bound.
pub struct Listener {
    socket: UnixListener,
    path: PathBuf,
    left: Option<SystemTime>,
}

/// Who asks, as the kernel tells.
#[derive(Debug, Clone)]
pub struct Peer {
    /// For the record.
    pub asked_by: AskedBy,
    /// Whether it may act: root, and the user that the daemon runs as.
    pub may_act: bool,
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
    // Nobody else between bind and chmod.
    let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let bound = UnixListener::bind(&path);
    rustix::process::umask(before);
    let socket = bound.with_context(|| format!("cannot listen at {shown}"))?;
    let listener = Listener { socket, path, left };
    if let Some(gid) = group {
        let path = &listener.path;
        chown(path, None, Some(gid))
            .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o660)))
            .with_context(|| format!("cannot give {} to its group", path.display()))?;
    }
    listener
        .socket
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

    /// Answers, for ever.
    pub async fn serve(self, router: Router) {
        let Ok(copy) = self.socket.try_clone() else {
            return;
        };
        let listener = match tokio::net::UnixListener::from_std(copy) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!("the API cannot listen: {error}");
                return;
            }
        };
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(place) = Arc::clone(&room).acquire_owned().await else {
                return;
            };
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Too many open files, say: it passes, or not.
                    tracing::warn!("the API cannot take a connection: {error}");
                    tokio::time::sleep(Duration::from_millis(500)).await;
                    continue;
                }
            };
            let peer = match stream.peer_cred() {
                Ok(cred) => Peer::new(cred.uid(), cred.pid()),
                Err(_) => continue,
            };
            let router = router.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request: Request<Incoming>| {
                    let mut request = request.map(Body::new);
                    request.extensions_mut().insert(peer.clone());
                    TowerToHyperService::new(router.clone()).call(request)
                });
                // A client that breaks off is no mistake of anybody's.
                let _ = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEAD_WITHIN)
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
                drop(place);
            });
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Not one that another daemon has made there since.
        let own = rustix::fs::fstat(&self.socket).ok();
        let there = fs::symlink_metadata(&self.path).ok();
        if own.is_some() && there.is_some_and(|there| there.file_type().is_socket()) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Peer {
    fn new(uid: u32, pid: Option<i32>) -> Self {
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
            may_act: uid == 0 || uid == own,
        }
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
