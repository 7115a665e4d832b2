//! The local history: SQLite, a file a day in the data folder.
//!
//! One thread writes, in batches, behind a bounded queue: the way from the kernel to the kill never
//! waits for a disk. WAL with `synchronous=NORMAL`: a process that is killed loses what was not
//! committed yet, at most [`writer::EVERY`], and never damages a file; a machine that loses power may
//! lose the last commits as well.

pub mod detail;
pub mod query;
pub mod row;
mod said;
pub mod schema;
pub mod writer;

use std::{
    fs,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{SyncSender, TrySendError, sync_channel},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};

use crate::{event::Tally, finding::Finding};
use row::Row;
use writer::{Message, Shared};

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

/// The history of one run, being written.
pub struct Store {
    /// The run's id.
    pub run: String,
    wall_offset_ns: u64,
    queue: SyncSender<Message>,
    shared: Arc<Shared>,
    writer: JoinHandle<()>,
}

impl Store {
    /// Opens the history and begins a run in it.
    ///
    /// # Errors
    ///
    /// When the folder or today's file cannot be made.
    pub fn open(dir: &Path, agent: &str, command: &[String], wall_offset_ns: u64) -> Result<Self> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .with_context(|| format!("cannot make the data folder {}", dir.display()))?;
        let started = jiff::Timestamp::now();
        let run = format!(
            "{}-{}",
            started.strftime("%Y%m%dT%H%M%S"),
            std::process::id()
        );
        let mut files = writer::Files::new(dir.to_owned());
        files.begin(&run, agent, command, wall_ns(started))?;
        let (queue, rows) = sync_channel(QUEUE);
        let shared = Arc::new(Shared::default());
        let writer = {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new()
                .name("history".to_owned())
                .spawn(move || writer::write(files, &rows, &shared))
                .context("cannot start the history's thread")?
        };
        Ok(Self {
            run,
            wall_offset_ns,
            queue,
            shared,
            writer,
        })
    }

    /// Stores an event. Never waits.
    pub fn event(&self, row: Row) {
        if self.queue.try_send(Message::Event(Box::new(row))).is_err() {
            self.shared.count_dropped(1);
        }
    }

    /// Stores a finding. Waits a second at most: there are few, and they are what counts.
    pub fn finding(&self, finding: &Finding) {
        let time_ns = self.wall(finding.time_ns);
        let mut message = Message::Finding {
            time_ns,
            finding: Box::new(finding.clone()),
        };
        for _ in 0..100 {
            match self.queue.try_send(message) {
                Ok(()) => return,
                Err(TrySendError::Full(back)) => message = back,
                Err(TrySendError::Disconnected(_)) => break,
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.shared.count_dropped(1);
    }

    /// How it goes.
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }

    /// Ends the run, with everything that is in the queue.
    pub fn finish(self, exit_status: Option<i32>, killed_by: Option<&str>, tally: &Tally) -> Stats {
        let Self {
            queue,
            shared,
            writer,
            ..
        } = self;
        shared.give_up_after(PATIENCE);
        let end = Message::End {
            time_ns: wall_ns(jiff::Timestamp::now()),
            exit_status,
            killed_by: killed_by.map(str::to_owned),
            tally: Box::new(tally.clone()),
        };
        // The writer takes from the queue or gives up, so this does not wait for ever.
        let _ = queue.send(end);
        drop(queue);
        let joined = writer.join();
        let mut stats = shared.stats();
        if joined.is_err() {
            stats.error = Some(anyhow!("the history's thread failed").to_string());
        }
        stats
    }

    fn wall(&self, boot_ns: u64) -> i64 {
        i64::try_from(boot_ns.saturating_add(self.wall_offset_ns)).unwrap_or(i64::MAX)
    }
}

/// Unix time in nanoseconds.
fn wall_ns(time: jiff::Timestamp) -> i64 {
    i64::try_from(time.as_nanosecond()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
