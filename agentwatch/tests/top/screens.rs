//! Every screen, small and large.

use agentwatch::{
    api::model::{Action, AskedBy, Verb},
    top::{
        state::{Screen, Source, State, Update, detail::Detail},
        theme::Choice,
    },
};
use insta::assert_snapshot;
use jiff::tz::TimeZone;
use ratatui::{crossterm::event::KeyCode, style::Color};

use super::fixed::{self, fleet, press, recording, text, write};

const SMALL: (u16, u16) = (80, 24);
const LARGE: (u16, u16) = (200, 60);

#[test]
fn agents() {
    assert_snapshot!("agents_small", text(&fleet(SMALL)));
    assert_snapshot!("agents_large", text(&fleet(LARGE)));
}

#[test]
fn one_agent_small() {
    let mut state = recording("python-relay.awrec", SMALL);
    for (key, name) in [
        ('1', "processes"),
        ('2', "flows"),
        ('3', "files"),
        ('4', "findings"),
        ('5', "policy"),
    ] {
        press(&mut state, KeyCode::Char(key));
        assert_snapshot!(format!("agent_small_{name}"), text(&state));
    }
}

#[test]
fn a_finding_in_full() {
    let mut state = recording("ssh-reverse.awrec", SMALL);
    press(&mut state, KeyCode::Char('4'));
    press(&mut state, KeyCode::Enter);
    assert_snapshot!("finding", text(&state));
}

#[test]
fn a_finding_that_is_not_alone() {
    let mut state = fleet(LARGE);
    // The same process again, two seconds later.
    let again = fixed::finding(
        23,
        "high",
        "browser",
        "socat (pid 99) was refused 10.0.0.9:22",
    );
    state.take(Update::Finding(Box::new(again)));
    let browser = state
        .rows()
        .into_iter()
        .find(|row| row.agent.name == "browser");
    let id = browser.expect("an agent").agent.id;
    state.screen = Screen::Agent(id);
    press(&mut state, KeyCode::Char('4'));
    press(&mut state, KeyCode::Enter);
    assert_snapshot!("finding_incident", text(&state));
}

#[test]
fn one_agent_large() {
    let mut state = recording("ssh-reverse.awrec", LARGE);
    press(&mut state, KeyCode::Char('4'));
    assert_snapshot!("agent_large", text(&state));
    let state = recording("mass-deletion.awrec", LARGE);
    assert_snapshot!("agent_large_deletes", text(&state));
}

#[test]
fn what_is_typed_and_asked() {
    let mut state = fleet(SMALL);
    press(&mut state, KeyCode::Char('?'));
    assert_snapshot!("help", text(&state));
    press(&mut state, KeyCode::Esc);
    press(&mut state, KeyCode::Char('K'));
    write(&mut state, "a tunnel");
    assert_snapshot!("kill_reason", text(&state));
    press(&mut state, KeyCode::Enter);
    assert_snapshot!("kill_confirm", text(&state));
    press(&mut state, KeyCode::Char('n'));
    press(&mut state, KeyCode::Char('/'));
    write(&mut state, "roll findings>0");
    assert_snapshot!("filter", text(&state));
}

#[test]
fn a_moment_that_is_past() {
    let mut state = fleet(SMALL);
    press(&mut state, KeyCode::Char(' '));
    press(&mut state, KeyCode::Char('['));
    assert_snapshot!("paused", text(&state));
}

#[test]
fn a_daemon_that_is_gone() {
    let mut state = fleet(SMALL);
    state.tick(fixed::BEGIN_MS + 40_000);
    assert!(text(&state).contains("no answer for 11s"));
    state.take(Update::Unreachable("no daemon listens at X".to_owned()));
    assert!(text(&state).contains("✖ no daemon since 10:00:40, trying again"));
    state.take(Update::Agents {
        at_ms: fixed::BEGIN_MS + 41_000,
        agents: fixed::agents(41),
        health: Some(fixed::health(4712)),
    });
    let seen = text(&state);
    assert!(seen.contains("● live"), "{seen}");
    assert!(seen.contains("the daemon was started again at"), "{seen}");
}

#[test]
fn what_is_missing_is_said() {
    let mut state = fleet(SMALL);
    state.take(Update::Stream(Err("32 read it already".to_owned())));
    let said = "findings are not shown as they happen: 32 read it already";
    assert!(text(&state).contains(said));
    state.take(Update::Stream(Ok(())));
    assert!(!text(&state).contains(said));
    press(&mut state, KeyCode::Enter);
    let Screen::Agent(agent) = state.screen else {
        panic!("{:?}", state.screen);
    };
    let detail = Detail {
        agent,
        error: Some("no agent is called 5".to_owned()),
        ..Detail::default()
    };
    state.take(Update::Detail(Box::new(detail)));
    assert!(text(&state).contains("the lists are not of now: no agent is called 5"));
}

#[test]
fn nothing_to_show() {
    let socket = "/run/x".to_owned();
    let mut state = State::new(Source::Daemon { socket }, TimeZone::UTC);
    assert!(text(&state).contains("asking the daemon at /run/x"));
    state.take(Update::Unreachable(
        "no daemon listens at /run/x".to_owned(),
    ));
    assert!(text(&state).contains("no daemon listens at /run/x"));
    fixed::second(&mut state, 1, Vec::new());
    assert!(text(&state).contains("the daemon watches no agents now"));
    let mut state = fleet(SMALL);
    press(&mut state, KeyCode::Char('/'));
    write(&mut state, "nosuch");
    press(&mut state, KeyCode::Enter);
    assert!(text(&state).contains("no agent fits the filter \"nosuch\""));
}

#[test]
fn what_the_daemon_answers_is_shown() {
    let mut state = fleet(SMALL);
    let mut action = Action {
        time: String::new(),
        agent: "browser".to_owned(),
        run: None,
        action: Verb::Freeze,
        reason: String::new(),
        asked_by: AskedBy::default(),
        done: true,
        outcome: "all its processes stand still".to_owned(),
        ordered_us: Some(100),
        done_us: Some(2300),
    };
    let answer = |action: &Action| {
        Update::Acted(
            Verb::Freeze,
            "browser".to_owned(),
            Ok(Box::new(action.clone())),
        )
    };
    state.take(answer(&action));
    let done = "freeze browser: all its processes stand still (after 2 ms)";
    assert!(text(&state).contains(done));
    action.done = false;
    action.outcome = "it has ended meanwhile".to_owned();
    state.take(answer(&action));
    assert!(text(&state).contains("freeze browser: NOT done: it has ended meanwhile"));
    let refused = Err("only root may act".to_owned());
    state.take(Update::Acted(Verb::Kill, "browser".to_owned(), refused));
    assert!(text(&state).contains("kill browser: NOT done: only root may act"));
}

#[test]
fn no_size_is_too_small_to_draw() {
    for width in [1, 20, 39, 40, 60, 79, 100, 149, 150, 300] {
        for height in [1, 5, 9, 10, 16, 39, 40, 100] {
            let size = (width, height);
            let mut state = fleet(size);
            text(&state);
            press(&mut state, KeyCode::Char('K'));
            text(&state);
            let mut state = recording("python-relay.awrec", size);
            for key in ['1', '2', '3', '4', '5', '?'] {
                press(&mut state, KeyCode::Char(key));
                text(&state);
            }
        }
    }
}

/// Only the terminal's own 16 colours, no background, and none at all without colours.
#[test]
fn colours() {
    let state = fleet(LARGE);
    for choice in [Choice::Auto, Choice::Dark, Choice::Light, Choice::Mono] {
        let buffer = fixed::screen(&state, choice);
        let mut coloured = 0;
        for cell in buffer.content() {
            assert_eq!(cell.bg, Color::Reset);
            assert!(!matches!(
                cell.fg,
                Color::Rgb(..) | Color::Indexed(_) | Color::White | Color::Black
            ));
            coloured += usize::from(cell.fg != Color::Reset);
        }
        assert_eq!(coloured == 0, choice == Choice::Mono, "{choice:?}");
    }
}
