//! SQL of a person's own, over the files of several days as if they were one.
//!
//! Each file is attached, read-only, to a connection that has nothing of its own but views: `events`,
//! `findings`, `runs` and `actions`. What a query may do is asked of an authorizer: to read, and nothing else.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use rusqlite::{
    Connection, OpenFlags,
    hooks::{AuthAction, AuthContext, Authorization},
    types::ValueRef,
};

use super::{cold, files, kept, query::Filter, schema};

/// Most files that `SQLite` attaches, of which one has what is kept of others.
pub const MOST_DAYS: usize = 9;
/// How often it is looked whether the time is over, in instructions of `SQLite`'s machine.
const LOOK: i32 = 100_000;

/// The columns that are read of each table.
const TABLES: [(&str, &str); 3] = [
    (
        "findings",
        "id, time_ns, run, agent, detector, severity, pid, finding",
    ),
    (
        "runs",
        "run, agent, command, started_ns, ended_ns, exit_status, killed_by, stored, dropped, tally",
    ),
    ("actions", "time_ns, run, agent, action, done, body"),
];

/// The files, attached.
pub struct Sql {
    connection: Connection,
    /// Of days that are compressed: removed at the end.
    copies: Vec<cold::Copy>,
    /// What is not read, and why.
    pub warnings: Vec<String>,
}

impl Sql {
    /// Attaches the days that a filter's times are in.
    ///
    /// # Errors
    ///
    /// When the folder cannot be read, or these are too many days.
    pub fn open(dir: &Path, filter: &Filter) -> Result<Self> {
        let days: Vec<(String, PathBuf)> = files::day_files(dir)?
            .into_iter()
            .filter(|(day, _)| filter.is_in(day))
            .collect();
        if days.len() > MOST_DAYS {
            bail!(
                "the history has {} days of that time, {} to {}, and a query takes {MOST_DAYS} at most: say \
                 --since and --until",
                days.len(),
                days[0].0,
                days[days.len() - 1].0
            );
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_URI
            | OpenFlags::SQLITE_OPEN_MEMORY;
        let mut sql = Self {
            connection: Connection::open_with_flags(":memory:", flags)?,
            copies: Vec::new(),
            warnings: Vec::new(),
        };
        sql.connection.busy_timeout(Duration::from_secs(1))?;
        let mut views = Views::default();
        for (n, (day, path)) in days.iter().enumerate() {
            match sql.attach(&format!("day{n}"), path) {
                Ok(version) => views.day(n, day, version),
                Err(error) => sql
                    .warnings
                    .push(format!("{} is not read: {error:#}", path.display())),
            }
        }
        let kept = kept::path(dir);
        if kept.exists() {
            match sql.attach("kept", &kept) {
                Ok(_) => views.kept(),
                Err(error) => sql
                    .warnings
                    .push(format!("{} is not read: {error:#}", kept.display())),
            }
        }
        sql.connection.execute_batch(&views.text())?;
        sql.connection.pragma_update(None, "query_only", true)?;
        sql.connection.authorizer(Some(may))?;
        Ok(sql)
    }

    /// Attaches a file by a name; the version of its tables.
    fn attach(&mut self, name: &str, path: &Path) -> Result<i64> {
        let mut path = path.to_owned();
        if files::is_cold(&path) {
            let copy = cold::Copy::new(&cold::compressed(&path))?;
            copy.path().clone_into(&mut path);
            self.copies.push(copy);
        }
        // Whether it can be read is told here; and a log that was left is recovered.
        let version = schema::version(&files::read_only(&path)?)?;
        self.connection.execute(
            &format!("ATTACH ?1 AS {name}"),
            [format!("{}?mode=ro", files::uri(&path))],
        )?;
        Ok(version)
    }

    /// Runs a query: `each` gets the names of the columns and the values of every row.
    ///
    /// # Errors
    ///
    /// When it is no query, may not do what it says, or takes longer than `limit`; and what `each` says.
    pub fn query(
        &mut self,
        text: &str,
        limit: Duration,
        mut each: impl FnMut(&[String], &[ValueRef<'_>]) -> Result<()>,
    ) -> Result<()> {
        let end = Instant::now() + limit;
        self.connection
            .progress_handler(LOOK, Some(move || Instant::now() > end))?;
        let told = |error: rusqlite::Error| match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::OperationInterrupted) => anyhow::anyhow!(
                "the query takes longer than {limit:?}; --timeout gives it more, --since less to look at"
            ),
            Some(rusqlite::ErrorCode::AuthorizationForStatementDenied) => {
                anyhow::anyhow!("a query may only read the history")
            }
            _ => error.into(),
        };
        let mut statement = self.connection.prepare(text).map_err(told)?;
        if statement.parameter_count() > 0 {
            bail!("the query has parameters, for which there are no values");
        }
        let names: Vec<String> = statement.column_names().map(str::to_owned).collect();
        let mut rows = statement.query([]).map_err(told)?;
        while let Some(row) = rows.next().map_err(told)? {
            let values = (0..names.len())
                .map(|at| row.get_ref(at))
                .collect::<Result<Vec<_>, _>>()?;
            each(&names, &values)?;
        }
        Ok(())
    }
}

/// What a query may do: read.
fn may(context: AuthContext<'_>) -> Authorization {
    match context.action {
        AuthAction::Select
        | AuthAction::Read { .. }
        | AuthAction::Recursive
        | AuthAction::Function { .. } => Authorization::Allow,
        _ => Authorization::Deny,
    }
}

/// The views over all files, in SQL.
#[derive(Default)]
struct Views {
    events: Vec<String>,
    tables: [Vec<String>; 3],
    days: Vec<String>,
}

impl Views {
    fn day(&mut self, n: usize, day: &str, version: i64) {
        self.events.push(if version == 1 {
            format!("SELECT {} FROM day{n}.events", old_events())
        } else {
            format!("SELECT {EVENTS} FROM day{n}.events")
        });
        for ((table, columns), parts) in TABLES.into_iter().zip(&mut self.tables) {
            if version > 1 || table != "actions" {
                parts.push(format!("SELECT {columns} FROM day{n}.{table}"));
            }
        }
        self.days.push(format!("'{day}'"));
    }

    fn kept(&mut self) {
        // What is in a file that is attached is read there.
        let days = self.days.join(",");
        for ((table, columns), parts) in TABLES.into_iter().zip(&mut self.tables) {
            parts.push(format!(
                "SELECT {columns} FROM kept.{table} WHERE day NOT IN ({days})"
            ));
        }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        let mut view = |name: &str, columns: &str, parts: &[String]| {
            // A table of nothing where there is no file.
            let nothing = || {
                let nulls = vec!["NULL"; columns.split(", ").count()].join(", ");
                format!("SELECT {nulls} WHERE 0")
            };
            let parts = if parts.is_empty() {
                nothing()
            } else {
                parts.join(" UNION ALL ")
            };
            let _ = write!(text, "CREATE TEMP VIEW {name} ({columns}) AS {parts};");
        };
        view("events", EVENTS, &self.events);
        for ((table, columns), parts) in TABLES.into_iter().zip(&self.tables) {
            view(table, columns, parts);
        }
        text
    }
}

/// The columns of the view `events`.
pub const EVENTS: &str = "time_ns, time, run, agent, kind, pid, start_ns, ppid, uid, comm, exe, path, path2, \
    result, dev, ino, protocol, direction, local, remote, remote_port, bytes_in, bytes_out, cookie, flags, mode, \
    count, created, write, io_uring, partial, way, path_source, signal, user_ns, system_ns, max_rss_pages, offset, \
    len, argv, cwd, domain, server_name, dns_name, device, head, detail";

/// The same of a file of version 1: what it has in `detail` is left there.
fn old_events() -> String {
    let columns = EVENTS.split(", ").map(|name| match name {
        "time" => "strftime('%Y-%m-%dT%H:%M:%fZ', time_ns / 1e9, 'unixepoch')",
        name if super::version1::COLUMNS.split(", ").any(|of| of == name) => name,
        _ => "NULL",
    });
    columns.collect::<Vec<_>>().join(", ")
}

/// A value as JSON: a blob in hexadecimal.
pub fn json(value: ValueRef<'_>) -> serde_json::Value {
    match value {
        ValueRef::Null => serde_json::Value::Null,
        ValueRef::Integer(number) => number.into(),
        ValueRef::Real(number) => number.into(),
        ValueRef::Text(text) => String::from_utf8_lossy(text).into(),
        ValueRef::Blob(bytes) => hex(bytes).into(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
