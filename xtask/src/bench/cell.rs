//! One work in one setting, once.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::{peer::Peer, watcher::Watcher};

/// What else runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setting {
    /// Nothing.
    None,
    /// Nothing, once more: the null control.
    Control,
    /// agentwatch, and the load is no agent's.
    Outside,
    /// agentwatch, and the load is the agent.
    Agent,
    /// Another program.
    Peer(&'static Peer),
}

/// A policy by which nothing that is repeated is thinned.
const EACH: &str = "apiVersion: agentwatch/v1\nkind: Policy\nevents: {thin: false}\n";

/// What came out.
#[derive(Debug, Clone, Copy)]
pub struct Cell {
    /// Operations that were done.
    pub operations: f64,
    /// CPU time of the workload for an operation, nanoseconds.
    pub cpu_ns: f64,
    /// Time on the clock for an operation, nanoseconds.
    pub wall_ns: f64,
    /// agentwatch's side, where there is one.
    pub daemon: Option<Daemon>,
}

/// agentwatch while the workload ran.
#[derive(Debug, Clone, Copy)]
pub struct Daemon {
    /// CPU time, nanoseconds.
    pub cpu_ns: f64,
    /// Most memory, MB.
    pub peak_mb: f64,
    /// Memory before, MB.
    pub idle_mb: f64,
    /// Events that the kernel was to send.
    pub emitted: u64,
    /// Of these, those that did not arrive.
    pub lost: u64,
    /// Events that the history does not have.
    pub dropped: u64,
}

/// Where everything is.
pub struct Place {
    /// The program under test.
    pub agentwatch: PathBuf,
    /// The workload.
    pub workload: PathBuf,
    /// A folder of the benchmark's own.
    pub dir: PathBuf,
    /// The server's addresses, TCP and UDP.
    pub servers: [SocketAddr; 2],
}

impl Place {
    /// Runs a work once.
    ///
    /// `history`: what happens is stored; `each`: what is repeated is told each time.
    pub fn cell(
        &self,
        (name, count): (&str, u64),
        setting: Setting,
        history: bool,
        each: bool,
    ) -> Result<Cell> {
        let work = fresh(&self.dir.join("work"))?;
        let data = fresh(&self.dir.join("data"))?;
        let [tcp, udp] = self.servers.map(|server| server.to_string());
        let count = count.to_string();
        let words: [&std::ffi::OsStr; 5] = [
            name.as_ref(),
            count.as_ref(),
            work.as_ref(),
            tcp.as_ref(),
            udp.as_ref(),
        ];
        let mut command = Command::new(&self.workload);
        command.args(words).current_dir(&work);
        match setting {
            Setting::None | Setting::Control => Running::start(&mut command)?.measure(None),
            Setting::Peer(peer) => {
                let mut child = peer.start(&self.dir)?;
                let cell = Running::start(&mut command).and_then(|running| running.measure(None));
                child.kill().context("ending the peer")?;
                child.wait()?;
                cell
            }
            Setting::Outside => {
                let log = self.dir.join("outside.json");
                let mut idle = self.agentwatch(&data, &log, history, each)?;
                idle.current_dir(&work)
                    .arg(&self.workload)
                    .args(["idle", "0"])
                    .arg(&work);
                let idle = Running::start(&mut idle)?;
                let watcher = Watcher::new(idle.child.id());
                let cell = Running::start(&mut command)?.measure(Some(watcher))?;
                idle.end()?;
                tally(cell, &log)
            }
            Setting::Agent => {
                let log = self.dir.join("agent.json");
                let mut agentwatch = self.agentwatch(&data, &log, history, each)?;
                agentwatch
                    .current_dir(&work)
                    .arg(&self.workload)
                    .args(words);
                let running = Running::start(&mut agentwatch)?;
                let watcher = Watcher::new(running.child.id());
                tally(running.measure(Some(watcher))?, &log)
            }
        }
    }

    fn agentwatch(&self, data: &Path, log: &Path, history: bool, each: bool) -> Result<Command> {
        let mut command = Command::new(&self.agentwatch);
        command.args(["run", "--name", "bench", "-o", "json", "--log"]);
        command.arg(log);
        if history {
            command.arg("--data-dir").arg(data);
        } else {
            command.arg("--no-history");
        }
        if each {
            let policy = self.dir.join("each.yaml");
            fs::write(&policy, EACH).with_context(|| format!("writing {}", policy.display()))?;
            command.arg("--policy").arg(policy);
        }
        command.arg("--");
        Ok(command)
    }
}

/// A folder with nothing in it.
fn fresh(dir: &Path) -> Result<PathBuf> {
    if dir.exists() {
        fs::remove_dir_all(dir).with_context(|| format!("emptying {}", dir.display()))?;
    }
    fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    Ok(dir.to_owned())
}

/// A workload that is set up and waits, perhaps below agentwatch. It ends with this, since its
/// standard input does.
struct Running {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Running {
    /// Starts it, and waits until it is ready.
    fn start(command: &mut Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {command:?}"))?;
        let mut running = Self {
            input: child.stdin.take(),
            output: BufReader::new(child.stdout.take().context("no output")?),
            child,
        };
        let line = running.line()?;
        if line != "ready" {
            let status = running.end();
            bail!("{command:?} is not ready: {line:?} {status:?}");
        }
        Ok(running)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }

    /// Lets it work, and ends it.
    fn measure(mut self, watcher: Option<Watcher>) -> Result<Cell> {
        let mut before = (0, 0.0);
        if let Some(watcher) = watcher {
            watcher.wait_for_rest()?;
            watcher.forget_peak()?;
            before = (watcher.cpu_ns()?, watcher.memory_mb()?.0);
        }
        let input = self.input.as_mut().context("no input")?;
        input.write_all(b"go\n")?;
        let line = self.line()?;
        let mut daemon = None;
        if let Some(watcher) = watcher {
            watcher.wait_for_rest()?;
            daemon = Some(Daemon {
                cpu_ns: float(watcher.cpu_ns()? - before.0),
                peak_mb: watcher.memory_mb()?.1,
                idle_mb: before.1,
                emitted: 0,
                lost: 0,
                dropped: 0,
            });
        }
        self.end()?;
        let result: Value =
            serde_json::from_str(&line).with_context(|| format!("the workload said {line:?}"))?;
        let field = |name: &str| result[name].as_f64().with_context(|| format!("no {name}"));
        let operations = field("operations")?;
        Ok(Cell {
            operations,
            cpu_ns: field("cpu_ns")? / operations,
            wall_ns: field("wall_ns")? / operations,
            daemon,
        })
    }

    fn end(mut self) -> Result<()> {
        drop(self.input.take());
        let status = self.child.wait()?;
        ensure!(status.success(), "the workload ended with {status}");
        Ok(())
    }
}

/// Adds what agentwatch counted, from the account that it gives at the end.
fn tally(mut cell: Cell, log: &Path) -> Result<Cell> {
    let text = fs::read_to_string(log).with_context(|| format!("reading {}", log.display()))?;
    let account = text.lines().last().context("agentwatch gave no account")?;
    let account: Value = serde_json::from_str(account).context("reading agentwatch's account")?;
    let events = &account["events"];
    if let Some(daemon) = &mut cell.daemon {
        daemon.emitted = events["emitted"].as_u64().context("no events.emitted")?;
        let delivered = events["delivered"]
            .as_u64()
            .context("no events.delivered")?;
        daemon.lost = daemon.emitted.saturating_sub(delivered);
        daemon.dropped = account["history"]["dropped"].as_u64().unwrap_or(0);
    }
    ensure!(
        account["findings"].as_array().is_none_or(Vec::is_empty),
        "the workload is a finding: {}",
        account["findings"]
    );
    Ok(cell)
}

/// Counts and nanoseconds here are far below 2^52.
#[expect(
    clippy::cast_precision_loss,
    reason = "counts and nanoseconds far below 2^52"
)]
pub fn float(n: u64) -> f64 {
    n as f64
}
