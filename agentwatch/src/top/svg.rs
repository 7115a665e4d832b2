//! A screen as an SVG picture, for documents.

use std::fmt::Write as _;

use ratatui::{
    buffer::{Buffer, Cell},
    style::{Color, Modifier},
};

/// Size of a cell, pixels.
const CELL: (u16, u16) = (8, 17);
/// Around the screen, pixels.
const MARGIN: u16 = 12;
/// What is drawn upon, and with.
const BACKGROUND: &str = "#16181d";
const FOREGROUND: &str = "#d6d9df";

/// What a colour of the terminal looks like here.
fn hex(colour: Color) -> &'static str {
    match colour {
        Color::Black => "#2a2d34",
        Color::Red | Color::LightRed => "#ff6b6b",
        Color::Green | Color::LightGreen => "#7fc98f",
        Color::Yellow | Color::LightYellow => "#e5c06e",
        Color::Blue | Color::LightBlue => "#6ea8fe",
        Color::Magenta | Color::LightMagenta => "#c99bf0",
        Color::Cyan | Color::LightCyan => "#5fc3d0",
        _ => FOREGROUND,
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// Cells that look alike are one text.
fn alike(a: &Cell, b: &Cell) -> bool {
    (a.fg, a.modifier) == (b.fg, b.modifier)
}

/// The picture.
pub fn svg(buffer: &Buffer) -> String {
    let (columns, rows) = (buffer.area.width, buffer.area.height);
    let width = columns * CELL.0 + 2 * MARGIN;
    let height = rows * CELL.1 + 2 * MARGIN;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\">\n\
         <rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"{BACKGROUND}\"/>\n\
         <g font-family=\"ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace\" \
         font-size=\"13\" xml:space=\"preserve\">\n"
    );
    let cells = buffer.content().chunks(usize::from(columns));
    for (y, line) in (0_u16..).zip(cells) {
        let mut x = 0;
        for run in line.chunk_by(alike) {
            let length = u16::try_from(run.len()).unwrap_or(columns);
            let text: String = run.iter().map(Cell::symbol).collect();
            piece(&mut out, (x, y), length, &text, &run[0]);
            x += length;
        }
    }
    out + "</g>\n</svg>\n"
}

/// A run of cells.
fn piece(out: &mut String, at: (u16, u16), length: u16, text: &str, cell: &Cell) {
    let reversed = cell.modifier.contains(Modifier::REVERSED);
    if text.trim().is_empty() && !reversed {
        return;
    }
    let (x, y) = (MARGIN + at.0 * CELL.0, MARGIN + at.1 * CELL.1);
    let width = length * CELL.0;
    let mut colour = hex(cell.fg);
    if reversed {
        let _ = writeln!(
            out,
            "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{}\" fill=\"{colour}\"/>",
            CELL.1
        );
        colour = BACKGROUND;
    }
    let mut style = String::new();
    if cell.modifier.contains(Modifier::BOLD) {
        style += " font-weight=\"bold\"";
    }
    if cell.modifier.contains(Modifier::DIM) {
        style += " opacity=\"0.6\"";
    }
    // The length holds the columns in line, whatever font there is.
    let _ = writeln!(
        out,
        "<text x=\"{x}\" y=\"{}\" textLength=\"{width}\" fill=\"{colour}\"{style}>{}</text>",
        y + 13,
        escape(text)
    );
}

#[cfg(test)]
mod tests {
    use ratatui::style::Style;

    use super::*;

    #[test]
    fn a_small_picture() {
        let mut buffer = Buffer::with_lines(["a <b>", "     "]);
        buffer.set_style(
            ratatui::layout::Rect::new(0, 0, 1, 1),
            Style::new().fg(Color::Red).add_modifier(Modifier::BOLD),
        );
        let picture = svg(&buffer);
        let texts: Vec<&str> = picture
            .lines()
            .filter(|line| line.starts_with("<text"))
            .collect();
        assert_eq!(
            texts,
            [
                "<text x=\"12\" y=\"25\" textLength=\"8\" fill=\"#ff6b6b\" font-weight=\"bold\">a</text>",
                "<text x=\"20\" y=\"25\" textLength=\"32\" fill=\"#d6d9df\"> &lt;b&gt;</text>",
            ]
        );
    }
}
