//! JSON lines into a file, or to standard output.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::{Class, Fault, item};
use crate::store::follow::Batch;

/// The section `lines` of the daemon's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinesSettings {
    /// The file; `-` is standard output.
    pub path: PathBuf,
    /// How large it may become before a new one is begun, MiB: 1 to 100000.
    #[serde(default = "default_mib")]
    pub max_mib: u64,
    /// How many older ones are kept, with `.1` (the newest), `.2` … behind the name: 0 to 1000.
    #[serde(default = "default_keep")]
    pub keep: u32,
}

fn default_mib() -> u64 {
    100
}

fn default_keep() -> u32 {
    5
}

impl LinesSettings {
    /// A file, with everything else as it is when nothing is said.
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            max_mib: default_mib(),
            keep: default_keep(),
        }
    }

    /// Whether it makes sense.
    ///
    /// # Errors
    ///
    /// When it does not; the error says what and why.
    pub fn check(&self) -> Result<()> {
        let Self {
            path,
            max_mib,
            keep,
        } = self;
        ensure!(
            path.is_absolute() || is_stdout(path),
            "path: {} is neither a whole path, from / on, nor `-`",
            path.display()
        );
        ensure!(
            (1..=100_000).contains(max_mib),
            "max_mib is {max_mib}; it is 1 to 100000"
        );
        ensure!(*keep <= 1000, "keep is {keep}; it is 0 to 1000");
        Ok(())
    }
}

fn is_stdout(path: &Path) -> bool {
    path == Path::new("-")
}

/// Writes lines. A batch is in one file, and as a whole; after a crash of the machine or of agentwatch the
/// last one may be there twice, with the same `record`.
pub struct Lines {
    settings: LinesSettings,
    node: String,
    max_bytes: u64,
}

impl Lines {
    /// For this node.
    pub fn new(settings: &LinesSettings, node: &str) -> Self {
        Self {
            settings: settings.clone(),
            node: node.to_owned(),
            max_bytes: settings.max_mib << 20,
        }
    }

    /// Writes a batch.
    ///
    /// # Errors
    ///
    /// When it cannot be written: then nothing of it is there.
    pub fn deliver(&self, batch: &Batch) -> Result<(), Fault> {
        let mut text = Vec::new();
        for item in item::items(batch, &self.node) {
            // Writing to memory, of what is JSON already, does not fail.
            let _ = serde_json::to_writer(&mut text, &item.object);
            text.push(b'\n');
        }
        let path = &self.settings.path;
        self.write(&text).map_err(|error| {
            let message = format!("cannot write {}: {error}", path.display());
            Fault::new(Class::File, &message, "look at the folder and the disk")
        })
    }

    fn write(&self, text: &[u8]) -> io::Result<()> {
        let path = &self.settings.path;
        if is_stdout(path) {
            let mut out = io::stdout().lock();
            out.write_all(text)?;
            return out.flush();
        }
        // Opened each time: another program may have moved it away.
        let mut file = open(path)?;
        let mut before = file.metadata()?.len();
        if before > 0 && before + text.len() as u64 > self.max_bytes {
            self.rotate()?;
            file = open(path)?;
            before = 0;
        }
        let written = file.write_all(text).and_then(|()| file.sync_data());
        if written.is_err() {
            // It comes again as a whole.
            file.set_len(before)?;
        }
        written
    }

    /// Moves each file to the next number, and the last one away.
    fn rotate(&self) -> io::Result<()> {
        let LinesSettings { path, keep, .. } = &self.settings;
        let number = |n: u32| {
            let mut name = path.as_os_str().to_owned();
            name.push(format!(".{n}"));
            PathBuf::from(name)
        };
        let there = |result: io::Result<()>| match result {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        };
        if *keep == 0 {
            return there(fs::remove_file(path));
        }
        for n in (1..*keep).rev() {
            there(fs::rename(number(n), number(n + 1)))?;
        }
        there(fs::rename(path, number(1)))
    }
}

/// Only for who runs agentwatch: it has arguments and paths of everybody.
fn open(path: &Path) -> io::Result<fs::File> {
    fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::store::{
        follow::{Placed, Range, Rows, Table},
        row::Row,
    };

    fn batch(ids: std::ops::RangeInclusive<i64>) -> Batch {
        let row = |id| Placed {
            id,
            what: Row {
                time_ns: id,
                kind: "exec".to_owned(),
                path: Some("/bin/sh".to_owned()),
                detail: Some(json!({"argv": ["sh", "a\nb"]}).into()),
                ..Row::default()
            },
        };
        Batch {
            range: Range {
                day: "2026-11-21".to_owned(),
                file: 7,
                table: Table::Events,
                first: *ids.start(),
                last: *ids.end(),
            },
            rows: Rows::Events(ids.map(row).collect()),
            damaged: 0,
        }
    }

    fn names(path: &Path) -> Vec<String> {
        let text = fs::read_to_string(path).unwrap();
        text.lines()
            .map(|line| {
                let object: Value = serde_json::from_str(line).unwrap();
                assert_eq!(object["type"], "event");
                assert_eq!(object["node"], "n");
                assert_eq!(object["detail"]["argv"][1], "a\nb");
                object["record"].as_str().unwrap().to_owned()
            })
            .collect()
    }

    #[test]
    fn lines_are_events_and_files_are_rotated() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("history.jsonl");
        let mut lines = Lines::new(&LinesSettings::new(&path), "n");
        lines.settings.keep = 2;
        lines.deliver(&batch(1..=2)).unwrap();
        let size = fs::metadata(&path).unwrap().len();
        assert_eq!(
            names(&path),
            [
                "2026-11-21.0000000000000007.events.1",
                "2026-11-21.0000000000000007.events.2"
            ]
        );
        // Two batches fit.
        lines.max_bytes = 2 * size + 64;
        for first in [3, 5, 7, 9, 11, 13] {
            lines.deliver(&batch(first..=first + 1)).unwrap();
        }
        let last = |name: &str| {
            let names = names(&dir.path().join(name));
            let number = |name: &String| name.rsplit('.').next().unwrap().to_owned();
            names.iter().map(number).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(last("history.jsonl"), "13 14");
        assert_eq!(last("history.jsonl.1"), "9 10 11 12");
        assert_eq!(last("history.jsonl.2"), "5 6 7 8");
        assert!(!dir.path().join("history.jsonl.3").exists());
        lines.settings.keep = 0;
        lines.deliver(&batch(15..=18)).unwrap();
        assert_eq!(last("history.jsonl"), "15 16 17 18");
    }

    #[test]
    fn a_disk_that_is_full_leaves_no_half_line() {
        let dir = tempfile::tempdir().unwrap();
        let full = Lines::new(&LinesSettings::new(Path::new("/dev/full")), "n");
        let fault = full.deliver(&batch(1..=1)).unwrap_err();
        assert_eq!(fault.class, Class::File);
        assert!(fault.message.contains("/dev/full"), "{fault}");
        let nowhere = dir.path().join("none/x.jsonl");
        let fault = Lines::new(&LinesSettings::new(&nowhere), "n")
            .deliver(&batch(1..=1))
            .unwrap_err();
        assert!(fault.message.contains("No such file"), "{fault}");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        assert!(LinesSettings::new(Path::new("-")).check().is_ok());
        assert!(LinesSettings::new(Path::new("/a")).check().is_ok());
        let error = LinesSettings::new(Path::new("a")).check().unwrap_err();
        assert!(error.to_string().contains("from / on"), "{error}");
    }
}
