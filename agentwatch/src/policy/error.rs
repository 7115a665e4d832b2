//! Why a policy was refused: where, what, and what was probably meant.

use std::{borrow::Cow, fmt};

use serde::Serialize;
use serde_saphyr::{Error as YamlError, Location, MessageFormatter as _, UserMessageFormatter};

use crate::text::escape_str;

/// How much of a line is shown, and how much of that before the place.
const WIDTH: usize = 100;
const BEFORE: usize = 60;

/// Why a policy was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PolicyError {
    /// The file, as the caller calls it: who writes this knows it.
    #[serde(skip)]
    pub file: String,
    /// Where in it, unless the whole of it is meant.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
    /// What is wrong. One line, safe to print.
    pub message: String,
}

/// A place in a policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Place {
    /// From 1.
    pub line: u64,
    /// In characters, from 1.
    pub column: u64,
    /// What is shown of the line.
    #[serde(skip)]
    shown: String,
    /// Where the place is in `shown`, in characters.
    #[serde(skip)]
    caret: usize,
}

impl PolicyError {
    pub(crate) fn whole(file: &str, message: &str) -> Self {
        Self {
            file: escape_str(file),
            place: None,
            message: escape_str(&shorten(message, 500)),
        }
    }

    pub(crate) fn from_yaml(file: &str, text: &str, error: &YamlError) -> Self {
        let location = error.location().filter(|location| location.line() > 0);
        let message = match error.without_snippet() {
            YamlError::Eof { .. } => {
                return Self::whole(
                    file,
                    "there is nothing in it; a policy begins with `apiVersion: agentwatch/v1` and \
                     `kind: Policy`",
                );
            }
            error => explain(error, location.map_or("", |at| rest_of_line(text, at))),
        };
        let place = location.map(|at| Place::new(text, at));
        Self {
            place,
            ..Self::whole(file, &message)
        }
    }
}

impl std::error::Error for PolicyError {}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            file,
            place,
            message,
        } = self;
        let Some(Place {
            line,
            column,
            shown,
            caret,
        }) = place
        else {
            return write!(f, "{file}: {message}");
        };
        let margin = line.to_string().len();
        writeln!(f, "{file}:{line}:{column}: {message}")?;
        writeln!(f, "{:margin$} |", "")?;
        writeln!(f, "{line} | {shown}")?;
        write!(f, "{:margin$} | {:caret$}^", "", "")
    }
}

impl Place {
    fn new(text: &str, at: Location) -> Self {
        let line = line(text, at);
        let start = (at.column() as usize - 1).saturating_sub(BEFORE);
        let before: String = line
            .chars()
            .skip(start)
            .take(at.column() as usize - 1 - start)
            .collect();
        let after: String = rest_of_line(text, at)
            .chars()
            .take(WIDTH - BEFORE)
            .collect();
        let dots = if start > 0 { "…" } else { "" };
        let before = format!("{dots}{}", escape_str(&before));
        Self {
            line: at.line(),
            column: at.column(),
            caret: before.chars().count(),
            shown: (before + &escape_str(&after)).trim_end().to_owned(),
        }
    }
}

fn line(text: &str, at: Location) -> &str {
    text.lines().nth(at.line() as usize - 1).unwrap_or("")
}

/// The line from the place on.
fn rest_of_line(text: &str, at: Location) -> &str {
    let line = line(text, at);
    line.char_indices()
        .nth(at.column() as usize - 1)
        .map_or("", |(i, _)| &line[i..])
}

/// What is wrong, for those who write policies and not Rust. `source` is what stands there.
fn explain(error: &YamlError, source: &str) -> String {
    match error {
        YamlError::SerdeUnknownField {
            field, expected, ..
        } => {
            // The detectors are the fields of one mapping.
            let what = if expected.contains(&"reverse-tunnel") {
                "detector"
            } else {
                "field"
            };
            format!(
                "unknown {what} `{}`; {}",
                shorten(field, 60),
                suggest(field, expected)
            )
        }
        YamlError::SerdeUnknownVariant {
            variant, expected, ..
        } => {
            format!(
                "unknown value `{}`; {}",
                shorten(variant, 60),
                suggest(variant, expected)
            )
        }
        YamlError::SerdeMissingField { field, .. } => format!("missing field `{field}`"),
        YamlError::DuplicateMappingKey { key: Some(key), .. } => format!("`{key}` is there twice"),
        YamlError::MultipleDocuments { .. } => {
            "a second YAML document begins here; a policy is one".into()
        }
        YamlError::Unexpected {
            expected: "mapping start",
            ..
        } => "expected fields here (`name: value`)".into(),
        YamlError::Unexpected {
            expected: "sequence start",
            ..
        } => "expected a list here (`- item`, each on a line)".into(),
        YamlError::Unexpected {
            expected: "string scalar",
            ..
        } if source.starts_with('[') => {
            "expected text, and this begins a list; put the whole item in quotes".into()
        }
        YamlError::Unexpected {
            expected: "string scalar",
            ..
        } => "expected text here".into(),
        YamlError::InvalidScalar { ty: "u64", .. } => "expected a whole number, 0 or more".into(),
        YamlError::InvalidBooleanStrict { .. } => "expected `true` or `false`".into(),
        YamlError::NullIntoString { .. } => {
            "no value; text that begins with `!`, `#` or `~` alone \
                                             needs quotes"
                .into()
        }
        YamlError::UnknownAnchor { .. } => "text that begins with `*` needs quotes".into(),
        YamlError::Budget { .. }
        | YamlError::AliasReplayLimitExceeded { .. }
        | YamlError::AliasExpansionLimitExceeded { .. }
        | YamlError::AliasReplayStackDepthExceeded { .. } => {
            "more values, aliases or levels than a policy has".into()
        }
        YamlError::AliasError { error, .. } => explain(error, source),
        error => UserMessageFormatter.format_message(error).into_owned(),
    }
}

/// The text, or its first characters.
pub(super) fn shorten(text: &str, most: usize) -> Cow<'_, str> {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]).into(),
        None => text.into(),
    }
}

fn suggest(word: &str, known: &[&str]) -> String {
    match closest(word, known) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => format!("known are `{}`", known.join("`, `")),
    }
}

/// The known word that is likeliest meant, if any is near: one edit in three characters.
fn closest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    // What takes long to compare is no typo.
    let word: Vec<char> = word.chars().take(64).collect();
    known
        .iter()
        .map(|candidate| (distance(&word, candidate), *candidate))
        .filter(|(distance, candidate)| *distance <= candidate.len().div_ceil(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance, where upper and lower case are the same.
fn distance(a: &[char], b: &str) -> usize {
    let mut row: Vec<usize> = (0..=a.len()).collect();
    for (i, b) in b.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, a) in a.iter().enumerate() {
            let change = diagonal + usize::from(!a.eq_ignore_ascii_case(&b));
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[a.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        let d = |a: &str, b| distance(&a.chars().collect::<Vec<_>>(), b);
        assert_eq!(d("", ""), 0);
        assert_eq!(d("kitten", "sitting"), 3);
        assert_eq!(d("abc", ""), 3);
        assert_eq!(d("", "abc"), 3);
        assert_eq!(d("Kill", "kill"), 0);
    }

    #[test]
    fn near_words() {
        let known = ["mode", "sensitive_paths", "kind"];
        assert_eq!(closest("sensitve_paths", &known), Some("sensitive_paths"));
        assert_eq!(closest("sensitivePaths", &known), Some("sensitive_paths"));
        assert_eq!(closest("mod", &known), Some("mode"));
        assert_eq!(closest("xyz", &known), None);
        assert_eq!(closest(&"x".repeat(100_000), &known), None);
    }

    #[test]
    fn long_lines_are_cut_and_hostile_ones_escaped() {
        let text = format!(
            "kind: Policy\n{}: \u{1b}[2J{}",
            "a".repeat(200),
            "b".repeat(200)
        );
        let error = crate::policy::Policy::parse(&text, "a\u{1b}b")
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("a\\x1bb:2:"), "{error}");
        assert!(!error.contains('\u{1b}'), "{error}");
        assert!(error.lines().all(|line| line.len() < 300), "{error}");
    }
}
