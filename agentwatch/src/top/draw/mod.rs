//! From the state to the screen; nothing is changed here.

pub mod agent;
pub mod agents;
pub mod columns;
pub mod dialog;
mod incident;
pub mod layout;
pub mod panes;
mod pen;
mod status;
mod story;
pub mod words;

use ratatui::Frame;

use super::{
    state::{Screen, State},
    theme::Theme,
};
pub(super) use pen::Pen;

/// Draws the screen.
pub fn draw(state: &State, theme: &Theme, frame: &mut Frame<'_>) {
    let area = frame.area();
    let mut pen = Pen {
        buf: frame.buffer_mut(),
        theme,
    };
    if area.width < layout::LEAST.0 || area.height < layout::LEAST.1 {
        pen.text(area, "the terminal is too small", theme.warn);
        return;
    }
    let foot = match state.screen {
        Screen::Agents => {
            agents::draw(&mut pen, state);
            layout::agents(state.size).foot
        }
        Screen::Agent(id) => {
            agent::draw(&mut pen, state, id);
            layout::agent(state.size, state.pane).foot
        }
    };
    let mut cursor = status::foot(&mut pen, state, foot);
    if let Some(over) = &state.dialog {
        cursor = dialog::draw(&mut pen, state, over, area);
    }
    if let Some(position) = cursor {
        frame.set_cursor_position(position);
    }
}
