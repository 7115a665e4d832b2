//! Counters with labels, and how those of many agents stay bounded.
//!
//! At most [`NAMED`] agents have series of their own; what the others do is added to those of [`OTHER`],
//! as it happens, so that these only grow whoever comes and goes. What an agent that has ended did is in
//! the counters of the host, which have no agent.

use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Most agents that have series of their own.
pub const NAMED: usize = 100;
/// What the rest is called. An agent of that name is one of them.
pub const OTHER: &str = "other";

/// A metric and the values of its labels, but for the agent.
pub type Key = (&'static str, [&'static str; 3]);
/// Counters.
pub type Series = BTreeMap<Key, u64>;

/// Adds to a counter; it is there then, also with 0.
pub fn add(series: &mut Series, metric: &'static str, labels: &[&'static str], n: u64) {
    let mut all = [""; 3];
    for (place, label) in all.iter_mut().zip(labels) {
        *place = label;
    }
    let sum = series.entry((metric, all)).or_default();
    *sum = sum.saturating_add(n);
}

/// An agent whose counters are taken.
pub struct Of {
    /// Its number.
    pub number: u32,
    /// Its name.
    pub name: String,
    /// Something was done to it: it is named before others are.
    pub acted_upon: bool,
    /// Its counters.
    pub series: Series,
}

/// What is kept between two pages.
#[derive(Default)]
pub struct Kept {
    before: HashMap<u32, Series>,
    other: Series,
    host: Series,
}

/// What a page has.
pub struct Taken {
    /// Agents that are named, with their counters, and the numbers of those that are not.
    pub named: Vec<(u32, String, Series)>,
    /// The others' numbers.
    pub rest: BTreeSet<u32>,
    /// The others' counters.
    pub other: Series,
    /// The host's.
    pub host: Series,
}

impl Kept {
    /// Takes the counters of all agents, oldest agent first, and those of the host.
    pub fn take(&mut self, agents: Vec<Of>, host: Series) -> Taken {
        // What is read while an agent goes may lack a part of it for a moment.
        never_less(&mut self.host, host);
        let names = names(&agents);
        let mut taken = Taken {
            named: Vec::new(),
            rest: BTreeSet::new(),
            other: Series::new(),
            host: self.host.clone(),
        };
        let mut now = HashMap::new();
        for Of {
            number,
            name,
            acted_upon: _,
            series,
        } in agents
        {
            let before = self.before.remove(&number).unwrap_or_default();
            let mut sum = before.clone();
            never_less(&mut sum, series);
            if names.contains(&number) {
                taken.named.push((number, name, sum.clone()));
            } else {
                for (key, n) in &sum {
                    let more = n - before.get(key).copied().unwrap_or(0);
                    *self.other.entry(*key).or_default() += more;
                }
                taken.rest.insert(number);
            }
            now.insert(number, sum);
        }
        self.before = now;
        taken.other.clone_from(&self.other);
        taken
    }
}

/// The agents that are named: those that something was done to, then the oldest.
fn names(agents: &[Of]) -> BTreeSet<u32> {
    let (first, then): (Vec<&Of>, Vec<&Of>) = agents
        .iter()
        .filter(|agent| agent.name != OTHER)
        .partition(|agent| agent.acted_upon);
    let all = first.into_iter().chain(then);
    all.take(NAMED).map(|agent| agent.number).collect()
}

fn never_less(sum: &mut Series, now: Series) {
    for (key, n) in now {
        let known = sum.entry(key).or_default();
        *known = n.max(*known);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(number: u32, n: u64) -> Of {
        let mut series = Series::new();
        add(&mut series, "x_total", &["exec"], n);
        Of {
            number,
            name: format!("a{number}"),
            acted_upon: false,
            series,
        }
    }

    const KEY: Key = ("x_total", ["exec", "", ""]);

    #[test]
    fn so_many_are_named_and_the_rest_only_grows() {
        let mut kept = Kept::default();
        let many = || (0..150).map(|n| of(n, 10)).collect::<Vec<_>>();
        let taken = kept.take(many(), Series::new());
        assert_eq!((taken.named.len(), taken.rest.len()), (NAMED, 50));
        assert_eq!(taken.other[&KEY], 500);
        // One of the named has ended: one of the others has a name now, and what it did before stays.
        let taken = kept.take(many().split_off(1), Series::new());
        assert_eq!((taken.named.len(), taken.rest.len()), (NAMED, 49));
        assert_eq!(taken.other[&KEY], 500);
        // All the others have ended, and new ones have come.
        let mut agents = many();
        agents.truncate(NAMED);
        agents.extend((200..203).map(|n| of(n, 1)));
        let taken = kept.take(agents, Series::new());
        assert_eq!(taken.other[&KEY], 503);
        assert_eq!(
            kept.before.len(),
            NAMED + 3,
            "something of the ended is kept"
        );
    }

    #[test]
    fn whom_something_was_done_to_has_a_name() {
        let mut agents: Vec<Of> = (0..150).map(|n| of(n, 1)).collect();
        agents[149].acted_upon = true;
        agents[0].name = OTHER.to_owned();
        let taken = Kept::default().take(agents, Series::new());
        let named: Vec<u32> = taken.named.iter().map(|(number, ..)| *number).collect();
        assert!(named.contains(&149) && !named.contains(&0), "{named:?}");
        assert_eq!(named.len(), NAMED);
    }

    #[test]
    fn a_counter_never_falls() {
        let mut kept = Kept::default();
        let host = |n| of(0, n).series;
        kept.take(vec![of(1, 5)], host(7));
        let taken = kept.take(vec![of(1, 3)], host(6));
        assert_eq!(taken.host[&KEY], 7);
        assert_eq!(taken.named[0].2[&KEY], 5);
    }
}
