//! Pages of events, for who reads on where it was; and actions.

use std::ops::ControlFlow;

use anyhow::{Context as _, Result};
use rusqlite::types::Value;

use super::{
    query::{Filter, History},
    reader::{Order, Wanted},
    row::Row,
};

/// A place in the history: the day of a file and a row in it, as text `2026-11-21:4711`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    day: String,
    id: i64,
}

impl std::str::FromStr for Cursor {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let parts = text.split_once(':').and_then(|(day, id)| {
            let is_day = day.len() == 10 && day.bytes().all(|b| b.is_ascii_digit() || b == b'-');
            Some((is_day.then(|| day.to_owned())?, id.parse().ok()?))
        });
        let (day, id) = parts
            .with_context(|| format!("{text:?} is no place in the history, as `next` gives it"))?;
        Ok(Self { day, id })
    }
}

impl std::fmt::Display for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.day, self.id)
    }
}

impl History {
    /// The events that follow a place, at most `limit`, and the place after them: in the order in which
    /// they were stored. Without a place from the beginning where the filter has one, else the last ones.
    ///
    /// # Errors
    ///
    /// When a row cannot be read.
    pub fn page(
        &mut self,
        filter: &Filter,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<(Vec<Row>, Option<Cursor>)> {
        let last = after.is_none() && filter.since.is_none();
        let order = if last {
            Order::LastFirst
        } else {
            Order::Stored
        };
        let mut found: Vec<(Row, Cursor)> = Vec::new();
        let from = after.map(|after| &*after.day);
        self.each_day(filter, from, last, |day, read| {
            let from = match after {
                Some(after) if *day == *after.day => after.id,
                _ => 0,
            };
            let wanted = Wanted {
                after: from,
                limit: Some(limit - found.len()),
                ..Wanted::all(filter, order)
            };
            read.events(&wanted, |id, row| {
                let day = day.to_owned();
                found.push((row, Cursor { day, id }));
                Ok(())
            })?;
            Ok(if found.len() == limit {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            })
        })?;
        if last {
            found.reverse();
        }
        let next = found.last().map(|(_, at)| at.clone()).or(after.cloned());
        Ok((found.into_iter().map(|(row, _)| row).collect(), next))
    }

    /// The actions that are asked for, oldest first, as JSON. Kinds, run and limit do not matter.
    ///
    /// # Errors
    ///
    /// When a row cannot be read.
    pub fn actions(&mut self, filter: &Filter) -> Result<Vec<serde_json::Value>> {
        let mut found = Vec::new();
        let since = filter.since.unwrap_or(i64::MIN);
        let values = [Value::from(since), Value::from(filter.agent.clone())];
        self.rows(
            "SELECT body FROM actions",
            ("time_ns >= ?1 AND (?2 IS NULL OR agent = ?2)", "time_ns"),
            &values,
            |row| {
                let body: String = row.get(0)?;
                found.push(serde_json::from_str(&body).context("an action is damaged")?);
                Ok(())
            },
        )?;
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_reads_as_it_is_written() {
        let place: Cursor = "2026-11-21:4711".parse().unwrap();
        assert_eq!(place.to_string(), "2026-11-21:4711");
        for bad in ["", "x", "2026-11-21", "2026-11-21:x", "../../etc:1", ":1"] {
            assert!(bad.parse::<Cursor>().is_err(), "{bad}");
        }
    }
}
