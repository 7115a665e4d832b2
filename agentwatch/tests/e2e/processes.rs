//! Processes: what they are, and that none gets away.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{
    support::{Agent, Cgroup, Outcome, Place},
    tests,
};

tests! {
    exec_is_told_in_full;
    long_arguments_are_cut_and_said_to_be;
    ends_have_status_signal_and_time;
    a_script_shows_itself_and_its_interpreter;
    what_the_standard_streams_are needs "/usr/bin/python3";
    who_leaves_the_cgroup_stays_watched_and_dies needs "python3";
    a_cgroup_below_is_the_agents_too;
    born_elsewhere_and_orphans_stay_watched needs "/usr/bin/python3";
}

fn exec(outcome: &Outcome, word: &str) -> Result<Value> {
    let events = outcome.events("exec")?;
    let found = events
        .iter()
        .find(|event| event["detail"]["argv"].to_string().contains(word));
    found
        .cloned()
        .with_context(|| format!("no exec with {word}: {events:#?}"))
}

fn exec_is_told_in_full() -> Result<()> {
    let place = Place::new()?;
    let outcome =
        Agent::new(&place).run(&["env", "true", "two words", "new\nline", "\u{1b}[31m", ""])?;
    outcome.is_quiet()?;
    let event = exec(&outcome, "two words")?;
    let argv = &event["detail"]["argv"];
    ensure!(
        *argv == serde_json::json!(["env", "true", "two words", "new\\nline", "\\x1b[31m", ""]),
        "{argv}"
    );
    ensure!(event["detail"]["cwd"] == place.text("work"), "{event}");
    let real = fs::canonicalize("/usr/bin/env")?;
    ensure!(event["path"] == real.display().to_string(), "{event}");
    ensure!(event["ino"] == fs::metadata(&real)?.ino(), "{event}");
    ensure!(
        event["uid"] == 0 && event["ppid"].as_u64() > Some(0),
        "{event}"
    );
    // Nothing of it reaches a terminal as it is.
    ensure!(!outcome.stderr.contains('\u{1b}'), "{:?}", outcome.stderr);
    Ok(())
}

fn long_arguments_are_cut_and_said_to_be() -> Result<()> {
    let place = Place::new()?;
    let long = "x".repeat(10_000);
    let outcome = Agent::new(&place).run(&["true", "first", &long])?;
    let event = exec(&outcome, "first")?;
    ensure!(event["detail"]["argv_cut"] == true, "{event}");
    ensure!(
        event["detail"]["argv_bytes"] == 5 + 6 + 10_001,
        "{}",
        event["detail"]["argv_bytes"]
    );
    let got = event["detail"]["argv"][2].as_str().map(str::len);
    ensure!(got == Some(4096 - 5 - 6), "{got:?}");
    ensure!(
        outcome.account["events"]["cut"] == 1,
        "{}",
        outcome.account["events"]
    );
    Ok(())
}

fn ends_have_status_signal_and_time() -> Result<()> {
    let place = Place::new()?;
    let outcome = Agent::new(&place).sh(
        "sh -c 'exit 7'; sh -c 'kill -9 $$'; sh -c 'i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done'; true",
    )?;
    let ends = outcome.events("exit")?;
    ensure!(ends.iter().any(|end| end["result"] == 7), "{ends:#?}");
    ensure!(
        ends.iter().any(|end| end["detail"]["signal"] == 9),
        "{ends:#?}"
    );
    let busiest = ends
        .iter()
        .filter_map(|end| end["detail"]["user_ns"].as_u64())
        .max();
    ensure!(busiest > Some(20_000_000), "CPU time {busiest:?}");
    Ok(())
}

fn a_script_shows_itself_and_its_interpreter() -> Result<()> {
    let place = Place::new()?;
    let script = place.file("work/tool", "#!/bin/sh\ntrue here\n")?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    let outcome = Agent::new(&place).run(&[&script])?;
    outcome.is_quiet()?;
    let event = exec(&outcome, "work/tool")?;
    ensure!(event["detail"]["filename"] == script, "{event}");
    ensure!(event["detail"]["interpreter"] == "/bin/sh", "{event}");
    ensure!(
        event["path"] == fs::canonicalize("/bin/sh")?.display().to_string(),
        "{event}"
    );
    Ok(())
}

fn what_the_standard_streams_are() -> Result<()> {
    let place = Place::new()?;
    let script = place.file(
        "work/streams.py",
        "import os, pty, socket, subprocess\n\
         server = socket.create_server(('127.0.0.1', 0))\n\
         client = socket.create_connection(server.getsockname())\n\
         one, two = socket.socketpair()\n\
         read, write = os.pipe()\n\
         print(os.fstat(read).st_ino, os.fstat(one.fileno()).st_ino)\n\
         slave = pty.openpty()[1]\n\
         run = lambda name, *fds: subprocess.run(['true', name], stdin=fds[0], stdout=fds[1], stderr=fds[2])\n\
         run('first', client, one, read)\n\
         run('second', slave, subprocess.DEVNULL, open('regular', 'w'))\n\
         subprocess.run(['sh', '-c', 'exec true th\"\"ird <&- >&- 2>&-'])\n\
         client.sendall(b'x')\n",
    )?;
    let outcome = Agent::new(&place).run(&["/usr/bin/python3", &script])?;
    outcome.is_quiet()?;
    let inodes: Vec<&str> = outcome.stdout.split_whitespace().collect();
    let flows = outcome.events("connect")?;
    let own = |flow: &&Value| flow["protocol"] == "tcp";
    let cookie = flows.iter().find(own).context("no connect")?["cookie"].clone();
    for (name, expected) in [
        (
            "first",
            [
                format!("inet {cookie}"),
                format!("unix {}", inodes[1]),
                format!("pipe {}", inodes[0]),
            ],
        ),
        ("second", ["tty", "null", "file"].map(str::to_owned)),
        ("third", ["closed"; 3].map(str::to_owned)),
    ] {
        let event = exec(&outcome, name)?;
        ensure!(
            event["detail"]["stdio"] == serde_json::json!(expected),
            "{event}"
        );
    }
    Ok(())
}

fn who_leaves_the_cgroup_stays_watched_and_dies() -> Result<()> {
    let place = Place::new()?;
    place.tree("mail", 300)?;
    let beside = Cgroup::new("beside")?;
    let script = place.file(
        "work/leave.py",
        &format!(
            "import os, sys, time, glob, subprocess\n\
         if os.fork() == 0:\n\
         \x20   os.setsid()\n\
         \x20   open('{}/cgroup.procs', 'w').write('0')\n\
         \x20   subprocess.run(['true', 'from outside'])\n\
         \x20   for f in glob.glob('{}/*/*'): os.unlink(f); time.sleep(.002)\n\
         \x20   time.sleep(30)\n\
         \x20   os._exit(0)\n\
         time.sleep(30)\n",
            beside.0.display(),
            place.text("mail"),
        ),
    )?;
    let outcome = Agent::new(&place).run(&["/usr/bin/python3", &script])?;
    let finding = outcome.is_killed("mass-deletion")?;
    let left = finding["process"]["pid"].clone();
    ensure!(
        finding["response"]["outside"] == serde_json::json!([left]),
        "{}",
        finding["response"]
    );
    exec(&outcome, "from outside")?;
    let moves = outcome.events("cgroup_move")?;
    ensure!(
        moves
            .iter()
            .any(|event| event["detail"]["moved"] == left && event["detail"]["to_agent"] == 0),
        "{moves:#?}"
    );
    Ok(())
}

fn a_cgroup_below_is_the_agents_too() -> Result<()> {
    let place = Place::new()?;
    let outcome = Agent::new(&place).with("--name", "below").sh(
        "d=$(grep -m1 ^0:: /proc/self/cgroup | cut -c4-); r=$(grep -m1 ' - cgroup2 ' /proc/self/mountinfo | cut -d' ' -f5); \
         mkdir $r$d/sub && sh -c \"echo 0 > $r$d/sub/cgroup.procs; exec env true in-sub\"; rmdir $r$d/sub",
    )?;
    outcome.is_quiet()?;
    let event = exec(&outcome, "in-sub")?;
    ensure!(event["agent"] == "below", "{event}");
    let moves = outcome.events("cgroup_move")?;
    ensure!(
        moves
            .iter()
            .any(|event| event["detail"]["to_agent"].as_u64() > Some(0)),
        "{moves:#?}"
    );
    Ok(())
}

/// Born into another cgroup (clone3 with `CLONE_INTO_CGROUP`), given to init after a double fork, in a
/// session and namespaces of their own: all are the agent's.
fn born_elsewhere_and_orphans_stay_watched() -> Result<()> {
    let place = Place::new()?;
    let beside = Cgroup::new("born")?;
    let script = place.file(
        "work/agent.py",
        &format!(
            "import ctypes, os, struct, sys, time\n\
             libc = ctypes.CDLL(None, use_errno=True)\n\
             fd = os.open('{}', os.O_RDONLY)\n\
             # struct clone_args, 11 words: flags and exit_signal, at the end the cgroup.\n\
             args = struct.pack('11Q', 0x200000000, 0, 0, 0, 17, 0, 0, 0, 0, 0, fd)\n\
             p = libc.syscall(435, args, len(args))\n\
             if p == 0: os.execv('/bin/true', ['true', 'born-elsewhere'])\n\
             assert p > 0, ctypes.get_errno()\n\
             os.waitpid(p, 0)\n\
             r, w = os.pipe()\n\
             p = os.fork()\n\
             if p == 0:\n\
             \x20   os.setsid()\n\
             \x20   if os.fork() == 0:\n\
             \x20       time.sleep(.2); libc.unshare(0x04000000)\n\
             \x20       os.execv('/bin/true', ['true', 'orphan'])\n\
             \x20   os._exit(0)\n\
             os.waitpid(p, 0); os.close(w); os.read(r, 1); time.sleep(.2)\n",
            beside.0.display()
        ),
    )?;
    let outcome = Agent::new(&place).run(&["/usr/bin/python3", &script])?;
    outcome.is_quiet()?;
    exec(&outcome, "born-elsewhere")?;
    exec(&outcome, "orphan")?;
    let id = fs::metadata(&beside.0)?.ino();
    let forks = outcome.events("fork")?;
    ensure!(
        forks.iter().any(|event| event["detail"]["cgroup"] == id),
        "{forks:#?}"
    );
    Ok(())
}
