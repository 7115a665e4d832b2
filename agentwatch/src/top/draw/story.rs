//! One finding in full: what, by whom, upon which evidence, and what was done.

use ratatui::{
    layout::Rect,
    style::Style,
    text::{Line, Span},
};
use serde_json::Value;

use super::{
    super::{state::State, theme::Theme},
    incident,
    pen::{Pen, nth, wrap},
};
use crate::{
    api::model::Finding,
    cli::history::base,
    finding::{Action, Response},
    publish::notice,
};

/// How wide a label is.
const LABEL: usize = 10;

/// Draws it.
pub fn draw(pen: &mut Pen<'_>, state: &State, finding: &Finding, area: Rect) {
    if area.height < 3 {
        return;
    }
    let theme = *pen.theme;
    pen.rule(nth(area, 0), &finding.id, false);
    let inner = Rect {
        x: area.x + 1,
        width: area.width.saturating_sub(2),
        y: area.y + 1,
        height: area.height - 1,
    };
    let lines = lines(state, finding, usize::from(inner.width), &theme);
    let room = usize::from(inner.height);
    for (n, line) in lines.iter().take(room).enumerate() {
        pen.line(nth(inner, n), line);
    }
    if lines.len() > room {
        let text = format!("… {} more lines: Enter shows all", lines.len() - room + 1);
        let last = nth(inner, room - 1);
        pen.text(last, &" ".repeat(usize::from(last.width)), Style::new());
        pen.text(last, &text, theme.faint);
    }
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or("?")
}

pub(super) fn lines(
    state: &State,
    finding: &Finding,
    width: usize,
    theme: &Theme,
) -> Vec<Line<'static>> {
    let mut out: Vec<Line<'static>> = wrap(&finding.message, width)
        .into_iter()
        .map(|line| Line::from(Span::styled(line, theme.strong)))
        .collect();
    let mut add = |label: &str, text: &str, style: Style| {
        // What stands before a tab keeps its place, beside the lines of the rest.
        let (lead, text) = text.split_once('\t').unwrap_or(("", text));
        let indent = LABEL + lead.chars().count();
        let room = width.saturating_sub(indent).max(10);
        for (n, line) in wrap(text, room).into_iter().enumerate() {
            let (label, lead) = if n == 0 { (label, lead) } else { ("", "") };
            let before = format!("{label:<LABEL$}{lead}");
            out.push(Line::from(vec![
                Span::styled(format!("{before:<indent$}"), theme.faint),
                Span::styled(line, style),
            ]));
        }
    };
    let rest = Value::Object(finding.rest.clone());
    if let Ok(response) = serde_json::from_value::<Response>(rest["response"].clone()) {
        let style = if response.taken > Action::Alert {
            theme.accent
        } else {
            Style::new()
        };
        add("response", &notice::done(&response), style);
    }
    let techniques: Vec<String> = rest["techniques"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|technique| format!("{} {}", text(technique, "id"), text(technique, "name")))
        .collect();
    if !techniques.is_empty() {
        add("technique", &techniques.join(", "), Style::new());
    }
    let ancestry = rest["ancestry"].as_array().into_iter().flatten();
    for (n, process) in std::iter::once(&rest["process"])
        .chain(ancestry)
        .enumerate()
    {
        let argv: Vec<&str> = process["argv"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let place = if process["member"] == true {
            ""
        } else {
            "  (not the agent's)"
        };
        let line = format!(
            "{} {}  \t{}{place}",
            process["pid"],
            base(text(process, "exe")),
            argv.join(" ")
        );
        let style = if n == 0 { theme.strong } else { Style::new() };
        add(if n == 0 { "chain" } else { "" }, &line, style);
    }
    let decided = rest["time_ns"].as_i64().unwrap_or(0);
    for (n, piece) in rest["evidence"]
        .as_array()
        .into_iter()
        .flatten()
        .enumerate()
    {
        // Against the deciding event: the boot clock says nothing to a person.
        let before = piece["time_ns"].as_i64().unwrap_or(decided) - decided;
        let line = format!(
            "{:>+9.1} ms  \tpid {} {}",
            milliseconds(before),
            piece["pid"],
            text(piece, "what")
        );
        add(if n == 0 { "evidence" } else { "" }, &line, Style::new());
    }
    let at = super::super::state::millis(&finding.time);
    add("time", &state.time(at), Style::new());
    out.extend(incident::lines(state, &finding.id, width, theme));
    out
}

#[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
fn milliseconds(ns: i64) -> f64 {
    ns as f64 / 1e6
}
