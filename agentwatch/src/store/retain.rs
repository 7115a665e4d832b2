//! How long the history is kept, and how large it may become.
//!
//! A thread of its own looks at the files once a minute. Days that are over are compressed; of what is too
//! old or too much the oldest day goes first, its findings, actions and runs after they were copied to where
//! they are kept longer (`kept.rs`). Today's file is never removed.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError},
    },
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use super::{
    cold, files,
    kept::Kept,
    writer::{Shared, day},
};

/// How often it is looked.
const EVERY: Duration = Duration::from_secs(60);
/// How old an unfinished file is when nobody makes it any more.
const ABANDONED: Duration = Duration::from_secs(3600);
const DAY_NS: i64 = 86_400_000_000_000;

/// How much of the history is kept, and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retention {
    /// How much the files of the history take at most, MiB: the oldest day goes first. At least 64.
    pub max_mib: u64,
    /// How many days events are kept, today's among them. At least 1.
    pub events_days: u32,
    /// How many days findings, actions and runs are kept. At least as long as events.
    pub findings_days: u32,
    /// A day is compressed when it has been over for so many days. At least 1.
    pub compress_after_days: u32,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            max_mib: 10_240,
            events_days: 30,
            findings_days: 365,
            compress_after_days: 2,
        }
    }
}

impl Retention {
    /// Why it makes no sense, if that is so.
    pub fn wrong(&self) -> Option<String> {
        let Self {
            max_mib,
            events_days,
            findings_days,
            compress_after_days,
        } = *self;
        if max_mib < 64 {
            Some(format!("max_mib is {max_mib}; it is at least 64"))
        } else if events_days < 1 || compress_after_days < 1 {
            Some("events_days and compress_after_days are at least 1".to_owned())
        } else if findings_days < events_days {
            Some(format!(
                "findings_days is {findings_days}; it is at least as much as events_days, {events_days}"
            ))
        } else {
            None
        }
    }
}

/// What was done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Done {
    /// Days that were compressed.
    pub compressed: Vec<String>,
    /// Days whose events were removed, and how many those were, where that is known.
    pub removed: Vec<(String, Option<u64>)>,
    /// Findings and actions that were removed.
    pub forgotten: usize,
    /// What could not be done, and why.
    pub warnings: Vec<String>,
}

/// Does what is to be done now. `None` where another process is doing it.
///
/// # Errors
///
/// When the folder cannot be read.
pub fn tidy(dir: &Path, retention: &Retention, now_ns: i64) -> Result<Option<Done>> {
    let Some(_lock) = only_one(dir)? else {
        return Ok(None);
    };
    abandoned(dir);
    let mut done = Done::default();
    let oldest = day(now_ns - i64::from(retention.events_days - 1) * DAY_NS);
    let cold = day(now_ns - i64::from(retention.compress_after_days) * DAY_NS);
    let today = day(now_ns);
    for (day, path) in files::day_files(dir)? {
        if day < oldest {
            remove(dir, (&day, &path), now_ns, &mut done);
        } else if day < cold && path.exists() {
            match compress(dir, &day, &path) {
                Ok(true) => done.compressed.push(day),
                Ok(false) => {}
                Err(error) => done.warnings.push(format!("{error:#}")),
            }
        }
    }
    let limit = retention.max_mib << 20;
    let mut size = size_of(dir);
    for (day, path) in files::day_files(dir)? {
        if size <= limit {
            break;
        }
        if day >= today {
            done.warnings.push(format!(
                "the history takes {} MiB, and may take {}: but that is today's, which is kept; with fewer \
                 agents, or a larger history.max_mib, it fits",
                size >> 20,
                retention.max_mib
            ));
            break;
        }
        remove(dir, (&day, &path), now_ns, &mut done);
        size = size_of(dir);
    }
    let before = now_ns - i64::from(retention.findings_days) * DAY_NS;
    if super::kept::path(dir).exists() {
        match Kept::open(dir).and_then(|kept| kept.forget(before)) {
            Ok(n) => done.forgotten = n,
            Err(error) => done.warnings.push(format!("{error:#}")),
        }
    }
    Ok(Some(done))
}

/// Keeps what is kept longer, and compresses the file of a day.
fn compress(dir: &Path, day: &str, path: &Path) -> Result<bool> {
    if cold::compressed(path).exists() {
        // Of an attempt that was cut short: this one has everything.
        fs::remove_file(cold::compressed(path))?;
    }
    Kept::open(dir)?.take(day, path)?;
    cold::compress(path)
}

/// Keeps what is kept longer, and removes a day.
fn remove(dir: &Path, (day, path): (&str, &Path), now_ns: i64, done: &mut Done) {
    let mut work = || -> Result<bool> {
        let mut kept = Kept::open(dir)?;
        // What was compressed was copied before.
        if path.exists()
            && let Err(error) = kept.take(day, path)
        {
            done.warnings
                .push(format!("{error:#}; they go with its events"));
        }
        if !cold::remove(path)? {
            return Ok(false);
        }
        done.removed
            .push((day.to_owned(), kept.removed(day, now_ns)?));
        Ok(true)
    };
    match work() {
        Ok(true) => {}
        Ok(false) => done.warnings.push(format!(
            "{} is to be removed, and is in use: later, then",
            path.display()
        )),
        Err(error) => done.warnings.push(format!("{error:#}")),
    }
}

/// What the files of the history take, bytes.
fn size_of(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(Result::ok);
    let files = entries.filter(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        name.starts_with("agentwatch-") || name.starts_with("kept.db")
    });
    files
        .filter_map(|entry| Some(entry.metadata().ok()?.len()))
        .sum()
}

/// Removes what a process that was killed left unfinished.
fn abandoned(dir: &Path) {
    for entry in fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
    {
        let old = entry
            .metadata()
            .and_then(|metadata| metadata.modified())
            .is_ok_and(|time| {
                let age = SystemTime::now().duration_since(time);
                age.is_ok_and(|age| age > ABANDONED)
            });
        let name = entry.file_name();
        if old && name.to_string_lossy().ends_with(cold::UNFINISHED) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// One process at a time does this.
fn only_one(dir: &Path) -> Result<Option<fs::File>> {
    let path: PathBuf = dir.join("tidy.lock");
    let file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}

/// Keeps a folder tidy while it is there. At its end nothing is waited for: what was begun is taken up again
/// by the next one.
pub struct Tidier {
    _end: mpsc::Sender<()>,
}

impl Tidier {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub fn start(dir: PathBuf, retention: Retention, shared: Arc<Shared>) -> Result<Self> {
        let (end, ended) = mpsc::channel();
        std::thread::Builder::new()
            .name("tidy".to_owned())
            .spawn(move || {
                let mut said = String::new();
                // Not in the first moments, in which an agent starts.
                let mut wait = Duration::from_secs(10);
                while ended.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
                    wait = EVERY;
                    let now = super::wall_ns(jiff::Timestamp::now());
                    match tidy(&dir, &retention, now) {
                        Ok(Some(done)) => tell(&done, &shared, &mut said),
                        Ok(None) => {}
                        Err(error) => tracing::warn!("the history cannot be tidied: {error:#}"),
                    }
                }
            })
            .context("cannot start the thread that tidies the history")?;
        Ok(Self { _end: end })
    }
}

/// Says what was done, and counts it. The same warning once.
fn tell(done: &Done, shared: &Shared, said: &mut String) {
    for day in &done.compressed {
        tracing::info!("the history of {day} is compressed");
    }
    for (day, events) in &done.removed {
        shared.count_removed(events.unwrap_or(0));
        let number = events.map_or_else(|| "its".to_owned(), |events| format!("{events}"));
        tracing::info!("the history of {day} is removed, with {number} events");
    }
    if done.forgotten > 0 {
        tracing::info!("{} old findings and actions are removed", done.forgotten);
    }
    let warnings = done.warnings.join("; ");
    if !warnings.is_empty() && warnings != *said {
        tracing::warn!("the history: {warnings}");
    }
    *said = warnings;
}
