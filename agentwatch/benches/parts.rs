//! Decoding by kind of event, and the way of an event after it, on recorded work; frames of the live view.

use std::{collections::BTreeMap, fs, hint::black_box, path::Path, time::Duration};

use agentwatch::{
    api::model::{Agent, EventCounts, Rates},
    decode::decode,
    enrich::World,
    event::{Event, ProcessKey, Stopped},
    finding::Finding,
    host::row_of,
    pipeline::{Pipeline, Sink},
    policy::Policy,
    recording::Recording,
    respond::{Means, cgroup::AgentCgroup},
    top::{
        draw::draw,
        state::{Source, State, Update},
        theme::{Choice, Theme},
    },
};
use bytes::Bytes;
use criterion::{
    BatchSize, Criterion, Throughput, criterion_group, criterion_main,
    measurement::{Measurement, ValueFormatter, WallTime},
};
use jiff::tz::TimeZone;
use ratatui::{Terminal, backend::TestBackend};
use rustix::time::{ClockId, clock_gettime};

/// Measures processor time of this thread: what else the machine does meanwhile does not count.
struct CpuTime;

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let nanos = u32::try_from(time.tv_nsec).expect("less than a second");
    Duration::new(u64::try_from(time.tv_sec).expect("no time before 0"), nanos)
}

impl Measurement for CpuTime {
    type Intermediate = Duration;
    type Value = Duration;

    fn start(&self) -> Duration {
        cpu_time()
    }

    fn end(&self, start: Duration) -> Duration {
        cpu_time().checked_sub(start).expect("a clock that goes on")
    }

    fn add(&self, a: &Duration, b: &Duration) -> Duration {
        *a + *b
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "a few seconds are exact in 53 bits"
    )]
    fn to_f64(&self, value: &Duration) -> f64 {
        value.as_nanos() as f64
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        static NANOSECONDS: WallTime = WallTime;
        NANOSECONDS.formatter()
    }
}

/// The records of a recording.
fn records(path: &Path) -> Vec<Bytes> {
    let mut recording = Recording::open(path).expect("a recording");
    let mut records = Vec::new();
    while let Some(record) = recording.read().expect("a whole recording") {
        records.push(record);
    }
    records
}

fn recordings() -> Vec<(String, Vec<Bytes>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings");
    let mut found: Vec<_> = fs::read_dir(dir)
        .expect("the recordings")
        .map(|entry| entry.expect("a recording").path())
        .map(|path| {
            let name = path.file_stem().expect("a name").to_string_lossy();
            (name.into_owned(), records(&path))
        })
        .collect();
    found.sort();
    found
}

fn decoding(criterion: &mut Criterion<CpuTime>) {
    let mut by_kind: BTreeMap<&'static str, Vec<Bytes>> = BTreeMap::new();
    for record in recordings().into_iter().flat_map(|(_, records)| records) {
        let event = decode(&record).expect("an event");
        by_kind.entry(event.kind.name()).or_default().push(record);
    }
    let mut group = criterion.benchmark_group("decode");
    for (kind, records) in by_kind {
        group.throughput(Throughput::Elements(records.len() as u64));
        group.bench_function(kind, |bencher| {
            bencher.iter(|| {
                for record in &records {
                    let _ = black_box(decode(black_box(record)));
                }
            });
        });
    }
}

/// Where events and findings end.
struct End {
    /// Rows are made of the events, as for the history and the account.
    rows: bool,
}

impl Sink for End {
    fn event(&mut self, event: &Event, world: &World) {
        if self.rows {
            black_box(row_of(event, world));
        }
    }

    fn finding(&mut self, finding: &Finding) {
        black_box(finding);
    }

    fn free_hostages(&mut self) {}

    fn resume(&mut self, _: &Event, _: Stopped, _: u64) {}
}

impl Means for End {
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

fn pipeline(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("pipeline");
    let policy = Policy::default();
    for (name, records) in recordings() {
        group.throughput(Throughput::Elements(records.len() as u64));
        for rows in [false, true] {
            let name = format!("{name}, {}", if rows { "rows" } else { "detect" });
            group.bench_function(&name, |bencher| {
                bencher.iter_batched_ref(
                    || Pipeline::new(policy.clone()),
                    |pipeline| {
                        for record in &records {
                            pipeline.step(black_box(record), &mut End { rows });
                        }
                    },
                    BatchSize::LargeInput,
                );
            });
        }
    }
}

/// A fleet that was watched for five minutes.
fn fleet(agents: u32) -> State {
    let socket = "/run/agentwatch/agentwatch.sock".to_owned();
    let mut state = State::new(Source::Daemon { socket }, TimeZone::UTC);
    state.size = (200, 60);
    for second in 0..300 {
        state.take(told(agents, second));
    }
    state
}

/// What a daemon tells of a fleet.
fn told(agents: u32, second: u32) -> Update {
    let agent = |id: u32| Agent {
        id,
        name: format!("rollout-{id}"),
        cgroup: format!("/rollouts/{id}"),
        since: "2026-11-21T10:00:00Z".to_owned(),
        processes: u64::from(id % 9),
        memory_bytes: Some(u64::from(id) * 100_000),
        rates: Rates {
            execs: f64::from(id * second % 17),
            bytes_out: f64::from(id * second % 9999),
            cpu: f64::from(id % 100) / 100.0,
            ..Rates::default()
        },
        events: EventCounts {
            delivered: u64::from(id % 50) * u64::from(second),
            ..EventCounts::default()
        },
        ..Agent::default()
    };
    Update::Agents {
        at_ms: i64::from(second) * 1000,
        agents: (1..=agents).map(agent).collect(),
        health: None,
    }
}

/// The live view: a frame with 500 agents, and what a second of them takes.
fn top(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("top");
    let state = fleet(500);
    let theme = Theme::new(Choice::Dark, |_| None);
    let mut terminal = Terminal::new(TestBackend::new(200, 60)).expect("a terminal");
    group.bench_function("frame of 500 agents", |bencher| {
        bencher.iter(|| {
            terminal
                .draw(|frame| draw(black_box(&state), &theme, frame))
                .expect("a frame");
        });
    });
    let mut state = state;
    let mut second = 300;
    group.bench_function("second of 500 agents", |bencher| {
        bencher.iter_batched(
            || {
                second += 1;
                told(500, second)
            },
            |update| state.take(update),
            BatchSize::LargeInput,
        );
    });
}

criterion_group! {
    name = parts;
    config = Criterion::default()
        .with_measurement(CpuTime)
        .sample_size(30)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = decoding, pipeline, top
}
criterion_main!(parts);
