//! What is in the history as JSON objects, for destinations without tables.

use serde_json::{Map, Value, json};

use crate::store::follow::{Batch, Range, Rows};

/// Something of the history.
pub struct Item {
    /// When, Unix nanoseconds.
    pub time_ns: i64,
    /// All of it: what `agentwatch events`, `findings` … `-o json` show, with `type`, `node`, and a
    /// `record` that is the same where it comes twice.
    pub object: Map<String, Value>,
}

/// The items of a batch.
pub fn items(batch: &Batch, node: &str) -> Vec<Item> {
    let of = |id: i64, kind: &str, time_ns: i64, value: Value| {
        let mut object = Map::new();
        object.insert("type".to_owned(), kind.into());
        object.insert("node".to_owned(), node.into());
        object.insert("record".to_owned(), name(&batch.range, id).into());
        if let Value::Object(rest) = value {
            object.extend(rest);
        }
        Item { time_ns, object }
    };
    match &batch.rows {
        Rows::Events(rows) => rows
            .iter()
            .map(|row| {
                let value = serde_json::to_value(&row.what).unwrap_or_default();
                of(row.id, "event", row.what.time_ns, value)
            })
            .collect(),
        Rows::Findings(rows) => rows
            .iter()
            .map(|row| {
                let mut value = row.what.finding.clone();
                value["run"] = row.what.run.clone().into();
                of(row.id, "finding", row.what.time_ns, value)
            })
            .collect(),
        Rows::Actions(rows) => rows
            .iter()
            .map(|row| {
                let value = serde_json::to_value(&row.what.action).unwrap_or_default();
                of(row.id, "action", row.what.time_ns, value)
            })
            .collect(),
        Rows::Runs(rows) => rows
            .iter()
            .map(|row| {
                let what = &row.what;
                let value = json!({
                    "time": time(what.started_ns), "run": what.run, "agent": what.agent,
                    "command": what.command,
                });
                of(row.id, "run_started", what.started_ns, value)
            })
            .collect(),
        Rows::Ends(rows) => rows
            .iter()
            .map(|row| {
                let what = &row.what;
                let value = json!({
                    "time": time(what.ended_ns), "run": what.run, "agent": what.agent,
                    "exit_status": what.exit_status, "killed_by": what.killed_by,
                    "events": what.stored, "dropped": what.dropped, "tally": what.tally,
                });
                of(row.id, "run_ended", what.ended_ns, value)
            })
            .collect(),
    }
}

/// Names a row of all nodes and days.
fn name(range: &Range, id: i64) -> String {
    let Range {
        day, file, table, ..
    } = range;
    format!("{day}.{file:016x}.{}.{id}", table.name())
}

fn time(ns: i64) -> String {
    let time = jiff::Timestamp::from_nanosecond(i128::from(ns)).unwrap_or_default();
    format!("{time:.9}")
}
