//! How it is with the daemon itself.

use std::{collections::BTreeMap, fs};

use super::{Page, Sort, text};
use crate::{
    api::{State, figures, model::Check},
    host::watch::Snapshot,
    probe::support,
    store::{self, export::Status},
};

/// Writes it.
pub fn write(page: &mut Page, state: &State, snapshot: &Snapshot) {
    let shared = &state.shared;
    let name = "agentwatch_build_info";
    page.head(name, Sort::Gauge, "What runs, and where.");
    let kernel = support::release();
    let labels = [
        ("version", env!("CARGO_PKG_VERSION")),
        ("node", &shared.node),
        ("kernel", &kernel),
    ];
    page.line(name, &labels, 1);
    process(page, state);
    page.one(
        "agentwatch_snapshot_timestamp_seconds",
        Sort::Gauge,
        "When the thread that watches last said how it is.",
        snapshot.taken.as_millisecond() / 1000,
    );
    agents(page, snapshot);
    let mut latency = snapshot.past.counts.latency.clone();
    for view in &snapshot.agents {
        latency.add(&view.counts.latency);
    }
    page.histogram(
        "agentwatch_finding_latency_seconds",
        "From the deciding event in the kernel to the finding, and the order to act where there is one.",
        &latency,
    );
    capabilities(page, &shared.doctor.checks);
    queues(page, state);
    history(page, state);
    exports(page, state);
}

fn agents(page: &mut Page, snapshot: &Snapshot) {
    let name = "agentwatch_agents";
    page.head(name, Sort::Gauge, "Agents by state.");
    for state in ["watched", "quarantined", "frozen", "killed", "gone"] {
        let all = snapshot.agents.iter();
        let n = all.filter(|view| view.standing.state().to_string() == state);
        page.line(name, &[("state", state)], n.count());
    }
    page.one(
        "agentwatch_agents_ended_total",
        Sort::Counter,
        "Agents that were watched and are gone.",
        snapshot.gone,
    );
    page.one(
        "agentwatch_records_stray_total",
        Sort::Counter,
        "Records of cgroups that turned out to be no agent's.",
        snapshot.strays,
    );
}

/// What the capabilities rest on: the hooks that give the same are one.
fn capabilities(page: &mut Page, checks: &[Check]) {
    let mut all: BTreeMap<&str, Vec<&Check>> = BTreeMap::new();
    for check in checks {
        all.entry(&check.gives).or_default().push(check);
    }
    let name = "agentwatch_capability_info";
    let help = "What a capability rests on, and why on nothing better or not at all.";
    page.head(name, Sort::Gauge, help);
    for (capability, hooks) in &all {
        let missing = hooks.iter().find_map(|hook| hook.missing.as_deref());
        let lower = hooks.iter().find_map(|hook| hook.lower.as_deref());
        let works = hooks.iter().find(|hook| hook.ok).or(hooks.first());
        let labels = [
            ("capability", *capability),
            ("tier", works.map_or("", |hook| &*hook.tier)),
            ("reason", missing.or(lower).unwrap_or("")),
        ];
        page.line(name, &labels, 1);
    }
    let name = "agentwatch_capability_up";
    page.head(
        name,
        Sort::Gauge,
        "Whether all hooks of a capability are there; without a required one nothing is watched.",
    );
    for (capability, hooks) in &all {
        let required = hooks.iter().any(|hook| hook.required).to_string();
        let up = hooks.iter().all(|hook| hook.ok);
        let labels = [("capability", *capability), ("required", &required)];
        page.line(name, &labels, u8::from(up));
    }
}

/// What waits, and how full the kernel's maps are.
fn queues(page: &mut Page, state: &State) {
    let (orders, stream) = (&state.shared.ask, state.hub.queue());
    let waiting = [
        (
            "history",
            state.shared.actions.totals().waiting,
            store::QUEUE,
        ),
        (
            "orders",
            (orders.max_capacity() - orders.capacity()) as u64,
            orders.max_capacity(),
        ),
        ("stream", stream.0 as u64, stream.1),
    ];
    let name = "agentwatch_queue_items";
    page.head(name, Sort::Gauge, "What waits in a queue.");
    for (queue, n, _) in waiting {
        page.line(name, &[("queue", queue)], n);
    }
    let name = "agentwatch_queue_limit_items";
    page.head(name, Sort::Gauge, "What may wait in a queue.");
    for (queue, _, most) in waiting {
        page.line(name, &[("queue", queue)], most);
    }
    let [prio, bulk] = state.gauge.unread();
    let rings = [("urgent", prio), ("bulk", bulk)];
    let name = "agentwatch_ring_unread_bytes";
    page.head(name, Sort::Gauge, "What a ring has that is not read yet.");
    for (ring, (unread, _)) in rings {
        page.line(name, &[("ring", ring)], unread);
    }
    let name = "agentwatch_ring_limit_bytes";
    page.head(name, Sort::Gauge, "What a ring holds.");
    for (ring, (_, most)) in rings {
        page.line(name, &[("ring", ring)], most);
    }
    let fills = state.gauge.fills();
    let name = "agentwatch_map_entries";
    page.head(name, Sort::Gauge, "Entries of the kernel's maps.");
    for fill in fills {
        page.line(name, &[("map", fill.map)], fill.entries);
    }
    let name = "agentwatch_map_limit_entries";
    page.head(
        name,
        Sort::Gauge,
        "Entries that the kernel's maps can have.",
    );
    for fill in fills {
        page.line(name, &[("map", fill.map)], fill.most);
    }
    page.one(
        "agentwatch_stream_readers",
        Sort::Gauge,
        "Who reads the stream.",
        state.hub.readers(),
    );
    page.one(
        "agentwatch_stream_missed_total",
        Sort::Counter,
        "Items that readers of the stream missed.",
        state.hub.missed(),
    );
}

fn history(page: &mut Page, state: &State) {
    let log = &state.shared.actions;
    let totals = log.totals();
    page.one(
        "agentwatch_history_up",
        Sort::Gauge,
        "Whether the history can be written.",
        u8::from(log.error().is_none()),
    );
    page.one(
        "agentwatch_history_lag_seconds",
        Sort::Gauge,
        "How long the oldest of what is not written yet has waited.",
        text::seconds(totals.lag_ns / 1000),
    );
    page.one(
        "agentwatch_history_rows_total",
        Sort::Counter,
        "Events, findings and actions that are in the history.",
        totals.stored,
    );
    page.one(
        "agentwatch_history_dropped_total",
        Sort::Counter,
        "Events, findings and actions that are not in the history.",
        totals.dropped,
    );
    page.one(
        "agentwatch_history_removed_events_total",
        Sort::Counter,
        "Events that were in the history and were removed, too old or too many.",
        totals.removed,
    );
}

/// Where the history goes beside the local disk.
fn exports(page: &mut Page, state: &State) {
    let exports = &state.shared.exports;
    if exports.is_empty() {
        return;
    }
    let mut each = |name, sort, help, value: &dyn Fn(&Status) -> String| {
        page.head(name, sort, help);
        for (exporter, status) in exports {
            page.line(name, &[("exporter", exporter)], value(status));
        }
    };
    each(
        "agentwatch_export_up",
        Sort::Gauge,
        "Whether the destination took what it was sent last.",
        &|status| u8::from(status.fault().is_none()).to_string(),
    );
    each(
        "agentwatch_export_rows_total",
        Sort::Counter,
        "Rows of the history that the destination has taken.",
        &|status| status.rows().to_string(),
    );
    each(
        "agentwatch_export_batches_total",
        Sort::Counter,
        "Batches of rows that the destination has taken.",
        &|status| status.batches().to_string(),
    );
    each(
        "agentwatch_export_lost_rows_total",
        Sort::Counter,
        "Rows that were removed from the history before the destination had them.",
        &|status| status.lost().to_string(),
    );
    each(
        "agentwatch_export_lag_rows",
        Sort::Gauge,
        "Rows of the history that the destination has not got yet.",
        &|status| status.behind_rows().to_string(),
    );
    each(
        "agentwatch_export_lag_seconds",
        Sort::Gauge,
        "How long the oldest of them has waited.",
        &|status| format!("{:.3}", status.behind_seconds()),
    );
    let name = "agentwatch_export_failures_total";
    page.head(
        name,
        Sort::Counter,
        "How often the destination did not take a batch, by the reason.",
    );
    for (exporter, status) in exports {
        for (class, number) in status.faults() {
            let labels = [("exporter", *exporter), ("reason", class.name())];
            page.line(name, &labels, number);
        }
    }
}

/// The daemon's own process, by the names that all programs use for it.
fn process(page: &mut Page, state: &State) {
    page.one(
        "process_start_time_seconds",
        Sort::Gauge,
        "Start of the daemon, Unix time.",
        state.shared.since.as_second(),
    );
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let used_us = u64::try_from(used.tv_sec).unwrap_or(0) * 1_000_000
        + u64::try_from(used.tv_nsec).unwrap_or(0) / 1000;
    page.one(
        "process_cpu_seconds_total",
        Sort::Counter,
        "Processor time of the daemon.",
        text::seconds(used_us),
    );
    if let Some(bytes) = figures::rss_bytes(std::process::id()) {
        page.one(
            "process_resident_memory_bytes",
            Sort::Gauge,
            "Resident memory of the daemon.",
            bytes,
        );
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        page.one(
            "process_open_fds",
            Sort::Gauge,
            "Open files of the daemon.",
            open.count(),
        );
    }
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    if let Some(most) = limit.current {
        page.one(
            "process_max_fds",
            Sort::Gauge,
            "Most files that the daemon may have open.",
            most,
        );
    }
}
