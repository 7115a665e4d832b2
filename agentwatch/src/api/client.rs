//! The other end of the socket: what the command line asks the daemon.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, StatusCode, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::UnixStream;

use super::model::{Action, ActionRequest, Agent, ApiError};
use crate::config::{DEFAULT_SOCKET, ENVIRONMENT};

/// The largest answer that is taken.
const ANSWER: usize = 64 << 20;

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
        let said = || {
            let value = std::env::var_os(ENVIRONMENT[1]);
            value.filter(|value| !value.is_empty()).map(PathBuf::from)
        };
        let socket = socket
            .map(Path::to_owned)
            .or_else(said)
            .unwrap_or_else(|| DEFAULT_SOCKET.into());
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
        self.runtime.block_on(async {
            let stream = UnixStream::connect(&self.socket)
                .await
                .map_err(|error| self.explain(&error))?;
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            let request = Request::builder()
                .method(method)
                .uri(path)
                .header("host", "agentwatch")
                .header("content-type", "application/json")
                .body(Full::new(body))?;
            let answer = sender
                .send_request(request)
                .await
                .context("the daemon does not answer")?;
            let status = answer.status();
            let body = http_body_util::Limited::new(answer.into_body(), ANSWER);
            let body = body
                .collect()
                .await
                .map_err(|error| anyhow!("the daemon's answer breaks off: {error}"))?;
            Ok((status, body.to_bytes()))
        })
    }

    fn explain(&self, error: &std::io::Error) -> anyhow::Error {
        use std::io::ErrorKind;
        let socket = self.socket.display();
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
}

fn json(value: &impl Serialize) -> Result<Bytes> {
    Ok(serde_json::to_vec(value)?.into())
}

fn read<T: DeserializeOwned>(status: StatusCode, body: &[u8]) -> Result<T> {
    if status.is_success() {
        return serde_json::from_slice(body).context("the daemon is of another version");
    }
    match serde_json::from_slice::<ApiError>(body) {
        Ok(refused) => bail!("{}", refused.error),
        Err(_) => bail!("the daemon answers {status}"),
    }
}

/// A name as a part of a path.
fn percent(text: &str) -> String {
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
