//! A place in the history that moves on: what exporters follow.
//!
//! A [`Follower`] hands out the rows of all days, a batch of one table of one file at a time, and
//! remembers in the data folder (`followers/NAME.json`) what was delivered. How an exporter uses it:
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! # let dir = std::path::Path::new("/var/lib/agentwatch");
//! # fn deliver(_: &agentwatch::store::follow::Batch, _token: &str) -> anyhow::Result<()> { Ok(()) }
//! use agentwatch::store::follow::Follower;
//!
//! let mut follower = Follower::open(dir, "clickhouse")?;
//! while let Some(batch) = follower.next(50_000)? {
//!     // The server said yes: it has the rows, or had them by the same token.
//!     deliver(&batch, &batch.range.to_string())?;
//!     follower.advance(&batch)?;
//! }
//! // All is delivered: look again after a while.
//! # Ok(())
//! # }
//! ```
//!
//! **At least once, by the same token.** The range of a batch is stored before the batch is handed out,
//! and [`Follower::next`] gives the same range, with the same rows, until [`Follower::advance`] has stored
//! that it was delivered; also after a crash. So a batch that is sent twice has the same token, and whoever
//! knows the token of the first drops the second.
//!
//! **Nothing is skipped.** Rows are never changed or removed one by one, and `SQLite` lets one connection
//! write at a time: a row's id is one more than the greatest of its table at a moment at which nobody else
//! can write, so rows of a transaction that commits later have greater ids, also where two processes write
//! to the same file. (So AUTOINCREMENT, which costs time, is not needed: it only matters where the last row
//! is removed.) A row may come late to the file of an earlier day; each file has a place of its own, so it
//! is found. What a loss of power may still take back (the history is written with `synchronous=NORMAL`)
//! is not handed out: the follower brings the file's log to the disk first.
//!
//! **Order.** In a file, each table in the order of its ids. Runs, findings, actions and ends of runs come
//! before events, so that a finding does not wait behind a backlog of events that takes an hour.
//!
//! **What is gone is said.** Where a file was removed (retention, or by hand) with rows that were not
//! delivered, they are counted in [`Behind::lost`].

mod read;
mod state;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    fmt, fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result};
use rusqlite::Connection;

pub use read::{Ended, Placed, Rows, Started, StoredAction};
use state::{Counts, Place, State};

use super::{
    cold, files,
    kept::{self, Had},
    reader::Day,
};

/// A table that is followed.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Table {
    /// Runs that began.
    Runs,
    /// Findings.
    Findings,
    /// Actions.
    Actions,
    /// Runs that ended.
    Ends,
    /// Events.
    Events,
}

impl Table {
    /// All of them, in the order in which they are handed out.
    pub const ALL: [Self; 5] = [
        Self::Runs,
        Self::Findings,
        Self::Actions,
        Self::Ends,
        Self::Events,
    ];

    /// A name for tokens and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Runs => "runs",
            Self::Findings => "findings",
            Self::Actions => "actions",
            Self::Ends => "ends",
            Self::Events => "events",
        }
    }
}

/// The rows of a batch: a file, a table, and the first and last id.
///
/// As text it is the token for deduplication: `2026-11-21.9f3c06d1a2b4e577.events.1-50000`. The number
/// behind the day is the file's own, drawn when it was made, so tokens of different nodes differ too.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Range {
    /// The day of the file, UTC, `2026-11-21`.
    pub day: String,
    /// The file's own number.
    pub file: u64,
    /// The table.
    pub table: Table,
    /// The id of the first row.
    pub first: i64,
    /// The id of the last row.
    pub last: i64,
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            day,
            file,
            table,
            first,
            last,
        } = self;
        write!(f, "{day}.{file:016x}.{}.{first}-{last}", table.name())
    }
}

/// Rows to be delivered.
#[derive(Debug)]
pub struct Batch {
    /// Which they are, fit for a deduplication token.
    pub range: Range,
    /// The rows.
    pub rows: Rows,
    /// How many rows of the range could not be read, since they are damaged.
    pub damaged: u64,
}

/// How far a follower is behind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Behind {
    /// Rows that are not delivered, of all tables.
    pub rows: u64,
    /// When the oldest of them happened, Unix nanoseconds.
    pub oldest_ns: Option<i64>,
    /// Rows that were removed before they were delivered, since the follower began. Those of a batch that
    /// was handed out and not confirmed count, though they may have arrived.
    pub lost: u64,
}

impl Behind {
    /// How long the oldest row has waited, in seconds: 0 where none does.
    pub fn seconds(&self) -> f64 {
        let Some(oldest) = self.oldest_ns else {
            return 0.0;
        };
        let waited = jiff::Timestamp::now().as_nanosecond() - i128::from(oldest);
        Duration::from_nanos(u64::try_from(waited).unwrap_or(0)).as_secs_f64()
    }
}

/// Size and time of a file, its log, and the file compressed: where they are the same nothing was written.
type Stamp = [Option<(u64, SystemTime)>; 3];

/// Follows the history. One process at a time follows by one name.
pub struct Follower {
    dir: PathBuf,
    state: State,
    /// What has nothing new, by the day and whether it is the table of events.
    drained: HashMap<(String, bool), Stamp>,
    /// What compressed and removed days had, as of the stamp of the file that says so.
    had: (Option<Stamp>, HashMap<String, Had>),
    /// What could not be read, and what was lost; to be told and taken out by who follows.
    pub warnings: Vec<String>,
}

impl Follower {
    /// Goes on where this name was; from the beginning of the history where it is new.
    ///
    /// # Errors
    ///
    /// When the name is none (lower-case letters, digits, `-`), another process follows by it, or its
    /// state in the data folder cannot be read or written.
    pub fn open(dir: &Path, name: &str) -> Result<Self> {
        Ok(Self {
            dir: dir.to_owned(),
            state: State::open(dir, name)?,
            drained: HashMap::new(),
            had: (None, HashMap::new()),
            warnings: Vec::new(),
        })
    }

    /// How far behind the one is that follows by this name, also while it runs in another process; `None`
    /// where nobody has followed by it yet.
    ///
    /// # Errors
    ///
    /// When the folder or what it remembers cannot be read.
    pub fn look(dir: &Path, name: &str) -> Result<Option<Behind>> {
        let Some(state) = State::look(dir, name)? else {
            return Ok(None);
        };
        let mut follower = Self {
            dir: dir.to_owned(),
            state,
            drained: HashMap::new(),
            had: (None, HashMap::new()),
            warnings: Vec::new(),
        };
        follower.behind().map(Some)
    }

    /// The next rows, at most `max_rows`, or those of last time where they were not delivered; `None`
    /// where all are.
    ///
    /// # Errors
    ///
    /// When the history or the follower's state cannot be read or written now. A file that is damaged is
    /// a warning instead.
    pub fn next(&mut self, max_rows: usize) -> Result<Option<Batch>> {
        let files = files::day_files(&self.dir)?;
        self.note_removed(&files);
        if let Some(range) = self.state.kept.pending.clone() {
            match self.again(&files, &range)? {
                Some(batch) => return Ok(Some(batch)),
                None => self.state.kept.pending = None,
            }
        }
        for events in [false, true] {
            for (day, path) in &files {
                let stamp = stamp(path);
                let key = (day.clone(), events);
                if self.drained.get(&key) == Some(&stamp) || self.is_done(day, path, events) {
                    continue;
                }
                match self.next_of(day, path, events, max_rows) {
                    Ok(Some(batch)) => {
                        self.state.kept.pending = Some(batch.range.clone());
                        self.state.save()?;
                        return Ok(Some(batch));
                    }
                    Ok(None) => {
                        // What is written in the same instant may leave the time as it is.
                        if is_old(&stamp) {
                            self.drained.insert(key, stamp);
                        }
                    }
                    Err(error) if files::is_damage(&error) => {
                        self.warnings.push(format!(
                            "{} is damaged, and is not followed any further: {error:#}",
                            path.display()
                        ));
                        self.drained.insert(key, stamp);
                    }
                    Err(error) => {
                        return Err(error.context(format!("cannot read {}", path.display())));
                    }
                }
            }
        }
        Ok(None)
    }

    /// Stores that a batch was delivered.
    ///
    /// # Errors
    ///
    /// When that cannot be stored: the batch comes again, by the same token. Also when it is not the
    /// batch that was handed out last.
    pub fn advance(&mut self, batch: &Batch) -> Result<()> {
        let range = &batch.range;
        anyhow::ensure!(
            self.state.kept.pending.as_ref() == Some(range),
            "{range} is not the batch that was handed out last"
        );
        self.state.kept.pending = None;
        self.place(&range.day, range.file)
            .delivered
            .set(range.table, range.last);
        if let Err(error) = self.state.save() {
            self.state.kept.pending = Some(range.clone());
            return Err(error);
        }
        Ok(())
    }

    /// How far behind it is. Files that cannot be read do not count.
    ///
    /// # Errors
    ///
    /// When the folder cannot be read.
    pub fn behind(&mut self) -> Result<Behind> {
        let files = files::day_files(&self.dir)?;
        self.note_removed(&files);
        let mut behind = Behind::default();
        for (day, path) in &files {
            if let Some(had) = self.had.1.get(day).copied()
                && files::is_cold(path)
            {
                // It need not be uncompressed for that.
                let place = self.place(day, had.number);
                place.known = Counts(had.last);
                let missing = place.missing();
                behind.rows += missing;
                if let (1.., Some(times)) = (missing, files::times(day)) {
                    let old = behind.oldest_ns.unwrap_or(times.start);
                    behind.oldest_ns = Some(old.min(times.start));
                }
                continue;
            }
            let Ok(connection) = files::read_only(path) else {
                continue;
            };
            let file = self.file_number(&connection);
            let delivered = self.place(day, file).delivered;
            for table in Table::ALL {
                let from = delivered.get(table);
                let Ok(Some(last)) = read::last(&connection, table) else {
                    continue;
                };
                self.place(day, file).known.set(table, last);
                behind.rows += u64::try_from(last - from).unwrap_or(0);
                if last > from
                    && let Ok(time) = read::time_after(&connection, table, from)
                {
                    behind.oldest_ns = Some(behind.oldest_ns.map_or(time, |old| old.min(time)));
                }
            }
        }
        behind.lost = self.state.kept.lost;
        Ok(behind)
    }

    /// What the file of a day has that is new.
    fn next_of(
        &mut self,
        day: &str,
        path: &Path,
        events: bool,
        max_rows: usize,
    ) -> Result<Option<Batch>> {
        let read = Day::new(files::read_only(path)?)?;
        let transaction = read.connection.unchecked_transaction()?;
        let file = self.file_number(&transaction);
        for table in Table::ALL {
            if (table == Table::Events) != events {
                continue;
            }
            let Some(known) = read::last(&transaction, table)? else {
                continue;
            };
            let place = self.place(day, file);
            place.known.set(table, known);
            let from = place.delivered.get(table);
            if known <= from {
                continue;
            }
            let found = read::rows(&read, table, from + 1, known, max_rows.max(1))?;
            let Some(last) = found.last else { continue };
            to_disk(path)?;
            return Ok(Some(Batch {
                range: Range {
                    day: day.to_owned(),
                    file,
                    table,
                    first: from + 1,
                    last,
                },
                rows: found.rows,
                damaged: found.damaged,
            }));
        }
        Ok(None)
    }

    /// The batch of a range that was handed out before; `None` where it is gone, which is counted.
    fn again(&mut self, files: &[(String, PathBuf)], range: &Range) -> Result<Option<Batch>> {
        let Some((_, path)) = files.iter().find(|(day, _)| *day == range.day) else {
            return Ok(None);
        };
        let day = files::read_only(path)
            .and_then(Day::new)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let transaction = day.connection.unchecked_transaction()?;
        if self.file_number(&transaction) != range.file {
            // Another file of that day by now: noted with its place.
            return Ok(None);
        }
        let read = read::rows(&day, range.table, range.first, range.last, usize::MAX)
            .with_context(|| format!("cannot read {}", path.display()))?;
        to_disk(path)?;
        Ok(Some(Batch {
            range: range.clone(),
            rows: read.rows,
            damaged: read.damaged,
        }))
    }

    /// Whether everything of a compressed day is delivered: so it need not be uncompressed to be looked at.
    fn is_done(&self, day: &str, path: &Path, events: bool) -> bool {
        let (Some(had), Some(place)) = (self.had.1.get(day), self.state.kept.days.get(day)) else {
            return false;
        };
        let delivered = |table: Table| place.delivered.get(table) >= Counts(had.last).get(table);
        let mut tables = Table::ALL
            .into_iter()
            .filter(|table| (*table == Table::Events) == events);
        had.number == place.file && tables.all(delivered) && files::is_cold(path)
    }

    /// Reads anew what compressed and removed days had, where that has changed.
    fn read_had(&mut self) {
        let path = kept::path(&self.dir);
        let stamp = stamp(&path);
        if self.had.0 == Some(stamp) {
            return;
        }
        match kept::days(&self.dir) {
            Ok(days) => self.had = (is_old(&stamp).then_some(stamp), days),
            Err(error) => self
                .warnings
                .push(format!("{} is not read: {error:#}", path.display())),
        }
    }

    /// Counts what was removed without having been delivered.
    fn note_removed(&mut self, files: &[(String, PathBuf)]) {
        self.read_had();
        let since = self.state.kept.since_ns;
        let removed: Vec<(String, Had)> = self
            .had
            .1
            .iter()
            .filter(|(_, had)| had.removed_ns.is_some_and(|at| at >= since))
            .filter(|(day, _)| !files.iter().any(|(there, _)| there == *day))
            .map(|(day, had)| (day.clone(), *had))
            .collect();
        for (day, had) in &removed {
            // All that it had is settled then: delivered, or lost and counted.
            let place = self.place(day, had.number);
            place.known = Counts(had.last);
            let place = place.clone();
            self.count_lost(day, &place);
            self.place(day, had.number).delivered = Counts(had.last);
        }
        let gone: Vec<String> = self
            .state
            .kept
            .days
            .keys()
            .filter(|day| !files.iter().any(|(there, _)| there == *day))
            .filter(|day| !removed.iter().any(|(of, _)| of == *day))
            .cloned()
            .collect();
        for day in gone {
            if let Some(place) = self.state.kept.days.remove(&day) {
                self.count_lost(&day, &place);
            }
        }
    }

    fn count_lost(&mut self, day: &str, place: &Place) {
        let lost = place.missing();
        self.drained.retain(|(of, _), _| of != day);
        if lost > 0 {
            self.state.kept.lost += lost;
            self.warnings.push(format!(
                "the history of {day} was removed with {lost} rows that {} had not got yet",
                self.state.name
            ));
        }
    }

    /// The place in the file of a day.
    fn place(&mut self, day: &str, file: u64) -> &mut Place {
        let known = self.state.kept.days.get(day).map(|place| place.file);
        if known.is_some_and(|known| known != file)
            && let Some(old) = self.state.kept.days.remove(day)
        {
            self.count_lost(day, &old);
        }
        self.state
            .kept
            .days
            .entry(day.to_owned())
            .or_insert_with(|| Place {
                file,
                delivered: Counts::default(),
                known: Counts::default(),
            })
    }

    /// A file's own number. One of an older agentwatch has none: the follower's does for it.
    fn file_number(&self, connection: &Connection) -> u64 {
        super::schema::file_number(connection).unwrap_or(self.state.kept.number)
    }
}

/// Has what is in a file's log written to the disk: what was handed out is not taken back by a loss of
/// power. The file itself has what a checkpoint, which does the same, brought there.
fn to_disk(path: &Path) -> Result<()> {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    match fs::File::open(&log) {
        Ok(log) => Ok(log.sync_data()?),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot open {}", log.display())),
    }
}

fn stamp(path: &Path) -> Stamp {
    let of = |path: &Path| {
        let metadata = fs::metadata(path).ok()?;
        Some((metadata.len(), metadata.modified().ok()?))
    };
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    [of(path), of(Path::new(&log)), of(&cold::compressed(path))]
}

/// Whether the last write was a while ago.
fn is_old(stamp: &Stamp) -> bool {
    let age = |(_, time): &(u64, SystemTime)| time.elapsed().unwrap_or_default();
    stamp.iter().flatten().map(age).min() > Some(Duration::from_secs(1))
}
