//! Which agents are shown, and in which order.

use std::cmp::Ordering;

use super::fleet::{Row, real};
use crate::api::model::AgentState;

/// What the list is sorted by. The first of an order is what one most wants to see.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Sort {
    /// What is wrong first: findings, what was acted upon, losses
    #[default]
    Danger,
    /// By name
    Name,
    /// Processor time
    Cpu,
    /// Memory
    Memory,
    /// Bytes in a second
    In,
    /// Bytes out a second
    Out,
    /// Programs started a second
    Execs,
    /// Files opened a second
    Opens,
    /// Files deleted a second
    Deletes,
    /// The deletion budget that is left
    Budget,
    /// Records lost
    Lost,
    /// The youngest first
    Age,
}

impl Sort {
    /// All, in the order of the keys `<` and `>`.
    pub const ALL: [Self; 12] = [
        Self::Danger,
        Self::Name,
        Self::Cpu,
        Self::Memory,
        Self::In,
        Self::Out,
        Self::Execs,
        Self::Opens,
        Self::Deletes,
        Self::Budget,
        Self::Lost,
        Self::Age,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Danger => "danger",
            Self::Name => "name",
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::In => "in",
            Self::Out => "out",
            Self::Execs => "execs",
            Self::Opens => "opens",
            Self::Deletes => "deletes",
            Self::Budget => "budget",
            Self::Lost => "lost",
            Self::Age => "age",
        }
    }

    /// The one after it, or before.
    #[must_use]
    pub fn step(self, forward: bool) -> Self {
        let n = Self::ALL.len();
        let at = Self::ALL.iter().position(|sort| *sort == self).unwrap_or(0);
        Self::ALL[(at + if forward { 1 } else { n - 1 }) % n]
    }

    /// Which of two comes first; by name where they are alike, so that lines stay where they are.
    pub fn compare(self, a: &Row<'_>, b: &Row<'_>) -> Ordering {
        let most = |x: f64, y: f64| y.total_cmp(&x);
        let by = match self {
            Self::Danger => danger(b).cmp(&danger(a)),
            Self::Name => Ordering::Equal,
            Self::Cpu => most(a.now.cpu.unwrap_or(0.0), b.now.cpu.unwrap_or(0.0)),
            Self::Memory => b.now.memory.cmp(&a.now.memory),
            Self::In => most(a.now.bytes_in, b.now.bytes_in),
            Self::Out => most(a.now.bytes_out, b.now.bytes_out),
            Self::Execs => most(a.now.execs, b.now.execs),
            Self::Opens => most(a.now.opens, b.now.opens),
            Self::Deletes => most(a.now.deletes, b.now.deletes),
            Self::Budget => {
                let left = |row: &Row<'_>| row.now.budget.unwrap_or(f64::INFINITY);
                left(a).total_cmp(&left(b))
            }
            Self::Lost => b.now.lost.cmp(&a.now.lost),
            Self::Age => b.agent.since.cmp(&a.agent.since),
        };
        by.then_with(|| a.agent.name.cmp(&b.agent.name))
            .then_with(|| a.agent.id.cmp(&b.agent.id))
    }
}

/// How much there is to look at in an agent: the first number counts most.
fn danger(row: &Row<'_>) -> (u64, u64, u64, u8, bool, u64) {
    let [critical, high, medium, low, _] = row.now.findings;
    // One that is over needs nobody, whatever it did, as long as others are alive.
    let over = matches!(row.state, AgentState::Gone | AgentState::Killed);
    let alive = |n: u64| if over { 0 } else { n };
    let state = match row.state {
        AgentState::Killed => 3,
        AgentState::Frozen => 2,
        AgentState::Quarantined => 1,
        AgentState::Watched | AgentState::Gone => 0,
    };
    let past = critical * 100 + high * 10 + medium;
    (
        alive(critical),
        alive(high),
        alive(medium),
        state,
        row.now.lost > 0,
        if over { past } else { low },
    )
}

/// Which agents are shown: all words must fit.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Filter {
    text: String,
    words: Vec<Word>,
}

#[derive(Debug, Clone, PartialEq)]
struct Word {
    not: bool,
    test: Test,
}

#[derive(Debug, Clone, PartialEq)]
enum Test {
    /// The name, cgroup, state or policy has this.
    Has(String),
    /// The state begins so.
    State(String),
    /// A figure is more than this, or less.
    Figure(Figure, Ordering, f64),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Figure {
    Cpu,
    Memory,
    In,
    Out,
    Execs,
    Opens,
    Deletes,
    Findings,
    Lost,
    Processes,
}

impl Filter {
    /// By words: `train state:frozen cpu>50 out>1M findings>0 !test`.
    pub fn new(text: &str) -> Self {
        let words = text.split_whitespace().filter_map(|word| {
            let (not, word) = match word.strip_prefix('!') {
                Some(word) => (true, word),
                None => (false, word),
            };
            (!word.is_empty()).then(|| Word {
                not,
                test: test(&word.to_lowercase()),
            })
        });
        Self {
            words: words.collect(),
            text: text.to_owned(),
        }
    }

    /// As it was typed.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// It takes everything.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// Whether an agent is shown.
    pub fn takes(&self, row: &Row<'_>) -> bool {
        self.words
            .iter()
            .all(|word| word.test.fits(row) != word.not)
    }
}

fn test(word: &str) -> Test {
    if let Some(state) = word.strip_prefix("state:") {
        return Test::State(state.to_owned());
    }
    for (sign, order) in [('>', Ordering::Greater), ('<', Ordering::Less)] {
        if let Some((name, value)) = word.split_once(sign)
            && let Some(figure) = figure(name)
            && let Some(value) = number(value)
        {
            return Test::Figure(figure, order, value);
        }
    }
    Test::Has(word.to_owned())
}

fn figure(name: &str) -> Option<Figure> {
    Some(match name {
        "cpu" => Figure::Cpu,
        "mem" | "memory" => Figure::Memory,
        "in" => Figure::In,
        "out" => Figure::Out,
        "execs" => Figure::Execs,
        "opens" => Figure::Opens,
        "deletes" => Figure::Deletes,
        "findings" => Figure::Findings,
        "lost" => Figure::Lost,
        "procs" | "processes" => Figure::Processes,
        _ => return None,
    })
}

/// `50`, `50%`, `1.5k`, `10M`: thousands are 1024, as bytes are shown.
fn number(text: &str) -> Option<f64> {
    let text = text.strip_suffix('%').unwrap_or(text);
    let text = text.strip_suffix('b').unwrap_or(text);
    let (digits, power) = match text.char_indices().last()? {
        (at, 'k') => (&text[..at], 1),
        (at, 'm') => (&text[..at], 2),
        (at, 'g') => (&text[..at], 3),
        _ => (text, 0),
    };
    let n: f64 = digits.parse().ok()?;
    n.is_finite().then(|| n * 1024_f64.powi(power))
}

impl Test {
    fn fits(&self, row: &Row<'_>) -> bool {
        match self {
            Self::Has(text) => {
                let agent = row.agent;
                [&agent.name, &agent.cgroup, &agent.policy]
                    .into_iter()
                    .any(|field| field.to_lowercase().contains(text))
                    || row.state.to_string().starts_with(text)
            }
            Self::State(text) => row.state.to_string().starts_with(text),
            Self::Figure(figure, order, value) => {
                let now = row.now;
                let own = match figure {
                    Figure::Cpu => now.cpu.unwrap_or(0.0) * 100.0,
                    Figure::Memory => real(now.memory.unwrap_or(0)),
                    Figure::In => now.bytes_in,
                    Figure::Out => now.bytes_out,
                    Figure::Execs => now.execs,
                    Figure::Opens => now.opens,
                    Figure::Deletes => now.deletes,
                    Figure::Findings => real(now.findings.iter().sum()),
                    Figure::Lost => real(now.lost),
                    Figure::Processes => real(now.processes),
                };
                own.total_cmp(value) == *order
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::model::{Agent, FindingCounts, Rates},
        top::state::fleet::Fleet,
    };

    fn agents() -> Vec<Agent> {
        let agent = |id, name: &str, state, cpu, critical| Agent {
            id,
            name: name.to_owned(),
            state,
            rates: Rates {
                cpu,
                bytes_out: cpu * 1e6,
                ..Rates::default()
            },
            findings: FindingCounts {
                critical,
                ..FindingCounts::default()
            },
            ..Agent::default()
        };
        vec![
            agent(1, "calm", AgentState::Watched, 0.9, 0),
            agent(2, "cold", AgentState::Frozen, 0.0, 0),
            agent(3, "dead", AgentState::Killed, 0.0, 2),
            agent(4, "live", AgentState::Watched, 0.1, 1),
        ]
    }

    fn shown(filter: &str, sort: Sort) -> Vec<u32> {
        let mut fleet = Fleet::new(true);
        fleet.take(1, agents());
        let filter = Filter::new(filter);
        let mut rows: Vec<_> = fleet.rows(None).filter(|row| filter.takes(row)).collect();
        rows.sort_by(|a, b| sort.compare(a, b));
        rows.iter().map(|row| row.agent.id).collect()
    }

    #[test]
    fn what_is_wrong_and_alive_comes_first() {
        assert_eq!(shown("", Sort::Danger), [4, 3, 2, 1]);
        assert_eq!(shown("", Sort::Name), [1, 2, 3, 4]);
        assert_eq!(shown("", Sort::Cpu), [1, 4, 2, 3]);
    }

    #[test]
    fn words_of_a_filter() {
        assert_eq!(shown("C", Sort::Name), [1, 2]);
        assert_eq!(shown("state:froz", Sort::Name), [2]);
        assert_eq!(shown("cpu>50", Sort::Name), [1]);
        assert_eq!(shown("cpu<50% !frozen", Sort::Name), [3, 4]);
        assert_eq!(shown("out>500k", Sort::Name), [1]);
        assert_eq!(shown("findings>0", Sort::Name), [3, 4]);
        assert_eq!(shown("cpu>x", Sort::Name), [0; 0]);
        assert_eq!(shown("!", Sort::Name), [1, 2, 3, 4]);
    }

    #[test]
    fn the_keys_go_round() {
        let mut sort = Sort::default();
        for _ in Sort::ALL {
            sort = sort.step(true);
        }
        assert_eq!(sort, Sort::default());
        assert_eq!(sort.step(false), Sort::Age);
    }
}
