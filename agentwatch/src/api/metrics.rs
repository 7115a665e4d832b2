//! Prometheus' text format. Labels are agents, severities and reasons of loss: never a pid, a path or an
//! argument, of which there is no end.

use std::fmt::Write as _;

use super::model::{Agent, Health};

/// Most agents that have figures here, by name; `agents` counts all of them.
const AGENTS: usize = 500;

struct Page(String);

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP agentwatch_{name} {help}");
        let _ = writeln!(self.0, "# TYPE agentwatch_{name} {kind}");
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let _ = write!(self.0, "agentwatch_{name}");
        for (at, (label, text)) in labels.iter().enumerate() {
            let text = text
                .replace('\\', "\\\\")
                .replace('"', "\\\"")
                .replace('\n', "\\n");
            let open = if at == 0 { '{' } else { ',' };
            let _ = write!(self.0, "{open}{label}=\"{text}\"");
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        let _ = writeln!(self.0, " {value}");
    }
}

/// A figure of each agent.
struct Figure {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    value: fn(&Agent) -> Option<u64>,
}

const fn figure(
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    value: fn(&Agent) -> Option<u64>,
) -> Figure {
    Figure {
        name,
        kind,
        help,
        value,
    }
}

const FIGURES: [Figure; 9] = [
    figure("processes", "gauge", "Processes that are alive.", |a| {
        Some(a.processes)
    }),
    figure("execs_total", "counter", "Programs started.", |a| {
        Some(a.totals.execs)
    }),
    figure("opens_total", "counter", "Files opened.", |a| {
        Some(a.totals.opens)
    }),
    figure("deletes_total", "counter", "Files deleted.", |a| {
        Some(a.totals.deletes)
    }),
    figure("connects_total", "counter", "Connections asked for.", |a| {
        Some(a.totals.connects)
    }),
    figure(
        "events_total",
        "counter",
        "Records that the kernel was to send.",
        |a| Some(a.events.emitted),
    ),
    figure(
        "events_delivered_total",
        "counter",
        "Records that arrived.",
        |a| Some(a.events.delivered),
    ),
    figure(
        "events_not_stored_total",
        "counter",
        "Events that are not in the history.",
        |a| Some(a.events.not_stored),
    ),
    figure(
        "memory_bytes",
        "gauge",
        "Memory of an agent's processes.",
        |a| a.memory_bytes,
    ),
];

/// The page.
pub fn text(health: &Health, agents: &[Agent]) -> String {
    let mut page = Page(String::new());
    of_daemon(&mut page, health, agents);
    let agents = &agents[..agents.len().min(AGENTS)];
    for figure in &FIGURES {
        page.head(figure.name, figure.kind, figure.help);
        for agent in agents {
            if let Some(value) = (figure.value)(agent) {
                page.line(figure.name, &[("agent", &agent.name)], value);
            }
        }
    }
    with_more_labels(&mut page, agents);
    page.0
}

fn of_daemon(page: &mut Page, health: &Health, agents: &[Agent]) {
    page.head("build_info", "gauge", "What runs, and where.");
    let build = [("version", &*health.version), ("node", &*health.node)];
    page.line("build_info", &build, 1);
    page.head("agents", "gauge", "Agents by state.");
    for state in ["watched", "quarantined", "frozen", "killed", "gone"] {
        let n = agents
            .iter()
            .filter(|agent| agent.state.to_string() == state)
            .count();
        page.line("agents", &[("state", state)], n);
    }
    page.head(
        "agents_ended_total",
        "counter",
        "Agents that were watched and are gone.",
    );
    page.line("agents_ended_total", &[], health.agents_gone);
    page.head(
        "strays_total",
        "counter",
        "Records of cgroups that turned out to be no agent's.",
    );
    page.line("strays_total", &[], health.strays);
    page.head(
        "stream_missed_total",
        "counter",
        "Items that readers of the stream missed.",
    );
    page.line("stream_missed_total", &[], health.stream_missed);
    page.head("map_entries", "gauge", "Entries of the kernel's maps.");
    for (map, n) in &health.maps {
        page.line("map_entries", &[("map", map)], n);
    }
    page.head("history_up", "gauge", "Whether the history can be written.");
    page.line("history_up", &[], u8::from(health.history_error.is_none()));
}

fn with_more_labels(page: &mut Page, agents: &[Agent]) {
    page.head("traffic_bytes_total", "counter", "Payload bytes.");
    for agent in agents {
        for (direction, n) in [
            ("in", agent.totals.bytes_in),
            ("out", agent.totals.bytes_out),
        ] {
            let labels = [("agent", &*agent.name), ("direction", direction)];
            page.line("traffic_bytes_total", &labels, n);
        }
    }
    page.head("cpu_seconds_total", "counter", "Processor time.");
    for agent in agents {
        let cpu = agent.totals.cpu_us;
        let value = format!("{}.{:06}", cpu / 1_000_000, cpu % 1_000_000);
        page.line("cpu_seconds_total", &[("agent", &agent.name)], value);
    }
    page.head(
        "events_lost_total",
        "counter",
        "Records that were lost, by reason.",
    );
    for agent in agents {
        for (reason, n) in &agent.events.lost {
            let labels = [("agent", &*agent.name), ("reason", &**reason)];
            page.line("events_lost_total", &labels, n);
        }
    }
    page.head("findings_total", "counter", "Findings, by severity.");
    for agent in agents {
        let found = &agent.findings;
        for (severity, n) in [
            ("critical", found.critical),
            ("high", found.high),
            ("medium", found.medium),
            ("low", found.low),
            ("info", found.info),
        ] {
            let labels = [("agent", &*agent.name), ("severity", severity)];
            if n > 0 {
                page.line("findings_total", &labels, n);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_break_a_line() {
        let agent = Agent {
            name: "a\"b\\c\nd".to_owned(),
            processes: 3,
            ..Agent::default()
        };
        let text = text(&Health::default(), &[agent]);
        assert!(
            text.contains("agentwatch_processes{agent=\"a\\\"b\\\\c\\nd\"} 3\n"),
            "{text}"
        );
        let is_whole = |line: &str| line.starts_with("# ") || line.starts_with("agentwatch_");
        assert!(text.lines().all(is_whole), "{text}");
    }
}
