//! The screen of one agent.

use ratatui::{
    layout::Rect,
    style::Style,
    text::{Line, Span},
};

use super::{
    super::{
        state::{
            Pane, State,
            fleet::{Row, Sample, real},
        },
        theme::Theme,
    },
    columns, layout, panes,
    pen::{Pen, nth},
    status, words,
};
use crate::top::state::millis;

/// Measures that are shown side by side.
const ACROSS: u16 = 3;

/// Draws it.
pub fn draw(pen: &mut Pen<'_>, state: &State, id: u32) {
    let theme = *pen.theme;
    let at = layout::agent(state.size, state.pane);
    let first = nth(at.head, 0);
    let status = status::line(state, &theme);
    pen.right(first, &status);
    let Some(row) = state.fleet.row(id, state.paused) else {
        pen.empty(
            nth(at.head, 2),
            "this agent was not there at that time, or is long gone: Esc goes back",
        );
        return;
    };
    let status_width = u16::try_from(status.width()).unwrap_or(u16::MAX);
    let room = Rect {
        width: first.width.saturating_sub(status_width.saturating_add(1)),
        ..first
    };
    pen.line(room, &title(&row, &theme));
    why(pen, state, &row, at.head);
    measures(pen, &row, at.head);
    if let Some(tabs) = at.tabs {
        panes::tabs(pen, state, tabs);
    }
    for (pane, area) in &at.panes {
        panes::draw(pen, state, *pane, *area, at.tabs.is_none());
    }
}

fn title(row: &Row<'_>, theme: &Theme) -> Line<'static> {
    let mut spans = vec![
        Span::styled(row.agent.name.clone(), theme.strong),
        Span::raw("  "),
        Span::styled(
            row.state.to_string(),
            columns::state_style(row.state, theme),
        ),
    ];
    if row.now.findings.iter().any(|n| *n > 0) {
        spans.push(Span::raw("  "));
        spans.extend(columns::findings(row.now.findings, theme).spans);
    }
    Line::from(spans)
}

/// Why it is as it is, where it is, and who let it in.
fn why(pen: &mut Pen<'_>, state: &State, row: &Row<'_>, head: Rect) {
    let theme = *pen.theme;
    let agent = row.agent;
    let label = |text: &str| Span::styled(format!("{text} "), theme.faint);
    let mut place = vec![label("cgroup"), Span::raw(agent.cgroup.clone())];
    if let Some(workspace) = &agent.workspace {
        place.extend([label("  workspace"), Span::raw(workspace.clone())]);
    }
    let line = match &agent.state_reason {
        Some(reason) => Line::from(vec![
            label("why"),
            Span::styled(reason.as_str(), columns::state_style(row.state, &theme)),
        ]),
        None => Line::from(place.clone()),
    };
    pen.line(nth(head, 1), &line);
    let mut facts = vec![label("policy"), Span::raw(agent.policy.clone())];
    if let Some(found) = agent.found_by.words() {
        facts.extend([label("  found by"), Span::raw(found)]);
    }
    let since = millis(&agent.since);
    facts.extend([
        label("  since"),
        Span::raw(format!(
            "{} ({})",
            state.time(since),
            words::age(row.now.at_ms.saturating_sub(since))
        )),
    ]);
    // The place has no line of its own then.
    if agent.state_reason.is_some() {
        facts.push(Span::raw("  "));
        facts.extend(place);
    }
    pen.line(nth(head, 2), &Line::from(facts));
}

/// What it uses and does, and how that was in the last time.
fn measures(pen: &mut Pen<'_>, row: &Row<'_>, head: Rect) {
    type Of = fn(&Sample) -> f64;
    let now = row.now;
    let cpu = now.cpu.map_or_else(|| "-".to_owned(), words::percent);
    let all: [(&str, String, Of, f64); 6] = [
        ("CPU", cpu, |s| s.cpu.unwrap_or(0.0), 0.1),
        ("IN/s", words::bytes(now.bytes_in), |s| s.bytes_in, 1024.0),
        (
            "OUT/s",
            words::bytes(now.bytes_out),
            |s| s.bytes_out,
            1024.0,
        ),
        ("EXEC/s", words::count(now.execs), |s| s.execs, 4.0),
        ("OPEN/s", words::count(now.opens), |s| s.opens, 16.0),
        ("DEL/s", words::count(now.deletes), |s| s.deletes, 4.0),
    ];
    let theme = *pen.theme;
    let width = head.width / ACROSS;
    for (n, (label, value, of, least)) in (0_u16..).zip(all) {
        let line = nth(head, usize::from(3 + n / ACROSS));
        let area = Rect {
            x: line.x + width * (n % ACROSS),
            width: width.saturating_sub(2),
            ..line
        };
        pen.text(area, label, theme.faint);
        let number = Rect {
            width: 12.min(area.width),
            ..area
        };
        pen.right(number, &Line::from(Span::styled(value, theme.strong)));
        let bars = Rect {
            x: area.x + 13,
            width: area.width.saturating_sub(13),
            ..area
        };
        let room = usize::from(bars.width);
        let past = words::bars(row.past(room).map(of), room, least);
        pen.text(bars, &past, theme.good);
    }
    pen.line(nth(head, 5), &counts(row, &theme));
}

/// Memory, processes, what is left of the budget, and what was lost.
fn counts(row: &Row<'_>, theme: &Theme) -> Line<'static> {
    let now = row.now;
    let label = |text: &str| Span::styled(format!("{text} "), theme.faint);
    let memory = now
        .memory
        .map_or_else(|| "-".to_owned(), |n| words::bytes(real(n)));
    let mut spans = vec![
        label("MEM"),
        Span::raw(memory),
        label("  PROCS"),
        Span::raw(now.processes.to_string()),
    ];
    if let (Some(budget), Some(share)) = (&row.agent.deletion_budget, now.budget) {
        let style = columns::budget_style(share, theme);
        spans.push(label("  may delete"));
        spans.push(Span::styled(
            format!("{} of {}", budget.left, budget.limit),
            style,
        ));
        spans.push(label(", in its workspace"));
        spans.push(Span::styled(
            format!("{} of {}", budget.workspace_left, budget.workspace_limit),
            style,
        ));
    }
    spans.push(label("  events"));
    spans.push(Span::raw(words::count(real(now.delivered))));
    let style = if now.lost > 0 {
        theme.danger
    } else {
        Style::new()
    };
    spans.push(label("  lost"));
    spans.push(Span::styled(words::count(real(now.lost)), style));
    Line::from(spans)
}

/// Whether the keys go to a pane.
pub fn is_active(state: &State, pane: Pane) -> bool {
    state.pane == pane
}
