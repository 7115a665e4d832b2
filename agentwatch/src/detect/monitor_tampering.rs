//! `monitor-tampering`: agentwatch was moved into an agent's cgroup.
//!
//! Whoever may write to an agent's cgroup (root, mostly) can put agentwatch into it, or the shell that
//! started it: so that a kill or a freeze of the agent would hit it too, or be refused. The kernel programs
//! do not tag such a hostage, and `respond` moves it back before anything else.

use super::{Detection, evidence};
use crate::{
    enrich::World,
    event::{Event, Kind},
    finding::{Severity, Technique},
};

/// The stable id.
pub const ID: &str = "monitor-tampering";

/// What the agent wants who does this.
const IMPAIR: Technique = Technique {
    id: "T1562.001",
    name: "Impair Defenses: Disable or Modify Tools",
};

/// Looks at an event.
pub fn observe(event: &Event, world: &World, found: &mut Vec<Detection>) {
    let Kind::CgroupMove {
        moved,
        to,
        protected: true,
        ..
    } = event.kind
    else {
        return;
    };
    // A mover without a tag is no agent's: a mistake of somebody else.
    let by_agent = event.process.start_ns != 0;
    let exe = match world.processes.exe(event.process) {
        Some(exe) => exe.to_owned(),
        None if event.comm.is_empty() => "a process".to_owned(),
        None => event.comm.clone(),
    };
    found.push(Detection {
        detector: ID,
        severity: if by_agent {
            Severity::Critical
        } else {
            Severity::Medium
        },
        techniques: vec![IMPAIR],
        message: format!(
            "{exe} (pid {}) moved pid {moved}, which is agentwatch or what started it, into an agent's \
             cgroup: it has been moved back",
            event.process.pid
        ),
        process: event.process,
        evidence: vec![evidence(
            event,
            format!("moved pid {moved} to cgroup {to}"),
        )],
        cause: format!("move {}", event.process.pid),
    });
}
