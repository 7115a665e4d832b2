//! What was tried in vain and is tried again later: first soon, then ever less often.

use std::{
    collections::HashMap,
    hash::Hash,
    time::{Duration, Instant},
};

/// How long is waited the first time.
const FIRST: Duration = Duration::from_secs(1);
/// The longest wait.
const LONGEST: Duration = Duration::from_secs(300);
/// How long one that nobody tries again is kept: what it stands for is no more.
const KEPT: Duration = Duration::from_secs(60);
/// How many are kept. Full: all of them are tried again at once.
const MOST: usize = 4096;

struct Retry {
    again: Instant,
    wait: Duration,
}

/// What was tried in vain.
pub struct Retries<K>(HashMap<K, Retry>);

impl<K> Default for Retries<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Hash + Eq + Clone> Retries<K> {
    /// It was in vain. True the first time: then it is worth a line.
    pub fn failed(&mut self, key: K, now: Instant) -> bool {
        let before = self.0.get(&key).map(|retry| retry.wait);
        if before.is_none() && self.0.len() >= MOST {
            self.0.clear();
        }
        let wait = before.map_or(FIRST, |wait| (wait * 2).min(LONGEST));
        let again = now + wait;
        self.0.insert(key, Retry { again, wait });
        before.is_none()
    }

    /// It was not, or nobody wants it any more.
    pub fn done(&mut self, key: &K) {
        self.0.remove(key);
    }

    /// Whether it is not yet to be tried again.
    pub fn waits(&self, key: &K, now: Instant) -> bool {
        self.0.get(key).is_some_and(|retry| now < retry.again)
    }

    /// What is to be tried again now.
    pub fn due(&mut self, now: Instant) -> Vec<K> {
        self.0.retain(|_, retry| now < retry.again + KEPT);
        let due = self.0.iter().filter(|(_, retry)| retry.again <= now);
        due.map(|(key, _)| key.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ever_less_often() {
        let mut retries = Retries::default();
        let mut now = Instant::now();
        assert!(retries.failed("a", now));
        assert!(retries.waits(&"a", now));
        assert!(retries.due(now).is_empty());
        let mut waits = Vec::new();
        for _ in 0..12 {
            let from = now;
            while retries.waits(&"a", now) {
                now += FIRST;
            }
            waits.push((now - from).as_secs());
            assert_eq!(retries.due(now), ["a"]);
            assert!(!retries.failed("a", now));
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
        retries.done(&"a");
        assert!(!retries.waits(&"a", now));
        assert!(retries.failed("a", now));
    }

    #[test]
    fn what_nobody_tries_is_forgotten() {
        let mut retries = Retries::default();
        let now = Instant::now();
        retries.failed(1, now);
        assert!(retries.due(now + FIRST + KEPT).is_empty());
        assert!(retries.failed(1, now));
        for key in 0..2 * MOST {
            retries.failed(key, now);
        }
        assert!(retries.0.len() <= MOST);
    }
}
