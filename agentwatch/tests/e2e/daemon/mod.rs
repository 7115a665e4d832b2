//! The daemon: agents that come and go (`agents`), what is done to them and asked of it (`api`), and the
//! screen that shows it (`top`).

pub mod agents;
pub mod apart;
pub mod api;
pub mod clients;
pub mod discovery;
pub mod docs;
pub mod follow;
pub mod looks;
pub mod many;
pub mod metrics;
pub mod node;
pub mod openapi;
pub mod prometheus;
pub mod recovery;
pub mod runs;
pub mod service;
pub mod top;

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use agentwatch::store::query::{Filter, History};
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::support::{Background, Place, program, until};

/// Cgroups of a test's own, one in another. Gone, with what is in them, when dropped.
struct Tree(PathBuf);

impl Tree {
    fn new(name: &str) -> Result<Self> {
        let root = agentwatch::probe::support::cgroup2()?;
        let path = root.join(format!("awt-{name}-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("making {}", path.display()))?;
        Ok(Self(path))
    }

    /// Its path from the root of the hierarchy.
    fn cgroup(&self) -> String {
        let name = self.0.file_name().unwrap_or_default().to_string_lossy();
        format!("/{name}")
    }

    /// Makes one in it and runs a shell script there; it is over when it is dropped.
    fn start(&self, name: &str, script: &str) -> Result<Background> {
        let path = self.0.join(name);
        fs::create_dir_all(&path)?;
        let script = format!("echo $$ > {}/cgroup.procs; {script}", path.display());
        Background::start(
            Command::new("sh")
                .args(["-c", &script])
                .stdout(Stdio::null()),
        )
    }

    fn remove(&self, name: &str) -> Result<()> {
        let path = self.0.join(name);
        until("an empty cgroup", || fs::remove_dir(&path).is_ok())
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = fs::write(self.0.join("cgroup.freeze"), "0");
        let _ = fs::write(self.0.join("cgroup.kill"), "1");
        let _ = until("a test's cgroups to be gone", || {
            remove_below(&self.0);
            fs::remove_dir(&self.0).is_ok() || !self.0.exists()
        });
    }
}

fn remove_below(cgroup: &Path) {
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_below(&entry.path());
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// A daemon that runs. Stopped when dropped.
struct Daemon {
    child: Child,
    place: Place,
}

impl Daemon {
    /// With these lines of `agents:`, and more lines of the configuration.
    fn start(agents: &str, more: &str) -> Result<Self> {
        let place = Place::new()?;
        place.file(
            "config.yaml",
            &format!(
                "apiVersion: agentwatch/v1\nkind: Config\nnode: test\nsocket: {}\ndata_dir: {}\n{more}agents:\n{agents}",
                place.text("socket"),
                place.text("history"),
            ),
        )?;
        let child = Self::child(&place)?;
        Self { child, place }.started()
    }

    fn started(self) -> Result<Self> {
        let daemon = self;
        until("the daemon", || daemon.get("/v1/health").is_ok()).with_context(|| daemon.said())?;
        Ok(daemon)
    }

    fn child(place: &Place) -> Result<Child> {
        let log = fs::File::options()
            .append(true)
            .create(true)
            .open(place.path("log"))?;
        Self::command(place, log)
            .spawn()
            .context("starting the daemon")
    }

    fn command(place: &Place, log: fs::File) -> Command {
        let mut command = Command::new("timeout");
        command
            .args(["-k", "5", "120"])
            .arg(program())
            .args(["daemon", "--config"])
            .arg(place.path("config.yaml"))
            .stderr(log)
            .stdin(Stdio::null());
        command
    }

    fn said(&self) -> String {
        fs::read_to_string(self.place.path("log")).unwrap_or_default()
    }

    /// Runs a verb against it.
    fn verb(&self, words: &[&str]) -> Result<(bool, String)> {
        let output = Command::new(program())
            .args(words)
            .env("AGENTWATCH_SOCKET", self.place.path("socket"))
            .output()?;
        let said = [output.stdout, output.stderr].concat();
        Ok((output.status.success(), String::from_utf8(said)?))
    }

    /// One request, as text; the answer's status and body.
    fn ask(&self, method: &str, path: &str, body: &str) -> Result<(u16, String)> {
        let mut stream = UnixStream::connect(self.place.path("socket"))?;
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no body")?;
        let status = head.split(' ').nth(1).context("no status")?.parse()?;
        // A body without a length comes in chunks, each after its length.
        let body = if head.contains("chunked") {
            let lines = body.split("\r\n").skip(1).step_by(2);
            lines.collect::<String>()
        } else {
            body.to_owned()
        };
        Ok((status, body))
    }

    fn get(&self, path: &str) -> Result<Value> {
        let (status, body) = self.ask("GET", path, "")?;
        ensure!(status == 200, "{path}: {status}: {body}");
        Ok(serde_json::from_str(&body)?)
    }

    /// An agent, if it is there.
    fn agent(&self, name: &str) -> Option<Value> {
        self.get(&format!("/v1/agents/{name}")).ok()
    }

    fn is(&self, name: &str, state: &str) -> bool {
        self.agent(name)
            .is_some_and(|agent| agent["state"] == state)
    }

    /// The rows of some kinds.
    fn events(&self, kinds: &[&str]) -> Result<Vec<agentwatch::store::row::Row>> {
        let mut history = History::open(&self.place.path("history"))?;
        let filter = Filter {
            kinds: kinds.iter().map(|kind| (*kind).to_owned()).collect(),
            ..Filter::default()
        };
        let mut rows = Vec::new();
        history.events(&filter, |row| {
            rows.push(row);
            Ok(())
        })?;
        Ok(rows)
    }

    /// Stops it, and waits until it has.
    fn stop(&mut self) -> Result<()> {
        Command::new("kill")
            .args(["-TERM", &self.child.id().to_string()])
            .status()?;
        let status = self.child.wait()?;
        ensure!(status.success(), "the daemon: {status}: {}", self.said());
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.stop();
        }
    }
}

/// A script that deletes a folder once a file is there, and that file.
fn deletes(place: &Place, folder: &Path) -> (String, PathBuf) {
    let go = place.path("go");
    let script = format!(
        "while [ ! -e {} ]; do sleep .02; done; rm -r {}; exec sleep 60",
        go.display(),
        folder.display()
    );
    (script, go)
}

/// How many files are below a folder.
fn walk(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| {
            let path = entry.path();
            if path.is_dir() { walk(&path) } else { 1 }
        })
        .sum()
}
