//! The end-to-end tests in short: they need the kernel, root and this very program, which is the
//! agent, the servers and the visitors at once. So they run in a virtual machine too, where there is
//! nothing else (`cargo xtask vm`).

mod acts;
mod denial;
mod kill;
mod tiers;
mod tiers_acts;

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use agentwatch::{
    probe::{Options, Probe, support},
    respond::cgroup::AgentCgroup,
    source::Source,
};
use agentwatch_common::loss::Tally;
use anyhow::{Context as _, Result, anyhow, bail, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::Value;
use tempfile::TempDir;

/// The first argument that makes this program an agent instead of a test.
const AGENT: &str = "as-agent";
/// How long anything may take; the virtual machine's processor is emulated.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes that are sent, and bytes that are answered: neither a whole number of packets.
const SENT: usize = 1_000_003;
const ANSWERED: usize = 70_001;

type Test = fn() -> Result<()>;

const TESTS: &[(&str, Test)] = &[
    ("doctor_is_content", doctor_is_content),
    ("programs_and_their_ends", programs_and_their_ends),
    ("a_relay_is_found_and_killed", a_relay_is_found_and_killed),
    (
        "a_mass_deletion_is_found_and_killed",
        a_mass_deletion_is_found_and_killed,
    ),
    ("bytes_of_flows", bytes_of_flows),
    ("the_sum_of_losses", the_sum_of_losses),
    ("nothing_lost", nothing_lost),
    ("killed_one_by_one", killed_one_by_one),
];

fn main() {
    let mut words = std::env::args().skip(1);
    if words.next().as_deref() == Some(AGENT) {
        if let Err(error) = acts::act(&words.collect::<Vec<_>>()) {
            eprintln!("{error:?}");
            std::process::exit(1);
        }
        return;
    }
    let mut args = Arguments::from_args();
    // The tests measure times, and a virtual machine has little to share.
    args.test_threads = args.test_threads.or(Some(1));
    let unusable = if args.list { None } else { unusable() };
    let trials = TESTS
        .iter()
        .chain(denial::TESTS)
        .chain(kill::TESTS)
        .chain(tiers::TESTS)
        .map(|(name, test)| {
            if let Some(reason) = &unusable {
                eprintln!("skipped {name}: {reason}");
            }
            Trial::test(*name, || {
                test().map_err(|error| Failed::from(format!("{error:?}")))
            })
            .with_ignored_flag(unusable.is_some())
        })
        .collect();
    libtest_mimic::run(&args, trials).exit();
}

/// Why nothing can be tested here, if so. A virtual machine that was made for it must be usable.
fn unusable() -> Option<String> {
    if !rustix::process::getuid().is_root() {
        return Some("needs root".to_owned());
    }
    if std::env::var_os("AGENTWATCH_BIN").is_some() {
        return None;
    }
    match agentwatch(&["doctor"]).output() {
        Ok(output) if output.status.success() => None,
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let last = text.lines().last().unwrap_or_default();
            Some(format!("agentwatch doctor: {last}"))
        }
        Err(error) => Some(format!("agentwatch cannot be started: {error}")),
    }
}

/// The program under test.
fn agentwatch(args: &[&str]) -> Command {
    let program = std::env::var_os("AGENTWATCH_BIN")
        .unwrap_or_else(|| env!("CARGO_BIN_EXE_agentwatch").into());
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null());
    command
}

// Running agentwatch.

/// A child that does not outlive its test.
struct Guarded(Child);

impl Guarded {
    fn wait(&mut self) -> Result<i32> {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.0.try_wait()? {
                return status.code().context("a signal ended it");
            }
            ensure!(Instant::now() < end, "pid {} does not end", self.0.id());
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // Both fail where it has ended and was waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The agent's policy, in the folder of its test, where the test wrote one.
const POLICY: &str = "policy.yaml";

/// An agent, which is this program, and the folder of its test.
struct Agent {
    name: String,
    folder: TempDir,
}

/// How it went.
struct Outcome {
    status: i32,
    findings: Vec<Value>,
    account: Value,
    said: String,
}

impl Agent {
    fn new(name: &str) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("agentwatch-smoke-")
            .tempdir()?;
        fs::create_dir(folder.path().join("work"))?;
        Ok(Self {
            name: format!("smoke-{name}-{}", std::process::id()),
            folder,
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn start(&self, words: &[&str]) -> Result<Guarded> {
        self.start_with(&[], words)
    }

    fn start_with(&self, options: &[&str], words: &[&str]) -> Result<Guarded> {
        let mut command = agentwatch(&["run", "-o", "json", "--name", &self.name, "--log"]);
        command.arg(self.path("log"));
        if self.path(POLICY).exists() {
            command.arg("--policy").arg(self.path(POLICY));
        }
        let child = command
            .arg("--data-dir")
            .arg(self.path("data"))
            .args(options)
            .arg("--")
            .args(myself(words)?)
            .current_dir(self.path("work"))
            .stdout(File::create(self.path("said"))?)
            .stderr(File::options().append(true).open(self.path("said"))?)
            .spawn()?;
        Ok(Guarded(child))
    }

    fn end(&self, mut running: Guarded) -> Result<Outcome> {
        let said = || fs::read_to_string(self.path("said")).unwrap_or_default();
        let status = running.wait().with_context(said)?;
        let log = fs::read_to_string(self.path("log")).unwrap_or_default();
        let values: Vec<Value> = log
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect();
        let (findings, rest): (Vec<_>, Vec<_>) = values
            .into_iter()
            .partition(|value| value.get("detector").is_some());
        Ok(Outcome {
            status,
            findings,
            account: rest.into_iter().next().unwrap_or_default(),
            said: said() + &log,
        })
    }

    fn run(&self, words: &[&str]) -> Result<Outcome> {
        self.end(self.start(words)?)
    }

    fn events(&self, kinds: &str) -> Result<Vec<Value>> {
        self.asked(&["--kind", kinds])
    }

    fn every_event(&self) -> Result<Vec<Value>> {
        self.asked(&[])
    }

    fn asked(&self, options: &[&str]) -> Result<Vec<Value>> {
        let Output { status, stdout, .. } = agentwatch(&["events", "-o", "json", "--data-dir"])
            .arg(self.path("data"))
            .args(options)
            .output()?;
        ensure!(status.success(), "events: {status}");
        String::from_utf8(stdout)?
            .lines()
            .map(|line| serde_json::from_str(line).with_context(|| line.to_owned()))
            .collect()
    }

    fn cgroups(&self) -> Result<Vec<PathBuf>> {
        let prefix = format!("{}-", self.name);
        Ok(fs::read_dir(support::cgroup2()?.join("agentwatch"))
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
            .map(|entry| entry.path())
            .collect())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        for path in self.cgroups().unwrap_or_default() {
            remove_cgroup(&path);
        }
    }
}

/// Ends what is in a cgroup, and removes it.
fn remove_cgroup(path: &Path) {
    let _ = fs::write(path.join("cgroup.kill"), "1");
    for _ in 0..100 {
        if fs::remove_dir(path).is_ok() || !path.exists() {
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// The command that makes this program act.
fn myself(words: &[&str]) -> Result<Vec<OsString>> {
    let mut command = vec![std::env::current_exe()?.into_os_string(), AGENT.into()];
    command.extend(words.iter().map(OsString::from));
    Ok(command)
}

impl Outcome {
    /// One finding, for which the agent was killed.
    fn killed(&self, agent: &Agent, detector: &str) -> Result<&Value> {
        ensure!(
            self.status == 137,
            "exit status {}: {}",
            self.status,
            self.said
        );
        let [finding] = &self.findings[..] else {
            bail!("not one finding: {}", self.said);
        };
        ensure!(
            finding["detector"] == detector && finding["severity"] == "critical",
            "{finding:#}"
        );
        let response = &finding["response"];
        ensure!(response["taken"] == "kill", "{response}");
        ensure!(
            response["ordered_us"].is_u64() && response["empty_us"].is_u64(),
            "the times are missing: {response}"
        );
        ensure!(
            finding["process"]["argv"][1] == AGENT && finding["ancestry"][0].is_object(),
            "not told who: {finding:#}"
        );
        ensure!(finding["evidence"][0].is_object(), "no evidence");
        ensure!(
            self.account["ended"]["killed_by"] == finding["id"],
            "{}",
            self.account
        );
        let cgroups = agent.cgroups()?;
        ensure!(cgroups.is_empty(), "left: {cgroups:?}");
        Ok(finding)
    }
}

/// Takes one connection, within [`PATIENCE`].
fn accept(listener: &TcpListener) -> Result<TcpStream> {
    listener.set_nonblocking(true)?;
    let end = Instant::now() + PATIENCE;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                return Ok(stream);
            }
            Err(_) if Instant::now() < end => thread::sleep(Duration::from_millis(5)),
            Err(error) => return Err(error).context("nobody connects"),
        }
    }
}

// The tests.

fn doctor_is_content() -> Result<()> {
    let output = agentwatch(&["doctor"]).output()?;
    ensure!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

fn programs_and_their_ends() -> Result<()> {
    let agent = Agent::new("status")?;
    let outcome = agent.run(&["exit", "7"])?;
    ensure!(outcome.status == 7, "{} {}", outcome.status, outcome.said);
    ensure!(outcome.findings.is_empty(), "{}", outcome.said);
    let me = std::env::current_exe()?;
    let events = agent.events("exec,exit")?;
    let exec = events
        .iter()
        .find(|event| event["kind"] == "exec")
        .context("no exec")?;
    ensure!(
        exec["path"] == me.display().to_string()
            && exec["ino"] == fs::metadata(&me)?.ino()
            && exec["detail"]["argv"][2] == "exit",
        "{exec}"
    );
    let exit = events
        .iter()
        .find(|event| event["kind"] == "exit" && event["pid"] == exec["pid"])
        .context("no exit")?;
    ensure!(exit["result"] == 7, "{exit}");
    Ok(())
}

fn a_relay_is_found_and_killed() -> Result<()> {
    let agent = Agent::new("relay")?;
    let (outer, inner) = (
        TcpListener::bind("127.0.0.1:0")?,
        TcpListener::bind("127.0.0.1:0")?,
    );
    let (to, from) = (inner.local_addr()?, outer.local_addr()?);
    let running = agent.start(&["relay", &from.to_string(), &to.to_string()])?;
    let mut visitor = accept(&outer)?;
    visitor.write_all(b"a word from outside, and nobody else says it\n")?;
    let mut service = accept(&inner)?;
    let mut bytes = [0; 256];
    let n = service.read(&mut bytes)?;
    service.write_all(&[b"the answer to: ", &bytes[..n]].concat())?;
    // Until the tunnel is gone.
    while visitor.read(&mut bytes).is_ok_and(|n| n > 0) {}
    let outcome = agent.end(running)?;
    let finding = outcome.killed(&agent, "reverse-tunnel")?;
    let message = finding["message"].as_str().unwrap_or_default();
    ensure!(
        message.contains(&to.to_string()) && message.contains(&from.to_string()),
        "{message}"
    );
    Ok(())
}

/// Many, to delete.
fn make_files(folder: &Path) -> Result<()> {
    fs::create_dir(folder)?;
    for n in 0..5000 {
        File::create(folder.join(n.to_string()))?;
    }
    Ok(())
}

fn a_mass_deletion_is_found_and_killed() -> Result<()> {
    let agent = Agent::new("deletion")?;
    let folder = agent.path("precious");
    make_files(&folder)?;
    let outcome = agent.run(&["remove", &folder.display().to_string()])?;
    outcome.killed(&agent, "mass-deletion")?;
    ensure!(fs::read_dir(&folder)?.count() > 0, "all files are gone");
    Ok(())
}

fn bytes_of_flows() -> Result<()> {
    let agent = Agent::new("flows")?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?.to_string();
    let running = agent.start(&["exchange", &address])?;
    let mut stream = accept(&listener)?;
    let mut got = Vec::new();
    stream.read_to_end(&mut got)?;
    ensure!(got.len() == SENT, "{} bytes came", got.len());
    stream.write_all(&vec![b'y'; ANSWERED])?;
    drop(stream);
    let outcome = agent.end(running)?;
    ensure!(
        outcome.status == 0 && outcome.findings.is_empty(),
        "{}",
        outcome.said
    );
    let events = agent.events("connect,flow_close")?;
    let of = |kind: &str| -> Result<&Value> {
        events
            .iter()
            .find(|event| event["kind"] == kind && event["remote"] == address)
            .ok_or_else(|| anyhow!("no {kind} with {address}: {events:#?}"))
    };
    of("connect")?;
    let close = of("flow_close")?;
    ensure!(
        close["bytes_out"] == SENT
            && close["bytes_in"] == ANSWERED
            && close["protocol"] == "tcp"
            && close["direction"] == "out"
            && close["detail"]["established"] == true,
        "{close}"
    );
    Ok(())
}

/// The counters after a load, and how many records came.
fn counted(name: &str, options: &Options, read: bool) -> Result<(Tally, u64)> {
    const NUMBER: u32 = 1;
    let folder = tempfile::tempdir()?;
    let cgroup = Cgroup::new(name)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let _inside = runtime.enter();
    let mut probe = Probe::load(options)?;
    let mut source = Source::new(probe.take_rings()?)?;
    probe.watch(NUMBER, &cgroup.0, fs::metadata(&cgroup.0)?.ino())?;
    let words = [
        "load",
        &cgroup.0.display().to_string(),
        &folder.path().display().to_string(),
    ];
    let command = myself(&words)?;
    let mut child = Guarded(
        Command::new(&command[0])
            .args(&command[1..])
            .stdin(Stdio::null())
            .spawn()?,
    );
    let mut batch = Vec::new();
    let end = Instant::now() + PATIENCE;
    let status = loop {
        if read {
            source.drain(&mut batch);
        }
        if let Some(status) = child.0.try_wait()? {
            break status;
        }
        ensure!(Instant::now() < end, "the load does not end");
        thread::sleep(Duration::from_millis(2));
    };
    ensure!(status.success(), "the load failed: {status}");
    // Without programs nothing is sent any more: what is counted now is final.
    drop(probe);
    source.drain(&mut batch);
    Ok((source.tally(NUMBER), batch.len() as u64))
}

/// A cgroup of the test's own, gone when dropped.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new(name: &str) -> Result<Self> {
        let path = support::cgroup2()?.join(format!("smoke-{name}-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("making {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        remove_cgroup(&self.0);
    }
}

fn the_sum_of_losses() -> Result<()> {
    let options = Options {
        bulk_bytes: Some(4 * 4096),
        prio_bytes: Some(4 * 4096),
        ..Options::DEFAULT
    };
    let (tally, came) = counted("loses", &options, false)?;
    let lost: u64 = tally.lost.iter().sum();
    ensure!(
        lost > 0 && came > 0,
        "{came} came, {lost} lost: the rings were to be full"
    );
    ensure!(
        came == tally.delivered && tally.emitted == tally.delivered + lost,
        "{} ≠ {} + {lost}; {came} came",
        tally.emitted,
        tally.delivered
    );
    Ok(())
}

fn nothing_lost() -> Result<()> {
    let (tally, came) = counted("keeps", &Options::DEFAULT, true)?;
    ensure!(tally.lost.iter().all(|n| *n == 0), "{:?}", tally.lost);
    ensure!(
        tally.emitted == came && came >= 2 * acts::FILES,
        "{came} of {}",
        tally.emitted
    );
    Ok(())
}

/// What kernels before 5.14 need, on all of them.
fn killed_one_by_one() -> Result<()> {
    let cgroup = Cgroup::new("one-by-one")?;
    let agent = AgentCgroup::adopt(cgroup.0.clone())?;
    let command = myself(&["multiply", &cgroup.0.display().to_string()])?;
    let mut child = Guarded(
        Command::new(&command[0])
            .args(&command[1..])
            .stdin(Stdio::null())
            .spawn()?,
    );
    let end = Instant::now() + PATIENCE;
    while agent.processes()?.len() < 10 {
        ensure!(Instant::now() < end, "the agent does not multiply");
        thread::sleep(Duration::from_millis(5));
    }
    agent.kill_one_by_one()?;
    ensure!(agent.is_empty(), "left: {:?}", agent.processes()?);
    ensure!(
        child.wait().is_err(),
        "the agent ended by itself instead of by a signal"
    );
    Ok(())
}
