//! Findings of one agent that belong together: those that share a chain of processes, a file or a peer, not
//! long after one another. Pure: it takes findings as they are told and says what they come to.

use std::collections::{BTreeSet, HashSet};

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::{
    api::model::{Finding, Incident, Link, Step, StepKind},
    finding::{Action, Response},
    publish::notice,
};

/// The longest time between findings that belong together.
const WITHIN: SignedDuration = SignedDuration::from_mins(30);
/// Most steps of a story; what is more is counted.
const STEPS: usize = 200;
/// Most incidents that are kept: the last ones.
const KEPT: usize = 1000;

/// A process: its id and start.
type Process = (u64, u64);

/// What tells whether findings belong together.
#[derive(Debug, Default, Clone)]
struct Traces {
    /// Who did it.
    own: HashSet<Process>,
    /// And the agent's processes above, but for the first one: that all findings of an agent have.
    above: HashSet<Process>,
    /// And that one.
    all: HashSet<Process>,
    paths: HashSet<String>,
    remotes: HashSet<String>,
}

impl Traces {
    fn of(finding: &Finding) -> Self {
        let id = |process: &Value| -> Option<Process> {
            Some((process["pid"].as_u64()?, process["start_ns"].as_u64()?))
        };
        let list = |name: &str| finding.rest.get(name).and_then(Value::as_array);
        let own: HashSet<Process> = finding
            .rest
            .get("process")
            .and_then(id)
            .into_iter()
            .collect();
        let ancestry = list("ancestry").into_iter().flatten();
        let members: Vec<Process> = ancestry
            .take_while(|process| process["member"] == true)
            .filter_map(id)
            .collect();
        let mut above = own.clone();
        above.extend(members.iter().rev().skip(1));
        let mut all = above.clone();
        all.extend(&members);
        let said = |name: &str| -> HashSet<String> {
            let pieces = list("evidence").into_iter().flatten();
            pieces
                .filter_map(|piece| piece[name].as_str().map(str::to_owned))
                .collect()
        };
        Self {
            own,
            above,
            all,
            paths: said("path"),
            remotes: said("remote"),
        }
    }

    /// What two have in common, if anything.
    fn shared(&self, other: &Self) -> Option<Link> {
        let process = common(&self.above, &other.above)
            .or_else(|| common(&self.own, &other.all))
            .or_else(|| common(&self.all, &other.own));
        process
            .map(|(pid, _)| Link::Process { pid: *pid })
            .or_else(|| {
                common(&self.paths, &other.paths).map(|path| Link::File { path: path.clone() })
            })
            .or_else(|| {
                common(&self.remotes, &other.remotes).map(|remote| Link::Flow {
                    remote: remote.clone(),
                })
            })
    }

    fn add(&mut self, other: Self) {
        let Self {
            own,
            above,
            all,
            paths,
            remotes,
        } = other;
        self.own.extend(own);
        self.above.extend(above);
        self.all.extend(all);
        self.paths.extend(paths);
        self.remotes.extend(remotes);
    }
}

/// The least that two sets have in common, so that it does not depend on how they are kept.
fn common<'a, T: Ord + std::hash::Hash>(a: &'a HashSet<T>, b: &HashSet<T>) -> Option<&'a T> {
    a.iter().filter(|one| b.contains(*one)).min()
}

/// Findings, as far as they are known, in incidents.
#[derive(Debug, Default)]
pub struct Incidents {
    /// By their last finding, oldest first.
    known: Vec<Known>,
}

#[derive(Debug)]
struct Known {
    incident: Incident,
    traces: Traces,
    from: Timestamp,
    to: Timestamp,
}

impl Incidents {
    /// Takes one more in, in any order. What it joins becomes one.
    pub fn add(&mut self, finding: &Finding) {
        let at: Timestamp = finding.time.parse().unwrap_or_default();
        let traces = Traces::of(finding);
        let mut one = Known {
            incident: alone(finding, at),
            traces,
            from: at,
            to: at,
        };
        let near = |known: &Known| {
            let gap = |a: Timestamp, b: Timestamp| a.duration_since(b) <= WITHIN;
            gap(at, known.to) && gap(known.from, at)
        };
        let mut next = 0;
        while let Some(other) = self.known.get(next) {
            let may = other.incident.agent == finding.agent && near(other);
            match other.traces.shared(&one.traces).filter(|_| may) {
                Some(link) => one.join(self.known.remove(next), link),
                None => next += 1,
            }
        }
        let place = self.known.partition_point(|known| known.to <= one.to);
        self.known.insert(place, one);
        if self.known.len() > KEPT {
            self.known.remove(0);
        }
    }

    /// All of them, by their last finding, oldest first.
    pub fn all(&self) -> impl DoubleEndedIterator<Item = &Incident> {
        self.known.iter().map(|known| &known.incident)
    }

    /// The one that a finding is in.
    pub fn of(&self, finding: &str) -> Option<&Incident> {
        self.all()
            .find(|incident| incident.findings.iter().any(|id| id == finding))
    }
}

impl Known {
    fn join(&mut self, other: Self, link: Link) {
        let Self {
            incident,
            traces,
            from,
            to,
        } = other;
        // What it is called, and in short, is by the worst, then the first of them.
        let (first, second) = if (self.incident.severity, incident.begin.as_str())
            > (incident.severity, self.incident.begin.as_str())
        {
            (&self.incident, &incident)
        } else {
            (&incident, &self.incident)
        };
        let mut joined = first.clone();
        let earliest = if self.from < from {
            &self.incident
        } else {
            &incident
        };
        joined.id.clone_from(&earliest.id);
        joined.begin.clone_from(&earliest.begin);
        let latest = if self.to > to {
            &self.incident
        } else {
            &incident
        };
        joined.end.clone_from(&latest.end);
        joined.taken = first.taken.max(second.taken);
        joined.findings.extend(second.findings.iter().cloned());
        joined.linked_by.extend(second.linked_by.iter().cloned());
        joined.linked_by.push(link);
        for (to, more) in [
            (&mut joined.detectors, &second.detectors),
            (&mut joined.techniques, &second.techniques),
        ] {
            let all: BTreeSet<String> = to.iter().chain(more).cloned().collect();
            *to = all.into_iter().collect();
        }
        let mut seen = HashSet::new();
        joined.linked_by.retain(|link| seen.insert(link.clone()));
        joined.story.extend(second.story.iter().cloned());
        joined
            .story
            .sort_by(|a, b| a.time.cmp(&b.time).then(a.kind.cmp(&b.kind)));
        // The same event may be evidence of several findings.
        joined
            .story
            .dedup_by(|a, b| (&a.time, a.pid, &a.what) == (&b.time, b.pid, &b.what));
        joined.steps_left_out = first.steps_left_out + second.steps_left_out;
        shorten(&mut joined);
        joined.findings = in_order(&joined);
        self.incident = joined;
        self.traces.add(traces);
        self.from = self.from.min(from);
        self.to = self.to.max(to);
    }
}

/// The findings of an incident in the order of its story.
fn in_order(incident: &Incident) -> Vec<String> {
    let told = incident
        .story
        .iter()
        .filter_map(|step| step.finding.clone());
    let mut seen = HashSet::new();
    told.chain(incident.findings.iter().cloned())
        .filter(|id| seen.insert(id.clone()))
        .collect()
}

/// Keeps a story to its bound: evidence goes first, from its end.
fn shorten(incident: &mut Incident) {
    let mut too_many = incident.story.len().saturating_sub(STEPS);
    for kind in [StepKind::Event, StepKind::Response, StepKind::Finding] {
        let mut at = incident.story.len();
        while too_many > 0 && at > 0 {
            at -= 1;
            if incident.story[at].kind == kind {
                incident.story.remove(at);
                incident.steps_left_out += 1;
                too_many -= 1;
            }
        }
    }
}

/// An incident of one finding.
fn alone(finding: &Finding, at: Timestamp) -> Incident {
    let rest = |name: &str| finding.rest.get(name);
    let list = |name: &str| rest(name).and_then(Value::as_array).into_iter().flatten();
    let decided_ns = rest("time_ns").and_then(Value::as_i64).unwrap_or(0);
    let process = rest("process");
    let pid = process
        .and_then(|process| process["pid"].as_u64())
        .unwrap_or(0);
    let mut story: Vec<Step> = list("evidence")
        .map(|piece| {
            let ago = decided_ns.saturating_sub(piece["time_ns"].as_i64().unwrap_or(decided_ns));
            let then = at
                .checked_sub(SignedDuration::from_nanos(ago))
                .unwrap_or(at);
            Step {
                time: text(then),
                kind: StepKind::Event,
                pid: piece["pid"].as_u64().unwrap_or(0),
                what: piece["what"].as_str().unwrap_or_default().to_owned(),
                finding: None,
            }
        })
        .collect();
    let step = |kind, what: String| Step {
        time: text(at),
        kind,
        pid,
        what,
        finding: Some(finding.id.clone()),
    };
    story.push(step(
        StepKind::Finding,
        format!("{}: {}", finding.detector, finding.message),
    ));
    let response = rest("response").cloned().unwrap_or_default();
    let response = serde_json::from_value::<Response>(response).ok();
    if let Some(response) = &response {
        story.push(step(StepKind::Response, notice::done(response)));
    }
    story.sort_by(|a, b| a.time.cmp(&b.time).then(a.kind.cmp(&b.kind)));
    let mut techniques: Vec<String> = list("techniques")
        .filter_map(|technique| technique["id"].as_str().map(str::to_owned))
        .collect();
    techniques.sort();
    let mut incident = Incident {
        id: finding.id.replacen("f-", "i-", 1),
        agent: finding.agent.clone(),
        begin: text(at),
        end: text(at),
        severity: finding.severity,
        summary: finding.message.clone(),
        detectors: vec![finding.detector.clone()],
        techniques,
        findings: vec![finding.id.clone()],
        linked_by: Vec::new(),
        taken: response.map_or(Action::Log, |response| response.taken),
        story,
        steps_left_out: 0,
    };
    shorten(&mut incident);
    incident
}

/// Of one length, so that texts are in the order of times.
fn text(time: Timestamp) -> String {
    format!("{time:.9}")
}

#[cfg(test)]
mod tests;
