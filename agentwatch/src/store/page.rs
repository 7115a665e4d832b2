//! Pages of events, for who reads on where it was; and actions.

use anyhow::{Context as _, Result};
use rusqlite::types::Value;

use super::{
    query::{COLUMNS, Filter, History, condition, event},
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
        let (condition, values) = condition(filter);
        let last = after.is_none() && filter.since.is_none();
        let order = if last { "DESC" } else { "ASC" };
        let sql = format!(
            "SELECT {COLUMNS}, id FROM events WHERE {condition} AND id > ? ORDER BY id {order} LIMIT ?"
        );
        let mut found: Vec<(Row, Cursor)> = Vec::new();
        let days = self.days();
        let days: Vec<_> = if last {
            days.rev().collect()
        } else {
            days.collect()
        };
        for (day, connection) in days {
            let from = match after {
                Some(after) if *day < *after.day => continue,
                Some(after) if *day == *after.day => after.id,
                _ => 0,
            };
            let left = i64::try_from(limit - found.len())?;
            if left == 0 {
                break;
            }
            let mut values = values.clone();
            values.extend([Value::from(from), Value::from(left)]);
            let mut statement = connection.prepare(&sql)?;
            let mut rows = statement.query(rusqlite::params_from_iter(values))?;
            while let Some(row) = rows.next()? {
                let id = row.get("id")?;
                let day = day.to_owned();
                found.push((event(row)?, Cursor { day, id }));
            }
        }
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
        for (_, connection) in self.days() {
            // A file of an older agentwatch has no such table.
            let Ok(mut statement) = connection.prepare(
                "SELECT body FROM actions WHERE time_ns >= ?1 AND (?2 IS NULL OR agent = ?2) \
                 ORDER BY time_ns, rowid",
            ) else {
                continue;
            };
            let since = filter.since.unwrap_or(i64::MIN);
            let mut rows = statement.query(rusqlite::params![since, filter.agent])?;
            while let Some(row) = rows.next()? {
                let body: String = row.get(0)?;
                found.push(serde_json::from_str(&body).context("an action is damaged")?);
            }
        }
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
