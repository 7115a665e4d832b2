//! Cgroups that may be agents', while it is being asked whether they are. The kernel has tagged those that
//! are new, so what happens in them is told; it is kept here until the answer is there.

use std::path::{Path, PathBuf};

use agentwatch_common::tag::agent_of_cgroup;
use anyhow::Result;
use bytes::Bytes;

use super::{HELD, Host};

/// One of them.
pub(super) struct Waiting {
    path: PathBuf,
    id: u64,
    /// What was told of it.
    held: Vec<Bytes>,
}

impl Host {
    /// It is being asked whose a cgroup is.
    pub(super) fn wait_for(&mut self, number: u32, id: u64, path: &Path) {
        let waiting = Waiting {
            path: path.to_owned(),
            id,
            held: Vec::new(),
        };
        self.waiting.insert(number, waiting);
    }

    /// Whether it is being asked whose the cgroup with this number is.
    pub fn is_waiting(&self, number: u32) -> bool {
        self.waiting.contains_key(&number)
    }

    /// Whether a cgroup is a part of one of those.
    pub(super) fn is_part(&self, number: u32, id: u64) -> bool {
        self.waiting.contains_key(&number) && agent_of_cgroup(id) != number
    }

    /// Keeps a record of one of those. False where it is of none of them, or there is no more room.
    pub(super) fn keep(&mut self, record: &Bytes, number: u32) -> bool {
        let held: usize = self.waiting.values().map(|one| one.held.len()).sum();
        let Some(waiting) = self.waiting.get_mut(&number) else {
            return false;
        };
        if held >= HELD {
            return false;
        }
        waiting.held.push(record.clone());
        true
    }

    /// The door knows by now whose a cgroup is: it becomes an agent, with all that was told of it, or none.
    ///
    /// # Errors
    ///
    /// When a recording cannot be written.
    pub fn answered(&mut self, number: u32) -> Result<()> {
        let Some(Waiting { path, id, held }) = self.waiting.remove(&number) else {
            return Ok(()); // it has been answered already
        };
        self.made(number, id, &path);
        if let Some(agent) = self.agents.get_mut(&number) {
            for record in &held {
                agent.step(record, self.probe.as_mut());
            }
            agent.record(&held)?;
            agent.standing.gone |= !agent.cgroup().path().exists();
        }
        Ok(())
    }
}
