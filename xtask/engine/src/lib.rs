//! A real ClickHouse server for tests and measurements: on loopback, with a data folder of its own, gone
//! with who started it.
//!
//! It is `clickhouse local` out of npm's package of chdb, which can listen like a server. It lacks what
//! needs a keeper: `ON CLUSTER`, and inserts into `ReplicatedMergeTree`.

mod config;
mod http;
mod install;

use std::{
    fs::{self, File},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

pub use install::{Installed, ensure, find};

/// A user with a password, who may do everything.
pub const USER: &str = "agentwatch";
/// That user's password.
pub const PASSWORD: &str = "secret";
/// A user without a password who may only read, as a dashboard does.
pub const READER: &str = "reader";

/// How long it may take to answer after its start.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server that runs, until it is dropped.
#[derive(Debug)]
pub struct Engine {
    installed: Installed,
    folder: PathBuf,
    /// Where the folder is the engine's own, it goes with it.
    _own: Option<tempfile::TempDir>,
    ports: Ports,
    server: Option<Child>,
}

#[derive(Debug, Clone, Copy)]
struct Ports {
    http: u16,
    native: u16,
}

impl Engine {
    /// Starts a server with an empty data folder, which goes when it does.
    ///
    /// # Errors
    ///
    /// When it is not installed, or does not start.
    pub fn start() -> Result<Self> {
        let own = tempfile::tempdir().context("making a data folder")?;
        let folder = own.path().to_owned();
        Self::start_with(folder, Some(own))
    }

    /// Starts a server with its data in this folder, which stays. What is in it is there again.
    ///
    /// # Errors
    ///
    /// When it is not installed, or does not start.
    pub fn start_in(folder: &Path) -> Result<Self> {
        Self::start_with(folder.to_owned(), None)
    }

    fn start_with(folder: PathBuf, own: Option<tempfile::TempDir>) -> Result<Self> {
        let mut engine = Self {
            installed: find()?,
            folder,
            _own: own,
            ports: Ports {
                http: free_port()?,
                native: free_port()?,
            },
            server: None,
        };
        engine.run()?;
        Ok(engine)
    }

    /// Where it listens for HTTP.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports.http)
    }

    /// Where it listens for HTTP, as a port on loopback.
    pub fn port(&self) -> u16 {
        self.ports.http
    }

    /// What it said of itself, for who looks for the reason of a failure.
    pub fn log(&self) -> String {
        let read = |name| fs::read_to_string(self.folder.join(name)).unwrap_or_default();
        read("stderr") + &read("server.log")
    }

    /// Its process, for who measures it.
    pub fn pid(&self) -> Option<u32> {
        self.server.as_ref().map(Child::id)
    }

    /// Ends it at once, as a machine does that loses power: nobody is asked.
    pub fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            // Both fail only where it has ended already.
            let _ = server.kill();
            let _ = server.wait();
        }
    }

    /// Ends it where it runs, and starts it with the same data, at the same port.
    ///
    /// # Errors
    ///
    /// When it does not start.
    pub fn restart(&mut self) -> Result<()> {
        self.kill();
        self.run()
    }

    /// Runs SQL, and returns what it answers, as text.
    ///
    /// # Errors
    ///
    /// When the server refuses it; the error is what it says.
    pub fn query(&self, sql: &str) -> Result<String> {
        http::query(self.ports.http, sql)
    }

    /// The only number in the answer.
    ///
    /// # Errors
    ///
    /// When the server refuses it, or answers something else.
    pub fn number(&self, sql: &str) -> Result<u64> {
        let answer = self.query(sql)?;
        let answer = answer.trim();
        answer
            .parse()
            .with_context(|| format!("{sql}: {answer:?} is no number"))
    }

    fn run(&mut self) -> Result<()> {
        config::write(&self.folder, self.ports.http, self.ports.native)?;
        let stderr = self.folder.join("stderr");
        let stderr =
            File::create(&stderr).with_context(|| format!("making {}", stderr.display()))?;
        let child = Command::new(&self.installed.starter)
            .arg(&self.installed.library)
            .arg("--config-file")
            .arg(self.folder.join("config.xml"))
            .arg("--queries-file")
            .arg(self.folder.join("start.sql"))
            .current_dir(&self.folder)
            // It ends when this pipe is closed.
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .context("starting ClickHouse")?;
        let server = self.server.insert(child);
        let end = Instant::now() + PATIENCE;
        while http::query(self.ports.http, "SELECT 1").is_err() {
            let ended = server.try_wait().context("waiting for ClickHouse")?;
            if ended.is_some() || Instant::now() > end {
                let log = self.log();
                self.kill();
                bail!("ClickHouse does not start: {log}");
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A port that nobody listens at.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").context("looking for a free port")?;
    Ok(listener.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Needs no network and half a second; says so where the engine is not installed.
    #[test]
    fn it_answers_and_keeps_its_data_over_a_restart() {
        let mut engine = match Engine::start() {
            Ok(engine) => engine,
            Err(error) if find().is_err() => return eprintln!("skipped: {error}"),
            Err(error) => panic!("{error:#}"),
        };
        engine.query("CREATE DATABASE d").unwrap();
        engine
            .query("CREATE TABLE d.t (n UInt64) ENGINE = MergeTree ORDER BY n")
            .unwrap();
        engine
            .query("INSERT INTO d.t SELECT number FROM numbers(1000)")
            .unwrap();
        engine.restart().unwrap();
        assert_eq!(engine.number("SELECT count() FROM d.t").unwrap(), 1000);
        let error = engine
            .query("SELECT nothing FROM d.t")
            .unwrap_err()
            .to_string();
        assert!(error.contains("nothing"), "{error}");
    }
}
