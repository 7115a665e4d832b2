//! Where things are on the screen: drawing and the mouse agree on it here.

use ratatui::layout::Rect;

use super::super::state::Pane;

/// From so many columns and lines on all panes of an agent are on one screen.
const WIDE: (u16, u16) = (150, 40);
/// Below this nothing sensible can be shown.
pub const LEAST: (u16, u16) = (40, 10);

/// The screen with all agents.
#[derive(Debug, Clone, Copy)]
pub struct Agents {
    /// What all of it is.
    pub head: Rect,
    /// The names of the columns.
    pub titles: Rect,
    /// The agents.
    pub rows: Rect,
    /// The last findings; without height where there is no room.
    pub findings: Rect,
    /// Keys, notices, and what is typed.
    pub foot: Rect,
}

impl Agents {
    /// How many agents have room.
    pub fn rows_height(&self) -> usize {
        usize::from(self.rows.height)
    }
}

/// The screen of one agent.
#[derive(Debug, Clone)]
pub struct Agent {
    /// What it is.
    pub head: Rect,
    /// The panes' names, where only one is shown.
    pub tabs: Option<Rect>,
    /// The panes that are shown.
    pub panes: Vec<(Pane, Rect)>,
    /// Keys, notices, and what is typed.
    pub foot: Rect,
}

/// Cuts lines off the top of what is left.
fn take(rest: &mut Rect, lines: u16) -> Rect {
    let lines = lines.min(rest.height);
    let taken = Rect {
        height: lines,
        ..*rest
    };
    rest.y += lines;
    rest.height -= lines;
    taken
}

fn whole(size: (u16, u16)) -> Rect {
    Rect::new(0, 0, size.0, size.1)
}

/// Of all agents.
pub fn agents(size: (u16, u16)) -> Agents {
    let mut rest = whole(size);
    let head = take(&mut rest, 2);
    let findings = match size.1 {
        0..16 => 0,
        16..24 => 4,
        lines => (lines / 4).clamp(6, 18),
    };
    let titles = take(&mut rest, 1);
    let lines = rest.height.saturating_sub(findings + 1);
    let rows = take(&mut rest, lines);
    let findings = take(&mut rest, findings);
    Agents {
        head,
        titles,
        rows,
        findings,
        foot: take(&mut rest, 1),
    }
}

/// Of one.
pub fn agent(size: (u16, u16), pane: Pane) -> Agent {
    let mut rest = whole(size);
    let head = take(&mut rest, 6);
    let foot = Rect {
        y: rest.bottom().saturating_sub(1),
        height: rest.height.min(1),
        ..rest
    };
    rest.height = rest.height.saturating_sub(1);
    if size.0 < WIDE.0 || size.1 < WIDE.1 {
        let tabs = take(&mut rest, 1);
        return Agent {
            head,
            tabs: Some(tabs),
            panes: vec![(pane, rest)],
            foot,
        };
    }
    let half = rest.width / 2;
    let mut left = Rect {
        width: half,
        ..rest
    };
    let mut right = Rect {
        x: rest.x + half + 1,
        width: rest.width - half - 1,
        ..rest
    };
    let processes = take(&mut left, rest.height * 3 / 5);
    let flows = take(&mut right, rest.height / 4);
    let findings = take(&mut right, rest.height * 2 / 4);
    Agent {
        head,
        tabs: None,
        panes: vec![
            (Pane::Processes, processes),
            (Pane::Files, left),
            (Pane::Flows, flows),
            (Pane::Findings, findings),
            (Pane::Policy, right),
        ],
        foot,
    }
}

/// The lines of a list of so many that have room, with the selected one among them.
pub fn window(count: usize, selected: usize, height: usize) -> std::ops::Range<usize> {
    let top = selected
        .saturating_sub(height / 2)
        .min(count.saturating_sub(height));
    top..(top + height).min(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_outside_whatever_the_size() {
        for width in [0, 1, 40, 80, 149, 150, 200, 500] {
            for height in 0..70 {
                let all = whole((width, height));
                let list = agents((width, height));
                let mut parts = vec![list.head, list.titles, list.rows, list.findings, list.foot];
                let one = agent((width, height), Pane::Flows);
                parts.extend([one.head, one.foot]);
                parts.extend(one.tabs);
                parts.extend(one.panes.iter().map(|(_, area)| *area));
                for part in parts {
                    assert_eq!(part.intersection(all).area(), part.area(), "{part:?}");
                }
            }
        }
        assert_eq!(agents((80, 24)).rows.height, 14);
    }

    #[test]
    fn the_selected_line_is_in_the_window() {
        assert_eq!(window(3, 2, 10), 0..3);
        assert_eq!(window(100, 0, 10), 0..10);
        assert_eq!(window(100, 50, 10), 45..55);
        assert_eq!(window(100, 99, 10), 90..100);
        assert_eq!(window(0, 0, 10), 0..0);
        assert_eq!(window(5, 4, 0), 4..4);
    }
}
