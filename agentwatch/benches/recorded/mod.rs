//! The events of the recordings, as rows: again and again, each time of other processes, files and connections.

use std::{fs, path::Path};

use agentwatch::{
    enrich::World,
    event::{Event, ProcessKey, Stopped},
    finding::Finding,
    host::row_of,
    pipeline::{Pipeline, Sink},
    policy::Policy,
    recording::Recording,
    respond::{Means, cgroup::AgentCgroup},
    store::row::Row,
};

/// 2026-11-21T00:00:00Z, nanoseconds.
const START_NS: i64 = 1_795_219_200_000_000_000;

/// The rows of the recordings.
pub struct Recorded {
    rows: Vec<Row>,
    /// How long the recordings are together, nanoseconds.
    length_ns: i64,
}

impl Recorded {
    /// Replays all of them.
    pub fn new() -> Self {
        let mut rows = Vec::new();
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings");
        let mut paths: Vec<_> = fs::read_dir(dir)
            .expect("the recordings")
            .map(|entry| entry.expect("a recording").path())
            .collect();
        paths.sort();
        for path in paths {
            let mut recording = Recording::open(&path).expect("a recording");
            let mut pipeline = Pipeline::new(Policy::default());
            let mut take = Take(Vec::new());
            while let Some(record) = recording.read().expect("a whole recording") {
                pipeline.step(&record, &mut take);
            }
            // One after the other, and a second between.
            let first = take.0.iter().map(|row| row.time_ns).min().unwrap_or(0);
            let from = rows
                .last()
                .map_or(0, |row: &Row| row.time_ns + 1_000_000_000);
            for row in &mut take.0 {
                row.time_ns += from - first;
            }
            take.0.sort_by_key(|row| row.time_ns);
            rows.append(&mut take.0);
        }
        let length_ns = rows.last().map_or(0, |row| row.time_ns) + 1;
        Self { rows, length_ns }
    }

    /// The event of a number: what comes again is of other processes, files and connections.
    pub fn get(&self, number: usize) -> Row {
        let (round, at) = (number / self.rows.len(), number % self.rows.len());
        let mut row = self.rows[at].clone();
        let n = u32::try_from(round).expect("not so many");
        // All in one day, whatever their number.
        row.time_ns = START_NS + (row.time_ns + i64::from(n) * self.length_ns) / 8;
        if row.pid != 0 {
            row.pid = (row.pid + n * 977) % 4_194_304;
            row.start_ns += u64::from(n) * 1_000_000_007;
        }
        row.ino = row.ino.map(|ino| ino + u64::from(n) * 101);
        row.cookie = row.cookie.map(|cookie| cookie + u64::from(n) * 1009);
        for path in [&mut row.path, &mut row.path2].into_iter().flatten() {
            if !["/usr/", "/etc/", "/lib", "/dev/", "/proc/"]
                .iter()
                .any(|of| path.starts_with(of))
            {
                *path = format!("/project/{n}{path}");
            }
        }
        row
    }
}

/// Keeps rows.
struct Take(Vec<Row>);

impl Sink for Take {
    fn event(&mut self, event: &Event, world: &World) {
        self.0.extend(row_of(event, world));
    }

    fn finding(&mut self, _: &Finding) {}

    fn free_hostages(&mut self) {}

    fn resume(&mut self, _: &Event, _: Stopped, _: u64) {}
}

impl Means for Take {
    fn cgroup(&self) -> Option<&AgentCgroup> {
        None
    }

    fn members(&self) -> Vec<ProcessKey> {
        Vec::new()
    }

    fn quarantine(&mut self, _: bool) -> anyhow::Result<()> {
        Ok(())
    }
}
