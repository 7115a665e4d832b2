//! `agentwatch findings --incidents`: what belongs together, as one.

use std::{fmt::Write as _, process::ExitCode};

use anyhow::{Context as _, Result, bail};

use super::{findings::FindingsArgs, history::clock};
use crate::{
    api::model::{Incident, Link, StepKind},
    incident::Incidents,
    store::query::StoredFinding,
};

/// Shows incidents: those with a finding that is asked for.
pub fn show(args: &FindingsArgs, found: &[StoredFinding]) -> Result<ExitCode> {
    let mut all = Incidents::default();
    for stored in found {
        let finding = serde_json::from_value(stored.finding.clone());
        all.add(&finding.context("the history has a finding of another version")?);
    }
    let wanted = |incident: &&Incident| {
        args.severity.is_none_or(|least| incident.severity >= least)
            && args
                .detector
                .as_ref()
                .is_none_or(|id| incident.detectors.contains(id))
            && args
                .id
                .as_ref()
                .is_none_or(|id| incident.id == *id || incident.findings.contains(id))
    };
    let mut none = true;
    for incident in all.all().filter(wanted) {
        none = false;
        super::print(&match args.selection.output.form() {
            Some(form) => form.text(incident)?,
            None => story(incident, args.selection.utc),
        })?;
    }
    match &args.id {
        Some(id) if none => bail!("no incident has the id {id:?}, nor a finding of that id"),
        _ if none => eprintln!("agentwatch: no incidents"),
        _ => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// An incident, for people.
fn story(incident: &Incident, utc: bool) -> String {
    let time = |text: &str| {
        let time: jiff::Timestamp = text.parse().unwrap_or_default();
        clock(i64::try_from(time.as_nanosecond()).unwrap_or(0), utc)
    };
    let mut out = format!(
        "{}  {} {}\n\n  {}\n\n  agent      {}\n  time       {} to {}\n",
        incident.id,
        incident.severity,
        incident.detectors.join(", "),
        incident.summary,
        incident.agent,
        time(&incident.begin),
        time(&incident.end),
    );
    let links: Vec<String> = incident.linked_by.iter().map(Link::to_string).collect();
    for (label, text) in [
        ("findings", incident.findings.join(", ")),
        ("linked by", links.join(", ")),
        ("techniques", incident.techniques.join(", ")),
    ] {
        if !text.is_empty() {
            let _ = writeln!(out, "  {label:<10} {text}");
        }
    }
    for (n, step) in incident.story.iter().enumerate() {
        let label = if n == 0 { "story" } else { "" };
        let mark = match step.kind {
            StepKind::Event => "",
            StepKind::Finding => "FOUND ",
            StepKind::Response => "→ ",
        };
        let _ = writeln!(
            out,
            "  {label:<10} {:12}  pid {}  {mark}{}",
            time(&step.time),
            step.pid,
            step.what
        );
    }
    if incident.steps_left_out > 0 {
        let _ = writeln!(
            out,
            "  {:<10} and {} steps more: each finding has its own evidence",
            "", incident.steps_left_out
        );
    }
    out.push('\n');
    out
}
