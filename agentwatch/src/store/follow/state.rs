//! What a follower remembers, in a file of the data folder.

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use super::{Range, Table};

/// An id for each table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts(pub [i64; 5]);

impl Counts {
    /// That of a table.
    pub fn get(&self, table: Table) -> i64 {
        self.0[table as usize]
    }

    /// Sets that of a table.
    pub fn set(&mut self, table: Table, id: i64) {
        self.0[table as usize] = id;
    }
}

/// The place in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The file's own number.
    pub file: u64,
    /// The last ids that were delivered.
    pub delivered: Counts,
    /// The last ids that were there when it was looked at.
    pub known: Counts,
}

impl Place {
    /// How many of the known rows are not delivered.
    pub fn missing(&self) -> u64 {
        Table::ALL
            .into_iter()
            .map(|table| self.known.get(table) - self.delivered.get(table))
            .map(|rows| u64::try_from(rows).unwrap_or(0))
            .sum()
    }
}

/// What is in the file.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    /// Drawn when the follower began.
    pub number: u64,
    /// When that was, Unix nanoseconds.
    pub since_ns: i64,
    /// Where it is in the file of each day.
    pub days: BTreeMap<String, Place>,
    /// What was handed out and is not known to be delivered.
    pub pending: Option<Range>,
    /// Rows that were removed before they were delivered.
    pub lost: u64,
}

/// What a follower remembers, and its lock.
pub struct State {
    /// The follower.
    pub name: String,
    /// What is in the file.
    pub kept: Kept,
    path: PathBuf,
    _lock: Option<fs::File>,
}

impl State {
    /// Opens it, or begins a new one.
    pub fn open(dir: &Path, name: &str) -> Result<Self> {
        let is_name = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        ensure!(
            (1..=32).contains(&name.len()) && name.bytes().all(is_name),
            "{name:?} is no name for a follower: up to 32 of a-z, 0-9 and -"
        );
        let dir = dir.join("followers");
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .with_context(|| format!("cannot make {}", dir.display()))?;
        let lock = lock(&dir.join(format!("{name}.lock")), name)?;
        let path = dir.join(format!("{name}.json"));
        let new = || -> Result<Kept> {
            Ok(Kept {
                number: number()?,
                since_ns: crate::store::wall_ns(jiff::Timestamp::now()),
                ..Kept::default()
            })
        };
        Ok(Self {
            name: name.to_owned(),
            kept: read(&path)?.map_or_else(new, Ok)?,
            path,
            _lock: Some(lock),
        })
    }

    /// What another process remembers by that name, to be looked at; `None` where nobody does.
    pub fn look(dir: &Path, name: &str) -> Result<Option<Self>> {
        let path = dir.join("followers").join(format!("{name}.json"));
        Ok(read(&path)?.map(|kept| Self {
            name: name.to_owned(),
            kept,
            path,
            _lock: None,
        }))
    }

    /// Stores it: as it was or as it is, whatever happens meanwhile.
    pub fn save(&self) -> Result<()> {
        let write = || -> Result<()> {
            let new = self.path.with_extension("new");
            let mut file = fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&new)?;
            file.write_all(&serde_json::to_vec(&self.kept)?)?;
            file.sync_data()?;
            fs::rename(&new, &self.path)?;
            let dir = self.path.parent().context("it is in no folder")?;
            Ok(fs::File::open(dir)?.sync_all()?)
        };
        write().with_context(|| format!("cannot write {}", self.path.display()))
    }
}

fn read(path: &Path) -> Result<Option<Kept>> {
    match fs::read(path) {
        Ok(json) => serde_json::from_slice(&json).map(Some).with_context(|| {
            format!(
                "{} is damaged; remove it, and everything is delivered again",
                path.display()
            )
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

fn lock(path: &Path, name: &str) -> Result<fs::File> {
    let file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            bail!("another process follows the history as {name:?} already")
        }
        Err(error) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}

/// A number that nobody else draws.
fn number() -> Result<u64> {
    let connection = rusqlite::Connection::open_in_memory()?;
    let number: i64 = connection.query_row("SELECT random()", [], |row| row.get(0))?;
    Ok(number.cast_unsigned())
}
