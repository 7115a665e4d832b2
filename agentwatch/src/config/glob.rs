//! Which cgroups: a glob, and what the kernel needs to know of it.

use std::path::{Path, PathBuf};

use agentwatch_common::tag::below;
use globset::{GlobBuilder, GlobMatcher};
use serde::{Deserialize, Serialize};

/// A glob of paths of cgroups, from the root of the hierarchy.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CgroupGlob {
    text: String,
    matcher: GlobMatcher,
}

impl TryFrom<String> for CgroupGlob {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let path = format!("/{}", text.trim_matches('/'));
        if path == "/" {
            return Err(
                "the root cgroup is everybody's; name one below it, as in `/jobs/*`".into(),
            );
        }
        let mut parts = path[1..].split('/');
        if parts.clone().any(|part| matches!(part, "" | "." | "..")) {
            return Err(format!("`{text}` has an empty part, `.` or `..`"));
        }
        if parts.clone().count() > 31 {
            return Err(format!("`{text}` has more than 31 levels"));
        }
        if parts.next().is_some_and(|first| first.contains("**")) {
            return Err(format!(
                "`{text}` matches every cgroup of the host; begin with the name of one"
            ));
        }
        let matcher = GlobBuilder::new(&path)
            .literal_separator(true)
            .backslash_escape(true)
            .build()
            .map_err(|error| error.to_string())?
            .compile_matcher();
        Ok(Self {
            text: path,
            matcher,
        })
    }
}

impl From<CgroupGlob> for String {
    fn from(glob: CgroupGlob) -> Self {
        glob.text
    }
}

impl CgroupGlob {
    /// Every cgroup of that name, at any depth.
    ///
    /// # Errors
    ///
    /// When the name is no glob.
    pub fn anywhere(name: &str) -> Result<Self, String> {
        let text = format!("/**/{name}");
        let matcher = GlobBuilder::new(&text)
            .literal_separator(true)
            .backslash_escape(true)
            .build()
            .map_err(|error| error.to_string())?
            .compile_matcher();
        Ok(Self { text, matcher })
    }

    /// As it was written, with a slash before it.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether a cgroup is meant: its path from the root of the hierarchy.
    pub fn matches(&self, path: &Path) -> bool {
        self.matcher.is_match(path)
    }

    /// The deepest cgroup that all those that are meant lie below, and where below a cgroup that many
    /// levels up from it they may lie: see `agentwatch_common::tag::below`.
    pub fn parent(&self) -> PathBuf {
        self.split().0
    }

    /// Where below a cgroup those lie that are meant: `at` is that cgroup, [`CgroupGlob::parent`] or one
    /// above it.
    pub fn levels(&self, at: &Path) -> u32 {
        let (parent, rest) = self.split();
        let more = parent.components().count() - at.components().count();
        let more = u32::try_from(more).unwrap_or(u32::MAX);
        let place = |index: usize| more.saturating_add(u32::try_from(index).unwrap_or(u32::MAX));
        match rest.iter().position(|part| part.contains("**")) {
            Some(first) => below::from(place(first)),
            None => 1_u32
                .checked_shl(place(rest.len() - 1))
                .unwrap_or_else(|| below::from(32)),
        }
    }

    /// What has no wildcard before the last part, and the parts after that.
    fn split(&self) -> (PathBuf, Vec<&str>) {
        let parts: Vec<&str> = self.text[1..].split('/').collect();
        let is_plain = |part: &&&str| !part.contains(['*', '?', '[', '{', '\\']);
        let plain = parts.iter().take_while(is_plain).count();
        let plain = plain.min(parts.len() - 1);
        let parent = Path::new("/").join(parts[..plain].join("/"));
        (parent, parts[plain..].to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn glob(text: &str) -> CgroupGlob {
        CgroupGlob::try_from(text.to_owned()).unwrap()
    }

    #[test]
    fn what_is_meant() {
        let pods = glob("/kubepods/*/pod*/*");
        assert!(pods.matches(Path::new("/kubepods/burstable/pod1/c1")));
        assert!(!pods.matches(Path::new("/kubepods/burstable/pod1")));
        assert!(!pods.matches(Path::new("/kubepods/burstable/pod1/c1/sub")));
        assert_eq!(pods.parent(), Path::new("/kubepods"));
        assert_eq!(pods.levels(Path::new("/kubepods")), 0b100);
        assert_eq!(pods.levels(Path::new("/")), 0b1000);
        assert!(glob("jobs/{a,b}/").matches(Path::new("/jobs/b")));
    }

    #[test]
    fn one_that_is_named_in_full_lies_below_its_parent() {
        let one = glob("/a/b");
        assert_eq!(one.parent(), Path::new("/a"));
        assert_eq!(one.levels(Path::new("/a")), 1);
        assert_eq!(glob("/a").parent(), Path::new("/"));
    }

    #[test]
    fn any_depth() {
        let any = glob("/a/*/**");
        assert_eq!(any.parent(), Path::new("/a"));
        assert_eq!(any.levels(Path::new("/a")), u32::MAX << 1);
        // `**` may stand for nothing.
        assert!(glob("/a/**/x").matches(Path::new("/a/x")));
        assert_eq!(glob("/a/**/x").levels(Path::new("/a")), u32::MAX);
    }

    #[test]
    fn what_is_refused() {
        for bad in [
            "",
            "/",
            "**",
            "**/x",
            "/a//b",
            "/a/../b",
            "/a/[",
            &"a/".repeat(40),
        ] {
            assert!(CgroupGlob::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }
}
