//! `mass-deletion`: an agent removes many files that it did not make.
//!
//! Counted are files, not calls: a file that the agent made is its own, what the policy calls
//! disposable (build output that tools make again) is worth nothing, and the same path counts once
//! in a window. Two budgets, both of the policy:
//!
//! * outside the workspace, deletes, truncations and moves to another folder: small, since an agent has
//!   no business there, and what it may delete where it moved it to is lost from where it was;
//! * inside it, and for files that are replaced by a rename anywhere: large, since a `git checkout`
//!   or a package manager does that all day.
//!
//! Past the outside budget the severity is critical, past the other high. MITRE ATT&CK: T1485, Data
//! Destruction; T1070.004, File Deletion.

use std::collections::{HashMap, HashSet, VecDeque};

use super::{Detection, evidence};
use crate::{
    enrich::{Before, World},
    event::{Carried, Event, File, FileOp, Kind, Removed},
    finding::{Evidence, Severity, Technique},
    policy::Policy,
};

/// The stable id.
pub const ID: &str = "mass-deletion";

/// How many paths a finding shows: the first ones.
const SHOWN: usize = 8;

const TECHNIQUES: [Technique; 2] = [
    Technique {
        id: "T1485",
        name: "Data Destruction",
    },
    Technique {
        id: "T1070.004",
        name: "Indicator Removal: File Deletion",
    },
];

/// The state, by agent.
#[derive(Default)]
pub struct MassDeletion {
    agents: HashMap<u32, Budgets>,
}

#[derive(Default)]
struct Budgets {
    outside: Window,
    workspace: Window,
}

/// What was removed lately.
#[derive(Default)]
struct Window {
    /// In order of time: when, what.
    removed: VecDeque<(u64, String)>,
    paths: HashSet<String>,
    /// Removed before the watching began; all of it counts until the last of it does no more.
    carried: Removed,
    first: Vec<Evidence>,
    /// It was said; it is not said again before then.
    quiet_until_ns: u64,
}

impl MassDeletion {
    /// Looks at an event.
    pub fn observe(
        &mut self,
        event: &Event,
        before: Before,
        world: &World,
        policy: &Policy,
        found: &mut Vec<Detection>,
    ) {
        let file = match &event.kind {
            Kind::File(file) => file,
            Kind::Carried(carried) => {
                let budgets = self.agents.entry(event.agent).or_default();
                budgets.outside.carried = carried.outside;
                budgets.workspace.carried = carried.workspace;
                return;
            }
            _ => return,
        };
        let workspace = world
            .agent(event.agent)
            .and_then(|agent| agent.info.workspace.as_deref());
        let is_inside = |path: &str| workspace.is_some_and(|folder| is_below(path, folder));
        let moved = moved_away(file, before).filter(|path| !is_inside(path));
        let Some((path, verb)) = moved
            .map(|path| (path, "moved away"))
            .or_else(|| removed(file, before))
        else {
            return;
        };
        if policy.disposable.matches(path) {
            return;
        }
        let inside = is_inside(path);
        let limits = &policy.detectors.mass_deletion;
        let budgets = self.agents.entry(event.agent).or_default();
        let (window, limit, severity) = if inside || (file.op == FileOp::Rename && moved.is_none())
        {
            (
                &mut budgets.workspace,
                limits.workspace_max_files,
                Severity::High,
            )
        } else {
            (&mut budgets.outside, limits.max_files, Severity::Critical)
        };
        let length_ns = u64::try_from(limits.window.as_nanos()).unwrap_or(u64::MAX);
        if event.time_ns < window.quiet_until_ns {
            return;
        }
        window.forget(event.time_ns.saturating_sub(length_ns));
        if !window.add(event, path, verb) || window.count() <= limit {
            return;
        }
        let count = window.count();
        let common = common_folder(window.removed.iter().map(|(_, path)| path.as_str()));
        let seconds = window.span_ns(event.time_ns) / 1_000_000_000;
        let exe = world
            .processes
            .exe(event.process)
            .unwrap_or("a process")
            .to_owned();
        let place = if inside {
            "in its workspace"
        } else {
            "outside its workspace"
        };
        found.push(Detection {
            detector: ID,
            severity,
            techniques: TECHNIQUES.to_vec(),
            message: format!(
                "{exe} (pid {}) removed {count} files that the agent did not make, {place}, below \
                 {common}, within {}",
                event.process.pid,
                if seconds == 0 {
                    "a second".to_owned()
                } else {
                    format!("{} s", seconds + 1)
                },
            ),
            process: event.process,
            evidence: std::mem::take(&mut window.first),
            cause: if inside {
                "workspace".to_owned()
            } else {
                "outside".to_owned()
            },
        });
        // One deletion is one finding; the next one needs a budget of its own.
        *window = Window {
            quiet_until_ns: event.time_ns.saturating_add(length_ns),
            ..Window::default()
        };
    }
}

impl MassDeletion {
    /// How many files an agent may still remove before that is a finding.
    pub fn left(&mut self, agent: u32, workspace: bool, now_ns: u64, policy: &Policy) -> u64 {
        let limits = &policy.detectors.mass_deletion;
        let length_ns = u64::try_from(limits.window.as_nanos()).unwrap_or(u64::MAX);
        let budgets = self.agents.entry(agent).or_default();
        let (window, limit) = if workspace {
            (&mut budgets.workspace, limits.workspace_max_files)
        } else {
            (&mut budgets.outside, limits.max_files)
        };
        window.forget(now_ns.saturating_sub(length_ns));
        limit.saturating_sub(window.count())
    }

    /// What an agent has removed by now of what counts still, for who watches it next.
    pub fn removed(&mut self, agent: u32, now_ns: u64, policy: &Policy) -> Carried {
        let limits = &policy.detectors.mass_deletion;
        let length_ns = u64::try_from(limits.window.as_nanos()).unwrap_or(u64::MAX);
        let Some(budgets) = self.agents.get_mut(&agent) else {
            return Carried::default();
        };
        let of = |window: &mut Window| {
            window.forget(now_ns.saturating_sub(length_ns));
            Removed {
                files: window.count(),
                last_ns: window
                    .removed
                    .back()
                    .map_or(window.carried.last_ns, |(time, _)| *time),
            }
        };
        Carried {
            outside: of(&mut budgets.outside),
            workspace: of(&mut budgets.workspace),
        }
    }
}

/// What a rename took to another folder, if it was not the agent's own. An exchange takes two.
fn moved_away(file: &File, before: Before) -> Option<&str> {
    let to = file
        .path2
        .as_deref()
        .filter(|_| file.op == FileOp::Rename && file.result >= 0)?;
    if folder(&file.path) == folder(to) {
        return None;
    }
    match (before.own, before.own_replaced) {
        (false, _) => Some(&file.path),
        (true, false) if file.exchanges() => Some(to),
        _ => None,
    }
}

/// The folder that a path is in.
fn folder(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// What a call took away, if it was not the agent's own.
fn removed(file: &File, before: Before) -> Option<(&str, &'static str)> {
    if file.result < 0 {
        return None;
    }
    // Of a pipe, a terminal or /dev/null nothing is taken away.
    let is_regular = matches!(file.file_mode & libc::S_IFMT, 0 | libc::S_IFREG);
    let truncates =
        |file: &File| file.write && !file.created && file.flags & O_TRUNC != 0 && is_regular;
    match file.op {
        FileOp::Unlink if !before.own => Some((&file.path, "deleted")),
        FileOp::Truncate if !before.own && file.size == 0 => Some((&file.path, "truncated")),
        FileOp::Open if truncates(file) && !before.own => Some((&file.path, "truncated")),
        FileOp::Rename if file.replaced.is_some() && !before.own_replaced => {
            file.path2.as_deref().map(|path| (path, "replaced"))
        }
        _ => None,
    }
}

const O_TRUNC: u32 = libc::O_TRUNC.cast_unsigned();

impl Window {
    fn forget(&mut self, before_ns: u64) {
        while self
            .removed
            .front()
            .is_some_and(|(time, _)| *time < before_ns)
        {
            if let Some((_, path)) = self.removed.pop_front() {
                self.paths.remove(&path);
            }
        }
        if self.carried.last_ns < before_ns {
            self.carried = Removed::default();
        }
        self.first.retain(|piece| piece.time_ns >= before_ns);
    }

    /// False when the path was there already.
    fn add(&mut self, event: &Event, path: &str, verb: &str) -> bool {
        if !self.paths.insert(path.to_owned()) {
            return false;
        }
        self.removed.push_back((event.time_ns, path.to_owned()));
        if self.first.len() < SHOWN {
            self.first.push(evidence(event, format!("{verb} {path}")));
        }
        true
    }

    fn count(&self) -> u64 {
        self.carried.files + self.removed.len() as u64
    }

    fn span_ns(&self, now_ns: u64) -> u64 {
        self.removed
            .front()
            .map_or(0, |(first, _)| now_ns.saturating_sub(*first))
    }
}

/// Whether a path is a folder or below it.
fn is_below(path: &str, folder: &str) -> bool {
    let folder = folder.trim_end_matches('/');
    path.strip_prefix(folder)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The deepest folder that all the paths are below.
fn common_folder<'a>(mut paths: impl Iterator<Item = &'a str>) -> String {
    let Some(first) = paths.next() else {
        return "/".to_owned();
    };
    let mut folder = first.rsplit_once('/').map_or("", |(folder, _)| folder);
    for path in paths {
        while !is_below(path, folder) {
            folder = folder.rsplit_once('/').map_or("", |(folder, _)| folder);
        }
    }
    if folder.is_empty() {
        "/".to_owned()
    } else {
        folder.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders() {
        assert!(is_below("/a/b", "/a"));
        assert!(is_below("/a/b", "/a/"));
        assert!(!is_below("/ab", "/a"));
        assert_eq!(
            common_folder(["/a/b/c", "/a/b/d", "/a/e"].into_iter()),
            "/a"
        );
        assert_eq!(common_folder(["/a/b", "/c"].into_iter()), "/");
    }
}
