//! What a finding belongs to: the incident and its story, where it is not alone.

use ratatui::{
    style::Style,
    text::{Line, Span},
};

use super::{
    super::{
        state::{State, millis},
        theme::Theme,
    },
    pen::wrap,
};
use crate::api::model::{Link, StepKind};

/// How wide the time of a step is, with what follows it.
const TIME: usize = 10;

/// The lines below a finding; none where nothing belongs to it. What came after the time that is looked at is
/// not told.
pub fn lines(state: &State, finding: &str, width: usize, theme: &Theme) -> Vec<Line<'static>> {
    let incident = state.incidents.of(finding);
    let Some(incident) = incident.filter(|incident| incident.findings.len() > 1) else {
        return Vec::new();
    };
    let links: Vec<String> = incident.linked_by.iter().map(Link::to_string).collect();
    let head = format!(
        "incident {}: {} findings, {} to {}, linked by {}",
        incident.id,
        incident.findings.len(),
        state.time(millis(&incident.begin)),
        state.time(millis(&incident.end)),
        links.join(", ")
    );
    let mut out = vec![Line::default()];
    out.extend(
        wrap(&head, width)
            .into_iter()
            .map(|line| Line::from(Span::styled(line, theme.title))),
    );
    let until = state.paused.unwrap_or(i64::MAX);
    for step in &incident.story {
        let at = millis(&step.time);
        if at > until {
            break;
        }
        let (text, style) = match step.kind {
            StepKind::Event => (format!("pid {} {}", step.pid, step.what), Style::new()),
            StepKind::Finding if step.finding.as_deref() == Some(finding) => {
                (step.what.clone(), theme.danger)
            }
            StepKind::Finding => (step.what.clone(), theme.strong),
            StepKind::Response => (step.what.clone(), theme.accent),
        };
        let room = width.saturating_sub(TIME).max(10);
        for (n, line) in wrap(&text, room).into_iter().enumerate() {
            let time = if n == 0 {
                state.time(at)
            } else {
                String::new()
            };
            out.push(Line::from(vec![
                Span::styled(format!("{time:<TIME$}"), theme.faint),
                Span::styled(line, style),
            ]));
        }
    }
    if incident.steps_left_out > 0 {
        out.push(Line::from(format!(
            "{:TIME$}and {} steps more: each finding has its own evidence",
            "", incident.steps_left_out
        )));
    }
    out
}
