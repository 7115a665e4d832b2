//! What is seen, for programs and for keeping.

use std::{fs, io::Write as _, os::unix::fs::OpenOptionsExt as _, path::PathBuf};

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use ratatui::{buffer::Buffer, layout::Rect, text::Line};
use serde_json::{Value, json};

use super::{
    draw::{agents::place, columns},
    state::{Screen, Source, State, fleet::Row},
    theme::Theme,
};

/// Columns of the table.
const WIDTH: u16 = 200;
/// Files of one second.
const TRIES: u32 = 100;

/// An agent as it was at the time that is looked at: an object of `agentwatch agents -o json`. What is
/// not known is absent: a recording does not tell of processor time.
fn agent(state: &State, row: &Row<'_>) -> Result<Value> {
    let now = row.now;
    let mut agent = serde_json::to_value(row.agent)?;
    agent["state"] = serde_json::to_value(row.state)?;
    agent["processes"] = now.processes.into();
    for (name, rate) in [
        ("execs", now.execs),
        ("opens", now.opens),
        ("deletes", now.deletes),
        ("connects", now.connects),
        ("bytes_in", now.bytes_in),
        ("bytes_out", now.bytes_out),
    ] {
        agent["rates"][name] = rate.into();
    }
    for (name, n) in ["critical", "high", "medium", "low", "info"]
        .iter()
        .zip(now.findings)
    {
        agent["findings"][name] = n.into();
    }
    if let Some(bytes) = now.memory {
        agent["memory_bytes"] = bytes.into();
    }
    let rates = agent["rates"].as_object_mut();
    if let (Source::Recording { .. }, Some(rates)) = (&state.source, rates) {
        rates.remove("cpu");
    }
    Ok(agent)
}

/// The agents that are shown, in their order, one object a line.
///
/// # Errors
///
/// Never, in truth: what is shown can be written.
pub fn lines(state: &State) -> Result<String> {
    let mut out = String::new();
    for row in state.rows() {
        out += &agent(state, &row)?.to_string();
        out.push('\n');
    }
    Ok(out)
}

/// The list as text.
pub fn table(state: &State) -> String {
    let columns: Vec<_> = columns::chosen(WIDTH)
        .into_iter()
        .filter(|chosen| chosen.column != columns::Column::Activity)
        .collect();
    let theme = Theme::mono();
    let mut out = String::new();
    let mut line = |cell: &dyn Fn(&columns::Chosen) -> Line<'static>| {
        let area = Rect::new(0, 0, WIDTH, 1);
        let mut buf = Buffer::empty(area);
        place(area, &columns, |chosen, at| {
            let mut pen = super::draw::Pen {
                buf: &mut buf,
                theme: &theme,
            };
            let line = cell(chosen);
            if chosen.right {
                pen.right(at, &line);
            } else {
                pen.line(at, &line);
            }
        });
        let text: String = buf
            .content()
            .iter()
            .map(ratatui::buffer::Cell::symbol)
            .collect();
        out += text.trim_end();
        out.push('\n');
    };
    line(&|chosen| Line::from(chosen.title));
    for row in state.rows() {
        line(&|chosen| {
            let cell = columns::cell(chosen, &row, &theme);
            Line::from(cell.to_string())
        });
    }
    out
}

/// Everything that is seen.
///
/// # Errors
///
/// Never, in truth: what is shown can be written.
pub fn value(state: &State) -> Result<Value> {
    let time = |at_ms: i64| {
        Timestamp::from_millisecond(at_ms)
            .unwrap_or_default()
            .to_string()
    };
    let source = match &state.source {
        Source::Daemon { socket } => json!({"socket": socket}),
        Source::Recording { file, .. } => json!({"recording": file}),
    };
    let name = match state.screen {
        Screen::Agents => None,
        Screen::Agent(_) => state.target().map(|row| row.agent.name.as_str()),
    };
    let findings: Vec<_> = state.findings(name).map(|found| &*found.finding).collect();
    let mut out = json!({
        "time": time(state.shown_ms()),
        "source": source,
        "node": state.health.as_ref().map(|health| &health.node),
        "findings": findings,
    });
    match state.screen {
        Screen::Agents => {
            let agents: Result<Vec<Value>> =
                state.rows().iter().map(|row| agent(state, row)).collect();
            out["agents"] = agents?.into();
            out["filter"] = state.filter.text().into();
            out["sort"] = state.sort.name().into();
        }
        Screen::Agent(_) => {
            if let Some(row) = state.target() {
                out["agent"] = agent(state, &row)?;
            }
            if let Some(look) = state.look() {
                out["detail_time"] = time(look.now.at_ms).into();
                out["processes"] = serde_json::to_value(&look.now.processes)?;
                out["flows"] = serde_json::to_value(&look.now.flows)?;
                out["files"] = serde_json::to_value(&look.now.files)?;
                out["policy"] = serde_json::to_value(look.now.policy.as_deref())?;
            }
        }
    }
    Ok(out)
}

/// Writes it to a new file in the current folder; its path.
///
/// # Errors
///
/// When it cannot be written there.
pub fn write(state: &State) -> Result<PathBuf> {
    let folder = std::env::current_dir().context("there is no current folder")?;
    let text = serde_json::to_string_pretty(&value(state)?)? + "\n";
    let zoned = Timestamp::from_millisecond(state.shown_ms())
        .unwrap_or_default()
        .to_zoned(state.zone.clone());
    let stamp = zoned.strftime("%Y%m%dT%H%M%S").to_string();
    for n in 1..TRIES {
        let more = if n == 1 {
            String::new()
        } else {
            format!("-{n}")
        };
        let path = folder.join(format!("agentwatch-top-{stamp}{more}.json"));
        // A new file: an agent may have put a link there. For its owner only, as the history is.
        let made = fs::File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path);
        match made {
            Ok(mut file) => {
                file.write_all(text.as_bytes())
                    .with_context(|| format!("cannot write {}", path.display()))?;
                return Ok(path);
            }
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                return Err(error).with_context(|| format!("cannot make {}", path.display()));
            }
        }
    }
    anyhow::bail!(
        "there are {TRIES} files of this second in {}",
        folder.display()
    )
}
