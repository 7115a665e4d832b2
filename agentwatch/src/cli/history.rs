//! What the verbs that read the history share.

use std::{io, path::PathBuf};

use anyhow::{Context as _, Result};
use clap::Args;
use serde_json::Value;

use super::Output;
use crate::store::{
    default_data_dir,
    query::{Filter, History, StoredFinding},
};

/// Which part of the history, and how it is written.
#[derive(Debug, Args)]
pub struct Selection {
    #[command(flatten)]
    which: Which,
    /// Times in UTC, not in the local zone; json and yaml always have UTC
    #[arg(long)]
    pub utc: bool,
    /// How it is written
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

impl std::ops::Deref for Selection {
    type Target = Which;

    fn deref(&self) -> &Which {
        &self.which
    }
}

/// Which part of the history.
#[derive(Debug, Args)]
pub struct Which {
    /// The folder of the history [default: /var/lib/agentwatch]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// From then on: 10m, 2h, 3d ago, or a time like 2026-11-21T09:00:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Up to then
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Of this agent
    #[arg(long, value_name = "NAME")]
    agent: Option<String>,
    /// Of this run: an id as the account tells it
    #[arg(long, value_name = "ID")]
    run: Option<String>,
}

impl Which {
    /// Opens the history; what cannot be read is said at once. `None` where there is none: that is
    /// said too.
    pub fn open(&self) -> Result<Option<History>> {
        let dir = self.dir();
        let mut history = match History::open(&dir) {
            Err(error)
                if error
                    .downcast_ref::<io::Error>()
                    .is_some_and(|error| error.kind() == io::ErrorKind::NotFound) =>
            {
                none(&dir);
                return Ok(None);
            }
            other => other?,
        };
        warn(&mut history);
        Ok(Some(history))
    }

    /// Whether there is a history; where there is none, that is said.
    pub fn is_there(&self) -> bool {
        let dir = self.dir();
        let there = dir.is_dir();
        if !there {
            none(&dir);
        }
        there
    }

    /// Refuses what selects by anything but times.
    ///
    /// # Errors
    ///
    /// When it does.
    pub fn only_times(&self, what: &str) -> Result<()> {
        anyhow::ensure!(
            self.agent.is_none() && self.run.is_none(),
            "{what} says itself which agent or run it is about: `WHERE agent = …`"
        );
        Ok(())
    }

    /// The folder of the history.
    pub fn dir(&self) -> PathBuf {
        self.data_dir.clone().unwrap_or_else(default_data_dir)
    }

    /// The filter.
    pub fn filter(&self) -> Result<Filter> {
        let time = |given: &Option<String>| given.as_deref().map(time).transpose();
        Ok(Filter {
            since: time(&self.since)?,
            until: time(&self.until)?,
            agent: self.agent.clone(),
            run: self.run.clone(),
            ..Filter::default()
        })
    }

    /// Whether a part of the history is asked for that only the history knows.
    pub fn needs_history(&self) -> bool {
        self.data_dir.is_some() || self.run.is_some() || self.until.is_some()
    }

    /// From when on, as it was said.
    pub fn since(&self) -> Option<&str> {
        self.since.as_deref()
    }

    /// The agent, if one was named.
    pub fn agent(&self) -> Option<&str> {
        self.agent.as_deref()
    }

    /// The run, if one was named.
    pub fn run(&self) -> Option<&str> {
        self.run.as_deref()
    }
}

/// Says that there is no history.
fn none(dir: &std::path::Path) {
    eprintln!(
        "agentwatch: no history in {}: there is no such folder; `agentwatch run` makes it, --data-dir names \
         another",
        dir.display()
    );
}

/// A finding as it is stored, with its time and run.
pub fn finding(stored: &StoredFinding) -> Value {
    let mut finding = stored.finding.clone();
    let time = jiff::Timestamp::from_nanosecond(i128::from(stored.time_ns)).unwrap_or_default();
    finding["time"] = format!("{time:.9}").into();
    finding["run"] = stored.run.clone().into();
    finding
}

/// Says what could not be read, once.
pub fn warn(history: &mut History) {
    for warning in history.warnings.drain(..) {
        eprintln!("agentwatch: {warning}");
    }
}

/// A point in time, Unix nanoseconds: an age, or a time.
pub fn time(text: &str) -> Result<i64> {
    let ns = match age(text) {
        Some(seconds) => {
            jiff::Timestamp::now().as_nanosecond() - i128::from(seconds) * 1_000_000_000
        }
        None => text
            .parse::<jiff::Timestamp>()
            .with_context(|| {
                format!(
                    "{text:?} is no time; say how long ago (10m, 2h, 3d) or 2026-11-21T09:00:00Z"
                )
            })?
            .as_nanosecond(),
    };
    Ok(i64::try_from(ns).unwrap_or(0))
}

/// An age like `10m`, in seconds.
fn age(text: &str) -> Option<u64> {
    let unit = match text.chars().last()? {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return None,
    };
    text[..text.len() - 1]
        .parse::<u64>()
        .ok()?
        .checked_mul(unit)
}

/// A time of day in the local zone, or in UTC; with the date when it is not today.
pub fn clock(time_ns: i64, utc: bool) -> String {
    let zone = if utc {
        jiff::tz::TimeZone::UTC
    } else {
        jiff::tz::TimeZone::system()
    };
    let time = jiff::Timestamp::from_nanosecond(i128::from(time_ns)).unwrap_or_default();
    let (time, now) = (
        time.to_zoned(zone.clone()),
        jiff::Timestamp::now().to_zoned(zone),
    );
    if time.date() == now.date() {
        time.strftime("%H:%M:%S.%3f").to_string()
    } else {
        time.strftime("%Y-%m-%d %H:%M:%S.%3f").to_string()
    }
}

/// The last component of a path.
pub fn base(path: &str) -> &str {
    path.rsplit('/')
        .next()
        .filter(|name| !name.is_empty())
        .unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        assert_eq!(age("10m"), Some(600));
        assert_eq!(age("3d"), Some(259_200));
        assert_eq!(age("m"), None);
        assert_eq!(age("99999999999999999999h"), None);
        assert_eq!(time("1970-01-01T00:00:01Z").unwrap(), 1_000_000_000);
        assert!(time("yesterday").unwrap_err().to_string().contains("10m"));
    }
}
