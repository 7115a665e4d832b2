//! The detectors: from events and what is known, to findings. Pure: no clock but the events', no
//! input or output, so that a recording gives the same findings again.

pub mod event_flood;
pub mod mass_deletion;
pub mod monitor_tampering;
pub mod policy_violation;
pub mod reverse_tunnel;

use crate::{
    enrich::{Before, World},
    event::{Carried, DeniedObject, Event, Kind, ProcessKey},
    finding::{Evidence, Severity, Technique},
    policy::Policy,
};

/// The stable ids of all detectors.
pub const IDS: [&str; 5] = [
    event_flood::ID,
    mass_deletion::ID,
    monitor_tampering::ID,
    policy_violation::ID,
    reverse_tunnel::ID,
];

/// What a detector says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detection {
    /// The detector's stable id.
    pub detector: &'static str,
    /// How bad.
    pub severity: Severity,
    /// MITRE ATT&CK.
    pub techniques: Vec<Technique>,
    /// A sentence that a person can act on.
    pub message: String,
    /// Who.
    pub process: ProcessKey,
    /// The events that it rests on, in order.
    pub evidence: Vec<Evidence>,
    /// What tells this cause from others of the same detector: one finding for each.
    pub cause: String,
}

/// All detectors, with their state.
#[derive(Default)]
pub struct Detectors {
    reverse_tunnel: reverse_tunnel::ReverseTunnel,
    mass_deletion: mass_deletion::MassDeletion,
    policy_violation: policy_violation::PolicyViolation,
    event_flood: event_flood::EventFlood,
}

impl Detectors {
    /// Shows an event to every detector that the policy has on.
    pub fn observe(
        &mut self,
        event: &Event,
        before: Before,
        world: &World,
        policy: &Policy,
    ) -> Vec<Detection> {
        let mut found = Vec::new();
        if policy.detectors.reverse_tunnel.enabled {
            self.reverse_tunnel
                .observe(event, world, policy, &mut found);
        }
        if policy.detectors.mass_deletion.enabled {
            self.mass_deletion
                .observe(event, before, world, policy, &mut found);
        }
        if policy.detectors.monitor_tampering.enabled {
            monitor_tampering::observe(event, world, &mut found);
        }
        if policy.detectors.policy_violation.enabled {
            self.policy_violation
                .observe(event, world, policy, &mut found);
        }
        if policy.detectors.event_flood.enabled {
            self.event_flood.observe(event, world, &mut found);
        }
        found
    }
}

impl Detectors {
    /// How many files an agent may still remove before that is a mass deletion.
    pub fn deletions_left(
        &mut self,
        agent: u32,
        workspace: bool,
        now_ns: u64,
        policy: &Policy,
    ) -> u64 {
        self.mass_deletion.left(agent, workspace, now_ns, policy)
    }

    /// What an agent has removed by now of what counts still.
    pub fn removed(&mut self, agent: u32, now_ns: u64, policy: &Policy) -> Carried {
        self.mass_deletion.removed(agent, now_ns, policy)
    }
}

/// Evidence from an event.
fn evidence(event: &Event, what: String) -> Evidence {
    let (path, remote) = match &event.kind {
        Kind::File(file) => (Some(file.path.clone()), None),
        Kind::Denied(denied) => match &denied.object {
            DeniedObject::File(path, _) => (Some(path.clone()), None),
            DeniedObject::Address(address, _) => (None, Some(address.to_string())),
            _ => (None, None),
        },
        other => (None, other.endpoint().map(|end| end.remote.to_string())),
    };
    Evidence {
        time_ns: event.time_ns,
        kind: event.kind.name().to_owned(),
        pid: event.process.pid,
        what,
        path,
        remote,
    }
}
