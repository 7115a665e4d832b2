//! The history, and recordings.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{
    support::{Agent, Place, program, until},
    tests,
};

tests! {
    killed_in_the_middle;
    a_replay_gives_the_same_findings needs "setpriv";
    a_cgroup_that_is_there_already;
}

/// The cgroup of an agent whose agentwatch was killed: ended and removed when dropped.
struct Left(PathBuf);

impl Drop for Left {
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

/// agentwatch is killed; what is older than a second is in the history, which is whole.
fn killed_in_the_middle() -> Result<()> {
    let place = Place::new()?;
    let name = format!("killed-{}", std::process::id());
    let agent = Agent::new(&place).with("--name", &name);
    let script = "for i in $(seq 400); do /bin/true; echo $i > progress; sleep 0.05; done";
    let mut child = agent
        .command(&["sh", "-c", script])
        .stderr(Stdio::null())
        .spawn()?;
    let reached = || -> usize {
        let text = fs::read_to_string(place.path("work/progress")).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    };
    until("fifty rounds", || reached() >= 50)?;
    let reached = reached();
    // The cgroup is called after the agent and agentwatch's process id.
    let cgroups = agentwatch::probe::support::cgroup2()?.join("agentwatch");
    let cgroup = fs::read_dir(&cgroups)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.to_string_lossy().contains(&format!("/{name}-")))
        .context("no cgroup")?;
    let left = Left(cgroup);
    let pid = left
        .0
        .to_string_lossy()
        .rsplit('-')
        .next()
        .map(str::to_owned);
    let killed = Command::new("kill")
        .args(["-9", &pid.context("no process id")?])
        .status()?;
    ensure!(killed.success(), "kill");
    child.wait()?;
    // The agent runs on unwatched; doctor says so.
    let doctor = Command::new(program()).arg("doctor").output()?;
    ensure!(
        String::from_utf8_lossy(&doctor.stdout).contains("left-over agents"),
        "doctor is silent"
    );
    drop(left);
    let outcome = agent.outcome(&Command::new("true").output()?)?;
    let seen = outcome
        .events("exec")?
        .iter()
        .filter(|event| event["path"].to_string().contains("true"))
        .count();
    // Twenty rounds are a second.
    ensure!(
        seen + 20 >= reached && seen > 0,
        "{seen} of {reached} are in the history"
    );
    let report = Command::new(program())
        .args(["report", "--data-dir"])
        .arg(place.path("history"))
        .output()?;
    let report = String::from_utf8_lossy(&report.stdout).into_owned();
    ensure!(report.contains("not known"), "{report}");
    Ok(())
}

fn a_replay_gives_the_same_findings() -> Result<()> {
    let place = Place::new()?;
    place.tree("mail", 300)?;
    let recording = place.text("r.awrec");
    let outcome =
        Agent::new(&place)
            .with("--record", &recording)
            .run(&["rm", "-rf", &place.text("mail")])?;
    let live = outcome.is_killed("mass-deletion")?.clone();
    // As a user who may do nothing: the program and the recording where that one can read them.
    let folder = tempfile::Builder::new()
        .prefix("agentwatch-e2e-")
        .tempdir()?;
    let (copy, file) = (
        folder.path().join("agentwatch"),
        folder.path().join("r.awrec"),
    );
    fs::copy(program(), &copy)?;
    fs::copy(&recording, &file)?;
    let open = Command::new("chmod")
        .args(["-R", "a+rX"])
        .arg(folder.path())
        .status()?;
    ensure!(open.success(), "chmod");
    let replay = || -> Result<Vec<Value>> {
        let output = Command::new("setpriv")
            .args(["--reuid", "65534", "--clear-groups"])
            .arg(&copy)
            .arg("replay")
            .arg(&file)
            .args(["-o", "json"])
            .output()?;
        ensure!(
            output.status.code() == Some(3),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout)?
            .lines()
            .map(|line| serde_json::from_str(line).context("JSON"))
            .collect()
    };
    let (first, second) = (replay()?, replay()?);
    ensure!(first == second && first.len() == 1, "{first:#?}");
    let mut again = first[0].clone();
    ensure!(
        again["response"]["requested"] == "kill" && again["response"]["taken"] == "alert",
        "{again}"
    );
    again["response"] = live["response"].clone();
    ensure!(again == live, "{again:#} is not {live:#}");
    Ok(())
}

/// A cgroup with processes in it, watched from outside.
fn a_cgroup_that_is_there_already() -> Result<()> {
    let place = Place::new()?;
    let cgroup =
        agentwatch::probe::support::cgroup2()?.join(format!("awt-there-{}", std::process::id()));
    fs::create_dir(&cgroup)?;
    let script = format!(
        "echo $$ > {}/cgroup.procs; while :; do sleep 0.2; : > {}; done",
        cgroup.display(),
        place.text("work/tick")
    );
    let mut agent = Command::new("sh").args(["-c", &script]).spawn()?;
    thread::sleep(Duration::from_millis(500));
    let recording = place.path("r.awrec");
    let record = Command::new("timeout")
        .args(["-s", "INT", "10"])
        .arg(program())
        .args(["record", "--to"])
        .arg(&recording)
        .arg("--cgroup")
        .arg(&cgroup)
        .output();
    let _ = fs::write(cgroup.join("cgroup.kill"), "1");
    agent.wait()?;
    for _ in 0..100 {
        if fs::remove_dir(&cgroup).is_ok() {
            break;
        }
        thread::sleep(Duration::from_millis(20));
    }
    let record = record?;
    let output = Command::new(program())
        .arg("replay")
        .arg(&recording)
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success(),
        "{text} {}",
        String::from_utf8_lossy(&record.stderr)
    );
    // The shell was there before; what it does and starts is seen.
    ensure!(
        text.contains("sleep") && text.contains("created") | text.contains("opened for writing"),
        "{text}"
    );
    ensure!(text.contains("loss       none"), "{text}");
    // Never a cgroup with agentwatch in it.
    let root = agentwatch::probe::support::cgroup2()?;
    let refused = Command::new(program())
        .args(["record", "--to"])
        .arg(place.path("no"))
        .arg("--cgroup")
        .arg(&root)
        .output()?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(
        refused.status.code() == Some(125) && said.contains("is no agent's cgroup"),
        "{said}"
    );
    Ok(())
}
