//! States to look at: a fleet as a daemon tells of it, and recordings that were played.

use std::path::Path;

use agentwatch::{
    api::model::{
        Agent, AgentState, DeletionBudget, EventCounts, Finding, FindingCounts, FoundBy, Health,
        Rates,
    },
    policy::Policy,
    top::{
        draw::draw,
        input,
        player::{Plan, Player},
        state::{Order, Source, State, Update},
        theme::{Choice, Theme},
    },
};
use jiff::{Timestamp, tz::TimeZone};
use ratatui::{
    Terminal,
    backend::TestBackend,
    buffer::Buffer,
    crossterm::event::{Event, KeyCode, KeyEvent, KeyModifiers},
};

/// 2026-11-21T10:00:00Z.
pub const BEGIN_MS: i64 = 1_795_255_200_000;
/// Seconds of the fleet's past.
const SECONDS: u32 = 30;

fn rfc3339(at_ms: i64) -> String {
    Timestamp::from_millisecond(at_ms)
        .expect("a time")
        .to_string()
}

/// An agent that does something.
pub fn agent(id: u32, name: &str, second: u32) -> Agent {
    let wave = f64::from((second * id) % 7);
    Agent {
        id,
        name: name.to_owned(),
        found_by: FoundBy::Cgroup {
            glob: "/rollouts/*".to_owned(),
        },
        cgroup: format!("/rollouts/{name}"),
        policy: "default".to_owned(),
        workspace: Some(format!("/srv/{name}")),
        since: rfc3339(BEGIN_MS - 3_600_000 * i64::from(id)),
        processes: u64::from(id) * 3,
        rates: Rates {
            interval_s: 1.0,
            execs: wave,
            opens: wave * 40.0,
            deletes: wave / 2.0,
            connects: 0.5,
            bytes_in: wave * 30_000.0,
            bytes_out: wave * 900.0,
            cpu: wave / 5.0,
        },
        memory_bytes: Some(u64::from(id) * 123_456_789),
        deletion_budget: Some(DeletionBudget {
            left: 40,
            limit: 40,
            workspace_left: 1000,
            workspace_limit: 1000,
        }),
        events: EventCounts {
            emitted: u64::from(second * id * 20),
            delivered: u64::from(second * id * 20),
            ..EventCounts::default()
        },
        ..Agent::default()
    }
}

/// Agents in all states.
pub fn agents(second: u32) -> Vec<Agent> {
    let mut all: Vec<Agent> = [
        "trainer",
        "rollout-7",
        "rollout-8",
        "reviewer",
        "browser",
        "a-very-long-name-that-no-column-of-a-small-terminal-has-room-for",
        "lossy",
    ]
    .into_iter()
    .zip(1..)
    .map(|(name, id)| agent(id, name, second))
    .collect();
    all[1].state = AgentState::Frozen;
    all[1].state_reason = Some("asked for by ada: look at it".to_owned());
    all[1].findings = FindingCounts {
        high: 1,
        medium: 2,
        ..FindingCounts::default()
    };
    all[1].rates = Rates::default();
    all[2].state = AgentState::Killed;
    all[2].processes = 0;
    all[2].rates = Rates::default();
    all[2].findings.critical = 1;
    all[3].state = AgentState::Quarantined;
    all[3].deletion_budget = Some(DeletionBudget {
        left: 3,
        limit: 40,
        workspace_left: 900,
        workspace_limit: 1000,
    });
    all[4].findings.critical = 2;
    all[5].deletion_budget = None;
    all[5].memory_bytes = None;
    all[6].events.lost.insert("ring_full".to_owned(), 1234);
    all
}

/// A finding, as the daemon sends it.
pub fn finding(n: u32, severity: &str, agent: &str, message: &str) -> Finding {
    let at = BEGIN_MS + i64::from(n) * 1000;
    let detector = if severity == "critical" {
        "reverse-tunnel"
    } else {
        "policy-violation"
    };
    serde_json::from_value(serde_json::json!({
        "id": format!("f-{n:016x}"),
        "time": rfc3339(at),
        "time_ns": 5_000_000_000_u64,
        "agent": agent,
        "detector": detector,
        "severity": severity,
        "message": message,
        "techniques": [],
        "process": {"pid": 1, "start_ns": 1, "exe": "/bin/sh", "argv": ["sh"], "member": true},
        "ancestry": [],
        "evidence": [],
        "response": {"requested": "alert", "taken": "alert"},
    }))
    .expect("a finding")
}

/// How it is with the daemon.
pub fn health(pid: u32) -> Box<Health> {
    Box::new(Health {
        version: "0.1.0".to_owned(),
        node: "gpu-node-17".to_owned(),
        pid,
        since: rfc3339(BEGIN_MS - 100_000),
        ..Health::default()
    })
}

/// One second of the fleet.
pub fn second(state: &mut State, second: u32, agents: Vec<Agent>) {
    let at_ms = BEGIN_MS + i64::from(second) * 1000;
    state.tick(at_ms);
    state.take(Update::Agents {
        at_ms,
        agents,
        health: Some(health(4711)),
    });
}

/// A fleet that was watched for a while.
pub fn fleet(size: (u16, u16)) -> State {
    let socket = "/run/agentwatch/agentwatch.sock".to_owned();
    let mut state = State::new(Source::Daemon { socket }, TimeZone::UTC);
    state.size = size;
    for n in 0..SECONDS {
        second(&mut state, n, agents(n));
    }
    for (n, severity, agent, message) in [
        (
            3,
            "medium",
            "rollout-7",
            "python3 (pid 77) tried to connect to 10.0.0.5:22, which network.deny[0] denies",
        ),
        (
            9,
            "critical",
            "rollout-8",
            "/usr/bin/ssh (pid 8061) holds an SSH connection to 198.51.100.2:22 and opens connections on its server's request, the first to 127.0.0.1:8099: a reverse tunnel",
        ),
        (
            21,
            "critical",
            "browser",
            "socat (pid 99) relays what comes from 203.0.113.9:443 to 127.0.0.1:5432",
        ),
        (22, "low", "trainer", "a first time"),
    ] {
        let finding = finding(n, severity, agent, message);
        state.take(Update::Finding(Box::new(finding)));
    }
    state
}

/// A recording that was played at once, up to its first finding or its end, with its agent opened.
pub fn recording(name: &str, size: (u16, u16)) -> State {
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/recordings")
        .join(name);
    let plan = Plan {
        file,
        policy: Policy::default(),
        policy_source: "default".to_owned(),
        speed: 1.0,
    };
    let source = Source::Recording {
        file: name.to_owned(),
        speed: 1.0,
        over: false,
    };
    let mut state = State::new(source, TimeZone::UTC);
    state.size = size;
    let mut player = Player::open(&plan).expect("a recording");
    let mut found = false;
    loop {
        let (updates, more) = player.step(100).expect("a whole recording");
        for update in updates {
            found |= matches!(update, Update::Finding(_));
            state.take(update);
        }
        if found || !more {
            break;
        }
    }
    match press(&mut state, KeyCode::Enter) {
        Some(Order::Watch(Some(id))) => {
            for update in player.watch(Some(id)) {
                state.take(update);
            }
        }
        other => panic!("{other:?}"),
    }
    state
}

/// Presses a key.
pub fn press(state: &mut State, code: KeyCode) -> Option<Order> {
    input::take(state, &Event::Key(KeyEvent::new(code, KeyModifiers::NONE)))
}

/// Types a text.
pub fn write(state: &mut State, text: &str) {
    for c in text.chars() {
        assert_eq!(press(state, KeyCode::Char(c)), None);
    }
}

/// Draws the screen.
pub fn screen(state: &State, choice: Choice) -> Buffer {
    let mut terminal =
        Terminal::new(TestBackend::new(state.size.0, state.size.1)).expect("a terminal");
    let theme = Theme::new(choice, |_| None);
    terminal
        .draw(|frame| draw(state, &theme, frame))
        .expect("a frame");
    terminal.backend().buffer().clone()
}

/// The screen as text.
pub fn text(state: &State) -> String {
    let buffer = screen(state, Choice::Mono);
    let lines = buffer.content().chunks(usize::from(state.size.0));
    lines
        .map(|line| {
            let line: String = line.iter().map(ratatui::buffer::Cell::symbol).collect();
            line.trim_end().to_owned() + "\n"
        })
        .collect()
}
