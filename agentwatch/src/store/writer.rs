//! The thread that writes.

use std::{
    collections::HashSet,
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rusqlite::{Connection, TransactionBehavior, params};

use super::{cold, insert::Inserter, row::Row, schema};
use crate::{api::model::Action, event::Tally, finding::Finding};

/// A batch is committed this long after its first row, or when it has enough rows.
pub const EVERY: Duration = Duration::from_millis(200);
/// Most rows of a batch.
const BATCH: usize = 2048;
/// How long the writer waits after a failure, at first and at most.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// What is to be written.
pub enum Message {
    /// Something of a run.
    Of(Arc<RunInfo>, What),
    /// An action, and when, Unix nanoseconds.
    Action {
        /// When.
        time_ns: i64,
        /// What.
        action: Box<Action>,
    },
}

/// Something of a run.
pub enum What {
    /// It begins.
    Begin,
    /// An event.
    Event(Box<Row>),
    /// A finding, and when, Unix nanoseconds.
    Finding {
        /// When.
        time_ns: i64,
        /// What.
        finding: Box<Finding>,
    },
    /// The run's end.
    End {
        /// When, Unix nanoseconds.
        time_ns: i64,
        /// The command's exit status.
        exit_status: Option<i32>,
        /// The finding for which the agent was killed.
        killed_by: Option<String>,
        /// What was sent and lost.
        tally: Box<Tally>,
    },
}

/// A run, as both sides know it.
pub struct RunInfo {
    /// Its id.
    pub run: String,
    /// The agent.
    pub agent: String,
    /// The command, as JSON.
    pub command: String,
    /// Unix nanoseconds.
    pub started_ns: i64,
    /// Its events that are in the history.
    pub stored: AtomicU64,
    /// Its events and findings that are not.
    pub dropped: AtomicU64,
}

/// How the writing goes, of all runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Events, findings and actions that are in the history.
    pub stored: u64,
    /// Those that are not, since the queue was full or the disk could not be written.
    pub dropped: u64,
    /// Those that wait for the disk.
    pub waiting: u64,
    /// How long the oldest of them has waited, nanoseconds.
    pub lag_ns: u64,
    /// Events that were removed, since they were too old or too many.
    pub removed: u64,
}

/// What both sides know.
#[derive(Default)]
pub struct Shared {
    runs: AtomicU64,
    stored: AtomicU64,
    dropped: AtomicU64,
    waiting: AtomicU64,
    removed: AtomicU64,
    /// When the oldest of what waits happened, Unix nanoseconds; 0 where nothing does.
    oldest_ns: AtomicI64,
    error: Mutex<Option<String>>,
    deadline: Mutex<Option<Instant>>,
    /// Who waited last for room in the queue has waited in vain.
    stuck: AtomicBool,
}

impl Shared {
    /// Whether it is of no use to wait for room in the queue.
    pub fn is_stuck(&self) -> bool {
        self.stuck.load(Ordering::Relaxed) || self.error().is_some()
    }

    /// Says how it went for who waited for room.
    pub fn set_stuck(&self, stuck: bool) {
        self.stuck.store(stuck, Ordering::Relaxed);
    }

    /// Why the disk cannot be written, now.
    pub fn error(&self) -> Option<String> {
        self.error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// How many runs have begun before this one.
    pub fn count_run(&self) -> u64 {
        self.runs.fetch_add(1, Ordering::Relaxed)
    }

    /// Counts what is not stored.
    pub fn count_dropped(&self, n: u64) {
        self.dropped.fetch_add(n, Ordering::Relaxed);
    }

    /// Counts events that are in the history no more.
    pub fn count_removed(&self, n: u64) {
        self.removed.fetch_add(n, Ordering::Relaxed);
    }

    /// Counts what waits for the disk: before it is put into the queue.
    pub fn count_waiting(&self) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts what waits no longer, since it was written, given up, or the queue was full.
    pub fn count_done(&self, n: usize) {
        self.waiting.fetch_sub(n as u64, Ordering::Relaxed);
    }

    /// How it goes, of all runs.
    pub fn totals(&self) -> Totals {
        let oldest_ns = self.oldest_ns.load(Ordering::Relaxed);
        let now = jiff::Timestamp::now().as_nanosecond();
        let lag_ns = if oldest_ns == 0 {
            0
        } else {
            u64::try_from(now - i128::from(oldest_ns)).unwrap_or(0)
        };
        Totals {
            stored: self.stored.load(Ordering::Relaxed),
            dropped: self.dropped.load(Ordering::Relaxed),
            waiting: self.waiting.load(Ordering::Relaxed),
            lag_ns,
            removed: self.removed.load(Ordering::Relaxed),
        }
    }

    /// From then on a batch that cannot be written is given up.
    pub fn give_up_after(&self, patience: Duration) {
        *self.deadline.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Instant::now() + patience);
    }

    /// The last write failed, and the patience is over.
    fn is_lost(&self) -> bool {
        let deadline = *self.deadline.lock().unwrap_or_else(PoisonError::into_inner);
        deadline.is_some_and(|deadline| Instant::now() > deadline) && self.error().is_some()
    }

    fn set_error(&self, error: Option<String>) {
        *self.error.lock().unwrap_or_else(PoisonError::into_inner) = error;
    }
}

/// The files, of which those of today and of one other day are open.
pub struct Files {
    dir: PathBuf,
    open: Vec<Open>,
}

/// The file of a day.
struct Open {
    day: String,
    connection: Connection,
    /// Of the file that was opened.
    inode: u64,
    /// The runs that are in its table of runs.
    introduced: HashSet<String>,
    inserter: Inserter,
}

impl Files {
    /// Files in this folder.
    pub fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            open: Vec::new(),
        }
    }

    /// Makes the file of a day.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn prepare(&mut self, time_ns: i64) -> Result<()> {
        self.of(time_ns)
            .map(drop)
            .with_context(|| self.cannot_write(time_ns))
    }

    fn path(&self, day: &str) -> PathBuf {
        self.dir.join(format!("agentwatch-{day}.db"))
    }

    fn cannot_write(&self, time_ns: i64) -> String {
        let path = self.path(&day(time_ns));
        format!("cannot write the history {}", path.display())
    }

    /// The file of a time.
    fn of(&mut self, time_ns: i64) -> Result<&mut Open> {
        let day = day(time_ns);
        let open = self.open.iter().position(|open| open.day == day);
        if open.is_none() {
            // Around midnight events of two days come mixed.
            self.open.truncate(1);
            let (connection, inode) = self.make(&day)?;
            let new = Open {
                day,
                connection,
                inode,
                introduced: HashSet::new(),
                inserter: Inserter::default(),
            };
            self.open.insert(0, new);
        }
        let at = open.unwrap_or(0);
        self.open.get_mut(at).context("no file is open")
    }

    /// Opens the file of a day, made where it is not there. Also the number of its inode.
    fn make(&self, day: &str) -> Result<(Connection, u64)> {
        let path = self.path(day);
        // So that nobody removes it between its making and the first look at it.
        let lock = if path.exists() {
            None
        } else {
            let lock = cold::lock(&self.dir)?;
            cold::restore(&path)?;
            Some(lock)
        };
        let mut connection = Connection::open(&path)?;
        schema::prepare(&mut connection)?;
        drop(lock);
        let inode = std::fs::metadata(&path)?.ino();
        Ok((connection, inode))
    }

    /// Writes the first rows of a batch that belong to one day, all or none; how many that was.
    fn write(&mut self, batch: &[Message]) -> Result<usize> {
        let Some(first) = batch.first() else {
            return Ok(0);
        };
        let today = day(time(first));
        let len = batch
            .iter()
            .take_while(|message| day(time(message)) == today)
            .count();
        self.write_day(&batch[..len], time(first))
            .with_context(|| self.cannot_write(time(first)))?;
        Ok(len)
    }

    /// Writes rows of one day, all or none.
    fn write_day(&mut self, batch: &[Message], time_ns: i64) -> Result<()> {
        let path = self.path(&day(time_ns));
        let Open {
            connection,
            inode,
            introduced,
            inserter,
            ..
        } = self.of(time_ns)?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        // Who removes or compresses a file does it while nobody can write, as this can now.
        let there = std::fs::metadata(&path).is_ok_and(|file| file.ino() == *inode);
        ensure!(there, "it was removed or compressed");
        inserter.begin(&transaction)?;
        let mut last: Option<&Arc<RunInfo>> = None;
        for (at, message) in batch.iter().enumerate() {
            match message {
                Message::Action { time_ns, action } => {
                    insert_action(&transaction, *time_ns, action)?;
                }
                Message::Of(run, what) => {
                    if !last.is_some_and(|last| Arc::ptr_eq(last, run)) {
                        introduce(&transaction, run, introduced)?;
                        last = Some(run);
                    }
                    if let What::Event(row) = what {
                        inserter.event(&transaction, &run.run, row, None)?;
                        continue;
                    }
                    insert(&transaction, run, what, || events_of(run, &batch[..at]))?;
                    if matches!(what, What::End { .. }) {
                        introduced.remove(&run.run);
                    }
                }
            }
        }
        inserter.finish(&transaction)?;
        transaction.commit()?;
        for message in batch {
            if let Message::Of(run, What::Event(_)) = message {
                run.stored.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }
}

/// In each file that a run writes to, it is introduced.
fn introduce(to: &Connection, run: &RunInfo, introduced: &mut HashSet<String>) -> Result<()> {
    if introduced.contains(&run.run) {
        return Ok(());
    }
    to.prepare_cached(
        "INSERT OR IGNORE INTO runs (run, agent, command, started_ns) VALUES (?1,?2,?3,?4)",
    )?
    .execute(params![run.run, run.agent, run.command, run.started_ns])?;
    introduced.insert(run.run.clone());
    Ok(())
}

/// How many events of a run are in a batch.
fn events_of(run: &Arc<RunInfo>, batch: &[Message]) -> u64 {
    let is_event = |message: &&Message| matches!(message, Message::Of(of, What::Event(_)) if Arc::ptr_eq(of, run));
    batch.iter().filter(is_event).count() as u64
}

/// The day of a time (UTC), as in a file's name.
pub fn day(time_ns: i64) -> String {
    let time = jiff::Timestamp::from_nanosecond(i128::from(time_ns)).unwrap_or_default();
    time.strftime("%Y-%m-%d").to_string()
}

fn time(message: &Message) -> i64 {
    match message {
        Message::Of(run, What::Begin) => run.started_ns,
        Message::Of(_, What::Event(row)) => row.time_ns,
        Message::Of(_, What::Finding { time_ns, .. } | What::End { time_ns, .. })
        | Message::Action { time_ns, .. } => *time_ns,
    }
}

fn insert_action(to: &Connection, time_ns: i64, action: &Action) -> Result<()> {
    to.execute(
        "INSERT INTO actions (time_ns, run, agent, action, done, body) VALUES (?1,?2,?3,?4,?5,?6)",
        params![
            time_ns,
            action.run,
            action.agent,
            action.action.name(),
            action.done,
            serde_json::to_string(action)?,
        ],
    )?;
    Ok(())
}

/// Inserts something of a run. `before` is how many events of it the batch has before it.
fn insert(
    to: &Connection,
    info: &RunInfo,
    what: &What,
    before: impl FnOnce() -> u64,
) -> Result<()> {
    let run = &info.run;
    match what {
        What::Begin | What::Event(_) => {}
        What::Finding { time_ns, finding } => {
            to.execute(
                "INSERT INTO findings (id, time_ns, run, agent, detector, severity, pid, finding) \
                 VALUES (?1,?2,?3,?4,?5,?6,?7,?8)",
                params![
                    finding.id,
                    time_ns,
                    run,
                    finding.agent,
                    finding.detector,
                    finding.severity.to_string(),
                    finding.process.pid,
                    serde_json::to_string(finding)?,
                ],
            )?;
        }
        What::End {
            time_ns,
            exit_status,
            killed_by,
            tally,
        } => {
            let stored = (info.stored.load(Ordering::Relaxed) + before()).cast_signed();
            let dropped = info.dropped.load(Ordering::Relaxed).cast_signed();
            let tally = serde_json::to_string(tally)?;
            let end = params![run, time_ns, exit_status, killed_by, stored, dropped, tally];
            to.execute(
                "UPDATE runs SET ended_ns=?2, exit_status=?3, killed_by=?4, stored=?5, dropped=?6, tally=?7 \
                 WHERE run=?1",
                end,
            )?;
            to.execute(
                "INSERT INTO ends (run, ended_ns, exit_status, killed_by, stored, dropped, tally, agent) \
                 SELECT ?1,?2,?3,?4,?5,?6,?7, agent FROM runs WHERE run=?1",
                end,
            )?;
        }
    }
    Ok(())
}

/// Writes until the queue is closed.
pub fn write(mut files: Files, queue: &Receiver<Message>, shared: &Shared) {
    let mut batch = Vec::with_capacity(BATCH);
    let mut open = true;
    while open {
        open = fill(&mut batch, queue, shared);
        commit(&mut files, &batch, shared);
        shared.oldest_ns.store(0, Ordering::Relaxed);
        shared.count_done(batch.len());
        batch.clear();
    }
}

/// Takes a batch from the queue; false when the queue is closed.
fn fill(batch: &mut Vec<Message>, queue: &Receiver<Message>, shared: &Shared) -> bool {
    let Ok(first) = queue.recv() else {
        return false;
    };
    let end = Instant::now() + EVERY;
    shared.oldest_ns.store(time(&first), Ordering::Relaxed);
    batch.push(first);
    while batch.len() < BATCH {
        match queue.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(message) => batch.push(message),
            Err(RecvTimeoutError::Timeout) => return true,
            Err(RecvTimeoutError::Disconnected) => return false,
        }
    }
    true
}

/// Writes a batch, again and again while the disk does not take it: the queue fills meanwhile, and
/// what does not fit is dropped and counted.
fn commit(files: &mut Files, mut batch: &[Message], shared: &Shared) {
    let (mut pause, longest) = BACKOFF;
    // After the end of the patience one more failure would be as long as SQLite waits for a lock.
    if shared.is_lost() {
        return give_up(batch, shared);
    }
    while !batch.is_empty() {
        match files.write(batch) {
            Ok(written) => {
                shared.stored.fetch_add(written as u64, Ordering::Relaxed);
                batch = &batch[written..];
                shared.set_error(None);
                continue;
            }
            Err(error) => {
                shared.set_error(Some(format!("{error:#}")));
                // The file may be gone, or be a new one: open it again.
                files.open.clear();
            }
        }
        if shared.is_lost() {
            return give_up(batch, shared);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(longest);
    }
}

/// Counts what cannot be written.
fn give_up(batch: &[Message], shared: &Shared) {
    for message in batch {
        match message {
            Message::Of(run, What::Event(_) | What::Finding { .. }) => {
                run.dropped.fetch_add(1, Ordering::Relaxed);
                shared.count_dropped(1);
            }
            Message::Action { .. } => shared.count_dropped(1),
            Message::Of(..) => {}
        }
    }
}
