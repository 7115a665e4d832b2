//! What Prometheus reads: how it is with the daemon (`daemon.rs`), what happened on the host, and what
//! happened in each agent. Labels are agents, kinds, severities and reasons: never a pid, a path or an
//! argument, of which there is no end.
//!
//! Counters of the host are of all agents, those that have ended too: a rollout that lives for a second
//! is in them. Those of an agent go when it does.

mod daemon;
mod series;
mod text;

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use axum::body::Bytes;

use super::{State, model::Verb};
use crate::{
    api::model::FindingCounts,
    decode::LOSS_REASONS,
    detect,
    event::Tally,
    finding::{Action, Severity},
    host::{
        Counts,
        watch::{Snapshot, View},
    },
};
use series::{Kept, OTHER, Of, Series, Taken, add};
use text::{Page, Sort, seconds};

/// A page is given again for so long: who asks more often costs nothing.
const EVERY: Duration = Duration::from_millis(900);

const SEVERITIES: [(&str, Severity); 5] = [
    ("critical", Severity::Critical),
    ("high", Severity::High),
    ("medium", Severity::Medium),
    ("low", Severity::Low),
    ("info", Severity::Info),
];
/// What people may ask for: the order is that of [`Meter::asked`].
const VERBS: [Verb; 5] = [
    Verb::Freeze,
    Verb::Thaw,
    Verb::Quarantine,
    Verb::Release,
    Verb::Kill,
];

/// A metric with labels.
struct Family {
    name: &'static str,
    /// Its labels; an agent's has `agent` before them.
    labels: &'static [&'static str],
    help: &'static str,
    /// It is kept in microseconds and shown in seconds.
    time: bool,
}

const fn family(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Family {
    Family {
        name,
        labels,
        help,
        time: false,
    }
}

const EVENTS: &str = "agentwatch_events_total";
const EMITTED: &str = "agentwatch_records_emitted_total";
const DELIVERED: &str = "agentwatch_records_delivered_total";
const LOST: &str = "agentwatch_records_lost_total";
const THINNED: &str = "agentwatch_records_thinned_total";
const CUT: &str = "agentwatch_records_cut_total";
const UNTAGGED: &str = "agentwatch_untagged_total";
const FINDINGS: &str = "agentwatch_findings_total";
const ACTIONS: &str = "agentwatch_actions_total";

const HOST: [Family; 9] = [
    family(EVENTS, &["kind"], "Events, by kind."),
    family(EMITTED, &[], "Records that the kernel was to send."),
    family(DELIVERED, &[], "Records that arrived."),
    family(LOST, &["reason"], "Records that were lost, by reason."),
    family(THINNED, &[], "Repeats that were told by their number."),
    family(CUT, &[], "Records that arrived, but cut."),
    family(
        UNTAGGED,
        &[],
        "Processes and cgroups of agents that could not be tagged: a map was full.",
    ),
    family(FINDINGS, &["detector", "severity"], "Findings."),
    family(
        ACTIONS,
        &["action", "origin", "result"],
        "Actions, by who wanted them (a policy, a request) and what came of them (done, failed, observed).",
    ),
];

const AGENT_EVENTS: &str = "agentwatch_agent_events_total";
const AGENT_OPENS: &str = "agentwatch_agent_opens_total";
const AGENT_EMITTED: &str = "agentwatch_agent_records_emitted_total";
const AGENT_DELIVERED: &str = "agentwatch_agent_records_delivered_total";
const AGENT_LOST: &str = "agentwatch_agent_records_lost_total";
const AGENT_NOT_STORED: &str = "agentwatch_agent_events_not_stored_total";
const AGENT_FINDINGS: &str = "agentwatch_agent_findings_total";
const AGENT_TRAFFIC: &str = "agentwatch_agent_traffic_bytes_total";
const AGENT_CPU: &str = "agentwatch_agent_cpu_seconds_total";

const AGENT: [Family; 9] = [
    family(AGENT_EVENTS, &["kind"], "Events of an agent, by kind."),
    family(
        AGENT_OPENS,
        &[],
        "Files that an agent opened, for reading too.",
    ),
    family(
        AGENT_EMITTED,
        &[],
        "Records that the kernel was to send of an agent.",
    ),
    family(AGENT_DELIVERED, &[], "Records of an agent that arrived."),
    family(
        AGENT_LOST,
        &["reason"],
        "Records of an agent that were lost, by reason.",
    ),
    family(
        AGENT_NOT_STORED,
        &[],
        "Events and findings of an agent that are not in the history.",
    ),
    family(AGENT_FINDINGS, &["severity"], "Findings of an agent."),
    family(AGENT_TRAFFIC, &["direction"], "Payload bytes of an agent."),
    Family {
        time: true,
        ..family(AGENT_CPU, &[], "Processor time of an agent.")
    },
];

/// What is kept between two pages.
#[derive(Default)]
pub struct Meter {
    kept: Mutex<(Kept, Option<(Instant, Bytes)>)>,
    /// What people asked for: done, and not.
    asked: [[AtomicU64; 2]; VERBS.len()],
}

impl Meter {
    /// Counts an action that somebody asked for.
    pub fn acted(&self, verb: Verb, done: bool) {
        if let Some(at) = VERBS.iter().position(|known| *known == verb) {
            self.asked[at][usize::from(!done)].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The page, of now or of less than a second ago.
    pub fn page(&self, state: &State) -> Bytes {
        let mut both = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let (kept, page) = &mut *both;
        if let Some((made, page)) = page
            && made.elapsed() < EVERY
        {
            return page.clone();
        }
        let text = Bytes::from(self.text(state, kept));
        *page = Some((Instant::now(), text.clone()));
        text
    }

    fn text(&self, state: &State, kept: &mut Kept) -> String {
        let snapshot = state.shared.snapshot.load();
        let mut views: Vec<&View> = snapshot.agents.iter().collect();
        views.sort_by_key(|view| (view.since, view.number));
        let agents = views.iter().map(|view| Of {
            number: view.number,
            name: view.name.to_string(),
            acted_upon: view.standing.reason.is_some(),
            series: of_agent(view, &totals(state, view)),
        });
        let host = self.of_host(state, &snapshot, &views);
        let taken = kept.take(agents.collect(), host);
        let mut page = Page::default();
        daemon::write(&mut page, state, &snapshot);
        for family in &HOST {
            page.head(family.name, Sort::Counter, family.help);
            lines(&mut page, family, None, &taken.host);
        }
        for family in &AGENT {
            page.head(family.name, Sort::Counter, family.help);
            for (_, name, series) in &taken.named {
                lines(&mut page, family, Some(name), series);
            }
            lines(&mut page, family, Some(OTHER), &taken.other);
        }
        gauges(&mut page, state, &views, &taken);
        page.finish()
    }

    fn of_host(&self, state: &State, snapshot: &Snapshot, views: &[&View]) -> Series {
        let past = &snapshot.past;
        let mut counts = past.counts.clone();
        let mut series = Series::new();
        for reason in LOSS_REASONS {
            add(&mut series, LOST, &[reason], 0);
        }
        for (reason, n) in &past.lost {
            add(&mut series, LOST, &[reason], *n);
        }
        for (metric, n) in [
            (EMITTED, past.emitted),
            (DELIVERED, past.delivered),
            (THINNED, past.thinned),
            (CUT, past.cut),
            (UNTAGGED, past.untagged),
        ] {
            add(&mut series, metric, &[], n);
        }
        for view in views {
            counts.add(&view.counts);
            let nothing = Tally::default();
            let figures = state.figures.load();
            let tally = figures.tally(view.number).unwrap_or(&nothing);
            for (reason, n) in &tally.lost {
                add(&mut series, LOST, &[reason], *n);
            }
            for (metric, n) in [
                (EMITTED, tally.emitted),
                (DELIVERED, view.delivered),
                (THINNED, tally.thinned),
                (CUT, tally.cut),
                (UNTAGGED, tally.untagged),
            ] {
                add(&mut series, metric, &[], n);
            }
        }
        happened(&mut series, &counts);
        for (verb, [done, failed]) in VERBS.iter().zip(&self.asked) {
            for (result, n) in [("done", done), ("failed", failed)] {
                let n = n.load(Ordering::Relaxed);
                add(&mut series, ACTIONS, &[verb.name(), "request", result], n);
            }
        }
        series
    }
}

/// Events, findings, and what policies did, of all agents.
fn happened(series: &mut Series, counts: &Counts) {
    for (kind, n) in &counts.kinds {
        add(series, EVENTS, &[kind], *n);
    }
    // All that there can be: an alert on what never happened before sees its first time.
    for detector in detect::IDS {
        for (severity, _) in SEVERITIES {
            add(series, FINDINGS, &[detector, severity], 0);
        }
    }
    for verb in ["quarantine", "freeze", "kill"] {
        for result in ["done", "failed", "observed"] {
            add(series, ACTIONS, &[verb, "policy", result], 0);
        }
    }
    for (found, n) in &counts.found {
        let severity = SEVERITIES.iter().find(|(_, own)| *own == found.severity);
        let severity = severity.map_or("", |(name, _)| name);
        add(series, FINDINGS, &[found.detector, severity], *n);
        let action = match found.requested {
            Action::Log | Action::Alert => continue,
            Action::Quarantine => "quarantine",
            Action::Freeze => "freeze",
            Action::Kill => "kill",
        };
        let result = match (found.taken == found.requested, found.observed) {
            (true, _) => "done",
            (false, true) => "observed",
            (false, false) => "failed",
        };
        add(series, ACTIONS, &[action, "policy", result], *n);
    }
}

/// An agent, as the API tells of it.
fn totals(state: &State, view: &View) -> super::model::Agent {
    state.figures.load().agent(view, &state.shared.root)
}

fn of_agent(view: &View, agent: &super::model::Agent) -> Series {
    let mut series = Series::new();
    for (kind, n) in &view.counts.kinds {
        add(&mut series, AGENT_EVENTS, &[kind], *n);
    }
    for (metric, n) in [
        (AGENT_OPENS, agent.totals.opens),
        (AGENT_EMITTED, agent.events.emitted),
        (AGENT_DELIVERED, agent.events.delivered),
        (AGENT_NOT_STORED, agent.events.not_stored),
        (AGENT_CPU, agent.totals.cpu_us),
    ] {
        add(&mut series, metric, &[], n);
    }
    for reason in LOSS_REASONS {
        if let Some(n) = agent.events.lost.get(reason) {
            add(&mut series, AGENT_LOST, &[reason], *n);
        }
    }
    let FindingCounts {
        critical,
        high,
        medium,
        low,
        info,
    } = agent.findings;
    for ((severity, _), n) in SEVERITIES.iter().zip([critical, high, medium, low, info]) {
        if n > 0 {
            add(&mut series, AGENT_FINDINGS, &[severity], n);
        }
    }
    let (bytes_in, bytes_out) = (agent.totals.bytes_in, agent.totals.bytes_out);
    add(&mut series, AGENT_TRAFFIC, &["in"], bytes_in);
    add(&mut series, AGENT_TRAFFIC, &["out"], bytes_out);
    series
}

/// The values of a metric.
fn lines(page: &mut Page, family: &Family, agent: Option<&str>, series: &Series) {
    let first = (family.name, [""; 3]);
    for ((_, values), n) in series
        .range(first..)
        .take_while(|((name, _), _)| *name == family.name)
    {
        let agent = agent.map(|agent| ("agent", agent));
        let labels = family.labels.iter().copied().zip(values.iter().copied());
        let labels: Vec<(&str, &str)> = agent.into_iter().chain(labels).collect();
        if family.time {
            page.line(family.name, &labels, seconds(*n));
        } else {
            page.line(family.name, &labels, n);
        }
    }
}

/// A figure of an agent.
type Value = fn(&View, &super::model::Agent) -> u64;

/// What agents have now.
fn gauges(page: &mut Page, state: &State, views: &[&View], taken: &Taken) {
    let named = |view: &View| !taken.rest.contains(&view.number);
    let state_name = "agentwatch_agent_state";
    page.head(
        state_name,
        Sort::Gauge,
        "1 for the state that an agent is in.",
    );
    for view in views.iter().filter(|view| named(view)) {
        let now = view.standing.state().to_string();
        page.line(state_name, &[("agent", &view.name), ("state", &now)], 1);
    }
    let all: [(&str, &str, Value); 3] = [
        (
            "agentwatch_agent_processes",
            "Processes of an agent that are alive.",
            |_, agent| agent.processes,
        ),
        (
            "agentwatch_agent_memory_bytes",
            "Memory of an agent's processes.",
            |_, agent| agent.memory_bytes.unwrap_or(0),
        ),
        (
            "agentwatch_agent_denials_not_in_force",
            "1 where an agent's policy denies something that this kernel cannot refuse.",
            |view, _| u64::from(!view.not_in_force.is_empty()),
        ),
    ];
    for (name, help, value) in all {
        page.head(name, Sort::Gauge, help);
        let mut rest = 0;
        for view in views {
            let value = value(view, &totals(state, view));
            if named(view) {
                page.line(name, &[("agent", &view.name)], value);
            } else {
                rest += value;
            }
        }
        page.line(name, &[("agent", OTHER)], rest);
    }
}
