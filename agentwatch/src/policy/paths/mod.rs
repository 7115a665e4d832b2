//! A policy's list of paths, compiled.

use std::{
    collections::BTreeSet,
    fmt, fs,
    path::{Path, PathBuf},
};

use globset::{GlobSet, GlobSetBuilder};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::pattern::{self, Pattern};
use crate::text::escape;

/// How many of the last components of a path the kernel compares (`SENSITIVE_DEPTH`).
const KERNEL_DEPTH: usize = 3;

/// How many paths the braces of all patterns together may stand for. Compiling them takes memory.
const MAX_ALTERNATIVES: usize = 4096;

/// Paths, by patterns.
#[derive(Clone)]
pub struct PathSet {
    pub(super) patterns: Vec<Pattern>,
    /// Home directories beside `/root` and those in `/home`.
    pub(super) homes: Vec<PathBuf>,
    include: GlobSet,
    pub(super) exclude: GlobSet,
}

/// What the kernel has to send so that no path of a [`PathSet`] is missed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prefilter {
    /// Paths of which one of the last three components is one of these. A path of the set always
    /// has one; a path that has one need not be of the set.
    Names(BTreeSet<String>),
    /// Every path.
    Everything {
        /// The pattern without such a name.
        because: String,
    },
}

impl PathSet {
    fn new(patterns: Vec<Pattern>, homes: Vec<PathBuf>) -> Result<Self, globset::Error> {
        let compile = |excludes: bool| {
            let mut builder = GlobSetBuilder::new();
            for pattern in patterns.iter().filter(|p| p.excludes == excludes) {
                for glob in pattern.alternatives.iter().flat_map(|a| globs(a, &homes)) {
                    builder.add(pattern::build(&glob)?);
                }
            }
            builder.build()
        };
        let (include, exclude) = (compile(false)?, compile(true)?);
        Ok(Self {
            patterns,
            homes,
            include,
            exclude,
        })
    }

    /// Makes `~` stand for this directory as well: the home of the user that an agent runs as, which
    /// need not lie in `/home`. A path that is not absolute is no home and changes nothing.
    ///
    /// # Errors
    ///
    /// When the list with one more home is too large to be compiled.
    pub fn add_home(&mut self, home: &Path) -> Result<(), globset::Error> {
        let mut homes = self.homes.clone();
        // The kernel reports paths without symbolic links.
        for home in [Some(home.to_owned()), fs::canonicalize(home).ok()]
            .into_iter()
            .flatten()
        {
            if home.is_absolute() && !homes.contains(&home) {
                homes.push(home);
            }
        }
        *self = Self::new(std::mem::take(&mut self.patterns), homes)?;
        Ok(())
    }

    /// Whether the path is in the set: an absolute path, as [`escape`] makes it.
    pub fn matches(&self, path: &str) -> bool {
        self.include.is_match(path) && !self.exclude.is_match(path)
    }

    /// What the kernel has to send.
    pub fn prefilter(&self) -> Prefilter {
        let mut names = BTreeSet::new();
        for pattern in self.patterns.iter().filter(|p| !p.excludes) {
            for components in &pattern.alternatives {
                match name_near_leaf(components) {
                    Some(name) => names.insert(name.to_owned()),
                    None => {
                        return Prefilter::Everything {
                            because: pattern.text.clone(),
                        };
                    }
                };
            }
        }
        Prefilter::Names(names)
    }
}

/// The name nearest to the leaf that every path of these components has among its last ones. What
/// stands before `**` may be any number of components away from the leaf.
fn name_near_leaf(components: &[String]) -> Option<&str> {
    components
        .iter()
        .rev()
        .take_while(|component| *component != "**")
        .take(KERNEL_DEPTH)
        .find(|component| pattern::is_literal(component))
        .map(String::as_str)
}

/// What globset reads for one alternative: several where it begins with `~`.
fn globs(components: &[String], homes: &[PathBuf]) -> Vec<String> {
    let parts: Vec<String> = components
        .iter()
        // `Pattern` has compiled each already, so that there is no error left.
        .map(|component| pattern::glob_text(component).unwrap_or_else(|_| component.clone()))
        .collect();
    match parts.split_first() {
        Some((first, rest)) if first == "~" => ["/root", "/home/*"]
            .into_iter()
            .map(str::to_owned)
            .chain(homes.iter().map(|home| home_glob(home)))
            .map(|home| format!("{home}/{}", rest.join("/")))
            .collect(),
        // Also where `**` is first: with the slash in front, globset's `**/*/a` is not also `/a`.
        _ => vec![format!("/{}", parts.join("/"))],
    }
}

/// A home directory for globset, without a slash at the end.
fn home_glob(home: &Path) -> String {
    let text = escape(home.as_os_str().as_encoded_bytes());
    globset::escape(text.trim_end_matches('/'))
}

impl<'de> Deserialize<'de> for PathSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let patterns: Vec<Pattern> = super::list(deserializer)?;
        if patterns.iter().map(|p| p.alternatives.len()).sum::<usize>() > MAX_ALTERNATIVES {
            return Err(D::Error::custom(format!(
                "the list stands for more than {MAX_ALTERNATIVES} paths"
            )));
        }
        Self::new(patterns, Vec::new()).map_err(D::Error::custom)
    }
}

/// Without the compiled patterns, which are pages of tables.
impl fmt::Debug for PathSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.patterns.iter().map(|p| &p.text))
            .finish()
    }
}

impl Serialize for PathSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.patterns.serialize(serializer)
    }
}

#[cfg(test)]
mod tests;
