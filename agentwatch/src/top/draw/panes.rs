//! The parts of the screen of one agent: lists, one of whose lines is selected.

use std::collections::HashSet;

use ratatui::{
    layout::Rect,
    text::{Line, Span},
};
use serde_json::Value;

use super::{
    super::{
        state::{
            Found, Pane, Screen, State,
            detail::{Look, Node, Rated},
            fleet::real,
        },
        theme::Theme,
    },
    agents, layout,
    pen::{Pen, nth},
    story, words,
};
use crate::{
    api::model::{FileChange, ProcessRates},
    cli::history::base,
    top::state::millis,
};

/// The name of the agent on the screen.
pub(super) fn name(state: &State) -> &str {
    state.target().map_or("", |row| row.agent.name.as_str())
}

/// How many lines a pane has.
pub fn count(state: &State, pane: Pane) -> usize {
    if let Screen::Agents = state.screen {
        return 0;
    }
    match pane {
        Pane::Findings => state.findings(Some(name(state))).count(),
        Pane::Policy => policy(state).len(),
        Pane::Processes => state.look().map_or(0, |look| look.now.processes.len()),
        Pane::Flows => state.look().map_or(0, |look| look.now.flows.len()),
        Pane::Files => state.look().map_or(0, |look| look.files().len()),
    }
}

fn label(state: &State, pane: Pane) -> String {
    match pane {
        Pane::Policy => pane.name().to_owned(),
        _ => format!("{} {}", pane.name(), count(state, pane)),
    }
}

/// Where the names of the panes are in their line.
fn tab_places(state: &State, area: Rect) -> Vec<(Pane, Rect, String)> {
    let mut x = area.x + 1;
    Pane::ALL
        .into_iter()
        .map(|pane| {
            let text = format!(" {} {} ", pane.index() + 1, label(state, pane));
            let width = u16::try_from(text.chars().count()).unwrap_or(0);
            let place = Rect { x, width, ..area }.intersection(area);
            x = x.saturating_add(width + 1);
            (pane, place, text)
        })
        .collect()
}

/// The pane whose name is there.
pub fn tab_at(state: &State, area: Rect, x: u16) -> Option<Pane> {
    tab_places(state, area)
        .into_iter()
        .find(|(_, place, _)| (place.x..place.right()).contains(&x))
        .map(|(pane, _, _)| pane)
}

/// Draws the panes' names.
pub fn tabs(pen: &mut Pen<'_>, state: &State, area: Rect) {
    let theme = *pen.theme;
    pen.text(area, &"─".repeat(usize::from(area.width)), theme.faint);
    for (pane, place, text) in tab_places(state, area) {
        let style = if pane == state.pane {
            theme.accent.patch(theme.selected)
        } else {
            theme.title
        };
        pen.text(place, &text, style);
    }
}

/// Where the lines of a pane are: without its title, and without what is told below them.
fn list_area(state: &State, pane: Pane, area: Rect, titled: bool) -> Rect {
    let above = u16::from(titled) + u16::from(columns(pane, area.width).is_some());
    let area = Rect {
        y: area.y + above.min(area.height),
        height: area.height.saturating_sub(above),
        ..area
    };
    if pane == Pane::Findings {
        let lines = u16::try_from(count(state, pane)).unwrap_or(u16::MAX);
        let height = lines.min((area.height / 3).max(1)).min(area.height);
        return Rect { height, ..area };
    }
    area
}

/// The line of a pane that is at a line of the screen.
pub fn line_at(state: &State, pane: Pane, area: Rect, y: u16) -> Option<usize> {
    let titled = layout::agent(state.size, state.pane).tabs.is_none();
    let list = list_area(state, pane, area, titled);
    let height = usize::from(list.height);
    let window = layout::window(count(state, pane), selected(state, pane), height);
    let line = window.start + usize::from(y.checked_sub(list.y)?);
    window.contains(&line).then_some(line)
}

/// The selected line of a pane.
pub(super) fn selected(state: &State, pane: Pane) -> usize {
    state.lines[pane.index()].min(count(state, pane).saturating_sub(1))
}

/// The selected finding.
pub fn selected_finding(state: &State) -> Option<&Found> {
    let at = selected(state, Pane::Findings);
    state.findings(Some(name(state))).nth(at)
}

/// From this width on the processes' bytes are shown too.
const WITH_BYTES: u16 = 96;

/// The names of a pane's columns.
fn columns(pane: Pane, width: u16) -> Option<&'static str> {
    Some(match pane {
        Pane::Processes if width >= WITH_BYTES => {
            "     PID   UID   CPU   MEM EXEC/s OPEN/s  DEL/s   IN/s  OUT/s  COMMAND"
        }
        Pane::Processes => "     PID   UID   CPU   MEM EXEC/s OPEN/s  DEL/s  COMMAND",
        Pane::Flows => "  IN/s OUT/s     IN   OUT  PEER",
        Pane::Files | Pane::Findings | Pane::Policy => return None,
    })
}

/// Draws a pane; with its title where several are on the screen.
pub fn draw(pen: &mut Pen<'_>, state: &State, pane: Pane, area: Rect, titled: bool) {
    if area.height == 0 {
        return;
    }
    let theme = *pen.theme;
    let active = super::agent::is_active(state, pane);
    let mut above = 0;
    if titled {
        let text = format!("{} {}", pane.index() + 1, label(state, pane));
        pen.rule(nth(area, 0), &text, active);
        above = 1;
    }
    if let Some(columns) = columns(pane, area.width) {
        pen.text(nth(area, above), columns, theme.title);
    }
    let list = list_area(state, pane, area, titled);
    let count = count(state, pane);
    if count == 0 {
        let rest = Rect {
            height: area.bottom().saturating_sub(list.y),
            ..list
        };
        pen.empty(nth(rest, 0), &nothing(state, pane));
        return;
    }
    let at = selected(state, pane);
    let window = layout::window(count, at, usize::from(list.height));
    let lines = lines(state, pane, window.clone(), area.width, &theme);
    for (n, line) in lines.iter().enumerate() {
        let place = nth(list, n);
        pen.line(place, line);
        if active && window.start + n == at && pane != Pane::Policy {
            pen.buf.set_style(place, theme.selected);
        }
    }
    if pane == Pane::Findings {
        let below = Rect {
            y: list.bottom(),
            height: area.bottom().saturating_sub(list.bottom()),
            ..list
        };
        if let Some(found) = selected_finding(state) {
            story::draw(pen, state, &found.finding, below);
        }
    }
}

/// Why a pane is empty.
fn nothing(state: &State, pane: Pane) -> String {
    let look = state.look();
    if pane == Pane::Findings {
        return "nothing found".to_owned();
    }
    let Some(look) = look else {
        return "asking".to_owned();
    };
    if let Some(error) = &look.now.error {
        return error.clone();
    }
    match pane {
        Pane::Processes => "none of its processes is alive",
        Pane::Flows => "no connection is open",
        Pane::Files => "it changed no file, as far as the history goes",
        Pane::Findings => "nothing found",
        Pane::Policy => "asking",
    }
    .to_owned()
}

/// Some lines of a pane.
fn lines(
    state: &State,
    pane: Pane,
    window: std::ops::Range<usize>,
    width: u16,
    theme: &Theme,
) -> Vec<Line<'static>> {
    let part = |all: Vec<Line<'static>>| -> Vec<Line<'static>> {
        all.into_iter()
            .skip(window.start)
            .take(window.len())
            .collect()
    };
    match (pane, state.look()) {
        (Pane::Findings, _) => {
            let found = state.findings(Some(name(state)));
            found
                .skip(window.start)
                .take(window.len())
                .map(|found| owned(agents::finding_line(state, found, false, theme)))
                .collect()
        }
        (Pane::Policy, _) => part(policy_lines(state, theme)),
        (_, None) => Vec::new(),
        (Pane::Processes, Some(look)) => {
            let marked = marked(state);
            let tree = look.tree();
            let tree = tree.iter().skip(window.start).take(window.len());
            tree.map(|node| process(node, &marked, width, theme))
                .collect()
        }
        (Pane::Flows, Some(look)) => {
            let flows = look.flows();
            let flows = flows.iter().skip(window.start).take(window.len());
            flows.map(|rated| flow(&look, rated, theme)).collect()
        }
        (Pane::Files, Some(look)) => {
            let files = look.files().into_iter().skip(window.start);
            files
                .take(window.len())
                .map(|(change, times)| file(state, change, times, theme))
                .collect()
        }
    }
}

/// A line that keeps nothing of what it was made from.
fn owned(line: Line<'_>) -> Line<'static> {
    let spans = line.spans.into_iter();
    Line::from(
        spans
            .map(|span| Span::styled(span.content.into_owned(), span.style))
            .collect::<Vec<_>>(),
    )
}

/// The processes that findings are about, and their ancestors.
fn marked(state: &State) -> HashSet<(u64, u64)> {
    let mut out = HashSet::new();
    for found in state.findings(Some(name(state))) {
        let process = &found.finding.rest.get("process").unwrap_or(&Value::Null);
        if let (Some(pid), Some(start)) = (process["pid"].as_u64(), process["start_ns"].as_u64()) {
            out.insert((pid, start));
        }
    }
    out
}

fn process(
    node: &Node<'_>,
    marked: &HashSet<(u64, u64)>,
    width: u16,
    theme: &Theme,
) -> Line<'static> {
    let process = node.process;
    let unknown = || "-".to_owned();
    let cpu = node.rates.filter(|_| process.cpu_us.is_some());
    let cpu = cpu.map_or_else(unknown, |rates| words::percent(rates.cpu));
    let rate = |of: fn(&ProcessRates) -> f64, shown: fn(f64) -> String| {
        node.rates.map_or_else(unknown, |rates| shown(of(&rates)))
    };
    let mut rates = format!(
        "{:>7}{:>7}{:>7}",
        rate(|rates| rates.execs, words::count),
        rate(|rates| rates.opens, words::count),
        rate(|rates| rates.deletes, words::count),
    );
    if width >= WITH_BYTES {
        let bytes_in = rate(|rates| rates.bytes_in, words::bytes);
        let bytes_out = rate(|rates| rates.bytes_out, words::bytes);
        rates = format!("{rates}{bytes_in:>7}{bytes_out:>7}");
    }
    let memory = process
        .rss_bytes
        .map_or_else(|| "-".to_owned(), |n| words::bytes(real(n)));
    let is_marked = marked.contains(&(u64::from(process.pid), process.start_ns));
    let (mark, style) = if is_marked {
        ("! ", theme.danger)
    } else {
        ("", theme.strong)
    };
    let exe = base(&process.exe);
    let mut argv = process.argv.iter();
    // What it calls itself is a hint: the binary comes first where they differ.
    let first = argv.next().map_or("", String::as_str);
    let called = if base(first) == exe || first.is_empty() {
        String::new()
    } else {
        format!(" [{first}]")
    };
    let rest: Vec<&str> = argv.map(String::as_str).collect();
    let exe = if exe.is_empty() { "?" } else { exe };
    Line::from(vec![
        Span::raw(format!("{:>8}", process.pid)),
        Span::styled(format!("{:>6}", process.uid), theme.faint),
        Span::raw(format!("{cpu:>6}{memory:>6}{rates}  ")),
        Span::styled(node.branch.clone(), theme.faint),
        Span::styled(format!("{mark}{exe}"), style),
        Span::styled(called, theme.faint),
        Span::raw(format!(" {}", rest.join(" "))),
    ])
}

fn flow(look: &Look<'_>, rated: &Rated<'_>, theme: &Theme) -> Line<'static> {
    let flow = rated.flow;
    let rate = |n: Option<f64>| n.map_or_else(|| "-".to_owned(), words::bytes);
    let arrow = match flow.direction.as_str() {
        "out" => "→",
        "in" => "←",
        _ => "·",
    };
    let peer = match &flow.domain {
        Some(name) => format!("{name} ({})", flow.remote),
        None => flow.remote.clone(),
    };
    let age = words::age(look.now.at_ms.saturating_sub(millis(&flow.since)));
    let who = match (base(&flow.exe), flow.pid) {
        (_, 0) => "?".to_owned(),
        ("", pid) => pid.to_string(),
        (exe, pid) => format!("{exe} {pid}"),
    };
    Line::from(vec![
        Span::raw(format!(
            "{:>6}{:>6}",
            rate(rated.rates.map(|rates| rates.0)),
            rate(rated.rates.map(|rates| rates.1))
        )),
        Span::raw(format!(
            "{:>7}{:>6}",
            words::bytes(real(flow.bytes_in)),
            words::bytes(real(flow.bytes_out))
        )),
        Span::styled(format!("  {arrow} "), theme.accent),
        Span::styled(peer, theme.strong),
        Span::styled(
            format!("  {} by {who}, for {age}", flow.protocol),
            theme.faint,
        ),
    ])
}

fn file(state: &State, change: &FileChange, times: usize, theme: &Theme) -> Line<'static> {
    let gone = matches!(change.kind.as_str(), "unlink" | "rmdir");
    let style = if gone { theme.warn } else { theme.good };
    // An open among the changes is one for writing.
    let kind = match change.kind.as_str() {
        "open" => "write",
        kind => kind,
    };
    let to = change
        .path2
        .as_ref()
        .map_or_else(String::new, |path| format!(" → {path}"));
    let times = match times {
        1 => String::new(),
        n => format!(", {n} times"),
    };
    Line::from(vec![
        Span::styled(
            format!(" {} ", state.time(millis(&change.time))),
            theme.faint,
        ),
        Span::styled(format!("{kind:<9}"), style),
        Span::raw(format!("{}{to}", change.path)),
        Span::styled(
            format!("  by {} {}{times}", base(&change.exe), change.pid),
            theme.faint,
        ),
    ])
}

/// The policy as YAML, after what of it is not in force.
fn policy(state: &State) -> Vec<String> {
    let look = state.look();
    let Some(policy) = look.and_then(|look| look.now.policy.as_ref()) else {
        return Vec::new();
    };
    let mut lines: Vec<String> = policy
        .not_in_force
        .iter()
        .map(|missing| format!("NOT in force on this kernel: {missing}"))
        .collect();
    lines.extend(policy.why().into_iter().map(|line| format!("# {line}")));
    let yaml = serde_saphyr::to_string(&policy.policy)
        .unwrap_or_else(|error| format!("the policy cannot be shown: {error}"));
    lines.extend(yaml.lines().map(crate::text::escape_str));
    lines
}

fn policy_lines(state: &State, theme: &Theme) -> Vec<Line<'static>> {
    let styled = |line: String| {
        if line.starts_with("NOT ") {
            return Line::from(Span::styled(format!(" {line}"), theme.danger));
        }
        if line.starts_with('#') {
            return Line::from(Span::styled(format!(" {line}"), theme.faint));
        }
        match line.split_once(':') {
            Some((key, value)) => Line::from(vec![
                Span::styled(format!(" {key}:"), theme.title),
                Span::raw(value.to_owned()),
            ]),
            None => Line::from(format!(" {line}")),
        }
    };
    policy(state).into_iter().map(styled).collect()
}
