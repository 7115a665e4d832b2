//! The ends of the screen: how it is with the source at the top, keys and notices at the bottom.

use ratatui::{
    layout::{Position, Rect},
    text::{Line, Span},
};

use super::{
    super::{
        state::{Screen, Source, State, dialog::Purpose},
        theme::Theme,
    },
    pen::Pen,
    words,
};

/// How it is with the source, and the time that is shown.
pub fn line(state: &State, theme: &Theme) -> Line<'static> {
    let time = state.time(state.shown_ms());
    let mut spans = Vec::new();
    if let Some(at) = state.paused {
        let now = state.fleet.moments().back().copied().unwrap_or(at);
        let back = words::age(now.saturating_sub(at));
        spans.push(Span::styled(format!("‖ paused, {back} ago  "), theme.warn));
    }
    match &state.source {
        _ if state.unreachable.is_some() => {
            let since = state.unreachable.as_ref().map_or(0, |(since, _)| *since);
            let since = state.time(since);
            let text = if state.has_heard() {
                format!("✖ no daemon since {since}, trying again  ")
            } else {
                "✖ no daemon, trying again  ".to_owned()
            };
            spans.push(Span::styled(text, theme.danger));
        }
        Source::Daemon { .. } => match state.silent_ms() {
            Some(ms) => {
                let text = format!("✖ no answer for {}  ", words::age(ms));
                spans.push(Span::styled(text, theme.danger));
            }
            None if state.has_heard() && state.paused.is_none() => {
                spans.push(Span::styled("● live  ", theme.good));
            }
            None => {}
        },
        Source::Recording { over: true, .. } => {
            spans.push(Span::styled("■ end of the recording  ", theme.accent));
        }
        Source::Recording { speed, .. } => {
            let text = format!("▶ {}x  ", words::count(*speed));
            spans.push(Span::styled(text, theme.good));
        }
    }
    spans.push(Span::raw(time));
    Line::from(spans)
}

/// What is not as one would think from the rest of the screen.
fn trouble(state: &State) -> Option<String> {
    if state.unreachable.is_some() {
        return None;
    }
    let old = match state.screen {
        Screen::Agent(_) => state.look().and_then(|look| look.now.error.clone()),
        Screen::Agents => None,
    };
    if let Some(error) = old {
        return Some(format!("the lists are not of now: {error}"));
    }
    if let Some(error) = &state.no_stream {
        return Some(format!("findings are not shown as they happen: {error}"));
    }
    let health = state.health.as_ref()?;
    let error = health.history_error.as_ref()?;
    Some(format!("the daemon cannot write the history: {error}"))
}

/// The last line: what is typed, what happened, or the keys. Where the cursor goes, if anywhere.
pub fn foot(pen: &mut Pen<'_>, state: &State, area: Rect) -> Option<Position> {
    let theme = *pen.theme;
    if let Some(prompt) = &state.prompt {
        let label = match prompt.purpose {
            Purpose::Filter => "filter: ",
            Purpose::Search => "search: ",
        };
        let end = pen.text(area, label, theme.accent);
        let rest = Rect {
            x: end,
            width: area.right().saturating_sub(end),
            ..area
        };
        return Some(typed(pen, rest, &prompt.text));
    }
    if let Some(notice) = &state.notice {
        let style = if notice.bad {
            theme.danger
        } else {
            theme.accent
        };
        pen.text(area, &notice.text, style);
        return None;
    }
    if let Some(trouble) = trouble(state) {
        pen.text(area, &trouble, theme.danger);
        return None;
    }
    let keys: &[(&str, &str)] = match state.screen {
        Screen::Agents => &[
            ("?", "help"),
            ("⏎", "open"),
            ("/", "filter"),
            ("<>", "sort"),
            ("␣", "pause"),
            ("F", "freeze"),
            ("Q", "quarantine"),
            ("K", "kill"),
        ],
        Screen::Agent(_) => &[
            ("?", "help"),
            ("Esc", "back"),
            ("⇥", "pane"),
            ("F", "freeze"),
            ("T", "thaw"),
            ("Q", "quarantine"),
            ("R", "release"),
            ("K", "kill"),
        ],
    };
    let mut spans = Vec::new();
    for (key, what) in keys {
        spans.push(Span::styled(*key, theme.strong));
        spans.push(Span::styled(format!(" {what}  "), theme.faint));
    }
    pen.line(area, &Line::from(spans));
    None
}

/// What is typed, with the cursor in sight; where that is.
pub fn typed(pen: &mut Pen<'_>, area: Rect, text: &super::super::state::dialog::Text) -> Position {
    let all: Vec<char> = text.text().chars().collect();
    let width = |chars: &[char]| Line::from(chars.iter().collect::<String>()).width();
    let room = usize::from(area.width.saturating_sub(1));
    let mut from = 0;
    while width(&all[from..text.cursor]) > room {
        from += 1;
    }
    let shown: String = all[from..].iter().collect();
    pen.text(area, &shown, pen.theme.strong);
    let before = u16::try_from(width(&all[from..text.cursor])).unwrap_or(u16::MAX);
    Position::new(area.x.saturating_add(before), area.y)
}
