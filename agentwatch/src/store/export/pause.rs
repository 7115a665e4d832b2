//! How long is waited before something is tried again.

use std::{
    hash::{BuildHasher as _, RandomState},
    time::Duration,
};

/// The first pause, and the longest.
const FIRST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(30);
/// Where a person has to do something.
const PERMANENT: Duration = Duration::from_secs(60);

/// Pauses that grow: each is twice as long as the one before, less up to a half of it by chance, so that a
/// thousand nodes do not come back in the same moment.
#[derive(Debug, Clone, Copy)]
pub struct Pause {
    whole: Duration,
}

impl Default for Pause {
    fn default() -> Self {
        Self { whole: FIRST }
    }
}

impl Pause {
    /// The next one.
    pub fn next(&mut self, permanent: bool) -> Duration {
        let whole = if permanent { PERMANENT } else { self.whole };
        self.whole = (self.whole * 2).min(LONGEST);
        // The keys of a new hasher are drawn by chance.
        let chance = (RandomState::new().hash_one(0_u8) % 1024) as u32;
        whole.saturating_sub(whole / 2048 * chance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_an_end_and_differ() {
        let mut pause = Pause::default();
        let mut whole = FIRST;
        let mut different = std::collections::HashSet::new();
        for _ in 0..50 {
            let next = pause.next(false);
            assert!(next <= whole && next >= whole / 2, "{next:?} of {whole:?}");
            different.insert(next);
            whole = (whole * 2).min(LONGEST);
        }
        assert_eq!(whole, LONGEST);
        assert!(different.len() > 25, "they depend on chance");
        assert!(pause.next(true) >= PERMANENT / 2);
    }
}
