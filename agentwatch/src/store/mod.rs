//! The local history: SQLite, a file a day in the data folder; compressed when the day has been over for a
//! while (`cold.rs`), removed when it is too old or too much (`retain.rs`).
//!
//! One thread writes, in batches, behind a bounded queue: the way from the kernel to the kill never
//! waits for a disk. WAL with `synchronous=NORMAL`: a process that is killed loses what was not
//! committed yet, at most [`writer::EVERY`], and never damages a file; a machine that loses power may
//! lose the last commits as well.

pub mod clickhouse;
mod cold;
pub mod detail;
pub mod export;
mod files;
pub mod follow;
mod insert;
mod kept;
mod packed;
pub mod page;
pub mod query;
mod reader;
mod retain;
pub mod row;
mod said;
pub mod schema;
pub mod sql;
mod version1;
pub mod writer;

use std::{
    fs,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{SyncSender, TrySendError, sync_channel},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::{api::model::Action, event::Tally, finding::Finding};
use row::Row;
use writer::{Message, RunInfo, Shared, What};

pub use retain::{Done, Retention, tidy};
pub use writer::Totals;

/// How many rows may wait for the disk. When they do, further events are dropped and counted.
pub const QUEUE: usize = 65_536;
/// How long the end of a run waits for a disk that cannot be written.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where the history is when nothing is said.
pub fn default_data_dir() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return "/var/lib/agentwatch".into();
    }
    let home = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    home("XDG_STATE_HOME")
        .or_else(|| home("HOME").map(|home| home.join(".local/state")))
        .unwrap_or_else(|| ".".into())
        .join("agentwatch")
}

/// How the writing goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Events that are in the history.
    pub stored: u64,
    /// Events and findings that are not, since the queue was full or the disk could not be written.
    pub dropped: u64,
    /// Why the disk cannot be written, now.
    pub error: Option<String>,
}

/// Who writes the history: one thread for all runs of a process.
pub struct Writer {
    queue: SyncSender<Message>,
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
    dir: PathBuf,
    tidier: Option<retain::Tidier>,
}

impl Writer {
    /// Opens the history, and starts the thread that writes it.
    ///
    /// # Errors
    ///
    /// When the folder or today's file cannot be made.
    pub fn open(dir: &Path) -> Result<Self> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .with_context(|| format!("cannot make the data folder {}", dir.display()))?;
        let mut files = writer::Files::new(dir.to_owned());
        files.prepare(wall_ns(jiff::Timestamp::now()))?;
        let (queue, rows) = sync_channel(QUEUE);
        let shared = Arc::new(Shared::default());
        let thread = {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new()
                .name("history".to_owned())
                .spawn(move || writer::write(files, &rows, &shared))
                .context("cannot start the history's thread")?
        };
        Ok(Self {
            queue,
            shared,
            thread,
            dir: dir.to_owned(),
            tidier: None,
        })
    }

    /// Keeps the folder within limits from now on, until the writer ends: see [`Retention`].
    ///
    /// # Errors
    ///
    /// When the thread for it cannot be started.
    pub fn keep(&mut self, retention: Retention) -> Result<()> {
        // The one before ends first.
        self.tidier = None;
        let shared = Arc::clone(&self.shared);
        let tidier = retain::Tidier::start(self.dir.clone(), retention, shared)?;
        self.tidier = Some(tidier);
        Ok(())
    }

    /// Begins a run.
    pub fn begin(&self, agent: &str, command: &[String], wall_offset_ns: u64) -> Store {
        self.beginnings().run(agent, command, wall_offset_ns)
    }

    /// What begins runs, for who does not end the writer.
    pub fn beginnings(&self) -> Beginnings {
        Beginnings {
            queue: self.queue.clone(),
            shared: Arc::clone(&self.shared),
        }
    }

    /// A way for actions into the history.
    pub fn actions(&self) -> ActionLog {
        ActionLog {
            queue: self.queue.clone(),
            shared: Arc::clone(&self.shared),
        }
    }

    /// Why the disk cannot be written, now.
    pub fn error(&self) -> Option<String> {
        self.shared.error()
    }

    /// Waits until everything is written, or until it is clear that it cannot be. All runs of it should
    /// have ended.
    pub fn finish(self) -> Option<String> {
        let Self {
            queue,
            shared,
            thread,
            dir: _,
            tidier,
        } = self;
        drop(tidier);
        shared.give_up_after(PATIENCE);
        drop(queue);
        if thread.join().is_err() {
            return Some("the history's thread failed".to_owned());
        }
        shared.error()
    }
}

/// Begins runs.
#[derive(Clone)]
pub struct Beginnings {
    queue: SyncSender<Message>,
    shared: Arc<Shared>,
}

impl Beginnings {
    /// Begins a run.
    pub fn run(&self, agent: &str, command: &[String], wall_offset_ns: u64) -> Store {
        let started = jiff::Timestamp::now();
        let time = started.strftime("%Y%m%dT%H%M%S");
        let pid = std::process::id();
        let run = match self.shared.count_run() {
            0 => format!("{time}-{pid}"),
            n => format!("{time}-{pid}-{n}"),
        };
        let info = Arc::new(RunInfo {
            run: run.clone(),
            agent: agent.to_owned(),
            command: serde_json::Value::from(command).to_string(),
            started_ns: wall_ns(started),
            stored: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        });
        let store = Store {
            run,
            wall_offset_ns,
            info,
            queue: self.queue.clone(),
            shared: Arc::clone(&self.shared),
            own_writer: None,
        };
        // So that a run in which nothing happens is there too.
        store.send(What::Begin);
        store
    }
}

/// A way for actions into the history, from any thread.
#[derive(Clone)]
pub struct ActionLog {
    queue: SyncSender<Message>,
    shared: Arc<Shared>,
}

impl ActionLog {
    /// Stores an action. Waits a second at most.
    ///
    /// # Errors
    ///
    /// When the history does not take it.
    pub fn action(&self, action: &Action) -> Result<()> {
        let time = action
            .time
            .parse()
            .unwrap_or_else(|_| jiff::Timestamp::now());
        let message = Message::Action {
            time_ns: wall_ns(time),
            action: Box::new(action.clone()),
        };
        if patiently(&self.queue, &self.shared, message) {
            return Ok(());
        }
        self.shared.count_dropped(1);
        bail!(
            "the history does not take it: {}",
            self.shared.error().unwrap_or_default()
        )
    }

    /// Why the disk cannot be written, now.
    pub fn error(&self) -> Option<String> {
        self.shared.error()
    }

    /// How the writing goes, of all runs.
    pub fn totals(&self) -> Totals {
        self.shared.totals()
    }
}

/// The history of one run, being written.
pub struct Store {
    /// The run's id.
    pub run: String,
    wall_offset_ns: u64,
    info: Arc<RunInfo>,
    queue: SyncSender<Message>,
    shared: Arc<Shared>,
    /// Where the run has a thread of its own.
    own_writer: Option<Writer>,
}

impl Store {
    /// Opens the history and begins the only run of this process in it.
    ///
    /// # Errors
    ///
    /// When the folder or today's file cannot be made.
    pub fn open(dir: &Path, agent: &str, command: &[String], wall_offset_ns: u64) -> Result<Self> {
        let mut writer = Writer::open(dir)?;
        writer.keep(Retention::default())?;
        let mut store = writer.begin(agent, command, wall_offset_ns);
        store.own_writer = Some(writer);
        Ok(store)
    }

    /// Stores an event. Never waits.
    pub fn event(&self, row: Row) {
        if !self.send(What::Event(Box::new(row))) {
            self.dropped();
        }
    }

    /// Stores a finding. Waits a second at most: there are few, and they are what counts.
    pub fn finding(&self, finding: &Finding) {
        let what = What::Finding {
            time_ns: self.wall(finding.time_ns),
            finding: Box::new(finding.clone()),
        };
        if !patiently(&self.queue, &self.shared, self.message(what)) {
            self.dropped();
        }
    }

    fn message(&self, what: What) -> Message {
        Message::Of(Arc::clone(&self.info), what)
    }

    fn send(&self, what: What) -> bool {
        put(&self.queue, &self.shared, self.message(what)).is_ok()
    }

    fn dropped(&self) {
        self.info.dropped.fetch_add(1, Ordering::Relaxed);
        self.shared.count_dropped(1);
    }

    /// How it goes.
    pub fn stats(&self) -> Stats {
        Stats {
            stored: self.info.stored.load(Ordering::Relaxed),
            dropped: self.info.dropped.load(Ordering::Relaxed),
            error: self.shared.error(),
        }
    }

    /// Ends the run. Where it is the only one, everything that is in the queue is written before this
    /// returns; else it may come later.
    pub fn finish(
        mut self,
        exit_status: Option<i32>,
        killed_by: Option<&str>,
        tally: &Tally,
    ) -> Stats {
        let end = self.message(What::End {
            time_ns: wall_ns(jiff::Timestamp::now()),
            exit_status,
            killed_by: killed_by.map(str::to_owned),
            tally: Box::new(tally.clone()),
        });
        let Some(writer) = self.own_writer.take() else {
            if !patiently(&self.queue, &self.shared, end) {
                self.dropped();
            }
            return self.stats();
        };
        self.shared.give_up_after(PATIENCE);
        let Self {
            info,
            queue,
            shared,
            ..
        } = self;
        // The writer takes from the queue or gives up, so this does not wait for ever.
        shared.count_waiting();
        let _ = queue.send(end);
        drop(queue);
        let error = writer.finish();
        Stats {
            stored: info.stored.load(Ordering::Relaxed),
            dropped: info.dropped.load(Ordering::Relaxed),
            error,
        }
    }

    fn wall(&self, boot_ns: u64) -> i64 {
        i64::try_from(boot_ns.saturating_add(self.wall_offset_ns)).unwrap_or(i64::MAX)
    }
}

/// Puts something into the queue, and counts it.
fn put(
    queue: &SyncSender<Message>,
    shared: &Shared,
    message: Message,
) -> Result<(), TrySendError<Message>> {
    shared.count_waiting();
    let put = queue.try_send(message);
    if put.is_err() {
        shared.count_done(1);
    }
    put
}

/// Puts something into the queue, within a second. False where it stays full: at once where the disk cannot be
/// written, or where the last one has waited in vain.
fn patiently(queue: &SyncSender<Message>, shared: &Shared, mut message: Message) -> bool {
    for _ in 0..100 {
        match put(queue, shared, message) {
            Ok(()) => {
                shared.set_stuck(false);
                return true;
            }
            Err(TrySendError::Full(back)) => message = back,
            Err(TrySendError::Disconnected(_)) => return false,
        }
        if shared.is_stuck() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    shared.set_stuck(true);
    false
}

/// Unix time in nanoseconds.
fn wall_ns(time: jiff::Timestamp) -> i64 {
    i64::try_from(time.as_nanosecond()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
