//! What lies over the screen: help, and what is asked before an action.

use ratatui::{
    layout::{Position, Rect},
    style::Style,
    text::{Line, Span},
    widgets::{Block, BorderType, Clear, Widget as _},
};

use super::{
    super::state::{
        State,
        dialog::{Act, Dialog},
    },
    super::theme::Theme,
    pen::{Pen, nth, wrap},
    status, story,
};
use crate::api::model::Verb;

/// The keys.
const KEYS: &[(&str, &str)] = &[
    ("↑ ↓ j k PgUp PgDn", "move; Home, End and the wheel do too"),
    ("Enter, click", "open an agent, a finding; select a line"),
    (
        "Esc, Backspace",
        "back; in the list: on with time, without filter",
    ),
    ("Tab, 1 to 5", "the next pane of an agent, the n-th"),
    ("/", "filter: words of name, cgroup, state or policy;"),
    ("", "state:frozen cpu>50 mem>1g findings>0 !word"),
    ("s, n N", "search a name; the next, the one before"),
    (
        "< >, r, click",
        "sort by another column; the other way round",
    ),
    ("space", "pause; what happens meanwhile is kept"),
    ("← →, [ ]", "a moment back and on, ten of them"),
    ("+ -", "play a recording faster, slower"),
    ("e", "export what is seen to a JSON file"),
    (
        "F T, Q R",
        "freeze and thaw an agent; quarantine and release",
    ),
    ("K", "kill an agent: asks for a reason, then once more"),
    ("q, Ctrl-C", "quit; the agents and the daemon go on"),
];

/// How wide the names of the keys are.
const KEYS_WIDTH: u16 = 20;

/// Draws it; where the cursor goes.
pub fn draw(pen: &mut Pen<'_>, state: &State, dialog: &Dialog, screen: Rect) -> Option<Position> {
    match dialog {
        Dialog::Help => {
            help(pen, screen);
            None
        }
        Dialog::Act(act) => ask(pen, state, act, screen),
        Dialog::Finding { id, top } => {
            finding(pen, state, id, *top, screen);
            None
        }
    }
}

/// The size of the box with a finding, and of what is in it.
fn finding_size(screen: (u16, u16)) -> ((u16, u16), (u16, u16)) {
    let outer = (
        screen.0.saturating_sub(4).min(140),
        screen.1.saturating_sub(2),
    );
    (
        outer,
        (outer.0.saturating_sub(4), outer.1.saturating_sub(2)),
    )
}

/// The lines of a finding that is there.
fn finding_lines(state: &State, id: &str, theme: &Theme) -> Vec<Line<'static>> {
    let (_, (width, _)) = finding_size(state.size);
    let found = state.findings(None).find(|found| found.finding.id == id);
    found.map_or_else(Vec::new, |found| {
        story::lines(state, &found.finding, usize::from(width), theme)
    })
}

/// The furthest that a finding can be scrolled.
pub fn last_top(state: &State, id: &str) -> usize {
    let (_, (_, height)) = finding_size(state.size);
    let lines = finding_lines(state, id, &Theme::mono()).len();
    lines.saturating_sub(usize::from(height))
}

fn finding(pen: &mut Pen<'_>, state: &State, id: &str, top: usize, screen: Rect) {
    let theme = *pen.theme;
    let (size, _) = finding_size(state.size);
    let inner = frame(pen, screen, size, &format!("{id}  ↑ ↓ Esc"), theme.title);
    let lines = finding_lines(state, id, &theme);
    for (n, line) in lines.iter().skip(top).enumerate() {
        pen.line(nth(inner, n), line);
    }
}

/// A box in the middle; what is inside it.
fn frame(pen: &mut Pen<'_>, screen: Rect, size: (u16, u16), title: &str, style: Style) -> Rect {
    let area = screen.centered(
        ratatui::layout::Constraint::Length(size.0.min(screen.width)),
        ratatui::layout::Constraint::Length(size.1.min(screen.height)),
    );
    Clear.render(area, pen.buf);
    let block = Block::bordered()
        .border_type(BorderType::Rounded)
        .border_style(style)
        .title(Span::styled(format!(" {title} "), style));
    let inner = block.inner(area);
    block.render(area, pen.buf);
    Rect {
        x: inner.x + 1,
        width: inner.width.saturating_sub(2),
        ..inner
    }
}

fn help(pen: &mut Pen<'_>, screen: Rect) {
    let theme = *pen.theme;
    let lines = u16::try_from(KEYS.len()).unwrap_or(u16::MAX);
    let style = theme.title;
    let inner = frame(pen, screen, (74, lines + 4), "agentwatch top: keys", style);
    for (n, (keys, what)) in KEYS.iter().enumerate() {
        let area = nth(inner, n);
        pen.text(area, keys, theme.strong);
        let right = Rect {
            x: area.x + KEYS_WIDTH,
            width: area.width.saturating_sub(KEYS_WIDTH),
            ..area
        };
        pen.text(right, what, Style::new());
    }
    let last = nth(inner, KEYS.len() + 1);
    pen.text(last, "any key closes this", theme.faint);
}

/// What an action does, in a sentence.
fn meaning(verb: Verb, processes: u64) -> String {
    let all = match processes {
        1 => "its one process".to_owned(),
        n => format!("all its {n} processes"),
    };
    match verb {
        Verb::Freeze => format!("stops {all} where they are, until it is thawed"),
        Verb::Thaw => format!("lets {all} go on"),
        Verb::Quarantine => "cuts its network but for what its policy keeps".to_owned(),
        Verb::Release => "ends its quarantine".to_owned(),
        Verb::Kill => format!("ends {all} at once, in its cgroup and outside; not to be undone"),
    }
}

fn ask(pen: &mut Pen<'_>, state: &State, act: &Act, screen: Rect) -> Option<Position> {
    let theme = *pen.theme;
    let style = if act.verb == Verb::Kill {
        theme.danger
    } else {
        theme.accent
    };
    let row = state.fleet.row(act.id, None);
    let processes = row.map_or(0, |row| row.now.processes);
    let width = 70.min(screen.width);
    let room = usize::from(width.saturating_sub(4));
    let mut lines = wrap(&meaning(act.verb, processes), room);
    if let Some(row) = row {
        lines.extend(wrap(&format!("cgroup {}", row.agent.cgroup), room));
    }
    let height = u16::try_from(lines.len())
        .unwrap_or(u16::MAX)
        .saturating_add(6);
    let title = format!("{} {}?", act.verb.name(), act.name);
    let inner = frame(pen, screen, (width, height), &title, style);
    for (n, line) in lines.iter().enumerate() {
        pen.text(nth(inner, n), line, Style::new());
    }
    let below = lines.len() + 1;
    let area = nth(inner, below);
    let end = pen.text(area, "reason: ", theme.faint);
    let field = Rect {
        x: end,
        width: area.right().saturating_sub(end),
        ..area
    };
    let cursor = status::typed(pen, field, &act.reason);
    let last = nth(inner, below + 2);
    if act.confirm {
        let line = Line::from(vec![
            Span::styled(format!("{} {}: ", act.verb.name(), act.name), style),
            Span::styled("y", theme.strong),
            Span::raw(" does it, any other key does not"),
        ]);
        pen.line(last, &line);
        return None;
    }
    let does = if act.verb == Verb::Kill {
        " goes on, "
    } else {
        " does it, "
    };
    let line = Line::from(vec![
        Span::styled("Enter", theme.strong),
        Span::styled(does, theme.faint),
        Span::styled("Esc", theme.strong),
        Span::styled(" leaves it", theme.faint),
    ]);
    pen.line(last, &line);
    Some(cursor)
}
