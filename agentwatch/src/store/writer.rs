//! The thread that writes.

use std::{
    path::PathBuf,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use rusqlite::{Connection, params};

use super::{Stats, row::Row, schema};
use crate::{event::Tally, finding::Finding};

/// A batch is committed this long after its first row, or when it has enough rows.
pub const EVERY: Duration = Duration::from_millis(200);
/// Most rows of a batch.
const BATCH: usize = 2048;
/// How long the writer waits after a failure, at first and at most.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

const INSERT: &str = "INSERT INTO events (time_ns, run, agent, kind, pid, start_ns, ppid, uid, comm, exe, \
    path, path2, result, dev, ino, protocol, direction, local, remote, remote_port, bytes_in, bytes_out, \
    cookie, detail) VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16,?17,?18,?19,?20,?21,?22,?23,?24)";

/// What is to be written.
pub enum Message {
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

/// What both sides know.
#[derive(Default)]
pub struct Shared {
    stored: AtomicU64,
    dropped: AtomicU64,
    error: Mutex<Option<String>>,
    deadline: Mutex<Option<Instant>>,
}

impl Shared {
    /// How it goes.
    pub fn stats(&self) -> Stats {
        Stats {
            stored: self.stored.load(Ordering::Relaxed),
            dropped: self.dropped.load(Ordering::Relaxed),
            error: self
                .error
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
        }
    }

    /// Counts what is not stored.
    pub fn count_dropped(&self, n: u64) {
        self.dropped.fetch_add(n, Ordering::Relaxed);
    }

    /// From then on a batch that cannot be written is given up.
    pub fn give_up_after(&self, patience: Duration) {
        *self.deadline.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Instant::now() + patience);
    }

    /// The last write failed, and the patience is over.
    fn is_lost(&self) -> bool {
        let deadline = *self.deadline.lock().unwrap_or_else(PoisonError::into_inner);
        deadline.is_some_and(|deadline| Instant::now() > deadline) && self.stats().error.is_some()
    }

    fn set_error(&self, error: Option<String>) {
        *self.error.lock().unwrap_or_else(PoisonError::into_inner) = error;
    }
}

/// The files, of which the one of the day is open.
pub struct Files {
    dir: PathBuf,
    run: String,
    agent: String,
    command: String,
    started_ns: i64,
    open: Option<(String, Connection)>,
}

impl Files {
    /// Files in this folder.
    pub fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            run: String::new(),
            agent: String::new(),
            command: String::new(),
            started_ns: 0,
            open: None,
        }
    }

    /// Begins a run in the file of the day.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn begin(
        &mut self,
        run: &str,
        agent: &str,
        command: &[String],
        started_ns: i64,
    ) -> Result<()> {
        run.clone_into(&mut self.run);
        agent.clone_into(&mut self.agent);
        self.command = serde_json::to_string(command)?;
        self.started_ns = started_ns;
        self.of(started_ns)
            .map(drop)
            .with_context(|| self.cannot_write(started_ns))
    }

    fn path(&self, day: &str) -> PathBuf {
        self.dir.join(format!("agentwatch-{day}.db"))
    }

    fn cannot_write(&self, time_ns: i64) -> String {
        let path = self.path(&day(time_ns));
        format!("cannot write the history {}", path.display())
    }

    /// The file of a time. In each that a run writes to, it is introduced.
    fn of(&mut self, time_ns: i64) -> Result<&mut Connection> {
        let day = day(time_ns);
        if self.open.as_ref().is_none_or(|(open, _)| *open != day) {
            let connection = Connection::open(self.path(&day))?;
            schema::prepare(&connection)?;
            connection.execute(
                "INSERT OR IGNORE INTO runs (run, agent, command, started_ns) VALUES (?1,?2,?3,?4)",
                params![self.run, self.agent, self.command, self.started_ns],
            )?;
            self.open = Some((day, connection));
        }
        self.open
            .as_mut()
            .map(|(_, connection)| connection)
            .context("no file is open")
    }

    /// Writes the first rows of a batch that belong to one day, all or none; how many that was.
    fn write(&mut self, batch: &[Message], shared: &Shared) -> Result<usize> {
        let Some(first) = batch.first() else {
            return Ok(0);
        };
        let today = day(time(first));
        let len = batch
            .iter()
            .take_while(|message| day(time(message)) == today)
            .count();
        self.write_day(&batch[..len], time(first), shared)
            .with_context(|| self.cannot_write(time(first)))?;
        Ok(len)
    }

    /// Writes rows of one day, all or none.
    fn write_day(&mut self, batch: &[Message], time_ns: i64, shared: &Shared) -> Result<()> {
        let run = self.run.clone();
        let transaction = self.of(time_ns)?.transaction()?;
        let before = shared.stats();
        let mut stats = before.clone();
        for message in batch {
            stats.stored += insert(&transaction, &run, message, &stats)?;
        }
        transaction.commit()?;
        let events = stats.stored - before.stored;
        shared.stored.fetch_add(events, Ordering::Relaxed);
        Ok(())
    }
}

/// The day of a time (UTC), as in a file's name.
fn day(time_ns: i64) -> String {
    let time = jiff::Timestamp::from_nanosecond(i128::from(time_ns)).unwrap_or_default();
    time.strftime("%Y-%m-%d").to_string()
}

fn time(message: &Message) -> i64 {
    match message {
        Message::Event(row) => row.time_ns,
        Message::Finding { time_ns, .. } | Message::End { time_ns, .. } => *time_ns,
    }
}

/// Inserts one; how many events that was. `stats` is how it went before it.
fn insert(to: &Connection, run: &str, message: &Message, stats: &Stats) -> Result<u64> {
    match message {
        Message::Event(row) => {
            let Row {
                time_ns,
                run: _,
                agent,
                kind,
                pid,
                start_ns,
                ppid,
                uid,
                comm,
                exe,
                path,
                path2,
                result,
                dev,
                ino,
                protocol,
                direction,
                local,
                remote,
                remote_port,
                bytes_in,
                bytes_out,
                cookie,
                detail,
            } = &**row;
            // SQLite's integers are signed: numbers above 2^63 come back the same by a cast.
            let signed = |n: &Option<u64>| n.map(u64::cast_signed);
            to.prepare_cached(INSERT)?.execute(params![
                time_ns,
                run,
                agent,
                kind,
                pid,
                start_ns.cast_signed(),
                ppid,
                uid,
                comm,
                exe,
                path,
                path2,
                result,
                dev,
                signed(ino),
                protocol,
                direction,
                local,
                remote,
                remote_port,
                signed(bytes_in),
                signed(bytes_out),
                signed(cookie),
                detail.as_ref().map(ToString::to_string),
            ])?;
            Ok(1)
        }
        Message::Finding { time_ns, finding } => {
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
            Ok(0)
        }
        Message::End {
            time_ns,
            exit_status,
            killed_by,
            tally,
        } => {
            to.execute(
                "UPDATE runs SET ended_ns=?2, exit_status=?3, killed_by=?4, stored=?5, dropped=?6, tally=?7 \
                 WHERE run=?1",
                params![
                    run, time_ns, exit_status, killed_by, stats.stored.cast_signed(),
                    stats.dropped.cast_signed(), serde_json::to_string(tally)?,
                ],
            )?;
            Ok(0)
        }
    }
}

/// Writes until the queue is closed.
pub fn write(mut files: Files, queue: &Receiver<Message>, shared: &Shared) {
    let mut batch = Vec::with_capacity(BATCH);
    let mut open = true;
    while open {
        open = fill(&mut batch, queue);
        commit(&mut files, &batch, shared);
        batch.clear();
    }
}

/// Takes a batch from the queue; false when the queue is closed.
fn fill(batch: &mut Vec<Message>, queue: &Receiver<Message>) -> bool {
    let Ok(first) = queue.recv() else {
        return false;
    };
    let end = Instant::now() + EVERY;
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
        match files.write(batch, shared) {
            Ok(written) => {
                batch = &batch[written..];
                shared.set_error(None);
                continue;
            }
            Err(error) => {
                shared.set_error(Some(format!("{error:#}")));
                // The file may be gone, or be a new one: open it again.
                files.open = None;
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
    let lost = batch
        .iter()
        .filter(|message| matches!(message, Message::Event(_) | Message::Finding { .. }))
        .count();
    shared.count_dropped(lost as u64);
}
