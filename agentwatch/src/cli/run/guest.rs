//! A run that the daemon watches: what `agentwatch run` asks of it, and hears from it.
//!
//! Where the daemon goes away, the agent stands still until somebody watches it again: the daemon, where it
//! is started again within ten seconds, else this process. So nothing happens unseen, and an agent does not
//! wait for a daemon that was stopped for good.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use http_body_util::BodyExt as _;
use hyper::{
    Method, StatusCode,
    body::{Bytes, Incoming},
};
use tokio::time::timeout;

use crate::{
    api::{
        client,
        model::{
            ActionRequest, AgentState, Process, RunEnd, RunEnded, RunRequest, RunStarted, Verb,
        },
        sse,
    },
    finding::Action,
    publish::notice::{Format, Notices},
    respond::cgroup::AgentCgroup,
};

/// How long is waited for something to happen before the command is looked at again.
const TICK: Duration = Duration::from_millis(100);
/// How long the daemon may take for an answer.
const ANSWER: Duration = Duration::from_secs(30);
/// How long a daemon that went away is waited for.
const BACK_WITHIN: Duration = Duration::from_secs(10);
/// How often is looked whether it is back.
const LOOK: Duration = Duration::from_millis(200);
/// How long the stream may be silent: the daemon says every 15 seconds that it is there.
const SILENT: Duration = Duration::from_secs(50);
/// How long the last of the stream may take.
const LAST: Duration = Duration::from_secs(2);

/// A run that the daemon watches.
pub struct Guest {
    socket: PathBuf,
    request: RunRequest,
    started: RunStarted,
    cgroup: AgentCgroup,
    notices: Notices,
    stream: Option<Incoming>,
    come: sse::Buffer,
    heard: Instant,
    killed: bool,
    /// The daemon has said that its watching has ended.
    gone: bool,
    lost: Option<Lost>,
}

/// Since the daemon went away.
struct Lost {
    since: Instant,
    looked: Instant,
    /// The agent stood still before, for a finding or because somebody wanted it so.
    was_frozen: bool,
}

/// What became of the wish to be watched.
pub enum Asked {
    /// It is.
    Watched(Box<Guest>),
    /// Nobody is there, or nobody that knows of runs.
    Nobody(Notices),
}

impl Guest {
    /// Asks the daemon at a socket to watch a cgroup.
    ///
    /// # Errors
    ///
    /// When there is one, and it refuses.
    pub async fn ask(
        socket: PathBuf,
        request: RunRequest,
        cgroup: AgentCgroup,
        mut notices: Notices,
    ) -> Result<Asked> {
        if std::os::unix::net::UnixStream::connect(&socket).is_err() {
            return Ok(Asked::Nobody(notices));
        }
        let Some(started) = start(&socket, &request).await? else {
            notices.write(&format!(
                "agentwatch: the daemon at {} is of a version that takes no runs; watching without it\n",
                socket.display()
            ));
            return Ok(Asked::Nobody(notices));
        };
        let mut guest = Self {
            stream: None,
            socket,
            request,
            started,
            cgroup,
            notices,
            come: sse::Buffer::default(),
            heard: Instant::now(),
            killed: false,
            gone: false,
            lost: None,
        };
        if let Err(error) = guest.listen().await {
            guest.let_go_of().await;
            guest.notices.write(&format!(
                "agentwatch: the daemon at {} would watch, and cannot tell of it ({error:#}); watching without it\n",
                guest.socket.display()
            ));
            return Ok(Asked::Nobody(guest.notices));
        }
        let said = format!(
            "agentwatch: the daemon at {} watches {}\n",
            guest.socket.display(),
            guest.started.name
        );
        guest.notices.write(&said);
        guest.say_not_in_force();
        Ok(Asked::Watched(Box::new(guest)))
    }

    fn say_not_in_force(&mut self) {
        for missing in &self.started.not_in_force {
            let said = format!("agentwatch: not in force here: {missing}\n");
            self.notices.write(&said);
        }
    }

    /// Listens to what is found of the agent.
    async fn listen(&mut self) -> Result<()> {
        let path = format!(
            "/v1/events/stream?kind=none&agent={}",
            client::percent(&self.started.name)
        );
        let answer = timeout(
            ANSWER,
            client::open(&self.socket, Method::GET, &path, Bytes::new()),
        )
        .await
        .context("the daemon does not answer")??;
        let status = answer.status();
        if !status.is_success() {
            let body = answer.into_body().collect().await?.to_bytes();
            return client::read::<()>(status, &body).context("findings cannot be had");
        }
        self.stream = Some(answer.into_body());
        self.come = sse::Buffer::default();
        self.heard = Instant::now();
        self.gone = false;
        Ok(())
    }

    /// Waits until the daemon says something, a tick at most.
    pub async fn wait(&mut self) {
        let Some(stream) = &mut self.stream else {
            return tokio::time::sleep(TICK).await;
        };
        // Between the end of the waiting and the taking there is nothing where this could be broken off.
        match timeout(TICK, stream.frame()).await {
            Ok(Some(Ok(frame))) => {
                self.heard = Instant::now();
                if let Ok(data) = frame.into_data()
                    && self.come.push(&data).is_err()
                {
                    self.stream = None;
                }
            }
            Ok(Some(Err(_)) | None) => self.stream = None,
            Err(_) => {}
        }
    }

    /// Shows what the daemon has said; sees to it that the agent is watched. `false`: nobody watches it, and
    /// nobody will.
    ///
    /// # Errors
    ///
    /// When the agent cannot be frozen.
    pub async fn pump(&mut self) -> Result<bool> {
        self.show();
        if self.heard.elapsed() > SILENT {
            self.stream = None;
        }
        if self.stream.is_some() && !self.gone {
            return Ok(true);
        }
        let Some(lost) = &mut self.lost else {
            return self.lose().map(|()| true);
        };
        if lost.looked.elapsed() >= LOOK {
            lost.looked = Instant::now();
            if self.come_back().await {
                return Ok(true);
            }
        }
        Ok(self
            .lost
            .as_ref()
            .is_none_or(|lost| lost.since.elapsed() < BACK_WITHIN))
    }

    /// The daemon is not there any more.
    fn lose(&mut self) -> Result<()> {
        let was_frozen = self.cgroup.wait_frozen(true, Duration::ZERO);
        let now = Instant::now();
        self.lost = Some(Lost {
            since: now,
            looked: now,
            was_frozen,
        });
        self.stream = None;
        if !self.cgroup.is_empty() {
            self.cgroup.freeze(true)?;
            self.notices.write(&format!(
                "agentwatch: the daemon has gone away; the agent stands still until it is back, {} s at most\n",
                BACK_WITHIN.as_secs()
            ));
        }
        Ok(())
    }

    /// Whether the daemon is back and watches the agent.
    async fn come_back(&mut self) -> bool {
        if std::os::unix::net::UnixStream::connect(&self.socket).is_err() {
            return false;
        }
        let started = match start(&self.socket, &self.request).await {
            Ok(Some(started)) => started,
            Ok(None) => return false,
            Err(error) => {
                let said = format!("agentwatch: the daemon is back and refuses: {error:#}\n");
                self.notices.write(&said);
                // No use in waiting.
                if let Some(lost) = &mut self.lost {
                    lost.since = Instant::now()
                        .checked_sub(BACK_WITHIN)
                        .unwrap_or(lost.since);
                }
                return false;
            }
        };
        self.started = started;
        if self.listen().await.is_err() {
            // Else two would watch in the end.
            self.let_go_of().await;
            return false;
        }
        let lost = self.lost.take();
        let said = format!(
            "agentwatch: the daemon is back and watches {}\n",
            self.started.name
        );
        self.notices.write(&said);
        self.say_not_in_force();
        // What the daemon knew to be frozen stays so.
        let stays = self.started.state == AgentState::Frozen;
        if !stays && lost.is_some_and(|lost| !lost.was_frozen) {
            self.let_go();
        }
        true
    }

    /// Lets the agent go on.
    fn let_go(&mut self) {
        if let Err(error) = self.cgroup.freeze(false) {
            let said = format!("agentwatch: the agent stands still: {error:#}\n");
            self.notices.write(&said);
        }
    }

    /// Hands over to somebody who watches it from here on; what it stands still for since the daemon went
    /// away is over then.
    pub fn hand_over(&mut self) -> (Notices, bool) {
        let format = self.notices.format();
        let notices = std::mem::replace(&mut self.notices, Notices::new(format, None));
        let stays = self.lost.as_ref().is_some_and(|lost| lost.was_frozen);
        (notices, stays)
    }

    /// Shows the findings that have come.
    fn show(&mut self) {
        while let Some(sse::Item { event, data }) = self.come.take() {
            match event.as_str() {
                "finding" => match self.notices.told(&data) {
                    Ok(response) => self.killed |= response.taken == Action::Kill,
                    Err(error) => self.notices.write(&format!(
                        "agentwatch: the daemon told of a finding that is not understood: {error}\n"
                    )),
                },
                "missed" => self.notices.write(&format!(
                    "agentwatch: not all that was found is shown here ({data}); `agentwatch findings` has it\n"
                )),
                "gone" => self.gone = true,
                _ => {} // a sign of life
            }
        }
    }

    /// The cgroup.
    pub fn cgroup(&self) -> &AgentCgroup {
        &self.cgroup
    }

    /// The folder of the daemon's history.
    pub fn data_dir(&self) -> PathBuf {
        self.started.data_dir.clone().into()
    }

    /// Where what is to be said goes.
    pub fn notices(&mut self) -> &mut Notices {
        &mut self.notices
    }

    /// Whether the daemon has killed the agent.
    pub fn is_killed(&self) -> bool {
        self.killed
    }

    /// Whether the agent stands still.
    pub fn is_frozen(&self) -> bool {
        self.cgroup.wait_frozen(true, Duration::ZERO)
    }

    /// How many of the agent's processes are alive, in its cgroup or not.
    pub async fn members(&self) -> usize {
        let path = format!("/v1/agents/{}/processes", self.started.id);
        let listed = async {
            let (status, body) = self.send(Method::GET, &path, Bytes::new()).await?;
            client::read::<Vec<Process>>(status, &body)
        };
        match listed.await {
            Ok(list) => list.len(),
            Err(_) => self.cgroup.processes().map_or(0, |pids| pids.len()),
        }
    }

    /// Ends every process of the agent.
    ///
    /// # Errors
    ///
    /// When neither the daemon does it nor the kernel lets this process do it.
    pub async fn end_members(&self) -> Result<()> {
        let path = format!("/v1/agents/{}/actions", self.started.id);
        let request = ActionRequest {
            action: Verb::Kill,
            reason: "agentwatch run ends what its command has left".to_owned(),
        };
        let done = async {
            let body = client::json(&request)?;
            let (status, _) = self.send(Method::POST, &path, body).await?;
            anyhow::ensure!(status.is_success(), "the daemon answers {status}");
            Ok(())
        };
        match done.await {
            Ok(()) => Ok(()),
            // At least what is in the cgroup.
            Err(_) => self.cgroup.kill(),
        }
    }

    /// Ends the watching. `None` where the daemon is gone, and with it the account.
    pub async fn end(
        mut self,
        exit_status: Option<u8>,
        left: usize,
    ) -> (Notices, Option<RunEnded>) {
        let request = RunEnd {
            exit_status,
            left_running: left,
            colour: matches!(self.notices.format(), Format::Text { colour: true }),
        };
        let path = format!("/v1/agents/{}/end", self.started.id);
        let ended = async {
            let (status, body) = self
                .send(Method::POST, &path, client::json(&request)?)
                .await?;
            client::read::<RunEnded>(status, &body)
        };
        match ended.await {
            Ok(ended) => {
                // What was found last may still be on its way.
                let until = Instant::now() + LAST;
                while self.stream.is_some() && !self.gone && Instant::now() < until {
                    self.wait().await;
                    self.show();
                }
                (self.notices, Some(ended))
            }
            Err(error) => {
                self.notices.write(&format!(
                    "agentwatch: the daemon gives no account: {error:#}; `agentwatch report` has what is in \
                     the history\n"
                ));
                (self.notices, None)
            }
        }
    }

    /// Has the daemon not watch it any more, if it can be reached.
    async fn let_go_of(&self) {
        let path = format!("/v1/agents/{}/end", self.started.id);
        if let Ok(body) = client::json(&RunEnd::default()) {
            let _ = self.send(Method::POST, &path, body).await;
        }
    }

    async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<(StatusCode, Bytes)> {
        timeout(ANSWER, client::ask(&self.socket, method, path, body))
            .await
            .context("the daemon does not answer")?
    }
}

/// Asks to be watched. `None` where the daemon does not know what that is.
async fn start(socket: &Path, request: &RunRequest) -> Result<Option<RunStarted>> {
    let asked = client::ask(socket, Method::POST, "/v1/agents", client::json(request)?);
    let (status, body) = timeout(ANSWER, asked)
        .await
        .context("the daemon does not answer; `--standalone` watches without it")??;
    if status == StatusCode::METHOD_NOT_ALLOWED || status == StatusCode::NOT_FOUND {
        return Ok(None);
    }
    client::read(status, &body).map(Some)
}
