//! What the demonstration shows: an agent does its work, opens a reverse tunnel, and is stopped.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::{Context as _, Result, bail};

use super::outside::Outside;
use crate::workspace;

/// The port that the tunnel opens outside, and the one that it leads to.
const REMOTE_PORT: &str = "9000";
const LOCAL_PORT: &str = "18099";
/// The exit status of `agentwatch run` when it killed the agent.
const KILLED: i32 = 137;

/// Somebody pressed Ctrl-C: the children got it too, and what was made is removed as always.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Plays the scene with this build of agentwatch.
pub fn run(agentwatch: &Path) -> Result<()> {
    if !is_root()? {
        bail!(
            "the demonstration loads programs into the kernel and makes a network namespace: run it as root"
        );
    }
    ctrlc::set_handler(|| INTERRUPTED.store(true, Ordering::Relaxed))
        .context("handling signals")?;
    let stage = Stage::new()?;

    say("1. What this kernel offers (agentwatch doctor)");
    workspace::run(Command::new(agentwatch).arg("doctor"))?;

    say("2. An outside server: a network namespace with a real sshd");
    let outside = Outside::new(&stage.folder)?;
    println!(
        "sshd listens at {}:22; port {REMOTE_PORT} there is closed",
        outside.address
    );

    say("3. The agent, watched: agentwatch run -- python3 rome.py");
    let mut visitor = visitor(&outside)?;
    let status = stage.agent(agentwatch, &outside)?;
    let _ = visitor.kill();
    let _ = visitor.wait();
    if INTERRUPTED.load(Ordering::Relaxed) {
        bail!("interrupted; everything that was made is gone");
    }
    println!("\nexit status of agentwatch run: {status}");

    say("4. The history: who started whom (agentwatch tree), and the finding in full");
    let history = ["--data-dir", stage.history()];
    workspace::run(Command::new(agentwatch).arg("tree").args(history))?;
    println!();
    workspace::run(Command::new(agentwatch).arg("findings").args(history))?;

    if status != KILLED {
        bail!("the agent was not stopped: exit status {status}, not {KILLED}");
    }
    say("The reverse tunnel was found and the agent killed.");
    Ok(())
}

/// Somebody outside, who waits for the tunnel and comes in.
fn visitor(outside: &Outside) -> Result<Child> {
    let script = format!(
        "until curl -s -m 5 http://127.0.0.1:{REMOTE_PORT}/; do sleep 0.2; done >/dev/null 2>&1"
    );
    outside
        .inside("sh")
        .args(["-c", &script])
        .stdin(Stdio::null())
        .spawn()
        .context("starting the visitor")
}

/// The folders of the demonstration: gone when dropped.
struct Stage {
    folder: PathBuf,
    history: String,
}

impl Stage {
    fn new() -> Result<Self> {
        let folder = env::temp_dir().join(format!("agentwatch-demo-{}", std::process::id()));
        let work = folder.join("work");
        fs::create_dir_all(&work).with_context(|| format!("making {}", work.display()))?;
        let source = "#include <stdio.h>\nint main(int n, char **a) { printf(\"hello, %s\\n\", n > 1 ? a[1] : \"you\"); }\n";
        fs::write(work.join("greet.c"), source)?;
        let history = folder.join("history").display().to_string();
        Ok(Self { folder, history })
    }

    fn history(&self) -> &str {
        &self.history
    }

    /// Runs the agent; its exit status.
    fn agent(&self, agentwatch: &Path, outside: &Outside) -> Result<i32> {
        let script = workspace::root()?.join("xtask/demo/rome.py");
        let status = Command::new(agentwatch)
            .args([
                "run",
                "--name",
                "rome",
                "--data-dir",
                self.history(),
                "--",
                "/usr/bin/python3",
            ])
            .arg(script)
            .current_dir(self.folder.join("work"))
            .env("OUTSIDE", &outside.address)
            .env("KEY", &outside.key)
            .env("KNOWN_HOSTS", self.folder.join("known_hosts"))
            .env("REMOTE_PORT", REMOTE_PORT)
            .env("LOCAL_PORT", LOCAL_PORT)
            .status()
            .context("starting agentwatch")?;
        Ok(status.code().unwrap_or(-1))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn say(line: &str) {
    println!("\n\x1b[1m── {line}\x1b[0m\n");
}

fn is_root() -> Result<bool> {
    Ok(workspace::output(Command::new("id").arg("-u"))?.trim() == "0")
}
