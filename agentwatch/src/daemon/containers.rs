//! What container runtimes say of a container: docker, podman and containerd are asked by their APIs, on a
//! thread of its own, so that a runtime that is slow makes nobody wait.

use std::{
    collections::BTreeMap,
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};
use hyper::{Method, StatusCode, body::Bytes};
use serde::Deserialize;
use tokio::{
    net::UnixStream,
    sync::{Semaphore, mpsc},
    time::{sleep, timeout},
};

use super::containerd;
use crate::{api::client, config::Container, text::escape_str};

/// Questions that may wait; past that a cgroup is looked at again later.
const QUESTIONS: usize = 4096;
/// Questions at once.
const AT_ONCE: usize = 8;
/// How long a runtime may take.
const WITHIN: Duration = Duration::from_secs(5);
/// How often one is asked for a container that it does not know: it may be making it.
const TRIES: usize = 4;
/// The time between.
const AGAIN: Duration = Duration::from_millis(100);

/// Whose container is it?
#[derive(Debug)]
pub struct Question {
    /// The number that its cgroup's agent would have.
    pub number: u32,
    /// The container's id.
    pub id: String,
}

/// What came of it.
#[derive(Debug)]
pub struct Answer {
    /// See [`Question::number`].
    pub number: u32,
    /// See [`Question::id`].
    pub id: String,
    /// The container, `None` where no runtime knows it; an error where one could not tell.
    pub container: Result<Option<Container>>,
}

/// What docker's API says of a container (`GET /containers/{id}/json`), and podman's as docker's.
#[derive(Deserialize)]
struct Inspected {
    #[serde(rename = "Name", default)]
    name: String,
    #[serde(rename = "Config", default)]
    config: Inside,
}

#[derive(Default, Deserialize)]
struct Inside {
    #[serde(rename = "Labels", default)]
    labels: Option<BTreeMap<String, String>>,
}

/// Starts the thread. It ends when nobody asks any more.
///
/// # Errors
///
/// When there can be no more threads.
pub fn start(
    sockets: Vec<PathBuf>,
) -> Result<(mpsc::Sender<Question>, mpsc::UnboundedReceiver<Answer>)> {
    let (ask, mut questions) = mpsc::channel::<Question>(QUESTIONS);
    // Bounded by the questions.
    let (answer, answers) = mpsc::unbounded_channel();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")?;
    let sockets: Arc<[PathBuf]> = sockets.into();
    std::thread::Builder::new()
        .name("containers".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                let room = Arc::new(Semaphore::new(AT_ONCE));
                while let Some(Question { number, id }) = questions.recv().await {
                    let Ok(place) = Arc::clone(&room).acquire_owned().await else {
                        return;
                    };
                    let (sockets, answer) = (Arc::clone(&sockets), answer.clone());
                    tokio::spawn(async move {
                        let container = find(&sockets, &id).await;
                        let _ = answer.send(Answer {
                            number,
                            id,
                            container,
                        });
                        drop(place);
                    });
                }
            });
        })
        .context("cannot start the thread that asks container runtimes")?;
    Ok((ask, answers))
}

/// Asks one runtime after the other.
async fn find(sockets: &[PathBuf], id: &str) -> Result<Option<Container>> {
    let (mut failed, mut unsure) = (None, None);
    for attempt in 0..TRIES {
        if attempt > 0 {
            sleep(AGAIN).await;
        }
        let (mut is_there, mut down) = (false, None);
        for socket in sockets {
            match timeout(WITHIN, inspect(socket, id)).await {
                Ok(Ok(Inspection::Is(container))) => return Ok(Some(container)),
                Ok(Ok(Inspection::Unknown)) => is_there = true,
                Ok(Ok(Inspection::NoRuntime)) => {}
                Ok(Ok(Inspection::Down)) => down = Some(socket),
                Ok(Err(error)) => failed = Some(error.context(socket.display().to_string())),
                Err(_) => {
                    let said = format!("{} does not answer", socket.display());
                    failed = Some(anyhow::Error::msg(said));
                }
            }
        }
        if failed.is_some() {
            break;
        }
        // One that is down may have it still: containers run on without their runtime.
        unsure = match down {
            Some(socket) => Some(anyhow!("{}: nobody listens there", socket.display())),
            None if is_there => None,
            None => Some(anyhow!("no container runtime is there")),
        };
        if !is_there {
            break;
        }
    }
    match failed.or(unsure) {
        Some(error) => Err(error),
        None => Ok(None),
    }
}

enum Inspection {
    Is(Container),
    Unknown,
    /// There is no such socket.
    NoRuntime,
    /// There is one, and nobody listens.
    Down,
}

async fn inspect(socket: &Path, id: &str) -> Result<Inspection> {
    let stream = match UnixStream::connect(socket).await {
        Ok(stream) => stream,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Inspection::NoRuntime),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => return Ok(Inspection::Down),
        Err(error) => return Err(error).context("cannot be reached"),
    };
    let runtime = socket.display().to_string();
    if is_containerd(socket) {
        let found = containerd::labels(stream, id).await?;
        return Ok(found.map_or(Inspection::Unknown, |labels| {
            let name = containerd::name(&labels, id);
            Inspection::Is(container(id, &name, labels, runtime))
        }));
    }
    let path = format!("/containers/{id}/json");
    let (status, body) = client::over(stream, Method::GET, &path, Bytes::new()).await?;
    match status {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND => return Ok(Inspection::Unknown),
        other => bail!("answers {other}"),
    }
    let Inspected { name, config } =
        serde_json::from_slice(&body).context("its answer is not understood")?;
    let labels = config.labels.unwrap_or_default();
    // Docker puts a slash before it.
    let name = name.trim_start_matches('/');
    Ok(Inspection::Is(container(id, name, labels, runtime)))
}

/// Whose socket it is, its name says: the other runtimes speak docker's API.
fn is_containerd(socket: &Path) -> bool {
    let name = socket.file_name().unwrap_or_default();
    name.to_string_lossy().contains("containerd")
}

fn container(id: &str, name: &str, labels: BTreeMap<String, String>, runtime: String) -> Container {
    Container {
        id: id.to_owned(),
        name: escape_str(name),
        labels: labels
            .into_iter()
            .map(|(key, value)| (escape_str(&key), escape_str(&value)))
            .collect(),
        runtime,
    }
}
