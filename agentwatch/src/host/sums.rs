//! What was counted of agents that have ended, and how long findings take.

use std::collections::BTreeMap;

use super::{Agent, Counts};
use crate::event::Tally;

/// Of all agents that have ended while the host was running.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Past {
    /// What was counted of their events.
    pub counts: Counts,
    /// Records that the kernel was to send.
    pub emitted: u64,
    /// Records that arrived.
    pub delivered: u64,
    /// Losses, by reason.
    pub lost: BTreeMap<&'static str, u64>,
    /// Repeats that were told by their number.
    pub thinned: u64,
    /// Records that arrived, but cut.
    pub cut: u64,
    /// Processes and cgroups that could not be tagged.
    pub untagged: u64,
    /// Events and findings that are not in the history.
    pub not_stored: u64,
}

impl Past {
    pub(super) fn add(&mut self, agent: &Agent, tally: &Tally) {
        let store = agent.outputs.store.as_ref();
        self.counts.add(&agent.counts);
        self.emitted += tally.emitted;
        self.delivered += tally.delivered;
        for (reason, n) in &tally.lost {
            *self.lost.entry(reason).or_default() += n;
        }
        self.thinned += tally.thinned;
        self.cut += tally.cut;
        self.untagged += tally.untagged;
        self.not_stored += store.map_or(0, |store| store.stats().dropped);
    }
}

/// How long things took: a histogram with fixed bounds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Latency {
    /// How many took at most so long, see [`Latency::BOUNDS_US`]; the last: longer than all of them.
    pub buckets: [u64; Self::BOUNDS_US.len() + 1],
    /// All of them together, microseconds.
    pub sum_us: u64,
}

impl Latency {
    /// Upper bounds of the buckets, microseconds. 300 µs and 2 ms are what is promised of a kill.
    pub const BOUNDS_US: [u64; 13] = [
        50, 100, 200, 300, 500, 1_000, 2_000, 5_000, 10_000, 50_000, 100_000, 500_000, 1_000_000,
    ];

    /// Counts one.
    pub fn observe(&mut self, took_us: u64) {
        let bucket = Self::BOUNDS_US.partition_point(|bound| *bound < took_us);
        self.buckets[bucket] += 1;
        self.sum_us = self.sum_us.saturating_add(took_us);
    }

    /// Adds those of another.
    pub fn add(&mut self, other: &Self) {
        for (bucket, n) in self.buckets.iter_mut().zip(other.buckets) {
            *bucket += n;
        }
        self.sum_us = self.sum_us.saturating_add(other.sum_us);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_the_most_of_its_bucket() {
        let mut latency = Latency::default();
        for took_us in [0, 50, 51, 1_000_000, 1_000_001] {
            latency.observe(took_us);
        }
        let mut expected = [0; Latency::BOUNDS_US.len() + 1];
        (expected[0], expected[1], expected[12], expected[13]) = (2, 1, 1, 1);
        assert_eq!(latency.buckets, expected);
        let mut twice = latency.clone();
        twice.add(&latency);
        assert_eq!(twice.sum_us, 2 * latency.sum_us);
        assert_eq!(twice.buckets[0], 4);
    }
}
