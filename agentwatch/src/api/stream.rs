//! The stream: each reader has a queue of its own; who is too slow is told how much it missed.

use std::{
    collections::HashSet,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::body::Bytes;
use hyper::body::{Body, Frame};
use tokio::sync::mpsc;

use super::model::Gone;
use crate::host::watch::{Item, Readers, StreamEnd};

/// Items that wait for a reader.
const QUEUE: usize = 256;
/// Readers of events at once.
const READERS: usize = 32;
/// Those of findings only besides: each `agentwatch run` that the daemon watches is one.
const READERS_OF_FINDINGS: usize = 256;
/// How often a stream says that it is there.
const ALIVE: Duration = Duration::from_secs(15);

/// What a reader wants.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Of this agent.
    pub agent: Option<String>,
    /// Events of these kinds; empty for all, `None` for none.
    pub kinds: Option<HashSet<String>>,
}

struct Reader {
    to: mpsc::Sender<Bytes>,
    wanted: Wanted,
    /// Not told yet.
    missed: u64,
}

/// All readers.
#[derive(Clone)]
pub struct Hub {
    readers: Arc<Mutex<Vec<Reader>>>,
    count: Arc<Readers>,
    /// What the host could not send to the hub.
    unsent: Arc<AtomicU64>,
    /// What the hub could not hand on to a reader.
    missed: Arc<AtomicU64>,
    waiting: Arc<AtomicUsize>,
    most: usize,
}

impl Hub {
    /// Hands on what comes. Inside a tokio runtime.
    pub fn start(end: StreamEnd) -> Self {
        let StreamEnd {
            mut from,
            readers: count,
            missed: unsent,
        } = end;
        let hub = Self {
            readers: Arc::new(Mutex::new(Vec::new())),
            count,
            unsent,
            missed: Arc::default(),
            waiting: Arc::default(),
            most: from.max_capacity(),
        };
        let own = hub.clone();
        tokio::spawn(async move {
            // How much of what the host could not send the readers were told.
            let mut told = 0;
            // However much comes for others.
            let mut alive = tokio::time::interval(ALIVE);
            alive.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    item = from.recv() => {
                        let Some(item) = item else { break };
                        own.waiting.store(from.len(), Ordering::Relaxed);
                        let unsent = own.unsent.load(Ordering::Relaxed);
                        own.hand(&item, unsent - told);
                        told = unsent;
                    }
                    _ = alive.tick() => {
                        let unsent = own.unsent.load(Ordering::Relaxed);
                        own.hand_all(&Bytes::from_static(b":\n\n"), unsent - told);
                        told = unsent;
                    }
                }
            }
        });
        hub
    }

    /// A new reader; `None` where there are too many.
    pub fn read(&self, wanted: Wanted) -> Option<Stream> {
        let (to, from) = mpsc::channel(QUEUE);
        let mut readers = self.lock();
        readers.retain(|reader| !reader.to.is_closed());
        let alike = |reader: &&Reader| reader.wanted.kinds.is_some() == wanted.kinds.is_some();
        let most = match wanted.kinds {
            Some(_) => READERS,
            None => READERS_OF_FINDINGS,
        };
        if readers.iter().filter(alike).count() >= most {
            return None;
        }
        // At once, so that the client sees that it is there.
        let _ = to.try_send(Bytes::from_static(b":\n\n"));
        readers.push(Reader {
            to,
            wanted,
            missed: 0,
        });
        self.count(&readers);
        Some(Stream(from))
    }

    /// Items that wait to be handed on, and how many may.
    pub fn queue(&self) -> (usize, usize) {
        (self.waiting.load(Ordering::Relaxed), self.most)
    }

    /// How many read it.
    pub fn readers(&self) -> usize {
        let readers = self.lock();
        readers.iter().filter(|one| !one.to.is_closed()).count()
    }

    /// Items that readers have missed, all together.
    pub fn missed(&self) -> u64 {
        self.unsent.load(Ordering::Relaxed) + self.missed.load(Ordering::Relaxed)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Reader>> {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hand(&self, item: &Item, missed: u64) {
        let (agent, kind, name, json) = match item {
            Item::Event(row) => (
                row.agent.as_str(),
                Some(row.kind.as_str()),
                "event",
                serde_json::to_string(row),
            ),
            Item::Finding(finding) => (
                finding.agent.as_str(),
                None,
                "finding",
                serde_json::to_string(finding),
            ),
            Item::Gone(agent) => (
                agent.as_str(),
                None,
                "gone",
                serde_json::to_string(&Gone {
                    agent: agent.clone(),
                }),
            ),
        };
        let Ok(json) = json else {
            return;
        };
        let text = Bytes::from(format!("event: {name}\ndata: {json}\n\n"));
        self.each(
            missed,
            |wanted| {
                wanted.agent.as_deref().is_none_or(|wanted| wanted == agent)
                    && kind.is_none_or(|kind| {
                        let kinds = wanted.kinds.as_ref();
                        kinds.is_some_and(|kinds| kinds.is_empty() || kinds.contains(kind))
                    })
            },
            &text,
        );
    }

    fn hand_all(&self, text: &Bytes, missed: u64) {
        self.each(missed, |_| true, text);
    }

    /// Gives a text to each reader that wants it. `missed`: what all of them have missed besides.
    fn each(&self, missed: u64, wants: impl Fn(&Wanted) -> bool, text: &Bytes) {
        let mut readers = self.lock();
        readers.retain(|reader| !reader.to.is_closed());
        for reader in readers.iter_mut() {
            reader.missed += missed;
            if reader.missed > 0 {
                let told = format!("event: missed\ndata: {{\"missed\":{}}}\n\n", reader.missed);
                if reader.to.try_send(told.into()).is_ok() {
                    reader.missed = 0;
                }
            }
            if !wants(&reader.wanted) {
                continue;
            }
            // What comes after something that was missed comes after it was told.
            if reader.missed > 0 || reader.to.try_send(text.clone()).is_err() {
                reader.missed += 1;
                self.missed.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.count(&readers);
    }

    /// Tells the host how many there are.
    fn count(&self, readers: &[Reader]) {
        let of_events = readers
            .iter()
            .filter(|reader| reader.wanted.kinds.is_some());
        let Readers {
            all,
            of_events: count,
        } = &*self.count;
        all.store(readers.len(), Ordering::Relaxed);
        count.store(of_events.count(), Ordering::Relaxed);
    }
}

/// The body of an answer that does not end.
pub struct Stream(mpsc::Receiver<Bytes>);

impl Body for Stream {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0
            .poll_recv(context)
            .map(|text| text.map(|text| Ok(Frame::data(text))))
    }
}
