//! An agent's processes that are alive, with what they do.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::{
    figures,
    model::{Process, ProcessTotals},
};
use crate::{
    event::ProcessKey,
    host::watch::Known,
    probe::{gauge::Gauge, seed},
};

/// Rates are over this at least, where somebody asks all the time.
const OVER: Duration = Duration::from_secs(1);
/// Over more, they say nothing of now.
const LONGEST: Duration = Duration::from_secs(60);

/// The processes of agents when they were asked for before: for the rates.
#[derive(Default)]
pub struct Before(Mutex<HashMap<u32, (Instant, Vec<Process>)>>);

impl Before {
    /// The processes of an agent, oldest first. Blocking: it reads `/proc`.
    pub fn next(&self, gauge: &Gauge, agent: u32, known: &Known) -> Vec<Process> {
        let mut list = look(gauge, agent, known);
        let now = Instant::now();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, (since, _)| now.duration_since(*since) < LONGEST);
        let Some((since, before)) = all.get(&agent) else {
            all.insert(agent, (now, list.clone()));
            return list;
        };
        let interval = now.duration_since(*since);
        rate(&mut list, before, interval.as_secs_f64());
        if interval >= OVER {
            all.insert(agent, (now, list.clone()));
        }
        list
    }
}

/// Gives each process its rates since the time before. One that was not there then began in between.
fn rate(list: &mut [Process], before: &[Process], interval_s: f64) {
    let old: HashMap<_, _> = before
        .iter()
        .map(|process| ((process.pid, process.start_ns), process))
        .collect();
    let none = Process {
        cpu_us: Some(0),
        ..Process::default()
    };
    for process in list {
        let before = old.get(&(process.pid, process.start_ns));
        process.rates = process.rates_since(before.unwrap_or(&&none), interval_s);
    }
}

fn look(gauge: &Gauge, agent: u32, known: &Known) -> Vec<Process> {
    let mut open: HashMap<u32, (u64, u64)> = HashMap::new();
    for (_, flow) in gauge.flows() {
        let (bytes_in, bytes_out) = open.entry(flow.tgid).or_default();
        *bytes_in = bytes_in.saturating_add(flow.bytes_in);
        *bytes_out = bytes_out.saturating_add(flow.bytes_out);
    }
    let tasks = gauge.tasks().into_iter();
    let mut list: Vec<Process> = tasks
        .filter(|(_, task)| task.agent == agent)
        .map(|(pid, task)| {
            let start_ns = task.start_ns;
            let did = known.did.get(&ProcessKey { pid, start_ns });
            let did = did.copied().unwrap_or_default();
            let (open_in, open_out) = open.get(&pid).copied().unwrap_or_default();
            let seen = seed::look(pid);
            Process {
                pid,
                start_ns,
                ppid: task.ppid,
                uid: seen.uid,
                exe: seen.exe,
                argv: seen.argv,
                cpu_us: seen.cpu_us,
                rss_bytes: figures::rss_bytes(pid),
                did: ProcessTotals {
                    execs: did.execs,
                    opens: did.opens,
                    deletes: did.deletes,
                    bytes_in: did.closed_in.saturating_add(open_in),
                    bytes_out: did.closed_out.saturating_add(open_out),
                },
                rates: None,
            }
        })
        .collect();
    list.sort_by_key(|process| (process.start_ns, process.pid));
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: u32, start_ns: u64, opens: u64) -> Process {
        Process {
            pid,
            start_ns,
            cpu_us: Some(opens * 1_000_000),
            did: ProcessTotals {
                opens,
                ..ProcessTotals::default()
            },
            ..Process::default()
        }
    }

    #[test]
    fn rates_are_of_the_same_process() {
        // The id of the second is another process's now.
        let before = [process(1, 1, 10), process(2, 2, 500)];
        let mut now = [process(1, 1, 14), process(2, 9, 8)];
        rate(&mut now, &before, 2.0);
        let rates = now.map(|process| process.rates.unwrap());
        let said = rates.map(|rates| format!("{} {}", rates.opens, rates.cpu));
        assert_eq!(said, ["2 2", "4 4"]);
        let mut at_once = [process(1, 1, 14)];
        rate(&mut at_once, &before, 0.0);
        assert_eq!(at_once[0].rates, None);
    }
}
