//! The screen with all agents.

use std::collections::BTreeMap;

use ratatui::{
    layout::Rect,
    text::{Line, Span},
};

use super::{
    super::{
        state::{Found, Source, State, fleet::Row},
        theme::Theme,
    },
    columns::{self, Chosen},
    layout,
    pen::{Pen, nth, wrap},
    status, words,
};
use crate::api::model::AgentState;

/// Draws it.
pub fn draw(pen: &mut Pen<'_>, state: &State) {
    let theme = *pen.theme;
    let at = layout::agents(state.size);
    let rows = state.rows();
    head(pen, state, at.head, rows.len());
    let columns = columns::chosen(at.titles.width);
    titles(pen, state, at.titles, &columns);
    if rows.is_empty() {
        for (n, line) in wrap(
            &nothing(state),
            usize::from(at.rows.width.saturating_sub(4)),
        )
        .iter()
        .enumerate()
        {
            pen.empty(nth(at.rows, n + 1), line);
        }
    }
    for (n, row) in rows
        .iter()
        .skip(state.top)
        .take(at.rows_height())
        .enumerate()
    {
        let area = nth(at.rows, n);
        place(area, &columns, |chosen, area| {
            let line = columns::cell(chosen, row, &theme);
            if chosen.right {
                pen.right(area, &line);
            } else {
                pen.line(area, &line);
            }
        });
        if Some(row.agent.id) == state.selected {
            pen.buf.set_style(area, theme.selected);
        }
    }
    findings(pen, state, at.findings);
}

/// The place of each column in a line.
pub fn place(area: Rect, columns: &[Chosen], mut each: impl FnMut(&Chosen, Rect)) {
    let mut x = area.x;
    for chosen in columns {
        let width = chosen.width.min(area.right().saturating_sub(x));
        each(chosen, Rect { x, width, ..area });
        x = x.saturating_add(chosen.width + 1);
    }
}

/// Why the list is empty.
fn nothing(state: &State) -> String {
    if !state.filter.is_empty() && state.fleet.rows(state.paused).next().is_some() {
        return format!(
            "no agent fits the filter {:?}: / changes it, Esc clears it",
            state.filter.text()
        );
    }
    match (&state.source, &state.unreachable) {
        (_, Some((_, why))) => why.clone(),
        (Source::Recording { .. }, None) => "the recording begins".to_owned(),
        (Source::Daemon { socket }, None) if !state.has_heard() => {
            format!("asking the daemon at {socket}")
        }
        (Source::Daemon { .. }, None) => {
            "the daemon watches no agents now; where it looks for them is in its configuration, \
             under `agents`"
                .to_owned()
        }
    }
}

/// What all of it is: the daemon, how many agents of each state, what was found.
fn head(pen: &mut Pen<'_>, state: &State, area: Rect, shown: usize) {
    let theme = *pen.theme;
    let first = nth(area, 0);
    let status = status::line(state, &theme);
    pen.right(first, &status);
    let room = Rect {
        width: first
            .width
            .saturating_sub(u16::try_from(status.width()).unwrap_or(u16::MAX) + 1),
        ..first
    };
    let mut spans = vec![Span::styled("agentwatch", theme.strong)];
    match (&state.source, &state.health) {
        (Source::Recording { file, .. }, _) => {
            let name = file.rsplit('/').next().unwrap_or(file).to_owned();
            spans.push(Span::raw(format!("  recording {name}")));
        }
        (Source::Daemon { .. }, Some(health)) => {
            spans.push(Span::raw(format!("  {}", health.node)));
            spans.push(Span::styled(format!("  {}", health.version), theme.faint));
        }
        (Source::Daemon { .. }, None) => {}
    }
    pen.line(room, &Line::from(spans));
    let second = nth(area, 1);
    let by = Line::from(order(state, shown, &theme));
    let width = u16::try_from(by.width()).unwrap_or(u16::MAX);
    pen.right(second, &by);
    let room = Rect {
        width: second.width.saturating_sub(width.saturating_add(1)),
        ..second
    };
    pen.line(room, &Line::from(summary(state, &theme)));
}

/// How many agents there are of each state, and findings of each severity.
fn summary(state: &State, theme: &Theme) -> Vec<Span<'static>> {
    let mut states: BTreeMap<AgentState, u64> = BTreeMap::new();
    let (mut found, mut lost) = ([0_u64; 5], 0_u64);
    let mut count = 0;
    for row in state.fleet.rows(state.paused) {
        let Row { now, state, .. } = row;
        *states.entry(state).or_default() += 1;
        count += u64::from(state != AgentState::Gone);
        for (sum, n) in found.iter_mut().zip(now.findings) {
            *sum += n;
        }
        lost += now.lost;
    }
    let plural = if count == 1 { "" } else { "s" };
    let mut spans = vec![Span::raw(format!("{count} agent{plural}"))];
    let mut add = |text: String, style| {
        spans.push(Span::raw("  "));
        spans.push(Span::styled(text, style));
    };
    // What is wrong first.
    let [critical, high, medium, ..] = found;
    for (n, what, style) in [
        (critical, "critical", theme.danger),
        (high, "high", theme.danger),
        (medium, "medium", theme.warn),
        (lost, "events lost", theme.danger),
    ] {
        if n > 0 {
            add(
                format!(
                    "{} {what}",
                    words::count(super::super::state::fleet::real(n))
                ),
                style,
            );
        }
    }
    for (of, n) in states.into_iter().rev() {
        if !matches!(of, AgentState::Watched | AgentState::Gone) {
            add(format!("{n} {of}"), columns::state_style(of, theme));
        }
    }
    spans
}

/// What the list is sorted by and which agents it has.
fn order(state: &State, shown: usize, theme: &Theme) -> Vec<Span<'static>> {
    let mut spans = Vec::new();
    if !state.filter.is_empty() {
        spans.push(Span::styled(
            format!("/{} ({shown})", state.filter.text()),
            theme.accent,
        ));
        spans.push(Span::raw("  "));
    }
    let way = if state.reverse { "reverse " } else { "" };
    spans.push(Span::styled("by ", theme.faint));
    spans.push(Span::raw(format!("{way}{}", state.sort.name())));
    spans
}

fn titles(pen: &mut Pen<'_>, state: &State, area: Rect, columns: &[Chosen]) {
    let theme = *pen.theme;
    place(area, columns, |chosen, area| {
        // Findings say what is dangerous better than a state.
        let sorted =
            chosen.column.sort() == Some(state.sort) && chosen.column != columns::Column::State;
        let style = if sorted { theme.accent } else { theme.title };
        let line = Line::from(Span::styled(chosen.title, style));
        if chosen.right {
            pen.right(area, &line);
        } else {
            pen.line(area, &line);
        }
    });
}

/// The last findings.
fn findings(pen: &mut Pen<'_>, state: &State, area: Rect) {
    if area.height < 2 {
        return;
    }
    pen.rule(nth(area, 0), "latest findings", false);
    let mut lines = 1;
    for found in state.findings(None).take(usize::from(area.height) - 1) {
        let line = finding_line(state, found, true, pen.theme);
        pen.line(nth(area, lines), &line);
        lines += 1;
    }
    if lines == 1 {
        pen.empty(nth(area, 1), "nothing found");
    }
}

/// A finding in a line.
pub fn finding_line<'a>(
    state: &State,
    found: &'a Found,
    with_agent: bool,
    theme: &Theme,
) -> Line<'a> {
    let finding = &found.finding;
    let style = theme.severity(finding.severity);
    let mut spans = vec![
        Span::styled(format!("{} ", state.time(found.at_ms)), theme.faint),
        Span::styled(format!("{:<8} ", finding.severity), style),
    ];
    if with_agent {
        spans.push(Span::styled(
            format!("{:<10} ", finding.agent),
            theme.strong,
        ));
    }
    spans.push(Span::styled(format!("{} ", finding.detector), style));
    spans.push(Span::raw(finding.message.as_str()));
    Line::from(spans)
}
