//! The agents, and what was measured of each in the last minutes.

use std::collections::{BTreeMap, VecDeque};

use crate::api::model::{Agent, AgentState, DeletionBudget};

/// Samples that are kept of an agent: five minutes, at one a second.
pub const SAMPLES: usize = 300;
/// How long an agent that is gone stays in the list, milliseconds.
const GONE_SHOWN_MS: i64 = 60_000;
/// How long it can be scrolled back to, milliseconds.
const GONE_KEPT_MS: i64 = 300_000;
/// Agents that are gone and kept; of more, those that went first are forgotten.
const GONE: usize = 2000;

/// What was measured of an agent at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// When, Unix milliseconds.
    pub at_ms: i64,
    /// How it was with it.
    pub state: AgentState,
    /// Processes.
    pub processes: u64,
    /// Processors; `None` where nobody measures that.
    pub cpu: Option<f64>,
    /// Bytes.
    pub memory: Option<u64>,
    /// Bytes a second.
    pub bytes_in: f64,
    /// Bytes a second.
    pub bytes_out: f64,
    /// Programs started a second.
    pub execs: f64,
    /// Files opened a second.
    pub opens: f64,
    /// Files deleted a second.
    pub deletes: f64,
    /// Connections asked for a second.
    pub connects: f64,
    /// Findings so far: critical, high, medium, low, info.
    pub findings: [u64; 5],
    /// What of the deletion budget is left, the smaller share of the two: 0 to 1.
    pub budget: Option<f64>,
    /// Records lost so far.
    pub lost: u64,
    /// Records so far.
    pub delivered: u64,
    /// Records a second since the sample before.
    pub records: f64,
}

impl Sample {
    fn new(agent: &Agent, at_ms: i64, measured: bool, before: Option<&Self>) -> Self {
        let delivered = agent.events.delivered;
        let records = before.map_or(0.0, |before| {
            let seconds = real(at_ms.saturating_sub(before.at_ms).unsigned_abs()) / 1000.0;
            let new = real(delivered.saturating_sub(before.delivered));
            if seconds > 0.0 { new / seconds } else { 0.0 }
        });
        let found = &agent.findings;
        Self {
            at_ms,
            state: agent.state,
            processes: agent.processes,
            cpu: measured.then_some(agent.rates.cpu),
            memory: agent.memory_bytes,
            bytes_in: agent.rates.bytes_in,
            bytes_out: agent.rates.bytes_out,
            execs: agent.rates.execs,
            opens: agent.rates.opens,
            deletes: agent.rates.deletes,
            connects: agent.rates.connects,
            findings: [
                found.critical,
                found.high,
                found.medium,
                found.low,
                found.info,
            ],
            budget: agent.deletion_budget.as_ref().and_then(share),
            lost: agent.events.lost_total() + agent.events.not_stored,
            delivered,
            records,
        }
    }
}

/// A count as a real number, for people.
#[expect(clippy::cast_precision_loss, reason = "for people: 52 bits are enough")]
pub fn real(n: u64) -> f64 {
    n as f64
}

/// The smaller share of a budget that is left; `None` where it has no limit.
fn share(budget: &DeletionBudget) -> Option<f64> {
    [
        (budget.left, budget.limit),
        (budget.workspace_left, budget.workspace_limit),
    ]
    .into_iter()
    .filter(|(_, limit)| *limit > 0)
    .map(|(left, limit)| (real(left) / real(limit)).min(1.0))
    .reduce(f64::min)
}

/// An agent, with its past.
#[derive(Debug, Clone)]
pub struct Tracked {
    /// As the daemon told it last.
    pub agent: Agent,
    /// Oldest first; never empty.
    samples: VecDeque<Sample>,
    /// Not told of any more since, Unix milliseconds.
    gone_ms: Option<i64>,
}

/// An agent at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    /// What is known of it: figures are in `now`.
    pub agent: &'a Agent,
    /// What was measured.
    pub now: &'a Sample,
    /// How it was with it.
    pub state: AgentState,
    tracked: &'a Tracked,
}

impl<'a> Row<'a> {
    /// The last so many samples up to this moment, oldest first.
    pub fn past(&self, n: usize) -> impl Iterator<Item = &'a Sample> + use<'a> {
        let samples = &self.tracked.samples;
        let end = samples.partition_point(|sample| sample.at_ms <= self.now.at_ms);
        samples.range(end.saturating_sub(n)..end)
    }
}

/// All of them, by their number.
#[derive(Debug)]
pub struct Fleet {
    measured: bool,
    agents: BTreeMap<u32, Tracked>,
    /// When the daemon told of them, Unix milliseconds.
    moments: VecDeque<i64>,
}

impl Fleet {
    /// Without agents; whether their processor time is going to be measured: not in a recording.
    pub fn new(measured: bool) -> Self {
        Self {
            measured,
            agents: BTreeMap::new(),
            moments: VecDeque::new(),
        }
    }

    /// Takes in what the daemon says of all agents.
    pub fn take(&mut self, at_ms: i64, agents: Vec<Agent>) {
        // A clock that was set back: nothing is to be older than what came before.
        let at_ms = self.moments.back().map_or(at_ms, |last| at_ms.max(*last));
        if self.moments.back() != Some(&at_ms) {
            self.moments.push_back(at_ms);
        }
        if self.moments.len() > SAMPLES {
            self.moments.pop_front();
        }
        let mut there = std::collections::HashSet::with_capacity(agents.len());
        for agent in agents {
            there.insert(agent.id);
            let tracked = self.agents.entry(agent.id).or_insert_with(|| Tracked {
                agent: Agent::default(),
                samples: VecDeque::new(),
                gone_ms: None,
            });
            let sample = Sample::new(&agent, at_ms, self.measured, tracked.samples.back());
            if tracked.samples.len() == SAMPLES {
                tracked.samples.pop_front();
            }
            tracked.samples.push_back(sample);
            tracked.agent = agent;
            tracked.gone_ms = None;
        }
        for (id, tracked) in &mut self.agents {
            if !there.contains(id) {
                tracked.gone_ms.get_or_insert(at_ms);
            }
        }
        self.forget(at_ms);
    }

    fn forget(&mut self, at_ms: i64) {
        let mut gone: Vec<i64> = self.agents.values().filter_map(|a| a.gone_ms).collect();
        let mut oldest = at_ms.saturating_sub(GONE_KEPT_MS);
        if gone.len() > GONE {
            gone.sort_unstable_by(|a, b| b.cmp(a));
            oldest = oldest.max(gone[GONE]);
        }
        self.agents
            .retain(|_, tracked| tracked.gone_ms.is_none_or(|gone| gone > oldest));
    }

    /// The times that can be looked at, Unix milliseconds, oldest first.
    pub fn moments(&self) -> &VecDeque<i64> {
        &self.moments
    }

    /// The agents as they were at a time; now, where none is given.
    pub fn rows(&self, at_ms: Option<i64>) -> impl Iterator<Item = Row<'_>> {
        let now = self.moments.back().copied().unwrap_or_default();
        let at_ms = at_ms.unwrap_or(now);
        self.agents
            .values()
            .filter_map(move |tracked| row(tracked, at_ms))
    }

    /// One of them as it was at a time.
    pub fn row(&self, id: u32, at_ms: Option<i64>) -> Option<Row<'_>> {
        let now = self.moments.back().copied().unwrap_or_default();
        row(self.agents.get(&id)?, at_ms.unwrap_or(now))
    }
}

/// An agent at a time; `None` where it was not there.
fn row(tracked: &Tracked, at_ms: i64) -> Option<Row<'_>> {
    let end = tracked
        .samples
        .partition_point(|sample| sample.at_ms <= at_ms);
    let now = tracked.samples.get(end.checked_sub(1)?)?;
    let state = match tracked.gone_ms {
        Some(gone) if at_ms.saturating_sub(gone) > GONE_SHOWN_MS => return None,
        // That it was killed says more.
        Some(gone) if at_ms >= gone && now.state != AgentState::Killed => AgentState::Gone,
        _ => now.state,
    };
    Some(Row {
        agent: &tracked.agent,
        now,
        state,
        tracked,
    })
}

#[cfg(test)]
mod tests {
    use AgentState::{Gone, Watched};

    use super::*;
    use crate::api::model::EventCounts;

    fn agent(id: u32, delivered: u64) -> Agent {
        Agent {
            id,
            name: format!("a{id}"),
            events: EventCounts {
                delivered,
                ..EventCounts::default()
            },
            ..Agent::default()
        }
    }

    #[test]
    fn a_past_that_can_be_looked_at() {
        let mut fleet = Fleet::new(true);
        fleet.take(1000, vec![agent(1, 0)]);
        fleet.take(2000, vec![agent(1, 50), agent(2, 0)]);
        fleet.take(3000, vec![agent(2, 10)]);
        let seen = |at: Option<i64>| -> Vec<(u32, AgentState)> {
            fleet
                .rows(at)
                .map(|row| (row.agent.id, row.state))
                .collect()
        };
        assert_eq!(seen(Some(999)), []);
        assert_eq!(seen(Some(1500)), [(1, Watched)]);
        assert_eq!(seen(Some(2000)), [(1, Watched), (2, Watched)]);
        assert_eq!(seen(None), [(1, Gone), (2, Watched)]);
        let row = fleet.row(1, Some(2000)).unwrap();
        assert!((row.now.records - 50.0).abs() < 1e-9);
        assert_eq!(row.past(10).count(), 2);
        assert_eq!(fleet.row(2, None).unwrap().past(1).count(), 1);
    }

    #[test]
    fn who_is_gone_is_forgotten() {
        let mut fleet = Fleet::new(true);
        fleet.take(1000, vec![agent(1, 0)]);
        fleet.take(2000, Vec::new());
        assert_eq!(fleet.rows(None).count(), 1);
        fleet.take(2000 + GONE_SHOWN_MS + 1, Vec::new());
        assert_eq!(fleet.rows(None).count(), 0);
        assert_eq!(fleet.rows(Some(1000)).count(), 1);
        fleet.take(2000 + GONE_KEPT_MS, Vec::new());
        assert_eq!(fleet.rows(Some(1000)).count(), 0);
    }

    #[test]
    fn many_that_are_gone_are_bounded() {
        let mut fleet = Fleet::new(true);
        for turn in 0..i64::try_from(GONE).unwrap() + 50 {
            let id = u32::try_from(turn).unwrap();
            fleet.take(turn, vec![agent(id, 0)]);
        }
        assert!(fleet.agents.len() <= GONE + 1, "{}", fleet.agents.len());
    }
}
