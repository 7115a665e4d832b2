//! `event-flood`: an agent does more than can be told of it.
//!
//! It costs no other agent an event, but what is lost of its own nobody has seen: a flood may be there to
//! hide something. One finding for each episode, and another one each time that ten times as much of it
//! is lost.

use std::collections::HashMap;

use super::{Detection, evidence};
use crate::{
    enrich::World,
    event::{Event, Kind, ProcessKey, Tally},
    finding::{Evidence, Severity, Technique},
};

/// The stable id.
pub const ID: &str = "event-flood";

/// An episode is over when nothing has been lost for so long, nanoseconds.
const QUIET_NS: u64 = 60_000_000_000;

/// From this part of all that the agent did on the loss is more than unusual, percent.
const MUCH: u64 = 1;

/// How many counts a finding shows: the last ones.
const SHOWN: usize = 8;

/// How many agents are looked at. There are no more than the kernel has shares for; a recording that
/// somebody made up may say so.
const AGENTS: usize = 1024;

/// The state, by agent.
#[derive(Default)]
pub struct EventFlood {
    agents: HashMap<u32, Agent>,
}

/// What is known of one agent.
#[derive(Default)]
struct Agent {
    /// Who does most: the majority of the events since the last count, if there is one (Boyer and Moore).
    busiest: Option<Busy>,
    votes: u64,
    /// The counters as they were last.
    emitted: u64,
    lost: u64,
    episode: Option<Episode>,
}

/// Who did something.
#[derive(Clone)]
struct Busy {
    process: ProcessKey,
    comm: String,
}

struct Episode {
    /// When something was lost last, `CLOCK_BOOTTIME` nanoseconds.
    last_ns: u64,
    lost: u64,
    emitted: u64,
    /// The number of losses at which it is said again.
    next: u64,
    counts: Vec<Evidence>,
}

impl EventFlood {
    /// Looks at an event.
    pub fn observe(&mut self, event: &Event, world: &World, found: &mut Vec<Detection>) {
        if self.agents.len() >= AGENTS && !self.agents.contains_key(&event.agent) {
            return;
        }
        let agent = self.agents.entry(event.agent).or_default();
        match &event.kind {
            Kind::Tally(tally) => agent.count(event, tally, world, found),
            _ => agent.vote(event),
        }
    }
}

impl Agent {
    fn vote(&mut self, event: &Event) {
        if event.process.pid == 0 {
            return;
        }
        match &self.busiest {
            Some(busiest) if busiest.process == event.process => self.votes += 1,
            Some(_) if self.votes > 0 => self.votes -= 1,
            _ => {
                self.busiest = Some(Busy {
                    process: event.process,
                    comm: event.comm.clone(),
                });
                self.votes = 1;
            }
        }
    }

    fn count(&mut self, event: &Event, tally: &Tally, world: &World, found: &mut Vec<Detection>) {
        let unread = tally.unread();
        let lost = unread.saturating_sub(self.lost);
        let emitted = tally.emitted.saturating_sub(self.emitted);
        (self.lost, self.emitted) = (unread, tally.emitted);
        let busiest = self.busiest.take();
        self.votes = 0;
        if lost == 0 {
            return;
        }
        let over = |episode: &Episode| event.time_ns.saturating_sub(episode.last_ns) > QUIET_NS;
        if self.episode.as_ref().is_some_and(over) {
            self.episode = None;
        }
        let episode = self.episode.get_or_insert(Episode {
            last_ns: 0,
            lost: 0,
            emitted: 0,
            next: 1,
            counts: Vec::new(),
        });
        episode.last_ns = event.time_ns;
        episode.lost += lost;
        episode.emitted += emitted;
        if episode.counts.len() == SHOWN {
            episode.counts.remove(0);
        }
        let reasons: Vec<String> = tally
            .lost
            .iter()
            .map(|(reason, number)| format!("{reason} {number}"))
            .collect();
        let what = format!(
            "{lost} of {emitted} events lost; by now {}",
            reasons.join(", ")
        );
        episode.counts.push(evidence(event, what));
        if episode.lost < episode.next {
            return;
        }
        while episode.next <= episode.lost {
            episode.next = episode.next.saturating_mul(10);
        }
        let process = busiest.as_ref().map_or(event.process, |busy| busy.process);
        let who = match &busiest {
            None => String::new(),
            Some(busy) => {
                let name = world.processes.exe(busy.process).unwrap_or(&busy.comm);
                format!(", most of all {name} (pid {})", busy.process.pid)
            }
        };
        let severity = if episode.lost.saturating_mul(100) >= episode.emitted.saturating_mul(MUCH) {
            Severity::Medium
        } else {
            Severity::Low
        };
        found.push(Detection {
            detector: ID,
            severity,
            techniques: vec![Technique {
                id: "T1562.006",
                name: "Indicator Blocking",
            }],
            message: format!(
                "{} does more than can be told{who}: {} of {} events are lost, and what they were nobody \
                 has seen",
                world.agent_name(event.agent),
                episode.lost,
                episode.emitted,
            ),
            process,
            evidence: episode.counts.clone(),
            cause: format!("lost {}", episode.lost),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Exit;

    const SECOND: u64 = 1_000_000_000;

    fn event(at_ns: u64, pid: u32, kind: Kind) -> Event {
        Event {
            domain: None,
            time_ns: at_ns,
            agent: 1,
            process: ProcessKey { pid, start_ns: 3 },
            tid: pid,
            ppid: 1,
            uid: 0,
            gid: 0,
            cgroup: 1,
            comm: "busy".to_owned(),
            partial: false,
            kind,
        }
    }

    fn tally(at_s: u64, emitted: u64, lost: Vec<(&'static str, u64)>) -> Event {
        let tally = Tally {
            emitted,
            delivered: emitted - lost.iter().map(|(_, n)| n).sum::<u64>(),
            lost,
            ..Tally::default()
        };
        event(at_s * SECOND, 0, Kind::Tally(Box::new(tally)))
    }

    fn observe(detector: &mut EventFlood, event: &Event) -> Vec<Detection> {
        let mut found = Vec::new();
        detector.observe(event, &World::default(), &mut found);
        found
    }

    #[test]
    fn an_episode_is_a_finding_whose_count_grows() {
        let mut detector = EventFlood::default();
        let exit = Exit {
            code: None,
            signal: None,
            utime_ns: 0,
            stime_ns: 0,
            max_rss_pages: 0,
        };
        for n in 0..9 {
            let pid = if n % 3 == 0 { 5 } else { 7 };
            observe(&mut detector, &event(n, pid, Kind::Exit(exit)));
        }
        let share = "more than the agent's share";
        let found = observe(&mut detector, &tally(1, 1000, vec![(share, 5)]));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].process.pid, 7);
        assert_eq!(found[0].severity, Severity::Low);
        assert!(
            found[0].message.contains("5 of 1000"),
            "{}",
            found[0].message
        );
        // The same counters again are no news, and a little more is none yet.
        assert!(observe(&mut detector, &tally(2, 2000, vec![(share, 5)])).is_empty());
        assert!(observe(&mut detector, &tally(3, 2100, vec![(share, 9)])).is_empty());
        let found = observe(&mut detector, &tally(4, 3000, vec![(share, 400)]));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].severity, Severity::Medium);
        assert_eq!(found[0].evidence.len(), 3);
        // After a quiet time it is another one.
        let found = observe(&mut detector, &tally(100, 9000, vec![(share, 401)]));
        assert_eq!(found.len(), 1);
        assert!(
            found[0].message.contains("1 of 6000"),
            "{}",
            found[0].message
        );
    }

    #[test]
    fn what_is_lost_for_other_reasons_is_no_flood() {
        let mut detector = EventFlood::default();
        let lost = vec![("too many calls in flight", 50)];
        assert!(observe(&mut detector, &tally(1, 100, lost)).is_empty());
    }
}
