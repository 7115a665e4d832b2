//! Findings as they happen, on the terminal of the command that is watched.

use std::{
    fmt::Write as _,
    fs::File,
    io::{self, IsTerminal as _, Write as _},
    os::fd::AsFd as _,
};

use rustix::termios::{LocalModes, tcgetattr};
use serde::Deserialize;

use crate::{
    cli::Form,
    finding::{Action, Finding, ProcessInfo, Response, Severity},
};

/// How findings are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text {
        /// With colours.
        colour: bool,
    },
    /// For programs: one object each.
    Object(Form),
}

/// Writes findings, without spoiling what the command draws.
pub struct Notices {
    format: Format,
    /// Where to, instead of standard error.
    file: Option<File>,
    held: Vec<String>,
    /// The agent's name, where all but findings goes to the daemon's log.
    log: Option<String>,
}

impl Notices {
    /// Writes to a file, or to standard error.
    pub fn new(format: Format, file: Option<File>) -> Self {
        Self {
            format,
            file,
            held: Vec::new(),
            log: None,
        }
    }

    /// Writes findings to standard error, and all else of an agent to the log.
    pub fn beside_log(format: Format, agent: &str) -> Self {
        Self {
            log: Some(agent.to_owned()),
            ..Self::new(format, None)
        }
    }

    /// Shows a finding, now or when the command has given the screen back.
    pub fn finding(&mut self, finding: &Finding) {
        let Finding {
            id,
            severity,
            detector,
            message,
            process,
            ancestry,
            response,
            ..
        } = finding;
        let shown = Shown {
            id,
            severity: *severity,
            detector,
            message,
            process,
            ancestry,
            response,
        };
        self.show(&shown, || serde_json::to_string(finding));
    }

    /// Shows a finding of which somebody else told: its JSON, in a line.
    ///
    /// # Errors
    ///
    /// When it is none.
    pub fn told(&mut self, json: &str) -> serde_json::Result<Response> {
        let told: Told = serde_json::from_str(json)?;
        let shown = Shown {
            id: &told.id,
            severity: told.severity,
            detector: &told.detector,
            message: &told.message,
            process: &told.process,
            ancestry: &told.ancestry,
            response: &told.response,
        };
        self.show(&shown, || Ok(json.to_owned()));
        Ok(told.response)
    }

    fn show(&mut self, shown: &Shown<'_>, json: impl FnOnce() -> serde_json::Result<String>) {
        if shown.response.taken == Action::Log {
            return;
        }
        let text = match self.format {
            Format::Text { colour } => text(shown, colour),
            Format::Object(form) => json()
                .map_err(Into::into)
                .and_then(|json| form.again(&json))
                .unwrap_or_else(|error| {
                    format!("agentwatch: cannot write a finding as an object: {error:#}\n")
                }),
        };
        self.held.push(text);
        if self.file.is_some() || !screen_is_taken() {
            self.flush();
        }
    }

    /// Shows what was held back.
    pub fn flush(&mut self) {
        for text in self.held.drain(..) {
            self.file
                .as_mut()
                .map_or_else(
                    || io::stderr().write_all(text.as_bytes()),
                    |file| file.write_all(text.as_bytes()),
                )
                // Nobody to tell: the terminal is what failed. The history has the finding.
                .unwrap_or_default();
        }
    }

    /// Writes something else to the same place.
    pub fn write(&mut self, text: &str) {
        if let Some(agent) = &self.log {
            let text = text.strip_prefix("agentwatch: ").unwrap_or(text);
            tracing::warn!(agent, "{}", text.trim_end());
            return;
        }
        self.held.push(text.to_owned());
        self.flush();
    }

    /// How findings are written.
    pub fn format(&self) -> Format {
        self.format
    }
}

/// What is shown of a finding.
struct Shown<'a> {
    id: &'a str,
    severity: Severity,
    detector: &'a str,
    message: &'a str,
    process: &'a ProcessInfo,
    ancestry: &'a [ProcessInfo],
    response: &'a Response,
}

/// The same, read.
#[derive(Deserialize)]
struct Told {
    id: String,
    severity: Severity,
    detector: String,
    message: String,
    process: ProcessInfo,
    ancestry: Vec<ProcessInfo>,
    response: Response,
}

/// A program that draws its screen itself has switched line editing off: a line of ours would land
/// in the middle of it.
fn screen_is_taken() -> bool {
    let stderr = io::stderr();
    stderr.is_terminal()
        && tcgetattr(stderr.as_fd())
            .is_ok_and(|mode| !mode.local_modes.contains(LocalModes::ICANON))
}

/// A finding in a few lines.
fn text(finding: &Shown<'_>, colour: bool) -> String {
    let (on, off) = match (colour, finding.severity) {
        (false, _) => ("", ""),
        (true, Severity::Critical | Severity::High) => ("\x1b[1;31m", "\x1b[0m"),
        (true, Severity::Medium) => ("\x1b[1;33m", "\x1b[0m"),
        (true, _) => ("\x1b[1m", "\x1b[0m"),
    };
    let mut out = format!(
        "agentwatch: {on}{} {}{off}: {}\n",
        finding.severity, finding.detector, finding.message
    );
    let chain: Vec<String> = std::iter::once(finding.process)
        .chain(finding.ancestry.iter().filter(|process| process.member))
        .map(|process| format!("{}({})", program(&process.exe), process.pid))
        .collect();
    let _ = writeln!(out, "agentwatch:   chain: {}", chain.join(" ← "));
    let _ = writeln!(
        out,
        "agentwatch:   {}; more: agentwatch findings {}",
        done(finding.response),
        finding.id
    );
    out
}

/// The last component of a path.
fn program(exe: &str) -> &str {
    match exe.rsplit('/').next() {
        Some(name) if !name.is_empty() => name,
        _ => "?",
    }
}

/// What was done, in words.
pub fn done(response: &Response) -> String {
    let ms = |us: u64| format!("{}.{:03} ms", us / 1000, us % 1000);
    match (response.taken, &response.reason) {
        (Action::Kill, None) => {
            let mut out = "killed the agent".to_owned();
            if let (Some(ordered), Some(empty)) = (response.ordered_us, response.empty_us) {
                let _ = write!(
                    out,
                    ": ordered {} after the deciding event, its cgroup empty after {}",
                    ms(ordered),
                    ms(empty)
                );
            }
            if !response.outside.is_empty() {
                let pids: Vec<String> = response.outside.iter().map(u32::to_string).collect();
                let _ = write!(out, "; outside its cgroup also killed: {}", pids.join(", "));
            }
            out
        }
        (Action::Kill, Some(reason)) => format!("killed the agent, but {reason}"),
        (Action::Quarantine, None) => "cut the agent's network".to_owned(),
        (Action::Freeze, None) => "froze the agent".to_owned(),
        (Action::Freeze, Some(reason)) => format!("froze the agent, but {reason}"),
        (_, Some(reason)) => format!(
            "{} was asked for and not done: {reason}",
            response.requested
        ),
        (taken, None) => format!("action: {taken}"),
    }
}
