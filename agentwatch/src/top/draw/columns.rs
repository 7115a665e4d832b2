//! The columns of the list: which have room, and what they show of an agent.

use ratatui::{
    style::Style,
    text::{Line, Span},
};

use super::{super::state::choice::Sort, words};
use crate::{
    api::model::AgentState,
    top::{
        state::{
            fleet::{Row, real},
            millis,
        },
        theme::Theme,
    },
};

/// A column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column {
    /// The agent's name.
    Name,
    /// How it is with it.
    State,
    /// Findings by severity.
    Findings,
    /// Processor time.
    Cpu,
    /// Memory.
    Memory,
    /// Bytes in a second.
    In,
    /// Bytes out a second.
    Out,
    /// Programs started a second.
    Execs,
    /// Files opened a second.
    Opens,
    /// Files deleted a second.
    Deletes,
    /// Connections asked for a second.
    Connects,
    /// What is left of the deletion budget.
    Budget,
    /// Records lost.
    Lost,
    /// Processes.
    Processes,
    /// Records a second, over the last time.
    Activity,
    /// Watched for so long.
    Age,
    /// The policy.
    Policy,
    /// The cgroup.
    Cgroup,
}

use Column as C;

/// What there is of each: title, least and most columns, at the right, how important (0 is always there).
const TABLE: [(Column, &str, u16, u16, bool, u8); 18] = [
    (C::Name, "AGENT", 12, 32, false, 0),
    (C::State, "STATE", 11, 11, false, 1),
    (C::Findings, "FINDINGS", 8, 11, false, 2),
    (C::Cpu, "CPU", 5, 5, true, 3),
    (C::Memory, "MEM", 5, 5, true, 6),
    (C::In, "IN/s", 5, 5, true, 7),
    (C::Out, "OUT/s", 5, 5, true, 4),
    (C::Execs, "EXEC/s", 6, 6, true, 9),
    (C::Opens, "OPEN/s", 6, 6, true, 12),
    (C::Deletes, "DEL/s", 5, 5, true, 5),
    (C::Connects, "CONN/s", 6, 6, true, 14),
    (C::Budget, "BUDGET", 6, 6, true, 8),
    (C::Lost, "LOST", 5, 5, true, 10),
    (C::Processes, "PROCS", 5, 5, true, 13),
    (C::Activity, "ACTIVITY", 10, 40, false, 11),
    (C::Age, "AGE", 4, 4, true, 15),
    (C::Policy, "POLICY", 8, 24, false, 17),
    (C::Cgroup, "CGROUP", 12, 60, false, 16),
];

/// A column that has room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chosen {
    /// Which.
    pub column: Column,
    /// Its name on the screen.
    pub title: &'static str,
    /// Columns of the terminal.
    pub width: u16,
    /// It is written at the right.
    pub right: bool,
}

/// The columns that have room in so many, the important ones first; a space is between two.
pub fn chosen(width: u16) -> Vec<Chosen> {
    let mut by_importance = TABLE;
    by_importance.sort_by_key(|entry| entry.5);
    let mut left = width;
    let mut taken: Vec<Column> = Vec::new();
    for (column, _, least, _, _, importance) in by_importance {
        let needs = least + u16::from(importance > 0);
        // One that is less important does not slip in where a more important one has no room.
        if needs > left {
            break;
        }
        left -= needs;
        taken.push(column);
    }
    let mut out: Vec<Chosen> = TABLE
        .iter()
        .filter(|entry| taken.contains(&entry.0))
        .map(|&(column, title, least, _, right, _)| Chosen {
            column,
            title,
            width: least,
            right,
        })
        .collect();
    // What is left goes to those that can use it, the most important first.
    for (column, _, least, most, _, _) in by_importance {
        if let Some(chosen) = out.iter_mut().find(|chosen| chosen.column == column) {
            let more = (most - least).min(left);
            chosen.width += more;
            left -= more;
        }
    }
    out
}

impl Column {
    /// Whether the list can be sorted by it.
    pub fn sort(self) -> Option<Sort> {
        Some(match self {
            Self::Name => Sort::Name,
            Self::State | Self::Findings => Sort::Danger,
            Self::Cpu => Sort::Cpu,
            Self::Memory => Sort::Memory,
            Self::In => Sort::In,
            Self::Out => Sort::Out,
            Self::Execs => Sort::Execs,
            Self::Opens => Sort::Opens,
            Self::Deletes => Sort::Deletes,
            Self::Budget => Sort::Budget,
            Self::Lost => Sort::Lost,
            Self::Age => Sort::Age,
            Self::Connects | Self::Processes | Self::Activity | Self::Policy | Self::Cgroup => {
                return None;
            }
        })
    }
}

/// How a state looks.
pub fn state_style(state: AgentState, theme: &Theme) -> Style {
    match state {
        AgentState::Watched => Style::new(),
        AgentState::Quarantined => theme.warn,
        AgentState::Frozen => theme.accent,
        AgentState::Killed => theme.danger,
        AgentState::Gone => theme.faint,
    }
}

/// Findings by severity: `2C 1H 4M`; what is not bad is counted together.
pub fn findings(counts: [u64; 5], theme: &Theme) -> Line<'static> {
    let [critical, high, medium, low, info] = counts;
    let parts = [
        (critical, 'C', theme.danger),
        (high, 'H', theme.danger),
        (medium, 'M', theme.warn),
        (low + info, 'L', theme.faint),
    ];
    let mut spans = Vec::new();
    for (n, letter, style) in parts {
        if n > 0 {
            if !spans.is_empty() {
                spans.push(Span::raw(" "));
            }
            let n = words::count(real(n));
            spans.push(Span::styled(format!("{n}{letter}"), style));
        }
    }
    if spans.is_empty() {
        spans.push(Span::styled("-", theme.faint));
    }
    Line::from(spans)
}

/// How a share of a budget that is left looks.
pub fn budget_style(share: f64, theme: &Theme) -> Style {
    match share {
        _ if share < 0.25 => theme.danger,
        _ if share < 0.6 => theme.warn,
        _ => theme.faint,
    }
}

/// A figure; nothing is faint.
fn figure(text: String, is_zero: bool, theme: &Theme) -> Line<'static> {
    let style = if is_zero { theme.faint } else { Style::new() };
    Line::from(Span::styled(text, style))
}

/// What a column shows of an agent.
pub fn cell<'a>(chosen: &Chosen, row: &Row<'a>, theme: &Theme) -> Line<'a> {
    let now = row.now;
    let bytes = |n: f64| figure(words::bytes(n), n < 0.5, theme);
    let rate = |n: f64| figure(words::count(n), n < f64::EPSILON, theme);
    let over = matches!(row.state, AgentState::Killed | AgentState::Gone);
    match chosen.column {
        C::Name => {
            let style = if over { theme.faint } else { theme.strong };
            Line::from(Span::styled(row.agent.name.as_str(), style))
        }
        C::State => Line::from(Span::styled(
            row.state.to_string(),
            state_style(row.state, theme),
        )),
        C::Findings => findings(now.findings, theme),
        C::Cpu => match now.cpu {
            Some(cpu) => figure(words::percent(cpu), cpu < 0.000_05, theme),
            None => figure("-".to_owned(), true, theme),
        },
        C::Memory => match now.memory {
            Some(n) => bytes(real(n)),
            None => figure("-".to_owned(), true, theme),
        },
        C::In => bytes(now.bytes_in),
        C::Out => bytes(now.bytes_out),
        C::Execs => rate(now.execs),
        C::Opens => rate(now.opens),
        C::Deletes => rate(now.deletes),
        C::Connects => rate(now.connects),
        C::Budget => match now.budget {
            None => figure("-".to_owned(), true, theme),
            Some(share) => {
                let style = budget_style(share, theme);
                // A budget that is nearly used up is not rounded to 0, nor one in use to 100.
                let share = (share * 100.0).round().clamp(
                    if share > 0.0 { 1.0 } else { 0.0 },
                    if share < 1.0 { 99.0 } else { 100.0 },
                );
                Line::from(Span::styled(format!("{share:.0}%"), style))
            }
        },
        C::Lost => {
            let style = if now.lost > 0 {
                theme.danger
            } else {
                theme.faint
            };
            Line::from(Span::styled(words::count(real(now.lost)), style))
        }
        C::Processes => figure(words::count(real(now.processes)), now.processes == 0, theme),
        C::Activity => {
            let width = usize::from(chosen.width);
            let values = row.past(width).map(|sample| sample.records);
            Line::from(Span::styled(words::bars(values, width, 8.0), theme.good))
        }
        C::Age => {
            let since = millis(&row.agent.since);
            Line::from(words::age(now.at_ms.saturating_sub(since)))
        }
        C::Policy => {
            let name = row.agent.policy.rsplit('/').next().unwrap_or_default();
            Line::from(Span::styled(name, theme.faint))
        }
        C::Cgroup => Line::from(Span::styled(row.agent.cgroup.as_str(), theme.faint)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn titles(width: u16) -> Vec<&'static str> {
        chosen(width).iter().map(|chosen| chosen.title).collect()
    }

    #[test]
    fn columns_go_by_importance() {
        assert_eq!(titles(12), ["AGENT"]);
        assert_eq!(titles(40), ["AGENT", "STATE", "FINDINGS", "CPU"]);
        assert_eq!(
            titles(80),
            [
                "AGENT", "STATE", "FINDINGS", "CPU", "MEM", "IN/s", "OUT/s", "EXEC/s", "DEL/s",
                "BUDGET",
            ]
        );
        assert_eq!(titles(220).len(), TABLE.len());
    }

    #[test]
    fn columns_fit() {
        for width in 12..400 {
            let chosen = chosen(width);
            let all: u16 = chosen.iter().map(|column| column.width).sum();
            let gaps = u16::try_from(chosen.len()).unwrap() - 1;
            assert!(all + gaps <= width, "{width}");
        }
    }
}
