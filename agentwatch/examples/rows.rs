//! What a recording would leave in the history, as JSON lines: `{"event": …}` as `agentwatch events -o json`
//! has it, `{"finding": …}` as `agentwatch findings -o json` does. The dashboards are tried on that.
//!
//! `cargo run -p agentwatch --example rows -- agentwatch/tests/recordings/ssh-reverse.awrec`

use std::{
    env,
    io::{self, Write as _},
};

use agentwatch::{
    enrich::World,
    event::{Event, ProcessKey, Stopped},
    finding::Finding,
    host::row_of,
    pipeline::{Pipeline, Sink},
    policy::Policy,
    recording::Recording,
    respond::{Means, cgroup::AgentCgroup},
};
use anyhow::{Context as _, Result};
use serde_json::json;

/// Lines, as they come.
struct Lines(Vec<String>);

impl Sink for Lines {
    fn event(&mut self, event: &Event, world: &World) {
        if let Some(row) = row_of(event, world) {
            self.0.push(json!({ "event": row }).to_string());
        }
    }

    fn finding(&mut self, finding: &Finding) {
        self.0.push(json!({ "finding": finding }).to_string());
    }

    fn free_hostages(&mut self) {}

    fn resume(&mut self, _: &Event, _: Stopped, _: u64) {}
}

impl Means for Lines {
    fn cgroup(&self) -> Option<&AgentCgroup> {
        None
    }

    fn members(&self) -> Vec<ProcessKey> {
        Vec::new()
    }

    fn quarantine(&mut self, _: bool) -> Result<()> {
        Ok(())
    }
}

fn main() -> Result<()> {
    let file = env::args_os().nth(1).context("usage: rows FILE")?;
    let mut recording = Recording::open(file.as_ref())?;
    let mut pipeline = Pipeline::new(Policy::default());
    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut lines = Lines(Vec::new());
    while let Some(record) = recording.read()? {
        pipeline.step(&record, &mut lines);
        for line in lines.0.drain(..) {
            writeln!(out, "{line}")?;
        }
    }
    Ok(out.flush()?)
}
