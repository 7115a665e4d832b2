//! Rows of a table by their ids.

use anyhow::Result;
use rusqlite::{Connection, OptionalExtension as _};
use serde_json::Value;

use super::Table;
use crate::{
    api::model::Action,
    store::{
        query::{Filter, StoredFinding},
        reader::{Day, Order, Wanted},
        row::Row,
        schema,
    },
};

/// Something with the id of its row. With the file's own number ([`super::Range::file`]) and the table
/// it names a row of all nodes and days.
#[derive(Debug, Clone, PartialEq)]
pub struct Placed<T> {
    /// The row's id in its table and file.
    pub id: i64,
    /// What it holds.
    pub what: T,
}

/// An action, as stored.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredAction {
    /// Unix nanoseconds.
    pub time_ns: i64,
    /// The action.
    pub action: Action,
}

/// A run that began. One that goes over midnight is introduced in each day's file: the same again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Started {
    /// Its id.
    pub run: String,
    /// The agent's name.
    pub agent: String,
    /// The command.
    pub command: Vec<String>,
    /// Unix nanoseconds.
    pub started_ns: i64,
}

/// A run that ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Ended {
    /// Its id.
    pub run: String,
    /// The agent's name.
    pub agent: String,
    /// Unix nanoseconds.
    pub ended_ns: i64,
    /// The command's exit status.
    pub exit_status: Option<i32>,
    /// The finding for which the agent was killed.
    pub killed_by: Option<String>,
    /// Events that were stored.
    pub stored: u64,
    /// Events and findings that were not.
    pub dropped: u64,
    /// What was sent and lost, as JSON.
    pub tally: Value,
}

/// Rows of one table.
#[derive(Debug, Clone, PartialEq)]
pub enum Rows {
    /// Events.
    Events(Vec<Placed<Row>>),
    /// Findings.
    Findings(Vec<Placed<StoredFinding>>),
    /// Actions.
    Actions(Vec<Placed<StoredAction>>),
    /// Runs that began.
    Runs(Vec<Placed<Started>>),
    /// Runs that ended.
    Ends(Vec<Placed<Ended>>),
}

impl Rows {
    /// How many.
    pub fn len(&self) -> usize {
        match self {
            Self::Events(rows) => rows.len(),
            Self::Findings(rows) => rows.len(),
            Self::Actions(rows) => rows.len(),
            Self::Runs(rows) => rows.len(),
            Self::Ends(rows) => rows.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What was read.
pub struct Read {
    pub rows: Rows,
    /// The last id.
    pub last: Option<i64>,
    /// Rows whose text is no JSON.
    pub damaged: u64,
}

impl Table {
    /// The table's name in the file, its time, and its columns.
    fn sql(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Runs => ("runs", "started_ns", "run, agent, command, started_ns"),
            Self::Findings => ("findings", "time_ns", "time_ns, run, finding"),
            Self::Actions => ("actions", "time_ns", "time_ns, body"),
            Self::Ends => (
                "ends",
                "ended_ns",
                "run, agent, ended_ns, exit_status, killed_by, stored, dropped, tally",
            ),
            Self::Events => ("event_rows", "time_ns", ""),
        }
    }
}

/// The name of a table in a file of any version.
fn name(connection: &Connection, table: Table) -> Result<&'static str> {
    Ok(match table {
        Table::Events if schema::version(connection)? == 1 => "events",
        _ => table.sql().0,
    })
}

/// The last id of a table; `None` where it has no rows, or a file of an older agentwatch no such table.
pub fn last(connection: &Connection, table: Table) -> Result<Option<i64>> {
    let name = name(connection, table)?;
    let there: Option<i64> = connection
        .query_row(
            "SELECT 1 FROM sqlite_schema WHERE name = ?1",
            [name],
            |row| row.get(0),
        )
        .optional()?;
    if there.is_none() {
        return Ok(None);
    }
    let sql = format!("SELECT max(rowid) FROM {name}");
    Ok(connection.query_row(&sql, [], |row| row.get(0))?)
}

/// The time of the first row behind an id, Unix nanoseconds.
pub fn time_after(connection: &Connection, table: Table, id: i64) -> Result<i64> {
    let name = name(connection, table)?;
    let (_, time, _) = table.sql();
    let sql = format!("SELECT {time} FROM {name} WHERE rowid > ?1 ORDER BY rowid LIMIT 1");
    Ok(connection.query_row(&sql, [id], |row| row.get(0))?)
}

/// Rows from an id to another, the first `max` of them.
pub fn rows(day: &Day, table: Table, first: i64, last: i64, max: usize) -> Result<Read> {
    let reader = Reader {
        connection: &day.connection,
        table,
        first,
        last,
        max,
    };
    match table {
        Table::Events => events(day, first, last, max),
        Table::Findings => reader.read(Rows::Findings, |row| {
            let json: String = row.get(2)?;
            Ok(match serde_json::from_str(&json) {
                Ok(finding) => Some(StoredFinding {
                    time_ns: row.get(0)?,
                    run: row.get(1)?,
                    finding,
                }),
                Err(_) => None,
            })
        }),
        Table::Actions => reader.read(Rows::Actions, |row| {
            let json: String = row.get(1)?;
            Ok(match serde_json::from_str(&json) {
                Ok(action) => Some(StoredAction {
                    time_ns: row.get(0)?,
                    action,
                }),
                Err(_) => None,
            })
        }),
        Table::Runs => reader.read(Rows::Runs, |row| {
            let command: String = row.get(2)?;
            Ok(Some(Started {
                run: row.get(0)?,
                agent: row.get(1)?,
                command: serde_json::from_str(&command).unwrap_or_default(),
                started_ns: row.get(3)?,
            }))
        }),
        Table::Ends => reader.read(Rows::Ends, |row| {
            let tally: String = row.get(7)?;
            Ok(Some(Ended {
                run: row.get(0)?,
                agent: row.get(1)?,
                ended_ns: row.get(2)?,
                exit_status: row.get(3)?,
                killed_by: row.get(4)?,
                stored: row.get::<_, i64>(5)?.cast_unsigned(),
                dropped: row.get::<_, i64>(6)?.cast_unsigned(),
                tally: serde_json::from_str(&tally).unwrap_or_default(),
            }))
        }),
    }
}

fn events(day: &Day, first: i64, last: i64, max: usize) -> Result<Read> {
    let all = Filter::default();
    let wanted = Wanted {
        after: first - 1,
        up_to: last,
        limit: Some(max),
        ..Wanted::all(&all, Order::Stored)
    };
    let mut rows = Vec::new();
    let damage = day.events_through(&wanted, |id, what| {
        rows.push(Placed { id, what });
        Ok(())
    })?;
    let cut = rows.len() < max;
    Ok(Read {
        last: match rows.last().map(|row: &Placed<Row>| row.id) {
            // What is behind the last that can be read is left behind too.
            _ if cut && damage.is_some() => Some(last),
            read => read,
        },
        rows: Rows::Events(rows),
        damaged: damage.and_then(|(rows, _)| rows).unwrap_or(0),
    })
}

struct Reader<'a> {
    connection: &'a Connection,
    table: Table,
    first: i64,
    last: i64,
    max: usize,
}

impl Reader<'_> {
    /// Reads what `each` makes of a row; `None` is a damaged one.
    fn read<T>(
        &self,
        wrap: impl Fn(Vec<Placed<T>>) -> Rows,
        each: impl Fn(&rusqlite::Row<'_>) -> Result<Option<T>, rusqlite::Error>,
    ) -> Result<Read> {
        let (name, _, columns) = self.table.sql();
        let sql = format!(
            "SELECT {columns}, rowid AS place FROM {name} WHERE rowid BETWEEN ?1 AND ?2 ORDER BY rowid LIMIT ?3"
        );
        let max = i64::try_from(self.max).unwrap_or(i64::MAX);
        let mut statement = self.connection.prepare(&sql)?;
        let mut found = statement.query([self.first, self.last, max])?;
        let (mut rows, mut last, mut damaged) = (Vec::new(), None, 0);
        while let Some(row) = found.next()? {
            let id = row.get("place")?;
            last = Some(id);
            match each(row)? {
                Some(what) => rows.push(Placed { id, what }),
                None => damaged += 1,
            }
        }
        Ok(Read {
            rows: wrap(rows),
            last,
            damaged,
        })
    }
}
