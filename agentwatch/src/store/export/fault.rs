//! Why a destination did not take something, and whether it may take it later.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::text;

/// Longest message that is kept, bytes.
const MESSAGE: usize = 400;

/// What kind of failure. The names are labels of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Nobody answers, or the connection broke.
    Unreachable,
    /// No answer in time.
    Timeout,
    /// It has too much to do, or too little room.
    Busy,
    /// What was sent did not arrive as it was.
    Damaged,
    /// Another error of the other side.
    Server,
    /// A file cannot be written.
    File,
    /// The user or the password is wrong, or may not.
    Authentication,
    /// The tables are not there, or are others; or what is sent is not understood.
    Schema,
    /// The server's certificate is not to be trusted.
    Certificate,
}

impl Class {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Unreachable,
        Self::Timeout,
        Self::Busy,
        Self::Damaged,
        Self::Server,
        Self::File,
        Self::Authentication,
        Self::Schema,
        Self::Certificate,
    ];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::Busy => "busy",
            Self::Damaged => "damaged",
            Self::Server => "server",
            Self::File => "file",
            Self::Authentication => "authentication",
            Self::Schema => "schema",
            Self::Certificate => "certificate",
        }
    }

    /// Whether it stays until a person does something.
    pub const fn is_permanent(self) -> bool {
        matches!(
            self,
            Self::Authentication | Self::Schema | Self::Certificate
        )
    }
}

/// A failure, in words that a person can act on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// What kind.
    pub class: Class,
    /// What was said: printable, and short.
    pub message: String,
    /// What to do about it.
    pub advice: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            class,
            message,
            advice,
        } = self;
        write!(f, "{}: {message}; {advice}", class.name())
    }
}

impl std::error::Error for Fault {}

impl Fault {
    /// A failure of a kind.
    pub fn new(class: Class, message: &str, advice: &str) -> Self {
        Self {
            class,
            message: short(message),
            advice: advice.to_owned(),
        }
    }
}

/// An error and what caused it, in a line, each only where it says something new.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut said = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !said.contains(&text) {
            said = format!("{said}: {text}");
        }
        cause = error.source();
    }
    said
}

/// A message without what a terminal obeys, and not too long.
fn short(message: &str) -> String {
    let mut safe = text::escape_str(message.trim());
    if safe.len() > MESSAGE {
        let mut end = MESSAGE;
        while !safe.is_char_boundary(end) {
            end -= 1;
        }
        safe.truncate(end);
        safe.push('…');
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_class_has_a_name_of_its_own() {
        let names: std::collections::HashSet<_> = Class::ALL.map(Class::name).into();
        assert_eq!(names.len(), Class::ALL.len());
    }

    #[test]
    fn a_message_is_short_and_safe() {
        let fault = Fault::new(Class::Server, &"é\u{1b}".repeat(1000), "look");
        assert!(fault.message.len() < MESSAGE + 4);
        assert!(!fault.message.contains('\u{1b}'));
        assert!(fault.to_string().ends_with("; look"));
    }
}
