//! One pattern of a policy's list of paths.

use globset::{GlobBuilder, GlobMatcher};
use serde::{Deserialize, Serialize};

use super::error::shorten;
use crate::text::escape_str;

/// Longer than any path that is worth a pattern.
const MAX_LENGTH: usize = 1024;

/// How many paths the braces of one pattern may stand for.
const MAX_ALTERNATIVES: usize = 64;

/// A pattern: an absolute path with wildcards.
///
/// - `?` is one byte, `*` any number of them, `[a-z]` and `[!a-z]` one of those or none of those;
///   none of them is ever a `/`.
/// - `**` as a whole component is any number of components, also none.
/// - `{a,b}` is `a` or `b`; braces nest.
/// - `~/` in front is any home directory.
/// - `!` in front takes paths out of the list, wherever it stands in it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern {
    /// As the policy writes it.
    pub(super) text: String,
    /// It began with `!`.
    pub(super) excludes: bool,
    /// What its braces stand for, each as the components of a path. Only the first can be `~`.
    pub(super) alternatives: Vec<Vec<String>>,
}

impl TryFrom<String> for Pattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let (excludes, body) = match text.strip_prefix('!') {
            Some(body) => (true, body),
            None => (false, text.as_str()),
        };
        let alternatives = parse(body).map_err(|why| format!("`{}`: {why}", shorten(&text, 60)))?;
        Ok(Self {
            text,
            excludes,
            alternatives,
        })
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> Self {
        pattern.text
    }
}

fn parse(body: &str) -> Result<Vec<Vec<String>>, String> {
    if body.len() > MAX_LENGTH {
        return Err(format!("longer than {MAX_LENGTH} bytes"));
    }
    if escape_str(body) != body {
        // Paths are matched as they are shown, and there these are escaped.
        return Err(
            "a pattern has no backslashes, control or invisible characters; use `?` or `*` \
                    for them, and `[*]` for a character that would be a wildcard"
                .into(),
        );
    }
    expand_braces(body)?
        .iter()
        .map(|alternative| components(alternative))
        .collect()
}

/// Splits into components and checks each.
fn components(alternative: &str) -> Result<Vec<String>, String> {
    let relative = match alternative.strip_prefix('/') {
        Some(relative) => relative,
        None if alternative.starts_with("~/") => alternative,
        None if alternative == "**" || alternative.starts_with("**/") => alternative,
        None => {
            return Err(
                "a pattern begins with `/`, `~/` or `**/`, since paths are absolute".into(),
            );
        }
    };
    let components: Vec<String> = relative.split('/').map(str::to_owned).collect();
    for (i, component) in components.iter().enumerate() {
        match component.as_str() {
            "" if i + 1 == components.len() => {
                return Err("ends with `/`; write `/**` for all that is below".into());
            }
            "" => return Err("`//` is in no resolved path".into()),
            "." | ".." => return Err(format!("`{component}` is in no resolved path")),
            // The home directory, or everything: there is nothing to check in them.
            "~" if i == 0 && relative == alternative => {}
            "**" => {}
            component if component.contains("**") => {
                return Err(format!(
                    "`**` stands alone between slashes, unlike in `{component}`"
                ));
            }
            component if is_literal(component) => {}
            component => {
                matcher(component)?;
            }
        }
    }
    Ok(components)
}

/// Whether the component has no wildcard.
pub(super) fn is_literal(component: &str) -> bool {
    component != "~" && !component.contains(['*', '?', '['])
}

/// A matcher for one component.
pub(super) fn matcher(component: &str) -> Result<GlobMatcher, String> {
    let glob = glob_text(component)?;
    match build(&glob) {
        Ok(glob) => Ok(glob.compile_matcher()),
        Err(e) => Err(format!("in `{component}`: {}", e.kind())),
    }
}

/// How globs are compiled here: `*` stays within a component.
pub(super) fn build(glob: &str) -> Result<globset::Glob, globset::Error> {
    GlobBuilder::new(glob)
        .literal_separator(true)
        .backslash_escape(false)
        .build()
}

/// A component as globset reads it, whose `[!a]` also stands for `/`: here it does not.
pub(super) fn glob_text(component: &str) -> Result<String, String> {
    let mut out = String::with_capacity(component.len() + 1);
    let mut rest = component;
    while let Some(start) = rest.find('[') {
        let Some(length) = class_length(&rest[start..]) else {
            return Err(format!("the `[` in `{component}` is not closed"));
        };
        let class = &rest[start..start + length];
        let negated = class[1..].starts_with(['!', '^']);
        let body = &class[1 + usize::from(negated)..length - 1];
        if !class.is_ascii() {
            return Err(format!(
                "`{class}` stands for one byte, so it has only ASCII characters"
            ));
        }
        if body.starts_with([']', '-']) && body.len() > 1 {
            // globset knows them there, but the `/` of a negated class has to go there.
            return Err(format!("in `{class}`, `]` and `-` cannot be first"));
        }
        let class = if negated {
            format!("[!/{body}]")
        } else {
            class.to_owned()
        };
        match build(&class) {
            Err(e) => return Err(format!("in `{class}`: {}", e.kind())),
            Ok(glob) if glob.compile_matcher().is_match("/") => {
                return Err(format!("the range in `{class}` spans `/`"));
            }
            Ok(_) => {}
        }
        out.push_str(&rest[..start]);
        out.push_str(&class);
        rest = &rest[start + length..];
    }
    out.push_str(rest);
    Ok(out)
}

/// The length of the character class that the text begins with, as globset would find it: a `]` in
/// the first place is one of the characters. `None` where it has no end.
fn class_length(text: &str) -> Option<usize> {
    let negation = usize::from(text[1..].starts_with(['!', '^']));
    let skip = 1 + negation + usize::from(text[1 + negation..].starts_with(']'));
    Some(skip + text[skip..].find(']')? + 1)
}

/// What the braces stand for: the text once for each choice.
fn expand_braces(text: &str) -> Result<Vec<String>, String> {
    let mut done = Vec::new();
    let mut left = vec![text.to_owned()];
    while let Some(text) = left.pop() {
        let Some(group) = find_braces(&text)? else {
            done.push(text);
            if done.len() > MAX_ALTERNATIVES {
                return Err(format!(
                    "its braces stand for more than {MAX_ALTERNATIVES} paths"
                ));
            }
            continue;
        };
        let (before, after) = (&text[..group.start], &text[group.end..]);
        for choice in group.choices.iter().rev() {
            left.push(format!("{before}{choice}{after}"));
        }
    }
    Ok(done)
}

/// The first group of braces in a text.
struct Braces<'a> {
    /// Where `{` is.
    start: usize,
    /// Where the text goes on after `}`.
    end: usize,
    choices: Vec<&'a str>,
}

fn find_braces(text: &str) -> Result<Option<Braces<'_>>, String> {
    let mut start = 0;
    let mut choice = 0;
    let mut choices = Vec::new();
    let mut depth = 0;
    let mut i = 0;
    while let Some(c) = text[i..].chars().next() {
        match c {
            '[' => {
                i += class_length(&text[i..]).ok_or("a `[` is not closed")?;
                continue;
            }
            '{' => {
                depth += 1;
                if depth == 1 {
                    start = i;
                    choice = i + 1;
                }
            }
            ',' if depth == 1 => {
                choices.push(&text[choice..i]);
                choice = i + 1;
            }
            '}' if depth == 0 => return Err("a `}` without its `{`".into()),
            '}' => {
                depth -= 1;
                if depth == 0 {
                    choices.push(&text[choice..i]);
                    return Ok(Some(Braces {
                        start,
                        end: i + 1,
                        choices,
                    }));
                }
            }
            _ => {}
        }
        i += c.len_utf8();
    }
    if depth > 0 {
        Err("a `{` is not closed".into())
    } else {
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expand(text: &str) -> Vec<String> {
        expand_braces(text).unwrap()
    }

    #[test]
    fn braces() {
        assert_eq!(expand("/a"), ["/a"]);
        assert_eq!(expand("/{a,b}/c"), ["/a/c", "/b/c"]);
        assert_eq!(expand("/{a,b{c,d}}"), ["/a", "/bc", "/bd"]);
        assert_eq!(expand("/x{,.bak}"), ["/x", "/x.bak"]);
        assert_eq!(expand("/[{,]{a}"), ["/[{,]a"]);
        assert_eq!(expand("{~,/srv}/a"), ["~/a", "/srv/a"]);
        assert_eq!(expand("/{a/b,c}"), ["/a/b", "/c"]);
        assert_eq!(expand("/{a,b}{c,d}"), ["/ac", "/ad", "/bc", "/bd"]);
    }

    #[test]
    fn many_braces_are_refused_fast() {
        let text = format!("/{}", "{a,b}".repeat(200));
        assert_eq!(
            expand_braces(&text).unwrap_err(),
            "its braces stand for more than 64 paths"
        );
        let text = format!("/{}{}", "{".repeat(500), "}".repeat(500));
        assert_eq!(expand(&text), ["/"]);
    }

    #[test]
    fn bad_patterns_say_why() {
        for (bad, why) in [
            ("", "a pattern begins with `/`, `~/` or `**/`"),
            ("etc/shadow", "a pattern begins with `/`, `~/` or `**/`"),
            ("~", "a pattern begins with"),
            ("~user/x", "a pattern begins with"),
            ("*/x", "a pattern begins with"),
            ("{/a,b}", "a pattern begins with"),
            ("/", "ends with `/`"),
            ("~/", "ends with `/`"),
            ("/a/", "ends with `/`; write `/**`"),
            ("/a//b", "`//` is in no resolved path"),
            ("/a/../b", "`..` is in no resolved path"),
            ("/a/.", "`.` is in no resolved path"),
            (
                "/a**/b",
                "`**` stands alone between slashes, unlike in `a**`",
            ),
            ("/***", "`**` stands alone"),
            ("/a[b", "a `[` is not closed"),
            ("/a[b/c]", "the `[` in `a[b` is not closed"),
            ("/a[z-a]", "in `[z-a]`: invalid range; 'z' > 'a'"),
            ("/a[+-9]", "the range in `[+-9]` spans `/`"),
            ("/a[]b]", "`]` and `-` cannot be first"),
            ("/a[!]b]", "`]` and `-` cannot be first"),
            ("/a[!-b]", "`]` and `-` cannot be first"),
            ("/a[ä]", "only ASCII"),
            ("/{a", "a `{` is not closed"),
            ("/a}", "a `}` without its `{`"),
            ("/a\\*", "no backslashes"),
            ("/a\u{202e}b", "no backslashes"),
            ("/a\nb", "no backslashes"),
            ("!!/a", "a pattern begins with"),
        ] {
            let error = Pattern::try_from(bad.to_owned()).unwrap_err();
            assert!(error.contains(why), "{bad}: {error}");
        }
        let long = Pattern::try_from(format!("/{}", "ä".repeat(600))).unwrap_err();
        assert!(long.ends_with("…`: longer than 1024 bytes"), "{long}");
    }
}
