//! What a daemon tells: the agents once a second, findings as they happen. On threads of its own, so
//! that a daemon that does not answer never holds up the keys.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use jiff::Timestamp;

use super::{
    Input,
    state::{Order, Update, detail::Detail},
};
use crate::api::{
    client::Client,
    model::{ActionRequest, Finding, Health, PolicyInForce, StreamItem},
};

/// How often the daemon is asked.
const EVERY: Duration = Duration::from_secs(1);
/// How often it is asked for what needs the history, in turns.
const HISTORY_EVERY: u32 = 3;
/// How long until a stream that broke off is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// Findings before the start that are shown.
const BEFORE: &str = "1d";

/// Starts asking. What comes goes to `to`, and what is ordered is done.
pub fn start(socket: PathBuf, to: SyncSender<Input>, orders: Receiver<Order>) -> Result<()> {
    let client = Client::new(Some(&socket))?;
    let (path, sender) = (socket.clone(), to.clone());
    thread::Builder::new()
        .name("top-stream".to_owned())
        .spawn(move || stream(&path, &sender))
        .context("cannot start a thread")?;
    let (watch, watched) = mpsc::channel();
    let sender = to.clone();
    thread::Builder::new()
        .name("top-poll".to_owned())
        .spawn(move || {
            Poll {
                client,
                to: sender,
                watched: None,
                policy: None,
                turn: 0,
            }
            .run(&watched);
        })
        .context("cannot start a thread")?;
    thread::Builder::new()
        .name("top-orders".to_owned())
        .spawn(move || do_orders(&socket, &to, &orders, &watch))
        .context("cannot start a thread")?;
    Ok(())
}

/// Does what is ordered: an action never waits for the daemon's answer to something else.
fn do_orders(
    socket: &Path,
    to: &SyncSender<Input>,
    orders: &Receiver<Order>,
    watch: &Sender<Option<u32>>,
) {
    for order in orders {
        let (id, name, verb, reason) = match order {
            Order::Watch(agent) if watch.send(agent).is_err() => return,
            Order::Act {
                id,
                name,
                verb,
                reason,
            } => (id, name, verb, reason),
            _ => continue,
        };
        // On a thread of its own: a kill may take its seconds.
        let (socket, answer, told) = (socket.to_owned(), to.clone(), name.clone());
        let request = ActionRequest {
            action: verb,
            reason,
        };
        let acting = thread::Builder::new().spawn(move || {
            let result = Client::new(Some(&socket))
                .and_then(|client| client.act(&id.to_string(), &request))
                .map(Box::new)
                .map_err(|error| format!("{error:#}"));
            let _ = send(&answer, Update::Acted(verb, told, result));
        });
        if let Err(error) = acting {
            let error = Err(format!("cannot start a thread: {error}"));
            if send(to, Update::Acted(verb, name, error)).is_err() {
                return;
            }
        }
    }
}

fn now_ms() -> i64 {
    Timestamp::now().as_millisecond()
}

/// The end of the screen is told by a queue that is gone.
struct Ended;

fn send(to: &SyncSender<Input>, update: Update) -> Result<(), Ended> {
    to.send(Input::Update(Box::new(update))).map_err(|_| Ended)
}

struct Poll {
    client: Client,
    to: SyncSender<Input>,
    /// The agent that is looked at.
    watched: Option<u32>,
    policy: Option<Arc<PolicyInForce>>,
    turn: u32,
}

impl Poll {
    fn run(mut self, orders: &Receiver<Option<u32>>) {
        let mut next = Instant::now();
        let mut last_files = Vec::new();
        loop {
            let wait = next.saturating_duration_since(Instant::now());
            match orders.recv_timeout(wait) {
                Ok(watched) => {
                    if self.watched != watched {
                        self.policy = None;
                        last_files.clear();
                        self.turn = 0;
                    }
                    self.watched = watched;
                    if self.detail(&mut last_files).is_err() {
                        return;
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    // Against the time when it should have been: the seconds stay a second long.
                    next = (next + EVERY).max(Instant::now() + EVERY / 2);
                    if self.agents().is_err() || self.detail(&mut last_files).is_err() {
                        return;
                    }
                    self.turn = self.turn.wrapping_add(1);
                }
            }
        }
    }

    fn agents(&self) -> Result<(), Ended> {
        let told = self
            .client
            .agents()
            .and_then(|agents| Ok((agents, self.client.get::<Health>("/v1/health")?)));
        let update = match told {
            Ok((agents, health)) => Update::Agents {
                at_ms: now_ms(),
                agents,
                health: Some(Box::new(health)),
            },
            Err(error) => Update::Unreachable(format!("{error:#}")),
        };
        send(&self.to, update)
    }

    fn detail(&mut self, files: &mut Vec<crate::api::model::FileChange>) -> Result<(), Ended> {
        let Some(agent) = self.watched else {
            return Ok(());
        };
        let path = format!("/v1/agents/{agent}");
        let mut detail = Detail {
            agent,
            ..Detail::default()
        };
        let told = (|| -> Result<()> {
            detail.processes = self.client.get(&format!("{path}/processes"))?;
            detail.flows = self.client.get(&format!("{path}/flows"))?;
            if self.turn.is_multiple_of(HISTORY_EVERY) {
                *files = self.client.get(&format!("{path}/files"))?;
            }
            // Another one may come with a reload.
            if self.policy.is_none() || self.turn.is_multiple_of(HISTORY_EVERY) {
                let path = format!("/v1/policy/{agent}");
                self.policy = Some(Arc::new(self.client.get(&path)?));
            }
            Ok(())
        })();
        detail.at_ms = now_ms();
        detail.error = told.err().map(|error| format!("{error:#}"));
        detail.files.clone_from(files);
        detail.policy.clone_from(&self.policy);
        send(&self.to, Update::Detail(Box::new(detail)))
    }
}

/// Findings: those before, then as they happen; again when the daemon is back.
fn stream(socket: &Path, to: &SyncSender<Input>) {
    // Findings only.
    let path = "/v1/events/stream?kind=none";
    loop {
        let mut ended = false;
        // First the stream, then what was before: so nothing is between them.
        let (past_socket, past_to) = (socket.to_owned(), to.clone());
        let before = move || {
            thread::spawn(move || {
                let opened = send(&past_to, Update::Stream(Ok(())));
                opened.and_then(|()| past(&past_socket, &past_to))
            });
        };
        let read = Client::new(Some(socket)).and_then(|client| {
            client.stream(path, before, |item| {
                let sent = match item {
                    StreamItem::Finding(finding) => send(to, Update::Finding(Box::new(finding))),
                    StreamItem::Missed(missed) => send(to, Update::Missed(missed.missed)),
                    // Who is gone the list of agents says.
                    StreamItem::Event(_) | StreamItem::Gone(_) => Ok(()),
                };
                ended = sent.is_err();
                !ended
            })
        });
        // The daemon is gone, or says no (too many readers): once more, in a while.
        let why = read
            .err()
            .map_or_else(String::new, |error| format!("{error:#}"));
        if ended || send(to, Update::Stream(Err(why))).is_err() {
            return;
        }
        thread::sleep(AGAIN);
    }
}

/// What was found before.
fn past(socket: &Path, to: &SyncSender<Input>) -> Result<(), Ended> {
    let found = Client::new(Some(socket))
        .and_then(|client| client.get::<Vec<Finding>>(&format!("/v1/findings?since={BEFORE}")));
    match found {
        Ok(found) => found
            .into_iter()
            .try_for_each(|finding| send(to, Update::Finding(Box::new(finding)))),
        Err(error) => send(to, Update::Stream(Err(format!("{error:#}")))),
    }
}
