//! `policy-violation`: something was tried that the policy denies.
//!
//! The kernel has refused it already. One finding for each rule, and another one each time that it has
//! been tried ten times as often: who tries in a loop makes a handful of findings, whose counts grow.

use std::collections::HashMap;

use super::{Detection, evidence};
use crate::{
    enrich::World,
    event::{Denied, DeniedOp, Event, Kind},
    finding::{Evidence, Technique},
    policy::{Policy, rule_name},
};

/// The stable id.
pub const ID: &str = "policy-violation";

/// How many events a finding shows: the last ones.
const SHOWN: usize = 8;

/// How many rules of an agent are counted apart.
const RULES: usize = 4096;

/// The state, by agent and rule.
#[derive(Default)]
pub struct PolicyViolation {
    tried: HashMap<(u32, u32), Tried>,
}

struct Tried {
    count: u64,
    /// The count at which it is said again.
    next: u64,
    last: Vec<Evidence>,
}

impl PolicyViolation {
    /// Looks at an event.
    pub fn observe(
        &mut self,
        event: &Event,
        world: &World,
        policy: &Policy,
        found: &mut Vec<Detection>,
    ) {
        let Kind::Denied(denied) = &event.kind else {
            return;
        };
        let key = (event.agent, denied.rule);
        if self.tried.len() >= RULES && !self.tried.contains_key(&key) {
            // A policy has no so many rules: this is a recording that somebody made up.
            return;
        }
        let tried = self.tried.entry(key).or_insert(Tried {
            count: 0,
            next: 1,
            last: Vec::new(),
        });
        let Denied {
            op, rule, repeats, ..
        } = denied.as_ref();
        tried.count = tried
            .count
            .saturating_add(u64::from(*repeats))
            .saturating_add(1);
        if tried.last.len() == SHOWN {
            tried.last.remove(0);
        }
        let what = denied.what();
        tried.last.push(evidence(event, what.clone()));
        if tried.count < tried.next {
            return;
        }
        while tried.next <= tried.count {
            tried.next = tried.next.saturating_mul(10);
        }
        let exe = match world.processes.exe(event.process) {
            Some(exe) => exe.to_owned(),
            None if event.comm.is_empty() => "a process".to_owned(),
            None => event.comm.clone(),
        };
        let done = match (denied.observed, tried.count) {
            (false, 1) => "and was refused".to_owned(),
            (true, 1) => "which the policy would have refused".to_owned(),
            (false, n) => format!("and was refused, the {n}th time by this rule"),
            (true, n) => {
                format!("which the policy would have refused, the {n}th time by this rule")
            }
        };
        let name = rule_name(*rule);
        found.push(Detection {
            detector: ID,
            severity: policy.detectors.policy_violation.severity,
            techniques: vec![technique(*op)],
            message: format!(
                "{exe} (pid {}) tried to {what}, {done} ({name})",
                event.process.pid
            ),
            process: event.process,
            evidence: tried.last.clone(),
            cause: name,
        });
    }
}

/// What somebody probably wants who tries this.
fn technique(op: DeniedOp) -> Technique {
    let (id, name) = match op {
        DeniedOp::Connect | DeniedOp::Sendmsg | DeniedOp::PacketOut | DeniedOp::PacketIn => {
            ("T1095", "Non-Application Layer Protocol")
        }
        DeniedOp::Bind => ("T1571", "Non-Standard Port"),
        DeniedOp::Socket => ("T1040", "Network Sniffing"),
        DeniedOp::Device => ("T1006", "Direct Volume Access"),
        DeniedOp::Sysctl => ("T1562", "Impair Defenses"),
        DeniedOp::Exec => ("T1059", "Command and Scripting Interpreter"),
        DeniedOp::Read => ("T1005", "Data from Local System"),
        DeniedOp::Write => ("T1565.001", "Stored Data Manipulation"),
        DeniedOp::Delete | DeniedOp::Rename => ("T1485", "Data Destruction"),
        DeniedOp::Ptrace => ("T1055", "Process Injection"),
        DeniedOp::Bpf => ("T1014", "Rootkit"),
        DeniedOp::Mount => ("T1611", "Escape to Host"),
        DeniedOp::ModuleLoad => ("T1547.006", "Kernel Modules and Extensions"),
        DeniedOp::Signal => ("T1562.001", "Disable or Modify Tools"),
    };
    Technique { id, name }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{DeniedObject, ProcessKey};

    fn event(rule: u32, repeats: u32) -> Event {
        Event {
            domain: None,
            time_ns: 1,
            agent: 1,
            process: ProcessKey {
                pid: 7,
                start_ns: 3,
            },
            tid: 7,
            ppid: 1,
            uid: 0,
            gid: 0,
            cgroup: 1,
            comm: "x".to_owned(),
            partial: false,
            kind: Kind::Denied(Box::new(Denied {
                op: DeniedOp::Sysctl,
                object: DeniedObject::Sysctl("kernel/x".to_owned()),
                rule,
                repeats,
                errno: 1,
                observed: false,
            })),
        }
    }

    #[test]
    fn a_flood_is_a_handful_of_findings_whose_count_grows() {
        let (world, policy) = (World::default(), Policy::default());
        let mut detector = PolicyViolation::default();
        let mut found = Vec::new();
        for _ in 0..1000 {
            detector.observe(&event(8 << 16, 0), &world, &policy, &mut found);
        }
        let counts: Vec<bool> = ["refused (", "10th", "100th", "1000th"]
            .iter()
            .zip(&found)
            .map(|(part, detection)| detection.message.contains(part))
            .collect();
        assert_eq!(counts, [true; 4]);
        assert_eq!(found.len(), 4);
        assert_eq!(found[3].evidence.len(), SHOWN);
        // Those that the kernel did not tell one by one count too, and another rule is another finding.
        detector.observe(&event(8 << 16, 50_000), &world, &policy, &mut found);
        detector.observe(&event(8 << 16 | 1, 0), &world, &policy, &mut found);
        assert_eq!(found.len(), 6);
        assert!(found[4].message.contains("51001th"), "{}", found[4].message);
        assert_eq!(found[5].cause, "sysctl.deny[1]");
    }
}
