//! Writing on the screen.

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::Style,
    text::{Line, Span},
};

use super::super::theme::Theme;

/// Writes within the screen, and cuts what is too long.
pub struct Pen<'a> {
    /// The screen.
    pub buf: &'a mut Buffer,
    /// How things look.
    pub theme: &'a Theme,
}

impl Pen<'_> {
    /// A text at the left of an area of one line; cut with `…` where it is too long. Where it ends.
    pub fn text(&mut self, area: Rect, text: &str, style: Style) -> u16 {
        self.line(area, &Line::from(Span::styled(text, style)))
    }

    /// The same with several styles.
    pub fn line(&mut self, area: Rect, line: &Line<'_>) -> u16 {
        let area = area.intersection(self.buf.area);
        if area.is_empty() {
            return area.x;
        }
        let (end, _) = self.buf.set_line(area.x, area.y, line, area.width);
        if line.width() > usize::from(area.width) {
            let last = (area.right() - 1, area.y);
            if let Some(cell) = self.buf.cell_mut(last) {
                cell.set_symbol("…");
            }
        }
        end
    }

    /// At the right of an area.
    pub fn right(&mut self, area: Rect, line: &Line<'_>) {
        let width = u16::try_from(line.width()).unwrap_or(u16::MAX);
        let free = area.width.saturating_sub(width);
        let area = Rect {
            x: area.x + free,
            width: area.width - free,
            ..area
        };
        self.line(area, line);
    }

    /// A line across with a title in it; it is bright where the keys go there.
    pub fn rule(&mut self, area: Rect, title: &str, active: bool) {
        let theme = *self.theme;
        let line = "─".repeat(usize::from(area.width));
        self.text(area, &line, theme.faint);
        let style = if active { theme.accent } else { theme.title };
        let inner = Rect {
            x: area.x + 1,
            width: area.width.saturating_sub(2),
            ..area
        };
        self.text(inner, &format!(" {title} "), style);
    }

    /// Nothing is there, and why.
    pub fn empty(&mut self, area: Rect, text: &str) {
        let inner = Rect {
            x: area.x + 1,
            width: area.width.saturating_sub(2),
            height: area.height.min(1),
            ..area
        };
        self.text(inner, text, self.theme.faint);
    }
}

/// The n-th line of an area; without width where it is outside.
pub fn nth(area: Rect, n: usize) -> Rect {
    let n = u16::try_from(n).unwrap_or(u16::MAX);
    if n >= area.height {
        return Rect::default();
    }
    Rect {
        y: area.y + n,
        height: 1,
        ..area
    }
}

/// A text broken at spaces into lines of so many columns; a word that is longer is broken too.
pub fn wrap(text: &str, width: usize) -> Vec<String> {
    let width = width.max(1);
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split(' ') {
        let mut word = word;
        let joined = Span::raw(line.as_str()).width() + 1 + Span::raw(word).width();
        if !line.is_empty() && joined <= width {
            line.push(' ');
            line.push_str(word);
            continue;
        }
        if !line.is_empty() {
            lines.push(std::mem::take(&mut line));
        }
        while Span::raw(word).width() > width {
            let mut end = 0;
            for (at, c) in word.char_indices() {
                let next = at + c.len_utf8();
                if at > 0 && Span::raw(&word[..next]).width() > width {
                    break;
                }
                end = next;
            }
            lines.push(word[..end].to_owned());
            word = &word[end..];
        }
        word.clone_into(&mut line);
    }
    if !line.is_empty() {
        lines.push(line);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_broken_at_spaces() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("", 7), [""; 0]);
        assert_eq!(
            wrap("/a/very/long/path x", 6),
            ["/a/ver", "y/long", "/path", "x"]
        );
        assert_eq!(wrap("日本語", 4), ["日本", "語"]);
        assert_eq!(wrap("日", 1), ["日"]);
    }
}
