//! Figures of agents over time: read from the kernel's maps and from the cgroups, once a second, beside
//! the way of the events.

use std::{collections::HashMap, fs, time::Instant};

use super::model::{Agent, DeletionBudget, EventCounts, Rates, Totals};
use crate::{
    event::Tally,
    host::watch::{Snapshot, View},
    probe::gauge::Gauge,
};

/// How often memory is looked at: without a controller that knows it, that is a file for each process.
const MEMORY_EVERY: u32 = 5;

/// Of all agents, at one moment.
#[derive(Default)]
pub struct Figures {
    /// How many have been taken before.
    turn: u32,
    by_agent: HashMap<u32, Figure>,
}

/// Of one.
#[derive(Clone, Default)]
struct Figure {
    taken: Option<Instant>,
    processes: u64,
    totals: Totals,
    rates: Rates,
    memory_bytes: Option<u64>,
    budget: Option<DeletionBudget>,
    events: EventCounts,
    tally: Tally,
}

impl Figures {
    /// What the kernel counted of an agent.
    pub fn tally(&self, agent: u32) -> Option<&Tally> {
        self.by_agent.get(&agent).map(|figure| &figure.tally)
    }

    /// The figures of now, where these are those before.
    pub fn next(&self, gauge: &Gauge, snapshot: &Snapshot) -> Self {
        let mut processes: HashMap<u32, u64> = HashMap::new();
        for (_, task) in gauge.tasks() {
            *processes.entry(task.agent).or_default() += 1;
        }
        let mut open: HashMap<u32, (u64, u64)> = HashMap::new();
        for (_, flow) in gauge.flows() {
            let (bytes_in, bytes_out) = open.entry(flow.agent).or_default();
            *bytes_in = bytes_in.saturating_add(flow.bytes_in);
            *bytes_out = bytes_out.saturating_add(flow.bytes_out);
        }
        let budgets = gauge.budgets();
        let by_agent = snapshot.agents.iter().map(|view| {
            let tally = Tally::from(&gauge.tally(view.number));
            let (open_in, open_out) = open.get(&view.number).copied().unwrap_or_default();
            let totals = Totals {
                execs: view.counts.execs,
                opens: tally.opens_read + tally.opens_write,
                deletes: view.counts.deletes,
                connects: view.counts.connects,
                bytes_in: view.counts.closed_in.saturating_add(open_in),
                bytes_out: view.counts.closed_out.saturating_add(open_out),
                cpu_us: cpu_us(view).unwrap_or(0),
            };
            let before = self.by_agent.get(&view.number);
            let now = Instant::now();
            let figure = Figure {
                taken: Some(now),
                processes: processes.get(&view.number).copied().unwrap_or(0),
                rates: before.map_or_else(Rates::default, |before| rates(before, &totals, now)),
                totals,
                memory_bytes: before
                    .filter(|_| !self.turn.is_multiple_of(MEMORY_EVERY))
                    .map_or_else(|| memory(view), |before| before.memory_bytes),
                budget: budgets.get(&view.number).map(|left| DeletionBudget {
                    left: left.outside.0,
                    limit: left.outside.1,
                    workspace_left: left.workspace.0,
                    workspace_limit: left.workspace.1,
                }),
                events: EventCounts {
                    emitted: tally.emitted,
                    delivered: view.delivered,
                    lost: tally
                        .lost
                        .iter()
                        .map(|(reason, n)| ((*reason).to_owned(), *n))
                        .collect(),
                    not_stored: view.not_stored,
                },
                tally,
            };
            (view.number, figure)
        });
        Self {
            turn: self.turn.wrapping_add(1),
            by_agent: by_agent.collect(),
        }
    }

    /// An agent, with its figures.
    pub fn agent(&self, view: &View, root: &str) -> Agent {
        let figure = self.by_agent.get(&view.number).cloned().unwrap_or_default();
        let path = view.cgroup.path().as_os_str().as_encoded_bytes();
        let path = crate::text::escape(path);
        Agent {
            id: view.number,
            name: view.name.to_string(),
            state: view.standing.state(),
            state_reason: view.standing.reason.clone(),
            found_by: view.found_by.clone(),
            cgroup: path.strip_prefix(root).unwrap_or(&path).to_owned(),
            run: view.run.clone(),
            policy: view.policy_source.to_string(),
            workspace: view.workspace.clone(),
            since: view.since.to_string(),
            processes: figure.processes,
            rates: figure.rates,
            totals: figure.totals,
            memory_bytes: figure.memory_bytes,
            findings: view.counts.findings.clone(),
            deletion_budget: figure.budget,
            events: figure.events,
        }
    }
}

/// What happened in a second since the figures before.
fn rates(before: &Figure, now: &Totals, at: Instant) -> Rates {
    let Some(taken) = before.taken else {
        return Rates::default();
    };
    let interval_s = at.duration_since(taken).as_secs_f64();
    if interval_s <= 0.0 {
        return Rates::default();
    }
    #[expect(
        clippy::cast_precision_loss,
        reason = "a rate for people: 52 bits are enough"
    )]
    let rate = |before: u64, now: u64| now.saturating_sub(before) as f64 / interval_s;
    let old = &before.totals;
    Rates {
        interval_s,
        execs: rate(old.execs, now.execs),
        opens: rate(old.opens, now.opens),
        deletes: rate(old.deletes, now.deletes),
        connects: rate(old.connects, now.connects),
        bytes_in: rate(old.bytes_in, now.bytes_in),
        bytes_out: rate(old.bytes_out, now.bytes_out),
        cpu: rate(old.cpu_us, now.cpu_us) / 1_000_000.0,
    }
}

/// Processor time of a cgroup and what is below it, microseconds.
fn cpu_us(view: &View) -> Option<u64> {
    let stat = fs::read_to_string(view.cgroup.path().join("cpu.stat")).ok()?;
    let usage = stat
        .lines()
        .find_map(|line| line.strip_prefix("usage_usec "))?;
    usage.trim().parse().ok()
}

/// Memory of a cgroup; else the resident sets of its processes.
fn memory(view: &View) -> Option<u64> {
    let current = fs::read_to_string(view.cgroup.path().join("memory.current"));
    if let Ok(text) = current {
        return text.trim().parse().ok();
    }
    let pids = view.cgroup.processes().ok()?;
    Some(pids.into_iter().filter_map(rss_bytes).sum())
}

/// Resident memory of a process: the second number of `/proc/PID/statm`, in pages.
pub fn rss_bytes(pid: u32) -> Option<u64> {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    pages.checked_mul(rustix::param::page_size() as u64)
}
