//! Keys and the mouse: each changes the state, or gives an order, or both.

use ratatui::crossterm::event::{
    Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers, MouseButton, MouseEvent, MouseEventKind,
};

use super::{
    draw::{columns, dialog, layout, panes},
    state::{
        Order, Pane, Screen, Source, State,
        choice::Filter,
        dialog::{Act, Dialog, Prompt, Purpose, Text},
    },
};
use crate::api::model::{AgentState, Verb};

/// Lines that a turn of the wheel moves.
const WHEEL: isize = 3;
/// Further than any list.
const ALL: isize = isize::MAX / 2;

/// Takes what the terminal tells.
pub fn take(state: &mut State, event: &Event) -> Option<Order> {
    let order = match event {
        Event::Key(key) if key.kind != KeyEventKind::Release => press(state, *key),
        Event::Mouse(mouse) => self::mouse(state, *mouse),
        Event::Resize(width, height) => {
            state.size = (*width, *height);
            None
        }
        Event::Paste(text) => {
            paste(state, text);
            None
        }
        _ => None,
    };
    state.settle();
    order
}

fn press(state: &mut State, key: KeyEvent) -> Option<Order> {
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    if control && key.code == KeyCode::Char('c') {
        return Some(Order::Quit);
    }
    if let Some(dialog) = state.dialog.take() {
        return in_dialog(state, dialog, key);
    }
    if let Some(prompt) = state.prompt.take() {
        in_prompt(state, prompt, key);
        return None;
    }
    if control {
        return None;
    }
    match key.code {
        KeyCode::Char('?') | KeyCode::F(1) => state.dialog = Some(Dialog::Help),
        KeyCode::Char('q') => return Some(Order::Quit),
        KeyCode::Char('e') => return Some(Order::Export),
        KeyCode::Char(' ') => pause(state),
        KeyCode::Left => back(state, -1),
        KeyCode::Right => back(state, 1),
        KeyCode::Char('[') => back(state, -10),
        KeyCode::Char(']') => back(state, 10),
        KeyCode::Char('+') => return faster(state, 2.0),
        KeyCode::Char('-') => return faster(state, 0.5),
        KeyCode::Char('F') => ask(state, Verb::Freeze),
        KeyCode::Char('T') => ask(state, Verb::Thaw),
        KeyCode::Char('Q') => ask(state, Verb::Quarantine),
        KeyCode::Char('R') => ask(state, Verb::Release),
        KeyCode::Char('K') => ask(state, Verb::Kill),
        KeyCode::Up | KeyCode::Char('k') => go(state, -1),
        KeyCode::Down | KeyCode::Char('j') => go(state, 1),
        KeyCode::PageUp => go(state, -page(state)),
        KeyCode::PageDown => go(state, page(state)),
        KeyCode::Home => go(state, -ALL),
        KeyCode::End => go(state, ALL),
        _ => {
            return match state.screen {
                Screen::Agents => in_list(state, key.code),
                Screen::Agent(_) => in_agent(state, key.code),
            };
        }
    }
    None
}

fn in_list(state: &mut State, code: KeyCode) -> Option<Order> {
    match code {
        KeyCode::Enter => return open(state),
        KeyCode::Char('/') => prompt(state, Purpose::Filter),
        KeyCode::Char('s') => prompt(state, Purpose::Search),
        KeyCode::Char('n') => search(state, true, false),
        KeyCode::Char('N') => search(state, false, false),
        KeyCode::Char('>') => state.sort = state.sort.step(true),
        KeyCode::Char('<') => state.sort = state.sort.step(false),
        KeyCode::Char('r') => state.reverse = !state.reverse,
        // First it ends the pause, then the filter.
        KeyCode::Esc | KeyCode::Backspace if state.paused.take().is_none() => {
            state.filter = Filter::default();
        }
        _ => {}
    }
    None
}

fn in_agent(state: &mut State, code: KeyCode) -> Option<Order> {
    let step = |by: usize| Pane::ALL[(state.pane.index() + by) % Pane::ALL.len()];
    match code {
        KeyCode::Esc | KeyCode::Backspace => {
            state.screen = Screen::Agents;
            state.details.look_at(None);
            return Some(Order::Watch(None));
        }
        KeyCode::Enter if state.pane == Pane::Findings => {
            let found = panes::selected_finding(state);
            let id = found.map(|found| found.finding.id.clone());
            state.dialog = id.map(|id| Dialog::Finding { id, top: 0 });
        }
        KeyCode::Tab => state.pane = step(1),
        KeyCode::BackTab => state.pane = step(Pane::ALL.len() - 1),
        KeyCode::Char(c @ '1'..='5') => {
            state.pane = Pane::ALL[usize::from(c as u8 - b'1')];
        }
        _ => {}
    }
    None
}

/// Opens the agent that is selected.
fn open(state: &mut State) -> Option<Order> {
    let row = state.target()?;
    let id = row.agent.id;
    state.screen = Screen::Agent(id);
    state.lines = [0; 5];
    state.details.look_at(Some(id));
    Some(Order::Watch(Some(id)))
}

fn page(state: &State) -> isize {
    let height = match state.screen {
        Screen::Agents => layout::agents(state.size).rows_height(),
        Screen::Agent(_) => usize::from(state.size.1.saturating_sub(12)),
    };
    isize::try_from(height.max(2) - 1).unwrap_or(1)
}

/// Moves what is selected.
fn go(state: &mut State, by: isize) {
    match state.screen {
        Screen::Agents => {
            let rows = state.rows();
            let at = state
                .selected
                .and_then(|id| rows.iter().position(|row| row.agent.id == id))
                .unwrap_or(0);
            let to = at
                .saturating_add_signed(by)
                .min(rows.len().saturating_sub(1));
            state.selected = rows.get(to).map(|row| row.agent.id);
        }
        Screen::Agent(_) => {
            let last = panes::count(state, state.pane).saturating_sub(1);
            let line = &mut state.lines[state.pane.index()];
            *line = (*line).min(last).saturating_add_signed(by).min(last);
        }
    }
}

fn pause(state: &mut State) {
    state.paused = match state.paused {
        Some(_) => None,
        None => state.fleet.moments().back().copied(),
    };
}

/// Looks at another moment; the last one there is means that time goes on.
fn back(state: &mut State, by: isize) {
    let moments = state.fleet.moments();
    let Some(last) = moments.len().checked_sub(1) else {
        return;
    };
    let at = state.paused.map_or(last, |at| {
        moments.partition_point(|moment| *moment <= at).max(1) - 1
    });
    let to = at.saturating_add_signed(by);
    state.paused = if to > last {
        None
    } else {
        moments.get(to).copied()
    };
}

fn faster(state: &mut State, by: f64) -> Option<Order> {
    match state.source {
        Source::Recording {
            speed, over: false, ..
        } => Some(Order::Speed((speed * by).clamp(0.125, 1024.0))),
        Source::Recording { .. } => None,
        Source::Daemon { .. } => {
            state.say(true, "+ and - are for recordings: this is live");
            None
        }
    }
}

/// Asks what one should know before an action.
fn ask(state: &mut State, verb: Verb) {
    if let Source::Recording { .. } = state.source {
        return state.say(true, "this is a recording: there is nothing to act upon");
    }
    let Some(row) = state.target() else {
        return state.say(true, "no agent is selected");
    };
    if row.state == AgentState::Gone {
        let text = format!("{} is gone: there is nothing to act upon", row.agent.name);
        return state.say(true, text);
    }
    let act = Act {
        verb,
        id: row.agent.id,
        name: row.agent.name.clone(),
        reason: Text::default(),
        confirm: false,
    };
    state.dialog = Some(Dialog::Act(act));
}

fn in_dialog(state: &mut State, dialog: Dialog, key: KeyEvent) -> Option<Order> {
    let mut act = match dialog {
        // Any key closes it.
        Dialog::Help => return None,
        Dialog::Finding { id, top } => {
            in_finding(state, id, top, key.code);
            return None;
        }
        Dialog::Act(act) => act,
    };
    let done = if act.confirm {
        match key.code {
            KeyCode::Char('y' | 'Y') => true,
            _ => return left(state, &act),
        }
    } else {
        match key.code {
            KeyCode::Esc => return left(state, &act),
            KeyCode::Enter if act.verb == Verb::Kill => {
                act.confirm = true;
                false
            }
            KeyCode::Enter => true,
            _ => {
                edit(&mut act.reason, key);
                false
            }
        }
    };
    if !done {
        state.dialog = Some(Dialog::Act(act));
        return None;
    }
    state.say(false, format!("{} {} …", act.verb.name(), act.name));
    Some(Order::Act {
        id: act.id,
        name: act.name,
        verb: act.verb,
        reason: act.reason.text(),
    })
}

/// Scrolls a finding; what is no such key closes it.
fn in_finding(state: &mut State, id: String, top: usize, code: KeyCode) {
    let by = match code {
        KeyCode::Up | KeyCode::Char('k') => -1,
        KeyCode::Down | KeyCode::Char('j') => 1,
        KeyCode::PageUp => -page(state),
        KeyCode::PageDown | KeyCode::Char(' ') => page(state),
        KeyCode::Home => -ALL,
        KeyCode::End => ALL,
        _ => return,
    };
    let last = dialog::last_top(state, &id);
    let top = top.saturating_add_signed(by).min(last);
    state.dialog = Some(Dialog::Finding { id, top });
}

fn left(state: &mut State, act: &Act) -> Option<Order> {
    state.say(false, format!("{} is left as it is", act.name));
    None
}

fn prompt(state: &mut State, purpose: Purpose) {
    let before = match purpose {
        Purpose::Filter => state.filter.text().to_owned(),
        Purpose::Search => String::new(),
    };
    state.prompt = Some(Prompt {
        purpose,
        text: Text::new(&before),
        before,
    });
}

fn in_prompt(state: &mut State, mut prompt: Prompt, key: KeyEvent) {
    match key.code {
        KeyCode::Enter => return,
        KeyCode::Esc => {
            if prompt.purpose == Purpose::Filter {
                state.filter = Filter::new(&prompt.before);
            }
            return;
        }
        _ => edit(&mut prompt.text, key),
    }
    typed(state, prompt);
}

/// What is typed counts at once.
fn typed(state: &mut State, prompt: Prompt) {
    match prompt.purpose {
        Purpose::Filter => state.filter = Filter::new(&prompt.text.text()),
        Purpose::Search => {
            state.search = prompt.text.text();
            search(state, true, true);
        }
    }
    state.prompt = Some(prompt);
}

fn paste(state: &mut State, text: &str) {
    if let Some(Dialog::Act(act)) = &mut state.dialog {
        if !act.confirm {
            text.chars().for_each(|c| act.reason.insert(c));
        }
    } else if let Some(mut prompt) = state.prompt.take() {
        text.chars().for_each(|c| prompt.text.insert(c));
        typed(state, prompt);
    }
}

fn edit(text: &mut Text, key: KeyEvent) {
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    match key.code {
        KeyCode::Char('u') if control => text.clear(),
        KeyCode::Char('a') if control => text.go(-ALL),
        KeyCode::Char('e') if control => text.go(ALL),
        KeyCode::Char(c) if !control => text.insert(c),
        KeyCode::Backspace => {
            text.backspace();
        }
        KeyCode::Delete => text.delete(),
        KeyCode::Left => text.go(-1),
        KeyCode::Right => text.go(1),
        KeyCode::Home => text.go(-ALL),
        KeyCode::End => text.go(ALL),
        _ => {}
    }
}

/// Selects the next agent whose name or cgroup has what was searched for; the one that is selected
/// counts too where `here`.
fn search(state: &mut State, forward: bool, here: bool) {
    let text = state.search.to_lowercase();
    if text.is_empty() {
        return;
    }
    let rows = state.rows();
    let count = rows.len();
    let at = state
        .selected
        .and_then(|id| rows.iter().position(|row| row.agent.id == id))
        .unwrap_or(0);
    let found = (usize::from(!here)..=count).find_map(|n| {
        let to = if forward { at + n } else { at + count * 2 - n };
        let agent = rows.get(to % count.max(1))?.agent;
        [&agent.name, &agent.cgroup]
            .iter()
            .any(|field| field.to_lowercase().contains(&text))
            .then_some(agent.id)
    });
    if found.is_some() {
        state.selected = found;
    } else {
        let said = format!("no agent in the list has {:?}", state.search);
        state.say(true, said);
    }
}

fn mouse(state: &mut State, mouse: MouseEvent) -> Option<Order> {
    let way = match mouse.kind {
        MouseEventKind::ScrollUp => -WHEEL,
        MouseEventKind::ScrollDown => WHEEL,
        MouseEventKind::Down(MouseButton::Left) => 0,
        _ => return None,
    };
    if state.dialog.is_some() {
        // A click is no answer to what a dialog asks; it closes what asks nothing.
        match state.dialog.take() {
            Some(Dialog::Finding { id, top }) if way != 0 => {
                let top = top.saturating_add_signed(way);
                let top = top.min(dialog::last_top(state, &id));
                state.dialog = Some(Dialog::Finding { id, top });
            }
            Some(Dialog::Act(act)) => state.dialog = Some(Dialog::Act(act)),
            kept if way != 0 => state.dialog = kept,
            _ => {}
        }
        return None;
    }
    let at = (mouse.column, mouse.row).into();
    match state.screen {
        Screen::Agents if way != 0 => go(state, way),
        Screen::Agents => {
            let places = layout::agents(state.size);
            if places.titles.contains(at) {
                sort_by(state, mouse.column, places.titles);
            } else if places.rows.contains(at) {
                let line = state.top + usize::from(mouse.row - places.rows.y);
                let id = state.rows().get(line).map(|row| row.agent.id)?;
                if state.selected == Some(id) {
                    return open(state);
                }
                state.selected = Some(id);
            }
        }
        Screen::Agent(_) => {
            let places = layout::agent(state.size, state.pane);
            if let Some(tabs) = places.tabs
                && tabs.contains(at)
            {
                state.pane = panes::tab_at(state, tabs, mouse.column).unwrap_or(state.pane);
            }
            if let Some((pane, area)) = places.panes.iter().find(|(_, area)| area.contains(at)) {
                state.pane = *pane;
                if way != 0 {
                    go(state, way);
                } else if let Some(line) = panes::line_at(state, *pane, *area, mouse.row) {
                    state.lines[pane.index()] = line;
                }
            }
        }
    }
    None
}

/// Sorts by the column whose title is there; the other way round where it is that already.
fn sort_by(state: &mut State, x: u16, titles: ratatui::layout::Rect) {
    let columns = columns::chosen(titles.width);
    let mut sort = None;
    super::draw::agents::place(titles, &columns, |chosen, area| {
        if (area.x..area.right()).contains(&x) {
            sort = chosen.column.sort();
        }
    });
    match sort {
        Some(sort) if sort == state.sort => state.reverse = !state.reverse,
        Some(sort) => {
            state.sort = sort;
            state.reverse = false;
        }
        None => {}
    }
}
