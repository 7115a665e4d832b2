//! Colours: only the 16 of the terminal, upon its own background.

use ratatui::style::{Color, Modifier, Style};

use crate::finding::Severity;

/// Which colours.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Choice {
    /// What `NO_COLOR` and `COLORFGBG` say, else colours that can be read on any background
    #[default]
    Auto,
    /// For a dark background
    Dark,
    /// For a light background
    Light,
    /// Without colours
    Mono,
}

/// How things look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Theme {
    /// What is always there: names.
    pub strong: Style,
    /// What is there to be looked up: labels, zeros.
    pub faint: Style,
    /// All is well.
    pub good: Style,
    /// Look at it.
    pub warn: Style,
    /// Look at it now.
    pub danger: Style,
    /// Somebody acted upon it; what is active.
    pub accent: Style,
    /// What is selected.
    pub selected: Style,
    /// Names of columns and panes.
    pub title: Style,
}

impl Theme {
    /// By what was asked for and the environment: `NO_COLOR` (not empty) means none,
    /// `COLORFGBG` (set by some terminals) ends in the background's number.
    pub fn new(choice: Choice, environment: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name| environment(name).filter(|value| !value.is_empty());
        match choice {
            Choice::Dark => Self::dark(),
            Choice::Light => Self::light(),
            Choice::Mono => Self::mono(),
            Choice::Auto if set("NO_COLOR").is_some() => Self::mono(),
            Choice::Auto => {
                let background =
                    set("COLORFGBG").and_then(|value| value.rsplit(';').next()?.parse::<u8>().ok());
                match background {
                    Some(7 | 9..=15) => Self::light(),
                    Some(_) => Self::dark(),
                    None => Self::neutral(),
                }
            }
        }
    }

    /// Without colours.
    pub fn mono() -> Self {
        let plain = Style::new();
        Self {
            strong: plain.add_modifier(Modifier::BOLD),
            faint: plain.add_modifier(Modifier::DIM),
            good: plain,
            warn: plain.add_modifier(Modifier::BOLD),
            danger: plain.add_modifier(Modifier::BOLD | Modifier::UNDERLINED),
            accent: plain.add_modifier(Modifier::BOLD),
            selected: plain.add_modifier(Modifier::REVERSED),
            title: plain.add_modifier(Modifier::BOLD),
        }
    }

    /// Colours that can be read on dark and on light.
    fn neutral() -> Self {
        let plain = Style::new();
        Self {
            good: plain.fg(Color::Green),
            warn: plain.fg(Color::Magenta).add_modifier(Modifier::BOLD),
            danger: plain.fg(Color::Red).add_modifier(Modifier::BOLD),
            ..Self::mono()
        }
    }

    /// For a light background.
    pub fn light() -> Self {
        let plain = Style::new();
        Self {
            accent: plain.fg(Color::Blue).add_modifier(Modifier::BOLD),
            title: plain.fg(Color::Blue).add_modifier(Modifier::BOLD),
            ..Self::neutral()
        }
    }

    /// For a dark background.
    pub fn dark() -> Self {
        let plain = Style::new();
        Self {
            warn: plain.fg(Color::Yellow),
            danger: plain.fg(Color::LightRed).add_modifier(Modifier::BOLD),
            accent: plain.fg(Color::Cyan).add_modifier(Modifier::BOLD),
            title: plain.fg(Color::Cyan),
            ..Self::neutral()
        }
    }

    /// Of a finding.
    pub fn severity(&self, severity: Severity) -> Style {
        match severity {
            Severity::Critical | Severity::High => self.danger,
            Severity::Medium => self.warn,
            Severity::Low => Style::new(),
            Severity::Info => self.faint,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_environment_says() {
        let with = |pairs: &'static [(&str, &str)]| {
            Theme::new(Choice::Auto, |name| {
                let found = pairs.iter().find(|(own, _)| *own == name);
                found.map(|(_, value)| (*value).to_owned())
            })
        };
        assert_eq!(with(&[("NO_COLOR", "1")]), Theme::mono());
        assert_eq!(with(&[("NO_COLOR", "")]), Theme::neutral());
        assert_eq!(with(&[("COLORFGBG", "0;15")]), Theme::light());
        assert_eq!(with(&[("COLORFGBG", "15;default;0")]), Theme::dark());
        assert_eq!(with(&[("COLORFGBG", "?")]), Theme::neutral());
        let asked = Theme::new(Choice::Dark, |_| Some("1".to_owned()));
        assert_eq!(asked, Theme::dark());
    }
}
