//! One agent that is looked at: its processes, flows, files and policy, over the last minute.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};

use super::fleet::real;
use crate::api::model::{FileChange, Flow, PolicyInForce, Process, ProcessRates};

/// How many moments are kept.
pub const KEPT: usize = 60;

/// What is known of an agent beyond the list.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Detail {
    /// Of which.
    pub agent: u32,
    /// When, Unix milliseconds.
    pub at_ms: i64,
    /// Its processes.
    pub processes: Vec<Process>,
    /// Its flows that are open.
    pub flows: Vec<Flow>,
    /// What it changed of files, newest first.
    pub files: Vec<FileChange>,
    /// The policy it is under.
    pub policy: Option<Arc<PolicyInForce>>,
    /// What could not be had, and why.
    pub error: Option<String>,
}

/// A process in the tree.
#[derive(Debug, Clone, PartialEq)]
pub struct Node<'a> {
    /// It.
    pub process: &'a Process,
    /// How deep: 0 for one whose parent is not the agent's.
    pub depth: usize,
    /// The branches that lead to it: `├─ `, `│  └─ ` …
    pub branch: String,
    /// What it did in a second since the moment before; `None` where that is not known.
    pub rates: Option<ProcessRates>,
}

/// A flow with its rates.
#[derive(Debug, Clone, PartialEq)]
pub struct Rated<'a> {
    /// It.
    pub flow: &'a Flow,
    /// Bytes in and out a second; `None` where they are not known.
    pub rates: Option<(f64, f64)>,
}

/// A moment, and the one before it, for the rates.
#[derive(Debug, Clone, Copy)]
pub struct Look<'a> {
    /// What is known.
    pub now: &'a Detail,
    before: Option<&'a Detail>,
}

/// The last moments of the agent that is looked at.
#[derive(Debug, Default)]
pub struct Details {
    of: Option<u32>,
    kept: VecDeque<Detail>,
}

impl Details {
    /// Looks at another agent, or at none.
    pub fn look_at(&mut self, agent: Option<u32>) {
        if self.of != agent {
            self.of = agent;
            self.kept.clear();
        }
    }

    /// Takes in what is known; of another agent than is looked at, it comes too late.
    pub fn take(&mut self, mut detail: Detail) {
        if self.of != Some(detail.agent) {
            return;
        }
        // Parts that could not be had stay as they were.
        if let (Some(_), Some(last)) = (&detail.error, self.kept.back()) {
            let at_ms = last.at_ms.max(detail.at_ms);
            detail = Detail {
                at_ms,
                error: detail.error,
                ..last.clone()
            };
        }
        if self.kept.len() == KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back(detail);
    }

    /// What was known at a time; now, where none is given.
    pub fn look(&self, at_ms: Option<i64>) -> Option<Look<'_>> {
        let end = at_ms.map_or(self.kept.len(), |at| {
            self.kept.partition_point(|detail| detail.at_ms <= at)
        });
        // Before the first moment the first one is better than nothing.
        let at = end.max(1) - 1;
        Some(Look {
            now: self.kept.get(at)?,
            before: at.checked_sub(1).and_then(|at| self.kept.get(at)),
        })
    }
}

impl<'a> Look<'a> {
    fn seconds(&self) -> Option<f64> {
        let before = self.before?;
        let ms = self.now.at_ms.checked_sub(before.at_ms)?;
        (ms > 0).then(|| real(ms.unsigned_abs()) / 1000.0)
    }

    /// The processes as a tree: who was started by whom, brothers by their start.
    pub fn tree(&self) -> Vec<Node<'a>> {
        let seconds = self.seconds();
        let before: HashMap<(u32, u64), &Process> = self
            .before
            .into_iter()
            .flat_map(|detail| &detail.processes)
            .map(|process| ((process.pid, process.start_ns), process))
            .collect();
        let rates = |process: &Process| {
            let before = before.get(&(process.pid, process.start_ns))?;
            process.rates_since(before, seconds?)
        };
        let processes = &self.now.processes;
        let pids: HashSet<u32> = processes.iter().map(|process| process.pid).collect();
        let mut children: HashMap<u32, Vec<&'a Process>> = HashMap::new();
        let mut roots = Vec::new();
        for process in processes {
            if process.ppid != process.pid && pids.contains(&process.ppid) {
                children.entry(process.ppid).or_default().push(process);
            } else {
                roots.push(process);
            }
        }
        let mut out = Vec::with_capacity(processes.len());
        let mut done = HashSet::new();
        let order = |list: &mut Vec<&'a Process>| {
            list.sort_by_key(|process| (process.start_ns, process.pid));
        };
        order(&mut roots);
        for list in children.values_mut() {
            order(list);
        }
        // A stack of its own: how deep a tree is, the agent decides.
        let mut todo: Vec<(&Process, usize, String, bool)> = Vec::new();
        // Ids that were used again can make a ring, which no root leads to.
        for root in roots.into_iter().chain(processes) {
            todo.push((root, 0, String::new(), true));
            while let Some((process, depth, above, last)) = todo.pop() {
                if !done.insert((process.pid, process.start_ns)) {
                    continue;
                }
                let (branch, below) = match (depth, last) {
                    (0, _) => (String::new(), String::new()),
                    (_, true) => (format!("{above}└─ "), format!("{above}   ")),
                    (_, false) => (format!("{above}├─ "), format!("{above}│  ")),
                };
                out.push(Node {
                    process,
                    depth,
                    branch,
                    rates: rates(process),
                });
                let below_it = children.get(&process.pid).map_or(&[][..], Vec::as_slice);
                for (n, child) in below_it.iter().enumerate().rev() {
                    todo.push((child, depth + 1, below.clone(), n + 1 == below_it.len()));
                }
            }
        }
        out
    }

    /// The changes of files, newest first; the same one several times in a row is told once, with how
    /// often it was.
    pub fn files(&self) -> Vec<(&'a FileChange, usize)> {
        let mut out: Vec<(&'a FileChange, usize)> = Vec::new();
        let what =
            |change: &'a FileChange| (&change.kind, &change.path, &change.path2, &change.exe);
        for change in &self.now.files {
            match out.last_mut() {
                Some((last, times)) if what(last) == what(change) => *times += 1,
                _ => out.push((change, 1)),
            }
        }
        out
    }

    /// The flows, those with the most bytes a second first.
    pub fn flows(&self) -> Vec<Rated<'a>> {
        let seconds = self.seconds();
        // A UDP socket has several peers.
        let before: HashMap<(u64, &str), (u64, u64)> = self
            .before
            .into_iter()
            .flat_map(|detail| &detail.flows)
            .map(|flow| {
                let key = (flow.cookie, flow.remote.as_str());
                (key, (flow.bytes_in, flow.bytes_out))
            })
            .collect();
        let mut flows: Vec<Rated<'a>> = self
            .now
            .flows
            .iter()
            .map(|flow| {
                let rates = seconds.and_then(|seconds| {
                    let (old_in, old_out) = before.get(&(flow.cookie, flow.remote.as_str()))?;
                    let rate = |old: u64, new: u64| real(new.saturating_sub(old)) / seconds;
                    Some((rate(*old_in, flow.bytes_in), rate(*old_out, flow.bytes_out)))
                });
                Rated { flow, rates }
            })
            .collect();
        let rate = |flow: &Rated<'_>| flow.rates.map_or(0.0, |(i, o)| i + o);
        let all = |flow: &Rated<'_>| flow.flow.bytes_in.saturating_add(flow.flow.bytes_out);
        flows.sort_by(|a, b| {
            rate(b)
                .total_cmp(&rate(a))
                .then_with(|| all(b).cmp(&all(a)))
                .then_with(|| a.flow.cookie.cmp(&b.flow.cookie))
                .then_with(|| a.flow.remote.cmp(&b.flow.remote))
        });
        flows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: u32, parent: u32, cpu_us: u64) -> Process {
        Process {
            pid,
            ppid: parent,
            start_ns: u64::from(pid),
            cpu_us: Some(cpu_us),
            ..Process::default()
        }
    }

    fn detail(at_ms: i64, processes: Vec<Process>) -> Detail {
        Detail {
            agent: 1,
            at_ms,
            processes,
            ..Detail::default()
        }
    }

    #[test]
    fn a_tree_with_rates() {
        let mut details = Details::default();
        details.look_at(Some(1));
        details.take(detail(0, vec![process(1, 0, 0), process(2, 1, 0)]));
        details.take(detail(
            2000,
            vec![
                process(1, 0, 1_000_000),
                process(4, 2, 0),
                process(3, 1, 0),
                process(2, 1, 0),
            ],
        ));
        let look = details.look(None).unwrap();
        let tree = look.tree();
        let seen: Vec<(u32, &str)> = tree
            .iter()
            .map(|node| (node.process.pid, node.branch.as_str()))
            .collect();
        assert_eq!(seen, [(1, ""), (2, "├─ "), (4, "│  └─ "), (3, "└─ ")]);
        assert_eq!(tree[0].rates.map(|rates| rates.cpu), Some(0.5));
        assert_eq!(tree[3].rates, None);
        assert_eq!(details.look(Some(1000)).unwrap().now.processes.len(), 2);
    }

    #[test]
    fn a_ring_of_parents_ends_and_shows_all() {
        let mut details = Details::default();
        details.look_at(Some(1));
        let ring = vec![process(1, 2, 0), process(2, 1, 0), process(3, 3, 0)];
        details.take(detail(0, ring));
        assert_eq!(details.look(None).unwrap().tree().len(), 3);
    }

    #[test]
    fn what_comes_for_another_agent_comes_too_late() {
        let mut details = Details::default();
        details.look_at(Some(2));
        details.take(detail(0, vec![process(1, 0, 0)]));
        assert!(details.look(None).is_none());
    }
}
