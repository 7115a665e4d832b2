//! `agentwatch run` as a user meets it.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    support::{Agent, Place, program, python, until},
    tests,
};

tests! {
    the_exit_status_is_the_commands;
    input_and_output_pass_through;
    a_command_that_cannot_be_run;
    without_root needs "setpriv";
    a_policy_with_a_typo;
    as_another_user;
    signals_reach_the_command;
    a_frozen_agent_ends_with_a_signal;
    a_terminal needs "python3";
    what_is_left_running_is_ended;
    hostile_names_are_shown_escaped;
    a_full_disk_for_the_history;
    the_cgroup_is_gone_afterwards;
    nothing_is_left_when_it_cannot_start;
    in_a_pid_namespace_of_its_own needs "unshare";
}

fn the_exit_status_is_the_commands() -> Result<()> {
    let place = Place::new()?;
    for (script, status) in [
        ("exit 0", 0),
        ("exit 3", 3),
        ("kill -TERM $$", 143),
        ("kill -KILL $$", 137),
    ] {
        let outcome = Agent::new(&place).sh(script)?;
        ensure!(
            outcome.status == Some(status),
            "{script}: {:?}",
            outcome.status
        );
        ensure!(
            outcome.account["ended"]["exit_status"] == status,
            "{}",
            outcome.account["ended"]
        );
        ensure!(
            outcome.account["ended"]["killed_by"].is_null(),
            "{}",
            outcome.account["ended"]
        );
    }
    Ok(())
}

fn input_and_output_pass_through() -> Result<()> {
    let place = Place::new()?;
    let bytes: Vec<u8> = (0..300_000u32).map(|n| (n * 7 % 251) as u8).collect();
    let agent = Agent::new(&place);
    let mut child = agent
        .command(&["cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().context("no stdin")?;
    let sent = bytes.clone();
    let writer = std::thread::spawn(move || stdin.write_all(&sent));
    let output = child.wait_with_output()?;
    writer
        .join()
        .map_err(|_| anyhow::anyhow!("the writer failed"))??;
    ensure!(
        output.stdout == bytes,
        "{} bytes came back",
        output.stdout.len()
    );
    Ok(())
}

fn a_command_that_cannot_be_run() -> Result<()> {
    let place = Place::new()?;
    let outcome = Agent::new(&place).run(&["no-such-command"])?;
    ensure!(outcome.status == Some(127), "{:?}", outcome.status);
    ensure!(
        outcome
            .stderr
            .contains("no-such-command: there is no such command"),
        "{}",
        outcome.stderr
    );
    let file = place.file("work/plain", "x")?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644))?;
    let outcome = Agent::new(&place).run(&[&file])?;
    ensure!(outcome.status == Some(126), "{:?}", outcome.status);
    ensure!(
        outcome.stderr.contains("may not be run"),
        "{}",
        outcome.stderr
    );
    Ok(())
}

fn without_root() -> Result<()> {
    // Where nobody may be, the program may not be reached.
    let copy = std::env::temp_dir().join(format!("agentwatch-e2e-{}", std::process::id()));
    fs::copy(program(), &copy)?;
    let output = Command::new("setpriv")
        .args(["--reuid", "65534", "--clear-groups"])
        .arg(&copy)
        .args(["run", "--", "true"])
        .output();
    fs::remove_file(&copy)?;
    let output = output?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(125), "{:?}", output.status);
    ensure!(
        stderr.contains("needs root") && stderr.contains("sudo agentwatch run"),
        "{stderr}"
    );
    Ok(())
}

fn a_policy_with_a_typo() -> Result<()> {
    let place = Place::new()?;
    let policy = place.file(
        "p.yaml",
        "apiVersion: agentwatch/v1\nkind: Policy\nsensitve_paths: []\n",
    )?;
    let outcome = Agent::new(&place)
        .with("--policy", &policy)
        .sh("echo ran")?;
    ensure!(
        outcome.status == Some(125) && outcome.stdout.is_empty(),
        "{:?} {}",
        outcome.status,
        outcome.stdout
    );
    ensure!(
        outcome.stderr.contains("p.yaml:3:1")
            && outcome.stderr.contains("did you mean `sensitive_paths`"),
        "{}",
        outcome.stderr
    );
    Ok(())
}

fn as_another_user() -> Result<()> {
    let place = Place::new()?;
    let outcome = Agent::new(&place)
        .with("--user", "nobody")
        .run(&["/usr/bin/id", "-un"])?;
    ensure!(
        outcome.stdout == "nobody\n",
        "{:?} {}",
        outcome.stdout,
        outcome.stderr
    );
    let outcome = Agent::new(&place)
        .with("--user", "no-such-user")
        .run(&["true"])?;
    ensure!(
        outcome.status == Some(125) && outcome.stderr.contains("no-such-user"),
        "{}",
        outcome.stderr
    );
    Ok(())
}

fn signals_reach_the_command() -> Result<()> {
    let place = Place::new()?;
    let agent = Agent::new(&place);
    let ready = place.path("work/ready");
    let script = "trap 'echo got it; exit 9' TERM; : > ready; while :; do sleep 0.1; done";
    let child = agent
        .command(&["sh", "-c", script])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    until("the command", || ready.exists())?;
    // `timeout` passes the signal on to agentwatch, and agentwatch to the command.
    ensure!(
        Command::new("kill")
            .args(["-TERM", &child.id().to_string()])
            .status()?
            .success(),
        "kill"
    );
    let output = child.wait_with_output()?;
    let outcome = agent.outcome(&output)?;
    ensure!(
        outcome.stdout == "got it\n",
        "{:?} {}",
        outcome.stdout,
        outcome.stderr
    );
    ensure!(
        outcome.account["ended"]["exit_status"] == 9,
        "{}",
        outcome.account["ended"]
    );
    Ok(())
}

/// What is frozen hears no signal: agentwatch, which is told to end, ends it.
fn a_frozen_agent_ends_with_a_signal() -> Result<()> {
    let place = Place::new()?;
    let policy = place.file(
        "freeze.yaml",
        "apiVersion: agentwatch/v1\nkind: Policy\ndetectors:\n  mass-deletion:\n    action: freeze\n",
    )?;
    let files = place.tree("files", 400)?;
    let agent = Agent::new(&place).with("--policy", &policy);
    let child = agent
        .command(&["rm", "-r", &files.display().to_string()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let said = || fs::read_to_string(place.path("log")).unwrap_or_default();
    until("it to be frozen", || {
        said().contains("the agent stands still")
    })?;
    Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()?;
    let outcome = agent.outcome(&child.wait_with_output()?)?;
    ensure!(
        outcome.findings[0]["response"]["taken"] == "freeze",
        "{:#?}",
        outcome.findings
    );
    ensure!(
        outcome.status == Some(137),
        "{:?}: {}",
        outcome.status,
        outcome.stderr
    );
    ensure!(files.exists(), "all files are gone");
    Ok(())
}

/// On a terminal of its own: the command is in the foreground, Ctrl-Z freezes the whole agent and
/// gives the shell its prompt, `fg` goes on, Ctrl-C ends the command.
fn a_terminal() -> Result<()> {
    let place = Place::new()?;
    let script = r#"
import os, pty, sys, time, select
pid, fd = pty.fork()
if pid == 0: os.execvp('bash', ['bash', '--norc', '--noprofile', '-i'])
seen = b''
def wait(word, seconds=20):
    global seen
    end = time.time() + seconds
    while word not in seen:
        assert time.time() < end, (word, seen)
        if select.select([fd], [], [], .1)[0]: seen += os.read(fd, 65536)
    seen = seen[seen.index(word) + len(word):]
def say(text): os.write(fd, text)
say(b"PS1=; stty -echo; echo sta''rted\n"); wait(b'started')
say(sys.argv[1].encode() + b' run --no-history -- sh -c "read x; echo got \\$x; read y; echo and \\$y; sleep 60"\n')
time.sleep(3)
say(b'one\n'); wait(b'got one')
say(b'\x1a'); wait(b'Stopped')
frozen = [open(d + '/cgroup.freeze').read().strip() for d, _, f in os.walk(sys.argv[2]) if 'cgroup.freeze' in f and '/sh-' in d]
assert '1' in frozen, frozen
say(b"echo prom''pt\n"); wait(b'prompt')
say(b'fg\n'); time.sleep(1)
say(b'two\n'); wait(b'and two'); time.sleep(1)
say(b'\x03'); wait(b'by signal 2')
say(b'echo status $?\n'); wait(b'status 130')
print('all right')
"#;
    let cgroups = agentwatch::probe::support::cgroup2()?.join("agentwatch");
    let output = python(
        script,
        &[
            &program().display().to_string(),
            &cgroups.display().to_string(),
        ],
    )
    .current_dir(place.path("work"))
    .output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    ensure!(text.contains("all right"), "{text}");
    Ok(())
}

fn what_is_left_running_is_ended() -> Result<()> {
    let place = Place::new()?;
    let outcome = Agent::new(&place).sh("(setsid sleep 77 >/dev/null 2>&1 &); sleep 1")?;
    ensure!(outcome.status == Some(0), "{:?}", outcome.status);
    ensure!(outcome.account["left_running"] == 1, "{}", outcome.account);
    let ends = outcome.events("exit")?;
    ensure!(
        ends.iter()
            .any(|end| end["comm"] == "sleep" && end["detail"]["signal"] == 9),
        "{ends:#?}"
    );
    let waited = Agent::new(&place)
        .with("--leftover", "wait")
        .sh("(setsid sleep 1 >/dev/null 2>&1 &); true")?;
    let ends = waited.events("exit")?;
    ensure!(
        ends.iter()
            .any(|end| end["comm"] == "sleep" && end["result"] == 0),
        "{ends:#?}"
    );
    Ok(())
}

fn hostile_names_are_shown_escaped() -> Result<()> {
    let place = Place::new()?;
    place.file("work/hostile.py", r"
import os, subprocess
for name in [b'\x1b[2J\x1b[31mOK', b'a\nagentwatch: all is well', b'\r{}', b'\xff\xfe', 'a\u202eb'.encode(), b'n' * 255]:
    open(name, 'w').close(); subprocess.run([b'/bin/true', name]); os.unlink(name)
")?;
    let outcome = Agent::new(&place).run(&["/usr/bin/python3", "hostile.py"])?;
    outcome.is_quiet()?;
    let history = place.text("history");
    for verb in [
        vec!["events"],
        vec!["tree"],
        vec!["report"],
        vec!["events", "-o", "json"],
    ] {
        let output = Command::new(program())
            .args(&verb)
            .args(["--data-dir", &history])
            .output()?;
        let text = String::from_utf8(output.stdout).context("not UTF-8")?;
        ensure!(
            !text
                .chars()
                .any(|c| c.is_control() && c != '\n' || c == '\u{202e}'),
            "{verb:?}: {text:?}"
        );
        ensure!(
            !text
                .lines()
                .any(|line| line.starts_with("agentwatch: all is well")),
            "{verb:?}"
        );
    }
    Ok(())
}

/// A small file system that is full. Unmounted when dropped.
struct Tiny(std::path::PathBuf);

impl Drop for Tiny {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn a_full_disk_for_the_history() -> Result<()> {
    let place = Place::new()?;
    fs::create_dir(place.path("history"))?;
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=200k", "tmpfs"])
        .arg(place.path("history"))
        .status()?;
    ensure!(mounted.success(), "mount");
    let _tiny = Tiny(place.path("history"));
    place.tree("mail", 300)?;
    let script = format!(
        "for i in $(seq 1500); do /bin/true; done; rm -rf {}; sleep 20",
        place.text("mail")
    );
    let outcome = Agent::new(&place).sh(&script)?;
    ensure!(
        outcome.status == Some(137),
        "the watching ended: {:?} {}",
        outcome.status,
        outcome.stderr
    );
    ensure!(outcome.findings.len() == 1, "{:#?}", outcome.findings);
    ensure!(
        outcome.stderr.contains("the history cannot be written now"),
        "{}",
        outcome.stderr
    );
    ensure!(
        outcome.account["history"]["dropped"].as_u64() > Some(0),
        "{}",
        outcome.account["history"]
    );
    Ok(())
}

fn the_cgroup_is_gone_afterwards() -> Result<()> {
    let place = Place::new()?;
    let agent = Agent::new(&place).with("--name", "gone-afterwards");
    agent.sh("true")?.is_quiet()?;
    ensure!(cgroups_of("gone-afterwards")? == 0, "a cgroup is left");
    Ok(())
}

/// agentwatch's cgroups with this name.
fn cgroups_of(name: &str) -> Result<usize> {
    let cgroups = agentwatch::probe::support::cgroup2()?.join("agentwatch");
    let mut found = 0;
    for entry in fs::read_dir(cgroups)? {
        found += usize::from(entry?.file_name().to_string_lossy().starts_with(name));
    }
    Ok(found)
}

fn nothing_is_left_when_it_cannot_start() -> Result<()> {
    let place = Place::new()?;
    let there = place.file("there", "x")?;
    let outcome = Agent::new(&place)
        .with("--name", "cannot-start")
        .with("--record", &there)
        .run(&["true"])?;
    ensure!(outcome.status == Some(125), "{:?}", outcome.status);
    ensure!(
        outcome.stderr.contains("cannot make the recording"),
        "{}",
        outcome.stderr
    );
    ensure!(cgroups_of("cannot-start")? == 0, "a cgroup is left");
    Ok(())
}

/// Entered from outside, a process is in no group that its pid namespace knows.
fn in_a_pid_namespace_of_its_own() -> Result<()> {
    let output = Command::new("unshare")
        .args(["--pid", "--fork", "--mount-proc"])
        .arg(program())
        .args([
            "run",
            "--no-history",
            "--name",
            "in-namespace",
            "--",
            "sh",
            "-c",
            "exit 4",
        ])
        .stdin(Stdio::null())
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        output.status.code() == Some(4),
        "{:?} {said}",
        output.status
    );
    ensure!(cgroups_of("in-namespace")? == 0, "a cgroup is left");
    Ok(())
}
