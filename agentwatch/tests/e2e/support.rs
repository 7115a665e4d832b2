//! Running agentwatch, and looking at what it says.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::recordings;

/// The longest that any program of a test may take, seconds.
const LONGEST: &str = "90";

/// The program under test.
pub fn program() -> PathBuf {
    env::var_os("AGENTWATCH_BIN")
        .unwrap_or_else(|| env!("CARGO_BIN_EXE_agentwatch").into())
        .into()
}

/// Why nothing can be tested here, if that is so.
pub fn unusable() -> Option<String> {
    let doctor = Command::new(program()).arg("doctor").output();
    match doctor {
        Ok(output) if output.status.success() => None,
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let why: Vec<&str> = text
                .lines()
                .filter(|line| line.starts_with("missing"))
                .collect();
            Some(why.join("; "))
        }
        Err(error) => Some(format!("agentwatch cannot be started: {error}")),
    }
}

/// Whether a program is installed; or whether the kernel gives rings, which it may be built or told
/// not to.
pub fn is_there(program: &str) -> bool {
    if program == "io_uring" {
        return io_uring::IoUring::new(8).is_ok();
    }
    let path = env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    path.split(':')
        .any(|folder| Path::new(folder).join(program).is_file())
}

/// A folder of the test's own, with an empty `work` in it. Gone when dropped.
pub struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    pub fn new() -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("agentwatch-e2e-")
            .tempdir()?;
        fs::create_dir(dir.path().join("work"))?;
        Ok(Self { dir })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A path as text.
    pub fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Writes a file.
    pub fn file(&self, name: &str, text: &str) -> Result<String> {
        fs::write(self.path(name), text)?;
        Ok(self.text(name))
    }

    /// Makes a folder with so many small files.
    pub fn tree(&self, name: &str, files: usize) -> Result<PathBuf> {
        let folder = self.path(name);
        for n in 0..files {
            let sub = folder.join(format!("{:03}", n / 200));
            if n % 200 == 0 {
                fs::create_dir_all(&sub)?;
            }
            fs::write(sub.join(format!("{n:06}")), "x")?;
        }
        Ok(folder)
    }
}

/// What came of `agentwatch run`.
pub struct Outcome {
    pub status: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    /// The findings, as they were written.
    pub findings: Vec<Value>,
    /// The account.
    pub account: Value,
    data_dir: PathBuf,
}

/// How to run an agent.
pub struct Agent<'a> {
    place: &'a Place,
    options: Vec<String>,
}

impl<'a> Agent<'a> {
    pub fn new(place: &'a Place) -> Self {
        Self {
            place,
            options: Vec::new(),
        }
    }

    /// Adds an option of `agentwatch run`.
    pub fn with(mut self, option: &str, value: &str) -> Self {
        self.options.extend([option.to_owned(), value.to_owned()]);
        self
    }

    /// The command, not yet started. It is ended if it takes too long.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command
            .args(["-k", "5", LONGEST])
            .arg(program())
            .args(["run", "-o", "json", "--log"])
            .arg(self.place.path("log"))
            .arg("--data-dir")
            .arg(self.place.path("history"))
            .args(&self.options);
        if let Some(file) = recordings::wanted() {
            let _ = fs::remove_file(&file);
            command.arg("--record").arg(file);
        }
        command
            .arg("--")
            .args(words)
            .current_dir(self.place.path("work"))
            .stdin(Stdio::null());
        command
    }

    /// Runs a command as an agent.
    pub fn run(&self, words: &[&str]) -> Result<Outcome> {
        let output = self
            .command(words)
            .output()
            .context("starting agentwatch")?;
        self.outcome(&output)
    }

    /// Runs a shell script as an agent.
    pub fn sh(&self, script: &str) -> Result<Outcome> {
        self.run(&["sh", "-c", script])
    }

    /// Reads what came of it.
    pub fn outcome(&self, output: &Output) -> Result<Outcome> {
        if let Some(file) = recordings::wanted() {
            recordings::without_ancestors(&file)?;
        }
        let log = fs::read_to_string(self.place.path("log")).unwrap_or_default();
        let mut lines: Vec<Value> = Vec::new();
        for line in log.lines().filter(|line| line.starts_with('{')) {
            lines.push(serde_json::from_str(line).with_context(|| format!("not JSON: {line}"))?);
        }
        let account = lines.pop().unwrap_or(Value::Null);
        Ok(Outcome {
            status: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned() + &log,
            findings: lines,
            account,
            data_dir: self.place.path("history"),
        })
    }
}

impl Outcome {
    /// The events of some kinds, from the history.
    pub fn events(&self, kinds: &str) -> Result<Vec<Value>> {
        let output = Command::new(program())
            .args(["events", "-o", "json", "--kind", kinds, "--data-dir"])
            .arg(&self.data_dir)
            .output()?;
        ensure!(
            output.status.success(),
            "events: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout)?
            .lines()
            .map(|line| serde_json::from_str(line).with_context(|| format!("not JSON: {line}")))
            .collect()
    }

    /// Nothing was found, nothing was lost, and the command did what it should.
    pub fn is_quiet(&self) -> Result<()> {
        ensure!(
            self.status == Some(0),
            "exit status {:?}: {}",
            self.status,
            self.stderr
        );
        ensure!(self.findings.is_empty(), "found: {:#?}", self.findings);
        ensure!(
            self.account["events"]["lost"] == serde_json::json!([]),
            "lost: {}",
            self.account["events"]
        );
        Ok(())
    }

    /// Exactly one finding, for which the agent was killed, all of it.
    pub fn is_killed(&self, detector: &str) -> Result<&Value> {
        ensure!(
            self.status == Some(137),
            "exit status {:?}: {}",
            self.status,
            self.stderr
        );
        ensure!(
            self.findings.len() == 1,
            "not one finding: {:#?}",
            self.findings
        );
        let finding = &self.findings[0];
        ensure!(
            finding["detector"] == detector,
            "found {}",
            finding["detector"]
        );
        let response = &finding["response"];
        ensure!(response["taken"] == "kill", "response: {response}");
        ensure!(
            response["ordered_us"].is_u64() && response["empty_us"].is_u64(),
            "response: {response}"
        );
        for part in ["id", "message", "agent"] {
            ensure!(
                finding[part].as_str().is_some_and(|text| !text.is_empty()),
                "no {part}"
            );
        }
        for part in ["evidence", "techniques", "ancestry"] {
            ensure!(
                finding[part]
                    .as_array()
                    .is_some_and(|list| !list.is_empty()),
                "no {part}"
            );
        }
        ensure!(
            self.account["ended"]["killed_by"] == finding["id"],
            "account: {}",
            self.account["ended"]
        );
        for pid in self.pids()? {
            ensure!(!lives(pid), "process {pid} lives");
        }
        Ok(finding)
    }

    /// All processes of the agent.
    fn pids(&self) -> Result<Vec<u64>> {
        Ok(self
            .events("fork,exec")?
            .iter()
            .filter_map(|event| event["pid"].as_u64())
            .collect())
    }
}

/// Whether a process runs. One that has ended and that its parent has not asked about does not.
fn lives(pid: u64) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// A cgroup of the test's own beside the agents'. Gone, with what is in it, when dropped.
pub struct Cgroup(pub PathBuf);

impl Cgroup {
    pub fn new(name: &str) -> Result<Self> {
        let root = agentwatch::probe::support::cgroup2()?;
        let path = root.join(format!("awt-{name}-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("making {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::write(self.0.join("cgroup.kill"), "1");
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                break;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A process outside the agent: ended, with its group, when dropped.
pub struct Background(Child);

impl Background {
    pub fn start(command: &mut Command) -> Result<Self> {
        use std::os::unix::process::CommandExt as _;
        let child = command.process_group(0).stdin(Stdio::null()).spawn();
        Ok(Self(
            child.with_context(|| format!("starting {command:?}"))?,
        ))
    }

    /// The same with an input that the test writes to.
    pub fn with_input(command: &mut Command) -> Result<Self> {
        use std::os::unix::process::CommandExt as _;
        let child = command.process_group(0).stdin(Stdio::piped()).spawn();
        Ok(Self(
            child.with_context(|| format!("starting {command:?}"))?,
        ))
    }

    /// Lets it go on that waits for a line.
    pub fn type_line(&mut self) -> Result<()> {
        use std::io::Write as _;
        let input = self.0.stdin.as_mut().context("it has no input")?;
        Ok(input.write_all(b"\n")?)
    }

    /// Waits for its end; what it printed, if that was piped.
    pub fn finish(mut self) -> Result<String> {
        use std::io::Read as _;
        let mut text = String::new();
        if let Some(mut out) = self.0.stdout.take() {
            out.read_to_string(&mut text)?;
        }
        self.0.wait()?;
        Ok(text)
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = Command::new("kill")
            .args(["-9", "--", &format!("-{}", self.0.id())])
            .stderr(Stdio::null())
            .status();
        let _ = self.0.wait();
    }
}

/// A Python program from a string, outside the agent.
pub fn python(script: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("timeout");
    command
        .args(["-k", "5", LONGEST, "/usr/bin/python3", "-c", script])
        .args(arguments);
    command
}

/// A port of this process's own, on loopback: at most 57,999, so that a test may add some thousands.
pub fn port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let base = 20_000 + std::process::id() % 380 * 100;
    u16::try_from(base + NEXT.fetch_add(1, Ordering::Relaxed) % 100).unwrap_or(20_000)
}

/// Waits until something is so.
pub fn until(what: &str, mut so: impl FnMut() -> bool) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(20);
    while !so() {
        if Instant::now() > end {
            bail!("{what}: not within 20 s");
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// An echo server on loopback, outside the agent.
pub fn echo(port: u16) -> Result<Background> {
    let server = Background::start(&mut python(ECHO, &[&port.to_string()]))?;
    until("the echo server", || is_listening(port))?;
    Ok(server)
}

/// Whether somebody listens at a port of loopback: seen without connecting.
pub fn is_listening(port: u16) -> bool {
    let wanted = format!(":{port:04X} ");
    fs::read_to_string("/proc/net/tcp")
        .unwrap_or_default()
        .lines()
        .any(|line| {
            line.split(' ').nth(4).is_none_or(|_| true)
                && line.contains(&wanted)
                && line.contains(" 0A ")
        })
}

const ECHO: &str = "
import socket, sys, threading
s = socket.socket(); s.setsockopt(1, 2, 1); s.bind(('127.0.0.1', int(sys.argv[1]))); s.listen(50)
def go(c):
    while True:
        d = c.recv(65536)
        if not d: break
        c.sendall(d)
    c.close()
while True: threading.Thread(target=go, args=(s.accept()[0],), daemon=True).start()
";
