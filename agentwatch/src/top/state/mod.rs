//! What `top` knows and what is looked at: everything that a screen shows, and nothing of how.

pub mod choice;
pub mod detail;
pub mod dialog;
pub mod fleet;

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
};

use jiff::{Timestamp, tz::TimeZone};

use crate::{
    api::model::{Action, Agent, Finding, Health, Verb},
    incident::Incidents,
};
use choice::{Filter, Sort};
use detail::{Detail, Details, Look};
use dialog::{Dialog, Prompt};
use fleet::{Fleet, Row};

/// Findings that are kept, the last ones.
const FINDINGS: usize = 1000;
/// After so long without an answer the daemon is said to be silent, milliseconds.
const SILENT_MS: i64 = 5000;
/// How long a notice stays, milliseconds.
const NOTICE_MS: i64 = 15_000;

/// Where the data comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// A daemon, by its socket.
    Daemon {
        /// The socket's path.
        socket: String,
    },
    /// A recording.
    Recording {
        /// The file.
        file: String,
        /// How fast it is played; 1 is as it happened.
        speed: f64,
        /// It has been played to its end.
        over: bool,
    },
}

/// Something new.
#[derive(Debug)]
pub enum Update {
    /// The agents, as they are.
    Agents {
        /// When, Unix milliseconds.
        at_ms: i64,
        /// All of them.
        agents: Vec<Agent>,
        /// How it is with the daemon.
        health: Option<Box<Health>>,
    },
    /// The daemon cannot be reached, or does not answer.
    Unreachable(String),
    /// What is known of the agent that is looked at.
    Detail(Box<Detail>),
    /// Something was found, now or before.
    Finding(Box<Finding>),
    /// The stream of findings dropped so many items for us.
    Missed(u64),
    /// Whether findings come as they happen; why not.
    Stream(Result<(), String>),
    /// What came of an order.
    Acted(Verb, String, Result<Box<Action>, String>),
    /// A recording plays at this speed now.
    Speed(f64),
    /// The recording is over; what was wrong with it, if anything.
    Over(Option<String>),
}

/// What the state asks of who feeds it.
#[derive(Debug, Clone, PartialEq)]
pub enum Order {
    /// Tell of this agent, by its number, or of none, beyond the list.
    Watch(Option<u32>),
    /// Act upon an agent.
    Act {
        /// Its number: names may be numbers of others.
        id: u32,
        /// Its name.
        name: String,
        /// What.
        verb: Verb,
        /// Why.
        reason: String,
    },
    /// Play the recording at another speed.
    Speed(f64),
    /// Write what is seen to a file.
    Export,
    /// The end.
    Quit,
}

/// What fills the screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Screen {
    /// All agents.
    Agents,
    /// One, by its number.
    Agent(u32),
}

/// A part of the screen of one agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pane {
    /// Who started whom.
    Processes,
    /// What it is connected to.
    Flows,
    /// What it changed.
    Files,
    /// What was found.
    Findings,
    /// What it may do, and why.
    Policy,
}

impl Pane {
    /// All, in the order of the keys 1 to 5.
    pub const ALL: [Self; 5] = [
        Self::Processes,
        Self::Flows,
        Self::Files,
        Self::Findings,
        Self::Policy,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Processes => "processes",
            Self::Flows => "flows",
            Self::Files => "files",
            Self::Findings => "findings",
            Self::Policy => "policy",
        }
    }

    /// Its place in [`Self::ALL`].
    pub fn index(self) -> usize {
        Self::ALL.iter().position(|pane| *pane == self).unwrap_or(0)
    }
}

/// A finding, with its time as a number.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// Unix milliseconds.
    pub at_ms: i64,
    /// It.
    pub finding: Arc<Finding>,
}

/// A line at the bottom that goes away by itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Notice {
    /// What.
    pub text: String,
    /// It is bad news.
    pub bad: bool,
    until_ms: i64,
}

/// Everything.
pub struct State {
    /// Where the data comes from.
    pub source: Source,
    /// The zone that times are shown in.
    pub zone: TimeZone,
    /// Columns and lines of the terminal.
    pub size: (u16, u16),
    /// Unix milliseconds, now.
    pub clock_ms: i64,
    /// The agents.
    pub fleet: Fleet,
    /// The one that is looked at.
    pub details: Details,
    /// How it is with the daemon.
    pub health: Option<Box<Health>>,
    /// Why there is no daemon, and since when, Unix milliseconds.
    pub unreachable: Option<(i64, String)>,
    /// Why findings do not come as they happen.
    pub no_stream: Option<String>,
    /// When it told something last, Unix milliseconds.
    heard_ms: Option<i64>,
    /// Oldest first.
    findings: VecDeque<Found>,
    known: HashSet<String>,
    /// What of them belongs together.
    pub incidents: Incidents,
    /// What fills the screen.
    pub screen: Screen,
    /// The agent that is selected, by its number.
    pub selected: Option<u32>,
    /// The first line of the list that is shown.
    pub top: usize,
    /// The order of the list.
    pub sort: Sort,
    /// The other way round.
    pub reverse: bool,
    /// Which agents are shown.
    pub filter: Filter,
    /// What was searched for last.
    pub search: String,
    /// The time that is looked at; `None` for now.
    pub paused: Option<i64>,
    /// The pane that the keys go to.
    pub pane: Pane,
    /// The lines that are selected in the panes, by [`Pane::index`].
    pub lines: [usize; 5],
    /// A line that is being typed.
    pub prompt: Option<Prompt>,
    /// What lies over the screen.
    pub dialog: Option<Dialog>,
    /// What happened last.
    pub notice: Option<Notice>,
}

impl State {
    /// With nothing known yet.
    pub fn new(source: Source, zone: TimeZone) -> Self {
        let measured = !matches!(source, Source::Recording { .. });
        Self {
            source,
            zone,
            size: (80, 24),
            clock_ms: 0,
            fleet: Fleet::new(measured),
            details: Details::default(),
            health: None,
            unreachable: None,
            no_stream: None,
            heard_ms: None,
            findings: VecDeque::new(),
            known: HashSet::new(),
            incidents: Incidents::default(),
            screen: Screen::Agents,
            selected: None,
            top: 0,
            sort: Sort::default(),
            reverse: false,
            filter: Filter::default(),
            search: String::new(),
            paused: None,
            pane: Pane::Processes,
            lines: [0; 5],
            prompt: None,
            dialog: None,
            notice: None,
        }
    }

    /// Time goes on.
    pub fn tick(&mut self, clock_ms: i64) {
        self.clock_ms = clock_ms;
        if let Some(notice) = &self.notice
            && notice.until_ms < clock_ms
        {
            self.notice = None;
        }
    }

    /// Says something at the bottom.
    pub fn say(&mut self, bad: bool, text: impl Into<String>) {
        self.notice = Some(Notice {
            text: text.into(),
            bad,
            until_ms: self.clock_ms.saturating_add(NOTICE_MS),
        });
    }

    /// Takes in something new.
    pub fn take(&mut self, update: Update) {
        match update {
            Update::Agents {
                at_ms,
                agents,
                health,
            } => self.agents(at_ms, agents, health),
            Update::Unreachable(why) => {
                let since = self.unreachable.take().map_or(self.clock_ms, |(at, _)| at);
                self.unreachable = Some((since, why));
            }
            Update::Detail(detail) => self.details.take(*detail),
            Update::Finding(finding) => self.found(finding),
            Update::Missed(n) => self.say(
                true,
                format!("{n} items of the stream came too fast: `agentwatch findings` has all"),
            ),
            Update::Stream(works) => self.no_stream = works.err(),
            Update::Acted(verb, name, result) => self.acted(verb, &name, result),
            Update::Speed(to) => {
                if let Source::Recording { speed, .. } = &mut self.source {
                    *speed = to;
                }
            }
            Update::Over(error) => {
                if let Source::Recording { over, .. } = &mut self.source {
                    *over = true;
                }
                if let Some(error) = error {
                    self.say(true, error);
                }
            }
        }
        self.settle();
    }

    fn agents(&mut self, at_ms: i64, agents: Vec<Agent>, health: Option<Box<Health>>) {
        let was_away = self.unreachable.take().is_some();
        if let (Some(old), Some(new)) = (&self.health, &health) {
            if (old.pid, &old.since) != (new.pid, &new.since) {
                self.say(
                    true,
                    format!(
                        "the daemon was started again at {}: its counts begin anew",
                        self.time(millis(&new.since))
                    ),
                );
            } else if was_away {
                self.say(false, "the daemon answers again");
            }
        }
        self.health = health.or(self.health.take());
        self.heard_ms = Some(self.clock_ms);
        self.fleet.take(at_ms, agents);
    }

    fn found(&mut self, finding: Box<Finding>) {
        if !self.known.insert(finding.id.clone()) {
            return;
        }
        self.incidents.add(&finding);
        let at_ms = millis(&finding.time);
        let at = self.findings.partition_point(|found| found.at_ms <= at_ms);
        let finding = Arc::from(finding);
        self.findings.insert(at, Found { at_ms, finding });
        if self.findings.len() > FINDINGS
            && let Some(oldest) = self.findings.pop_front()
        {
            self.known.remove(&oldest.finding.id);
        }
    }

    fn acted(&mut self, verb: Verb, name: &str, result: Result<Box<Action>, String>) {
        let verb = verb.name();
        match result {
            Ok(action) if action.done => {
                let after = action.done_us.unwrap_or(0) / 1000;
                let (agent, outcome) = (&action.agent, &action.outcome);
                self.say(
                    false,
                    format!("{verb} {agent}: {outcome} (after {after} ms)"),
                );
            }
            Ok(action) => self.say(
                true,
                format!("{verb} {}: NOT done: {}", action.agent, action.outcome),
            ),
            Err(error) => self.say(true, format!("{verb} {name}: NOT done: {error}")),
        }
    }

    /// What was found up to the time that is looked at, of an agent by its name or of all, newest first.
    pub fn findings<'a>(&'a self, agent: Option<&'a str>) -> impl Iterator<Item = &'a Found> {
        let until = self.paused.unwrap_or(i64::MAX);
        self.findings
            .iter()
            .rev()
            .filter(move |found| found.at_ms <= until)
            .filter(move |found| agent.is_none_or(|name| found.finding.agent == name))
    }

    /// The agents that are shown, in their order.
    pub fn rows(&self) -> Vec<Row<'_>> {
        let mut rows: Vec<Row<'_>> = self
            .fleet
            .rows(self.paused)
            .filter(|row| self.filter.takes(row))
            .collect();
        rows.sort_by(|a, b| {
            let order = self.sort.compare(a, b);
            if self.reverse { order.reverse() } else { order }
        });
        rows
    }

    /// The agent that the keys act upon: the one that fills the screen, else the selected one.
    pub fn target(&self) -> Option<Row<'_>> {
        let id = match self.screen {
            Screen::Agent(id) => id,
            Screen::Agents => self.selected?,
        };
        self.fleet.row(id, self.paused)
    }

    /// What is known of the agent that fills the screen.
    pub fn look(&self) -> Option<Look<'_>> {
        self.details.look(self.paused)
    }

    /// The time that is shown, Unix milliseconds.
    pub fn shown_ms(&self) -> i64 {
        self.paused
            .or_else(|| self.fleet.moments().back().copied())
            .unwrap_or(self.clock_ms)
    }

    /// For how long the daemon has said nothing, milliseconds, where that is long.
    pub fn silent_ms(&self) -> Option<i64> {
        if let Source::Recording { .. } = self.source {
            return None;
        }
        let silent = self.clock_ms.saturating_sub(self.heard_ms?);
        (silent > SILENT_MS).then_some(silent)
    }

    /// Whether the daemon ever answered.
    pub fn has_heard(&self) -> bool {
        self.heard_ms.is_some()
    }

    /// A time of day.
    pub fn time(&self, at_ms: i64) -> String {
        let time = Timestamp::from_millisecond(at_ms).unwrap_or_default();
        let zoned = time.to_zoned(self.zone.clone());
        zoned.strftime("%H:%M:%S").to_string()
    }

    /// Sees to it that what is selected is there, and on the screen.
    pub fn settle(&mut self) {
        let rows = self.rows();
        let count = rows.len();
        let at = self
            .selected
            .and_then(|id| rows.iter().position(|row| row.agent.id == id));
        let first = rows.first().map(|row| row.agent.id);
        let at = if let Some(at) = at {
            at
        } else {
            self.selected = first;
            0
        };
        let height = super::draw::layout::agents(self.size).rows_height();
        let last_top = count.saturating_sub(height);
        self.top = self
            .top
            .clamp((at + 1).saturating_sub(height.max(1)), at)
            .min(last_top);
    }
}

/// RFC 3339 as Unix milliseconds; 0 where it is none.
pub fn millis(time: &str) -> i64 {
    time.parse::<Timestamp>()
        .map_or(0, Timestamp::as_millisecond)
}
