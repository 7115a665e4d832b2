//! `agentwatch db query`.

use std::{fmt::Write as _, process::ExitCode, time::Duration};

use anyhow::Result;
use clap::Args;
use serde_json::{Map, Value};

use super::{Form, history::Selection};
use crate::store::sql::{self, Sql};

/// Rows by which the widths of a table's columns are found; those that follow are not waited for.
const MEASURED: usize = 1000;

/// Ask the history in SQL.
///
/// The tables are `events`, `findings`, `runs` and `actions`, over all days of --since and --until; they can
/// only be read. `SELECT * FROM events LIMIT 1` names the columns. What has none is JSON in `detail`:
/// `detail ->> 'filename'`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentwatch db query \"SELECT agent, kind, count(*) FROM events GROUP BY 1, 2 ORDER BY 3 DESC\"
  agentwatch db query --since 1h \"SELECT time, path FROM events WHERE kind = 'unlink' AND path GLOB '/etc/*'\"
  agentwatch db query -o json \"SELECT domain, sum(bytes_out) AS bytes FROM events WHERE kind = 'flow_close' GROUP BY 1\"

Exit status: 0; 1 where there is no history; 125 where the query is wrong or takes too long.")]
pub struct QueryArgs {
    /// The query
    #[arg(value_name = "SQL")]
    text: String,
    /// How long it may take, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    timeout: u64,
    #[command(flatten)]
    selection: Selection,
}

/// Runs `agentwatch db query`.
pub fn run(args: &QueryArgs) -> Result<ExitCode> {
    let selection = &args.selection;
    selection.only_times("a query")?;
    if !selection.is_there() {
        return Ok(ExitCode::FAILURE);
    }
    let mut sql = Sql::open(&selection.dir(), &selection.filter()?)?;
    for warning in &sql.warnings {
        eprintln!("agentwatch: {warning}");
    }
    let mut out = Out {
        form: selection.output.form(),
        names: Vec::new(),
        waiting: Vec::new(),
        widths: None,
    };
    let limit = Duration::from_secs(args.timeout);
    sql.query(&args.text, limit, |names, values| {
        let values = values.iter().map(|value| sql::json(*value)).collect();
        out.row(names, values)
    })?;
    out.end()?;
    Ok(ExitCode::SUCCESS)
}

/// Where rows go.
struct Out {
    form: Option<Form>,
    names: Vec<String>,
    /// Rows of a table whose widths are not known yet.
    waiting: Vec<Vec<String>>,
    widths: Option<Vec<usize>>,
}

impl Out {
    fn row(&mut self, names: &[String], values: Vec<Value>) -> Result<()> {
        if let Some(form) = self.form {
            let object: Map<String, Value> = names.iter().cloned().zip(values).collect();
            return super::print(&form.text(&object)?);
        }
        if self.names.is_empty() {
            self.names = names.to_vec();
        }
        self.waiting.push(values.iter().map(cell).collect());
        if self.widths.is_some() || self.waiting.len() == MEASURED {
            self.flush()?;
        }
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        if self.form.is_none() && !self.names.is_empty() {
            self.flush()?;
        }
        Ok(())
    }

    /// Writes what waits; before the first, the names.
    fn flush(&mut self) -> Result<()> {
        if self.widths.is_none() {
            self.waiting.insert(0, self.names.clone());
        }
        let widths = self.widths.get_or_insert_with(|| {
            let width = |at: usize| {
                let cells = self.waiting.iter().map(|row| row[at].chars().count());
                cells.max().unwrap_or(0)
            };
            (0..self.names.len()).map(width).collect()
        });
        for row in self.waiting.drain(..) {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(widths.iter()) {
                let _ = write!(line, "{cell:width$}  ");
            }
            super::print(&format!("{}\n", line.trim_end()))?;
        }
        Ok(())
    }
}

/// A value in a table. Text of the history is escaped already; a query may make other text of it.
fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text
            .chars()
            .flat_map(|c| {
                let escaped: Vec<char> = if c.is_control() {
                    c.escape_default().collect()
                } else {
                    vec![c]
                };
                escaped
            })
            .collect(),
        other => other.to_string(),
    }
}
