//! A cgroup that might have been an agent's and is none: its tag goes, and with it what was made below it by
//! then, which the kernel took for a part of it.
//!
//! Things come to be below it all the while. So nothing is taken away as a whole: what is an agent's own, or
//! may be, is handed down to it, tag by tag.

use std::{
    collections::{BTreeMap, HashSet},
    path::Path,
};

use super::Host;
use crate::respond::cgroup::AgentCgroup;

/// How often is looked at what came to be below it meanwhile.
const ROUNDS: usize = 4;

impl Host {
    /// A cgroup is no agent's.
    pub(super) fn let_go(&mut self, number: u32, id: u64, path: &Path) {
        let Some((door, probe)) = self.door.as_ref().zip(self.probe.as_mut()) else {
            return;
        };
        let agents = HashSet::from([number]);
        let folder = AgentCgroup::known(door.on_disk(path), id);
        let mut below = BTreeMap::new();
        // Nearly always nothing is below it: then only its own tag is looked up. Who may make cgroups can make
        // many.
        let _ = probe.untag_cgroup(id, number);
        let is_alone = || folder.subtree().is_ok_and(|all| all.len() <= 1);
        if is_alone() {
            let _ = probe.untag_tasks(number);
            if is_alone() {
                let _ = probe.forget(&agents);
                self.source.forget(&agents);
                return;
            }
        }
        for round in 1..=ROUNDS {
            // What is known first: what comes to be between the two looks must not seem to be known, and
            // nobody's.
            let known = folder.subtree().unwrap_or_default();
            let known = known.into_iter().map(|(_, id)| id).collect();
            below.extend(door.below(path));
            let own: HashSet<u64> = below.values().copied().collect();
            let left = probe.hand_down(number, &own, &known, round == ROUNDS);
            if left.unwrap_or(0) == 0 {
                break;
            }
        }
        let _ = probe
            .hand_down_tasks(number)
            .and_then(|()| probe.untag(&agents))
            .and_then(|()| probe.forget(&agents));
        self.source.forget(&agents);
        for (path, id) in below {
            self.found(&path, id);
        }
    }
}
