//! What keys and the mouse do.

use agentwatch::{
    api::model::Verb,
    top::{
        export, input,
        state::{Order, Pane, Screen, State, choice::Sort, dialog::Dialog},
    },
};
use ratatui::crossterm::event::{
    Event, KeyCode, KeyEvent, KeyModifiers, MouseButton, MouseEvent, MouseEventKind,
};

use super::fixed::{self, agents, fleet, press, recording, text, write};

const SIZE: (u16, u16) = (80, 24);

fn key(state: &mut State, c: char) -> Option<Order> {
    press(state, KeyCode::Char(c))
}

fn name(state: &State) -> &str {
    state.target().map_or("", |row| row.agent.name.as_str())
}

fn shown(state: &State) -> Vec<&str> {
    let rows = state.rows();
    rows.iter().map(|row| row.agent.name.as_str()).collect()
}

#[test]
fn an_action_needs_a_reason_and_a_kill_a_yes() {
    let mut state = fleet(SIZE);
    assert_eq!(name(&state), "browser");
    assert_eq!(key(&mut state, 'F'), None);
    write(&mut state, "qK?");
    let order = press(&mut state, KeyCode::Enter);
    let Some(Order::Act {
        id,
        name,
        verb,
        reason,
    }) = order
    else {
        panic!("{order:?}");
    };
    assert_eq!(
        (id, &*name, verb, &*reason),
        (5, "browser", Verb::Freeze, "qK?")
    );
    assert_eq!(state.dialog, None);
    for answer in [KeyCode::Char('n'), KeyCode::Enter, KeyCode::Esc] {
        key(&mut state, 'K');
        write(&mut state, "y");
        assert_eq!(press(&mut state, KeyCode::Enter), None);
        assert_eq!(press(&mut state, answer), None);
        assert_eq!(state.dialog, None);
    }
    key(&mut state, 'K');
    press(&mut state, KeyCode::Enter);
    let order = key(&mut state, 'y');
    assert!(
        matches!(
            &order,
            Some(Order::Act {
                verb: Verb::Kill,
                ..
            })
        ),
        "{order:?}"
    );
    key(&mut state, 'K');
    assert_eq!(press(&mut state, KeyCode::Esc), None);
    assert!(text(&state).contains("browser is left as it is"));
}

/// The list may be sorted anew while one types: what was asked for is what is done.
#[test]
fn an_action_is_upon_who_was_asked_for() {
    let mut state = fleet(SIZE);
    key(&mut state, 'K');
    let mut later = agents(31);
    later[4].findings.critical = 0;
    later[0].findings.critical = 9;
    fixed::second(&mut state, 31, later);
    assert_eq!(shown(&state)[0], "trainer");
    press(&mut state, KeyCode::Enter);
    let order = key(&mut state, 'y');
    assert!(
        matches!(&order, Some(Order::Act { name, .. }) if name == "browser"),
        "{order:?}"
    );
}

#[test]
fn a_recording_is_not_acted_upon() {
    let mut state = recording("socat-relay.awrec", SIZE);
    assert_eq!(key(&mut state, 'K'), None);
    assert_eq!(state.dialog, None);
    assert!(text(&state).contains("this is a recording"));
    assert_eq!(key(&mut state, '+'), Some(Order::Speed(2.0)));
}

#[test]
fn sorting_filtering_and_searching() {
    let mut state = fleet(SIZE);
    assert_eq!(shown(&state)[..2], ["browser", "rollout-7"]);
    key(&mut state, '>');
    assert_eq!(state.sort, Sort::Name);
    assert_eq!(shown(&state)[1], "browser");
    key(&mut state, 'r');
    assert_eq!(shown(&state)[0], "trainer");
    assert_eq!(name(&state), "browser");
    key(&mut state, '/');
    write(&mut state, "rollout- !state:killed");
    assert_eq!(shown(&state), ["rollout-7"]);
    press(&mut state, KeyCode::Enter);
    assert_eq!(name(&state), "rollout-7");
    key(&mut state, '/');
    write(&mut state, " zzz");
    assert_eq!(shown(&state), [""; 0]);
    press(&mut state, KeyCode::Esc);
    assert_eq!(shown(&state), ["rollout-7"]);
    press(&mut state, KeyCode::Esc);
    assert_eq!(shown(&state).len(), 7);
    key(&mut state, 's');
    write(&mut state, "rollout-");
    press(&mut state, KeyCode::Enter);
    assert_eq!(name(&state), "rollout-7");
    key(&mut state, 'n');
    assert_eq!(name(&state), "rollout-8");
    key(&mut state, 'N');
    assert_eq!(name(&state), "rollout-7");
}

#[test]
fn time_can_be_gone_back() {
    let mut state = fleet(SIZE);
    let records = |state: &State| state.target().unwrap().now.delivered;
    assert_eq!(records(&state), 29 * 5 * 20);
    press(&mut state, KeyCode::Left);
    assert_eq!(records(&state), 28 * 5 * 20);
    key(&mut state, '[');
    assert_eq!(records(&state), 18 * 5 * 20);
    fixed::second(&mut state, 30, agents(30));
    assert_eq!(records(&state), 18 * 5 * 20);
    // What was found later is not known yet.
    assert_eq!(state.findings(None).count(), 2);
    for _ in 0..3 {
        key(&mut state, ']');
    }
    assert_eq!(state.paused, None);
    assert_eq!(records(&state), 30 * 5 * 20);
    key(&mut state, ' ');
    assert!(state.paused.is_some());
    key(&mut state, ' ');
    assert_eq!(state.paused, None);
}

#[test]
fn an_agent_is_opened_and_left() {
    let mut state = fleet(SIZE);
    press(&mut state, KeyCode::Down);
    let order = press(&mut state, KeyCode::Enter);
    assert_eq!(order, Some(Order::Watch(Some(2))));
    assert_eq!(state.screen, Screen::Agent(2));
    press(&mut state, KeyCode::Tab);
    assert_eq!(state.pane, Pane::Flows);
    press(&mut state, KeyCode::BackTab);
    press(&mut state, KeyCode::BackTab);
    assert_eq!(state.pane, Pane::Policy);
    assert_eq!(press(&mut state, KeyCode::Esc), Some(Order::Watch(None)));
    assert_eq!(key(&mut state, 'q'), Some(Order::Quit));
    let control_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    key(&mut state, 'K');
    assert_eq!(
        input::take(&mut state, &Event::Key(control_c)),
        Some(Order::Quit)
    );
}

#[test]
fn a_finding_is_opened_and_scrolled() {
    let mut state = recording("python-relay.awrec", SIZE);
    key(&mut state, '4');
    press(&mut state, KeyCode::Enter);
    assert!(matches!(
        &state.dialog,
        Some(Dialog::Finding { top: 0, .. })
    ));
    assert!(text(&state).contains("response"));
    press(&mut state, KeyCode::End);
    assert!(text(&state).contains(" time "), "{}", text(&state));
    press(&mut state, KeyCode::Esc);
    assert_eq!(state.dialog, None);
    assert_eq!(state.screen, Screen::Agent(1));
}

#[test]
fn the_mouse_selects_opens_and_sorts() {
    let mut state = fleet(SIZE);
    let at = |kind, column, row| {
        Event::Mouse(MouseEvent {
            kind,
            column,
            row,
            modifiers: KeyModifiers::NONE,
        })
    };
    let click = |x, y| at(MouseEventKind::Down(MouseButton::Left), x, y);
    assert_eq!(input::take(&mut state, &click(5, 4)), None);
    assert_eq!(name(&state), "rollout-7");
    assert!(matches!(
        input::take(&mut state, &click(5, 4)),
        Some(Order::Watch(Some(2)))
    ));
    // A tab of the agent.
    input::take(&mut state, &click(20, 6));
    assert_eq!(state.pane, Pane::Flows);
    press(&mut state, KeyCode::Esc);
    input::take(&mut state, &at(MouseEventKind::ScrollDown, 5, 5));
    assert_ne!(name(&state), "rollout-7");
    input::take(&mut state, &click(1, 2));
    assert_eq!((state.sort, state.reverse), (Sort::Name, false));
    input::take(&mut state, &click(1, 2));
    assert!(state.reverse);
    // A click does not answer what a dialog asks.
    key(&mut state, 'K');
    assert_eq!(input::take(&mut state, &click(40, 12)), None);
    assert!(matches!(state.dialog, Some(Dialog::Act(_))));
}

#[test]
fn the_selected_one_stays_on_the_screen() {
    let mut state = fleet((80, 24));
    let many = (1..200)
        .map(|id| fixed::agent(id, &format!("a{id:03}"), 31))
        .collect();
    fixed::second(&mut state, 31, many);
    press(&mut state, KeyCode::End);
    assert_eq!(name(&state), "a199");
    assert!(text(&state).contains("a199"));
    press(&mut state, KeyCode::Home);
    assert!(text(&state).contains(name(&state)));
    for _ in 0..40 {
        press(&mut state, KeyCode::Down);
        assert!(text(&state).contains(name(&state)));
    }
    press(&mut state, KeyCode::PageUp);
    assert!(text(&state).contains(name(&state)));
}

#[test]
fn what_is_seen_is_exported() {
    let mut state = fleet(SIZE);
    let seen = export::value(&state).unwrap();
    assert_eq!(seen["agents"].as_array().map(Vec::len), Some(7));
    assert_eq!(seen["agents"][0]["name"], "browser");
    assert_eq!(seen["findings"].as_array().map(Vec::len), Some(4));
    assert_eq!(seen["node"], "gpu-node-17");
    // The past as it was, not as it is.
    key(&mut state, '[');
    let seen = export::value(&state).unwrap();
    assert_eq!(seen["time"], "2026-11-21T10:00:19Z");
    assert_eq!(seen["findings"].as_array().map(Vec::len), Some(2));
    let state = recording("ssh-reverse.awrec", SIZE);
    let seen = export::value(&state).unwrap();
    let processes = seen["processes"].as_array().unwrap();
    assert!(
        processes
            .iter()
            .any(|process| process["exe"] == "/usr/bin/ssh"),
        "{seen}"
    );
    assert_eq!(seen["agent"]["rates"].get("cpu"), None);
    assert_eq!(export::lines(&state).unwrap().lines().count(), 1);
}
