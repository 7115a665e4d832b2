//! What is typed, and what lies over the screen.

use crate::api::model::Verb;

/// The most characters that are typed into a line.
const LONGEST: usize = 1000;

/// A line that is being typed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Text {
    chars: Vec<char>,
    /// Where the next character goes.
    pub cursor: usize,
}

impl Text {
    /// With something in it, the cursor behind that.
    pub fn new(text: &str) -> Self {
        let chars: Vec<char> = text.chars().collect();
        Self {
            cursor: chars.len(),
            chars,
        }
    }

    /// All of it.
    pub fn text(&self) -> String {
        self.chars.iter().collect()
    }

    /// Types a character.
    pub fn insert(&mut self, c: char) {
        if !c.is_control() && self.chars.len() < LONGEST {
            self.chars.insert(self.cursor, c);
            self.cursor += 1;
        }
    }

    /// Removes the one before the cursor; whether there was one.
    pub fn backspace(&mut self) -> bool {
        let Some(at) = self.cursor.checked_sub(1) else {
            return false;
        };
        self.chars.remove(at);
        self.cursor = at;
        true
    }

    /// Removes the one at the cursor.
    pub fn delete(&mut self) {
        if self.cursor < self.chars.len() {
            self.chars.remove(self.cursor);
        }
    }

    /// Removes all before the cursor.
    pub fn clear(&mut self) {
        self.chars.drain(..self.cursor);
        self.cursor = 0;
    }

    /// Moves the cursor.
    pub fn go(&mut self, by: isize) {
        self.cursor = self.cursor.saturating_add_signed(by).min(self.chars.len());
    }
}

/// What a line at the bottom is typed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Which agents are shown.
    Filter,
    /// The next agent that has this.
    Search,
}

/// A line at the bottom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// What for.
    pub purpose: Purpose,
    /// What was typed.
    pub text: Text,
    /// What was in force before.
    pub before: String,
}

/// What lies over the screen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dialog {
    /// The keys.
    Help,
    /// An action is about to be asked for.
    Act(Act),
    /// A finding in full, by its id.
    Finding {
        /// Which.
        id: String,
        /// The first line that is shown.
        top: usize,
    },
}

/// An action that is about to be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Act {
    /// What.
    pub verb: Verb,
    /// The agent's number.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// Why: what was typed.
    pub reason: Text,
    /// The reason is given, and a last yes is awaited.
    pub confirm: bool,
}
