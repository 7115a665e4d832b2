//! Cgroups that may be agents', while it is being asked whether they are. The kernel has tagged those that
//! are new, so what happens in them is told; it is kept here until the answer is there.

use std::path::{Path, PathBuf};

use agentwatch_common::tag::agent_of_cgroup;
use anyhow::Result;
use bytes::Bytes;

use super::Host;

/// What is kept of each at most, bytes: more than the rings hold. The rest is lost, and counted so.
const EACH: usize = 8 << 20;
/// The same of all of them.
const ALL: usize = 64 << 20;
/// What a record takes beside its own bytes: where it is, and the allocator's part.
const BESIDE: usize = size_of::<Bytes>() + 32;

/// One of them.
pub(super) struct Waiting {
    path: PathBuf,
    id: u64,
    /// What was told of it.
    held: Vec<Bytes>,
    /// What that takes, bytes.
    bytes: usize,
    /// Records for which there was no room.
    not_kept: u64,
}

impl Host {
    /// It is being asked whose a cgroup is. What it may have unread is as much as any agent's.
    pub(super) fn wait_for(&mut self, number: u32, id: u64, path: &Path) {
        if let (Some([prio, bulk]), Some(probe)) = (self.share, &mut self.probe)
            && let Err(error) = probe.share(number, prio, bulk)
        {
            if let Some(door) = &mut self.door {
                door.not_now(path, id, &error);
            }
            return self.let_go(number, id, path);
        }
        let waiting = Waiting {
            path: path.to_owned(),
            id,
            held: Vec::new(),
            bytes: 0,
            not_kept: 0,
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

    /// Keeps a record of one of those, or counts it where there is no more room. False where it is of none of
    /// them.
    pub(super) fn keep(&mut self, record: &Bytes, number: u32) -> bool {
        let Some(waiting) = self.waiting.get_mut(&number) else {
            return false;
        };
        let bytes = record.len() + BESIDE;
        if waiting.bytes + bytes > EACH || self.waiting_bytes + bytes > ALL {
            waiting.not_kept += 1;
            return true;
        }
        waiting.bytes += bytes;
        self.waiting_bytes += bytes;
        // A copy: the record itself holds the piece of memory that it was read to with many others.
        waiting.held.push(Bytes::copy_from_slice(record));
        true
    }

    /// The door knows by now whose a cgroup is: it becomes an agent, with all that was told of it, or none.
    ///
    /// # Errors
    ///
    /// When a recording cannot be written.
    pub fn answered(&mut self, number: u32) -> Result<()> {
        let Some(waiting) = self.waiting.remove(&number) else {
            return Ok(()); // it has been answered already
        };
        let Waiting {
            path,
            id,
            held,
            bytes,
            not_kept,
        } = waiting;
        self.waiting_bytes -= bytes;
        self.made(number, id, &path);
        if let Some(agent) = self.agents.get_mut(&number) {
            self.source.not_kept(number, not_kept);
            for record in &held {
                agent.step(record, self.probe.as_mut());
            }
            agent.record(&held)?;
            agent.standing.gone |= !agent.cgroup().is_there();
            self.may_have_ended |= agent.standing.gone;
        }
        Ok(())
    }
}
