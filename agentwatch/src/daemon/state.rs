//! What must not be forgotten when the daemon ends, however it ends: which agents there were, how it was with
//! them, and what they had used of their budgets. A small file beside the history, written by a thread of
//! its own, in whole, when something of it has changed.
//!
//! When the daemon was there last is not in the file, which would have to be written all the time: it is
//! when its socket was touched last, which it does once a second.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{SyncSender, sync_channel},
    },
    thread::JoinHandle,
};

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    api::model::RunRequest,
    event::{Carried, ProcessKey},
    host::Standing,
};

/// The file, in the folder of the history.
const FILE: &str = "daemon-state.json";
/// The format: another one is not read.
const VERSION: u32 = 1;

/// What is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    version: u32,
    /// The boot, as the kernel calls it: the ids of cgroups hold for one.
    pub boot: String,
    /// When it was written.
    pub saved: Timestamp,
    /// The daemon was told to stop.
    pub stopped: bool,
    /// The agents.
    pub agents: Vec<Saved>,
}

/// What is kept of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// Its name.
    pub name: String,
    /// Its cgroup's folder, for people.
    pub cgroup: PathBuf,
    /// Its cgroup's id.
    pub id: u64,
    /// How it was with it.
    pub standing: Standing,
    /// It was frozen since the daemon stopped.
    #[serde(default)]
    pub until_watched: bool,
    /// What it had removed of its deletion budget.
    pub removed: Carried,
    /// What a run asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<SavedRun>,
}

/// What is kept of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedRun {
    /// What it asked for.
    #[serde(with = "shared")]
    pub request: Arc<RunRequest>,
    /// Who asked.
    pub runner: ProcessKey,
}

/// A request in the file, as if it were not shared.
mod shared {
    use std::sync::Arc;

    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    use crate::api::model::RunRequest;

    pub fn serialize<S: Serializer>(request: &Arc<RunRequest>, to: S) -> Result<S::Ok, S::Error> {
        (**request).serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Arc<RunRequest>, D::Error> {
        RunRequest::deserialize(from).map(Arc::new)
    }
}

/// Keeps it.
pub struct Keeper {
    boot: String,
    /// What is on its way to the disk, or there.
    last: Option<Vec<Saved>>,
    to: SyncSender<State>,
    thread: JoinHandle<()>,
}

impl Keeper {
    /// Starts it, and gives what was kept before, where that is of this boot.
    ///
    /// # Errors
    ///
    /// When the folder cannot be made, or there can be no more threads. A file that is damaged is put aside.
    pub fn open(dir: &Path) -> Result<(Self, Option<State>)> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .with_context(|| format!("cannot make the data folder {}", dir.display()))?;
        let file = dir.join(FILE);
        let boot = boot();
        let before = read(&file).filter(|state| state.boot == boot);
        // One waits while one is written: an older one that waits is of no use.
        let (to, from) = sync_channel::<State>(1);
        let thread = std::thread::Builder::new()
            .name("state".to_owned())
            .spawn(move || {
                let mut failed = false;
                for state in from {
                    let written = write(&file, &state);
                    if let Err(error) = &written
                        && !failed
                    {
                        tracing::error!(
                            file = %file.display(),
                            "cannot be written: a daemon that is started again will not know which agents \
                             were frozen or quarantined: {error}"
                        );
                    }
                    failed = written.is_err();
                }
            })
            .context("cannot start the thread that keeps the state")?;
        let keeper = Self {
            boot,
            last: None,
            to,
            thread,
        };
        Ok((keeper, before))
    }

    /// Keeps this, if it is something else than before. Never waits: where the disk is slow, the next call
    /// tries again.
    pub fn keep(&mut self, agents: Vec<Saved>) {
        if self.last.as_ref() == Some(&agents) {
            return;
        }
        let state = self.state(agents, false);
        if self.to.try_send(state).is_err() {
            self.last = None;
        }
    }

    /// Keeps what is about to be done: before it is done, so that it is known should the daemon be killed
    /// meanwhile. Waits until what was kept before is on its way to the disk.
    pub fn intend(&mut self, agents: Vec<Saved>) {
        let state = self.state(agents, true);
        let _ = self.to.send(state);
    }

    fn state(&mut self, agents: Vec<Saved>, stopped: bool) -> State {
        self.last = Some(agents.clone());
        State {
            version: VERSION,
            boot: self.boot.clone(),
            saved: Timestamp::now(),
            stopped,
            agents,
        }
    }

    /// Keeps this for good: the daemon stops. Waits until it is on the disk, or until it is clear that it
    /// cannot be.
    pub fn finish(mut self, agents: Vec<Saved>) {
        let state = self.state(agents, true);
        let _ = self.to.send(state);
        drop(self.to);
        let _ = self.thread.join();
    }
}

fn boot() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id");
    id.unwrap_or_default().trim().to_owned()
}

fn read(file: &Path) -> Option<State> {
    let text = match fs::read(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::error!(file = %file.display(), "cannot be read; nothing is known of before: {error}");
            return None;
        }
    };
    let error = match serde_json::from_slice::<State>(&text) {
        Ok(state) if state.version == VERSION => return Some(state),
        Ok(state) => format!("it is of version {}", state.version),
        Err(error) => error.to_string(),
    };
    let aside = file.with_extension("json.bad");
    let _ = fs::rename(file, &aside);
    tracing::error!(
        file = %aside.display(),
        "put aside, since it is not understood; nothing is known of before: {error}"
    );
    None
}

/// Writes a file in whole, or not at all.
fn write(file: &Path, state: &State) -> io::Result<()> {
    let new = file.with_extension("json.new");
    let mut to = fs::File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    to.write_all(&serde_json::to_vec(state)?)?;
    to.sync_data()?;
    fs::rename(&new, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saved(name: &str) -> Saved {
        Saved {
            name: name.to_owned(),
            cgroup: "/x".into(),
            id: 7,
            standing: Standing {
                frozen: true,
                reason: Some("why".to_owned()),
                ..Standing::default()
            },
            until_watched: false,
            removed: Carried::default(),
            run: None,
        }
    }

    #[test]
    fn what_is_kept_is_there_again() {
        let dir = tempfile::tempdir().unwrap();
        let (mut keeper, before) = Keeper::open(dir.path()).unwrap();
        assert_eq!(before, None);
        keeper.keep(vec![saved("a")]);
        keeper.finish(vec![saved("a"), saved("b")]);
        let (keeper, before) = Keeper::open(dir.path()).unwrap();
        let before = before.unwrap();
        assert!(before.stopped);
        assert_eq!(before.agents, [saved("a"), saved("b")]);
        keeper.finish(Vec::new());
    }

    #[test]
    fn what_is_damaged_is_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), "{\"version\":1,").unwrap();
        let (keeper, before) = Keeper::open(dir.path()).unwrap();
        assert_eq!(before, None);
        assert!(dir.path().join("daemon-state.json.bad").exists());
        keeper.finish(Vec::new());
        // Of another boot: no cgroup of it is there any more.
        let file = dir.path().join(FILE);
        let other = fs::read_to_string(&file).unwrap().replace(&boot(), "other");
        fs::write(&file, other).unwrap();
        assert_eq!(Keeper::open(dir.path()).unwrap().1, None);
    }
}
