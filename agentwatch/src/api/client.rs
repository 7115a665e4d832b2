//! The other end of the socket: what the command line asks the daemon.

use std::{
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::UnixStream;

use super::{
    model::{Action, ActionRequest, Agent, ApiError, StreamItem},
    sse,
};
use crate::config::{DEFAULT_SOCKET, ENVIRONMENT};

/// The largest answer that is taken.
const ANSWER: usize = 64 << 20;
/// How long is waited for room among those that want to connect.
const ROOM_WITHIN: Duration = Duration::from_secs(5);

/// The daemon's socket: the one that is named, else that of `AGENTWATCH_SOCKET`, else the usual one.
pub fn socket(named: Option<&Path>) -> PathBuf {
    let said = || {
        let value = std::env::var_os(ENVIRONMENT[1]);
        value.filter(|value| !value.is_empty()).map(PathBuf::from)
    };
    named
        .map(Path::to_owned)
        .or_else(said)
        .unwrap_or_else(|| DEFAULT_SOCKET.into())
}

/// A daemon, by its socket.
pub struct Client {
    socket: PathBuf,
    runtime: tokio::runtime::Runtime,
}

impl Client {
    /// The daemon at a socket; where none is named, at the one of `AGENTWATCH_SOCKET`, or the usual one.
    ///
    /// # Errors
    ///
    /// When there can be no runtime.
    pub fn new(socket: Option<&Path>) -> Result<Self> {
        let socket = self::socket(socket);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start")?;
        Ok(Self { socket, runtime })
    }

    /// All agents.
    ///
    /// # Errors
    ///
    /// When there is no daemon, or it does not answer.
    pub fn agents(&self) -> Result<Vec<Agent>> {
        self.get("/v1/agents")
    }

    /// Asks for something.
    ///
    /// # Errors
    ///
    /// When there is no daemon, or it refuses.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let (status, body) = self.ask(Method::GET, path, Bytes::new())?;
        read(status, &body)
    }

    /// Does something to an agent.
    ///
    /// # Errors
    ///
    /// When there is no daemon, no such agent, or this user may not act. What the daemon could not do
    /// is in the action.
    pub fn act(&self, agent: &str, request: &ActionRequest) -> Result<Action> {
        let path = format!("/v1/agents/{}/actions", percent(agent));
        let (status, body) = self.ask(Method::POST, &path, json(request)?)?;
        if status == StatusCode::CONFLICT {
            return Ok(serde_json::from_slice(&body)?);
        }
        read(status, &body)
    }

    fn ask(&self, method: Method, path: &str, body: Bytes) -> Result<(StatusCode, Bytes)> {
        self.runtime.block_on(ask(&self.socket, method, path, body))
    }

    /// Reads a stream of server-sent events until `take` says no, or the daemon ends it. `opened` is
    /// called as soon as nothing is missed any more. An item of a kind that this version does not know
    /// is left out.
    ///
    /// # Errors
    ///
    /// When there is no daemon, it refuses, or the stream breaks off.
    pub fn stream(
        &self,
        path: &str,
        opened: impl FnOnce(),
        mut take: impl FnMut(StreamItem) -> bool,
    ) -> Result<()> {
        self.runtime.block_on(async {
            let answer = open(&self.socket, Method::GET, path, Bytes::new()).await?;
            let status = answer.status();
            let mut body = answer.into_body();
            if !status.is_success() {
                let body = http_body_util::Limited::new(body, ANSWER).collect().await;
                let body =
                    body.map_err(|error| anyhow!("the daemon's answer breaks off: {error}"))?;
                return read(status, &body.to_bytes());
            }
            opened();
            let mut come = sse::Buffer::default();
            while let Some(frame) = body.frame().await {
                let Ok(data) = frame.context("the stream breaks off")?.into_data() else {
                    continue;
                };
                come.push(&data)?;
                while let Some(next) = come.take() {
                    if let Some(item) = item(&next)
                        && !take(item)
                    {
                        return Ok(());
                    }
                }
            }
            bail!("the daemon has ended the stream")
        })
    }
}

/// Sends one request, for who has a runtime already.
///
/// # Errors
///
/// When there is no daemon, or it does not answer.
pub async fn ask(
    socket: &Path,
    method: Method,
    path: &str,
    body: Bytes,
) -> Result<(StatusCode, Bytes)> {
    collect(open(socket, method, path, body).await?).await
}

/// The same, over a connection to whoever it is.
///
/// # Errors
///
/// When there is no answer.
pub async fn over(
    stream: UnixStream,
    method: Method,
    path: &str,
    body: Bytes,
) -> Result<(StatusCode, Bytes)> {
    collect(send(stream, method, path, body).await?).await
}

async fn collect(answer: Response<Incoming>) -> Result<(StatusCode, Bytes)> {
    let status = answer.status();
    let body = http_body_util::Limited::new(answer.into_body(), ANSWER);
    let body = body
        .collect()
        .await
        .map_err(|error| anyhow!("the answer breaks off: {error}"))?;
    Ok((status, body.to_bytes()))
}

/// The same, for an answer that is read as it comes.
///
/// # Errors
///
/// When there is no daemon, or it does not answer.
pub async fn open(
    socket: &Path,
    method: Method,
    path: &str,
    body: Bytes,
) -> Result<Response<Incoming>> {
    let stream = connect(socket)
        .await
        .map_err(|error| explain(socket, &error))?;
    send(stream, method, path, body).await
}

/// Connects. Where very many want to, at once, the kernel says that there is no room now: then again.
async fn connect(socket: &Path) -> io::Result<UnixStream> {
    let end = Instant::now() + ROOM_WITHIN;
    loop {
        match UnixStream::connect(socket).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < end => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            other => return other,
        }
    }
}

async fn send(
    stream: UnixStream,
    method: Method,
    path: &str,
    body: Bytes,
) -> Result<Response<Incoming>> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "agentwatch")
        .header("content-type", "application/json")
        .body(Full::new(body))?;
    sender
        .send_request(request)
        .await
        .context("there is no answer")
}

fn explain(socket: &Path, error: &io::Error) -> anyhow::Error {
    use std::io::ErrorKind;
    let socket = socket.display();
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => anyhow!(
            "no daemon listens at {socket}; start one with `agentwatch daemon`, or name its socket \
                 with --socket"
        ),
        ErrorKind::PermissionDenied => anyhow!(
            "you may not use {socket}: it is root's, and its group's if the daemon's configuration \
                 names one (socket_group)"
        ),
        _ => anyhow!("cannot reach the daemon at {socket}: {error}"),
    }
}

/// A request's body.
///
/// # Errors
///
/// When it cannot be written as JSON.
pub fn json(value: &impl Serialize) -> Result<Bytes> {
    Ok(serde_json::to_vec(value)?.into())
}

/// An answer, or why there is none.
///
/// # Errors
///
/// When the daemon refuses, or says what is not understood.
pub fn read<T: DeserializeOwned>(status: StatusCode, body: &[u8]) -> Result<T> {
    if status.is_success() {
        return serde_json::from_slice(body).context("the daemon is of another version");
    }
    match serde_json::from_slice::<ApiError>(body) {
        Ok(refused) => bail!("{}", refused.error),
        Err(_) => bail!("the daemon answers {status}"),
    }
}

/// What an item says; `None` for a sign of life, or what this version does not know.
fn item(item: &sse::Item) -> Option<StreamItem> {
    let data: serde_json::Value = serde_json::from_str(&item.data).ok()?;
    let tagged = serde_json::json!({"type": item.event, "data": data});
    serde_json::from_value(tagged).ok()
}

/// A name as a part of a path.
pub fn percent(text: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::model::Missed;

    #[test]
    fn items_of_a_stream() {
        let read = |event: &str, data: &str| {
            item(&sse::Item {
                event: event.to_owned(),
                data: data.to_owned(),
            })
        };
        assert_eq!(read("", ""), None);
        assert_eq!(read("news", "{}"), None);
        assert_eq!(
            read("missed", "{\"missed\":3}"),
            Some(StreamItem::Missed(Missed { missed: 3 }))
        );
    }
}
