//! A daemon that watches an agent, and a Prometheus that reads it, by the files that ship.

use std::{
    fs::{self, File},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use agentwatch_engine::Engine;
use anyhow::{Context as _, Result, bail, ensure};

use crate::{build, workspace};

/// How long it may take until there is something to ask for.
const PATIENCE: Duration = Duration::from_secs(60);
/// What a rule of the last group gives: when it is there, so are the others.
const LAST: &str = "node:agentwatch_finding_latency_seconds:p99_1h >= 0";
/// Enough files for a finding, outside the agent's workspace.
const FILES: usize = 400;

/// Beside that of the recorded data.
const DATABASE: &str = "live";

/// They run until this is dropped.
#[derive(Debug)]
pub struct Prometheus {
    port: u16,
    folder: PathBuf,
    children: Vec<Child>,
}

impl Prometheus {
    /// Starts both, lets an agent do harm, and waits until Prometheus has heard of it. The daemon sends its history to
    /// this ClickHouse, if there is one. `Err` within says why it cannot be tried here.
    pub fn start(clickhouse: Option<&Engine>) -> Result<std::result::Result<Self, String>> {
        for program in ["prometheus", "promtool"] {
            if !workspace::has_program(program) {
                return Ok(Err(format!("{program} is not installed")));
            }
        }
        let agentwatch = build::agentwatch(false)?;
        let doctor = Command::new(&agentwatch)
            .arg("doctor")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .context("starting agentwatch doctor")?;
        if !doctor.success() {
            return Ok(Err(
                "agentwatch cannot watch here: see its `doctor`".to_owned()
            ));
        }
        let mut live = Self {
            port: free_port()?,
            folder: workspace::target_dir()?.join("dashboards/live"),
            children: Vec::new(),
        };
        live.run(&agentwatch, clickhouse)?;
        Ok(Ok(live))
    }

    /// Where it answers.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn run(&mut self, agentwatch: &Path, clickhouse: Option<&Engine>) -> Result<()> {
        if self.folder.exists() {
            fs::remove_dir_all(&self.folder)
                .with_context(|| format!("removing {}", self.folder.display()))?;
        }
        let harmed = self.folder.join("files");
        fs::create_dir_all(&harmed).with_context(|| format!("making {}", harmed.display()))?;
        let work = self.folder.join("work");
        fs::create_dir_all(&work).with_context(|| format!("making {}", work.display()))?;
        for n in 0..FILES {
            fs::write(harmed.join(n.to_string()), "x").context("writing a file to delete")?;
        }
        let metrics = free_port()?;
        let socket = self.folder.join("socket");
        let dir = self.folder.display();
        let config = format!(
            "apiVersion: agentwatch/v1\nkind: Config\nnode: gpu-1\nsocket: {dir}/socket\n\
             data_dir: {dir}/history\nmetrics: 127.0.0.1:{metrics}\nagents:\n  - cgroup: /no-such/*\n"
        );
        // Without one the exporter has its metrics all the same: it does not get through.
        let url = clickhouse.map_or_else(|| "http://127.0.0.1:9".to_owned(), Engine::url);
        let config = format!("{config}clickhouse:\n  url: {url}\n  database: {DATABASE}\n");
        if clickhouse.is_some() {
            let mut init = Command::new(agentwatch);
            init.args(["db", "init", "--url", &url, "--database", DATABASE]);
            workspace::run(init.stdout(Stdio::null()))?;
        }
        self.write("config.yaml", &config)?;
        let mut daemon = Command::new(agentwatch);
        daemon
            .args(["daemon", "--config"])
            .arg(self.folder.join("config.yaml"));
        self.spawn(&mut daemon, "daemon.log")?;
        self.prometheus(metrics)?;
        self.until("the daemon's metrics", "agentwatch_build_info")?;

        // One does harm, the other one is busy until the end.
        let harm = format!("sleep 2; rm -r {}; sleep 1", harmed.display());
        let busy = "while sleep 0.5; do ls -R /etc > list; rm list; done";
        for (name, script) in [("cleaner", &*harm), ("coder", busy)] {
            let mut agent = Command::new(agentwatch);
            agent
                .args(["run", "--name", name, "--socket"])
                .arg(&socket)
                .args(["--", "sh", "-c", script])
                // What is deleted is not below the folder that they work in.
                .current_dir(&work);
            self.spawn(&mut agent, &format!("{name}.log"))?;
        }
        self.until("what the rules make of a finding", LAST)
    }

    fn prometheus(&mut self, metrics: u16) -> Result<()> {
        let ships = workspace::root()?.join("dashboards/prometheus");
        let config =
            fs::read_to_string(ships.join("prometheus.yaml")).context("reading prometheus.yaml")?;
        let config = config.replace("15s", "1s").replace(
            "\"gpu-1:9464\", \"gpu-2:9464\"",
            &format!("\"127.0.0.1:{metrics}\""),
        );
        ensure!(
            config.contains(&metrics.to_string()),
            "prometheus.yaml names other targets than this knows"
        );
        self.write("prometheus.yaml", &config)?;
        for rules in ["alerts.yaml", "recording.yaml"] {
            fs::copy(ships.join(rules), self.folder.join(rules))
                .with_context(|| format!("copying {rules}"))?;
        }
        let mut prometheus = Command::new("prometheus");
        prometheus
            .arg("--config.file")
            .arg(self.folder.join("prometheus.yaml"))
            .arg("--storage.tsdb.path")
            .arg(self.folder.join("prometheus"))
            .arg(format!("--web.listen-address=127.0.0.1:{}", self.port));
        self.spawn(&mut prometheus, "prometheus.log")
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.folder.join(name);
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    }

    fn spawn(&mut self, command: &mut Command, log: &str) -> Result<()> {
        let path = self.folder.join(log);
        let file = File::create(&path).with_context(|| format!("making {}", path.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().context("opening the log twice")?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("starting {}", workspace::shown(command)))?;
        self.children.push(child);
        Ok(())
    }

    /// Waits until Prometheus has samples.
    fn until(&self, what: &str, expression: &str) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            let mut promtool = Command::new("promtool");
            promtool.args(["query", "instant", &self.url(), expression]);
            let output = promtool
                .stderr(Stdio::null())
                .output()
                .context("starting promtool")?;
            if output.status.success() && !output.stdout.trim_ascii().is_empty() {
                return Ok(());
            }
            if Instant::now() > end {
                bail!(
                    "{what}: not within {} s; logs are in {}",
                    PATIENCE.as_secs(),
                    self.folder.display()
                );
            }
            thread::sleep(Duration::from_millis(200));
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // The agent first, then Prometheus, then the daemon: each ends what is its own.
        for child in self.children.iter_mut().rev() {
            let mut kill = Command::new("kill");
            // Both fail only where it has ended.
            let _ = kill.args(["-TERM", &child.id().to_string()]).status();
            let _ = child.wait();
        }
    }
}

/// A port that nobody listens at.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").context("looking for a free port")?;
    Ok(listener.local_addr()?.port())
}
