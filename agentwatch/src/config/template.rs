//! Names and folders of agents, made from what is known of their cgroups and containers.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Container;

/// Text with `{name}`, `{parent}`, `{path}`, `{container}` and `{label:KEY}` in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NameTemplate(String);

/// The words that stand for something.
const WORDS: [&str; 4] = ["{name}", "{parent}", "{path}", "{container}"];
/// What a label's value stands for begins so.
const LABEL: &str = "{label:";

impl TryFrom<String> for NameTemplate {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text.is_empty() {
            return Err("empty; leave it out for the default".into());
        }
        let mut rest = text.clone();
        for word in WORDS {
            rest = rest.replace(word, "");
        }
        let rest = with_labels(&rest, |_| Some(""));
        if rest.contains(['{', '}']) {
            return Err(format!(
                "in braces there may be {}, {LABEL}KEY}}",
                WORDS.join(", ")
            ));
        }
        Ok(Self(text))
    }
}

impl From<NameTemplate> for String {
    fn from(template: NameTemplate) -> Self {
        template.0
    }
}

impl NameTemplate {
    /// The cgroup's name.
    pub fn cgroup() -> Self {
        Self(WORDS[0].to_owned())
    }

    /// The container's name.
    pub fn container() -> Self {
        Self(WORDS[3].to_owned())
    }

    /// Whether it makes sense for containers only.
    pub fn needs_container(&self) -> bool {
        self.0.contains(WORDS[3]) || self.0.contains(LABEL)
    }

    /// The text for a cgroup, and the container whose it is.
    pub fn fill(&self, cgroup: &Path, container: Option<&Container>) -> String {
        let last = |path: Option<&Path>| {
            path.and_then(Path::file_name)
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default()
        };
        let path = cgroup.to_string_lossy();
        let text = self
            .0
            .replace(WORDS[0], &last(Some(cgroup)))
            .replace(WORDS[1], &last(cgroup.parent()))
            .replace(WORDS[2], &path.trim_matches('/').replace('/', "-"));
        let Some(container) = container else {
            return text;
        };
        // What the labels say is put in last: nothing in them stands for anything.
        let text = text.replace(WORDS[3], &container.name);
        with_labels(&text, |key| container.labels.get(key).map(String::as_str))
    }
}

/// A text with each `{label:KEY}` replaced; what has no value becomes nothing.
fn with_labels<'a>(text: &str, value: impl Fn(&str) -> Option<&'a str>) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(LABEL) {
        let Some((key, left)) = after.split_once('}') else {
            break;
        };
        out.push_str(before);
        out.push_str(value(key).unwrap_or_default());
        rest = left;
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(text: &str) -> NameTemplate {
        NameTemplate::try_from(text.to_owned()).unwrap()
    }

    #[test]
    fn names_come_from_the_cgroup() {
        let cgroup = Path::new("/jobs/team-a/run.7");
        let fill = |text: &str| template(text).fill(cgroup, None);
        assert_eq!(fill("{name}"), "run.7");
        assert_eq!(fill("{parent}/{name}"), "team-a/run.7");
        assert_eq!(fill("x-{path}"), "x-jobs-team-a-run.7");
        assert_eq!(fill("fixed"), "fixed");
    }

    #[test]
    fn and_from_the_container() {
        let container = Container {
            name: "web".to_owned(),
            labels: [("app".to_owned(), "{name}".to_owned())].into(),
            ..Container::default()
        };
        let fill = |text: &str| template(text).fill(Path::new("/a/b"), Some(&container));
        assert_eq!(fill("{container}-{name}"), "web-b");
        assert_eq!(
            fill("{label:app}-{label:none}-{label:app}"),
            "{name}--{name}"
        );
        assert!(NameTemplate::try_from("{label:x".to_owned()).is_err());
        assert!(NameTemplate::try_from("{pod}".to_owned()).is_err());
    }
}
