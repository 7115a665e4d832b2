//! How an exporter fares, for metrics and for who asks while it runs.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::{Class, Fault};

/// How an exporter fares. Written by its thread, read by others.
#[derive(Debug, Default)]
pub struct Status {
    rows: AtomicU64,
    batches: AtomicU64,
    faults: [AtomicU64; Class::ALL.len()],
    behind_rows: AtomicU64,
    behind_ms: AtomicU64,
    lost: AtomicU64,
    fault: Mutex<Option<Fault>>,
}

impl Status {
    /// Rows that were delivered.
    pub fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }

    /// Batches that were delivered.
    pub fn batches(&self) -> u64 {
        self.batches.load(Ordering::Relaxed)
    }

    /// How often a batch was not taken, by the reason.
    pub fn faults(&self) -> impl Iterator<Item = (Class, u64)> {
        let number = |class: Class| self.faults[class as usize].load(Ordering::Relaxed);
        Class::ALL
            .into_iter()
            .map(move |class| (class, number(class)))
    }

    /// Rows that are not delivered yet, as of some seconds ago.
    pub fn behind_rows(&self) -> u64 {
        self.behind_rows.load(Ordering::Relaxed)
    }

    /// How long the oldest of them has waited, seconds.
    pub fn behind_seconds(&self) -> f64 {
        Duration::from_millis(self.behind_ms.load(Ordering::Relaxed)).as_secs_f64()
    }

    /// Rows that were removed from the history before they were delivered.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Why nothing is delivered, now.
    pub fn fault(&self) -> Option<Fault> {
        self.fault
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn delivered(&self, rows: u64) {
        self.rows.fetch_add(rows, Ordering::Relaxed);
        self.batches.fetch_add(1, Ordering::Relaxed);
        // Only one thread writes it.
        let behind = self.behind_rows().saturating_sub(rows);
        self.behind_rows.store(behind, Ordering::Relaxed);
    }

    pub(super) fn failed(&self, class: Class) {
        self.faults[class as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn behind(&self, rows: u64, seconds: f64, lost: u64) {
        self.behind_rows.store(rows, Ordering::Relaxed);
        let waited = Duration::try_from_secs_f64(seconds).unwrap_or_default();
        self.behind_ms
            .store(waited.as_millis() as u64, Ordering::Relaxed);
        self.lost.store(lost, Ordering::Relaxed);
    }

    pub(super) fn set_fault(&self, fault: Option<Fault>) {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }
}

/// What an exporter notes beside its cursor while it cannot deliver, for `agentwatch doctor` and
/// `agentwatch db status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Noted {
    /// Since when nothing is delivered.
    pub since: jiff::Timestamp,
    /// Why.
    pub fault: Fault,
}

impl Noted {
    fn path(dir: &Path, name: &str) -> PathBuf {
        dir.join("followers").join(format!("{name}.fault.json"))
    }

    /// What is noted, if anything is.
    ///
    /// # Errors
    ///
    /// When the note cannot be read.
    pub fn read(dir: &Path, name: &str) -> Result<Option<Self>> {
        let path = Self::path(dir, name);
        match fs::read(&path) {
            Ok(json) => {
                Ok(Some(serde_json::from_slice(&json).with_context(|| {
                    format!("{} is damaged", path.display())
                })?))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Notes it, or that all is well.
    pub(super) fn write(dir: &Path, name: &str, noted: Option<&Self>) -> Result<()> {
        let path = Self::path(dir, name);
        let write = || -> Result<()> {
            match noted {
                Some(noted) => {
                    let new = path.with_extension("new");
                    fs::write(&new, serde_json::to_vec(noted)?)?;
                    Ok(fs::rename(&new, &path)?)
                }
                None => match fs::remove_file(&path) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
                    _ => Ok(()),
                },
            }
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    }
}
