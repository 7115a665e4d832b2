//! What is asked of the daemon, and by whom.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::{Daemon, Tree};
use crate::{
    support::{echo, port, program, until},
    tests,
};

tests! {
    freeze_thaw_and_kill;
    quarantine_and_release needs "/usr/bin/python3";
    who_may_read_and_who_may_act needs "curl", "setpriv";
    an_agent_does_not_let_itself_go needs "/usr/bin/python3";
    a_reader_that_stalls_costs_nobody_else_an_event;
    one_daemon_at_a_socket;
    pages_of_events;
}

fn freeze_thaw_and_kill() -> Result<()> {
    let tree = Tree::new("act")?;
    let daemon = Daemon::start(&format!("  - cgroup: {}/*\n", tree.cgroup()), "")?;
    let count = daemon.place.text("count");
    let _agent = tree.start(
        "a",
        &format!("while :; do echo >> {count}; sleep .01; done"),
    )?;
    let length = || fs::metadata(&count).map_or(0, |file| file.len());
    until("it to run", || length() > 2 && daemon.is("a", "watched"))?;
    let (ok, said) = daemon.verb(&["freeze", "a", "--reason", "look at it"])?;
    ensure!(ok && said.contains("stand still"), "{said}");
    let events = fs::read_to_string(tree.0.join("a/cgroup.events"))?;
    ensure!(events.contains("frozen 1"), "{events}");
    ensure!(daemon.is("a", "frozen"), "{:?}", daemon.agent("a"));
    let agent = daemon.agent("a").context("no agent")?;
    ensure!(
        agent["state_reason"] == "asked for by root: look at it",
        "{agent}"
    );
    let (ok, said) = daemon.verb(&["thaw", "a"])?;
    ensure!(ok, "{said}");
    let before = length();
    until("it to run again", || length() > before)?;
    let (ok, said) = daemon.verb(&["kill", "a", "--reason", "enough", "-o", "json"])?;
    let action: Value = serde_json::from_str(&said)?;
    ensure!(ok && action["done"] == true, "{said}");
    ensure!(
        fs::read_to_string(tree.0.join("a/cgroup.procs"))?.is_empty(),
        "not empty"
    );
    ensure!(daemon.is("a", "killed"), "{:?}", daemon.agent("a"));
    until("all actions in the history", || {
        daemon
            .get("/v1/actions")
            .is_ok_and(|all| all.as_array().map(Vec::len) == Some(3))
    })?;
    let actions = daemon.get("/v1/actions?agent=a")?;
    for (action, (verb, reason)) in actions.as_array().into_iter().flatten().zip([
        ("freeze", "look at it"),
        ("thaw", ""),
        ("kill", "enough"),
    ]) {
        ensure!(
            action["action"] == verb && action["reason"] == reason,
            "{action}"
        );
        ensure!(action["asked_by"]["uid"] == 0, "{action}");
        ensure!(
            action["asked_by"]["exe"].as_str() == program().to_str(),
            "{action}"
        );
    }
    tree.remove("a")?;
    until("it to be gone", || daemon.agent("a").is_none())?;
    let (ok, said) = daemon.verb(&["freeze", "a"])?;
    ensure!(!ok && said.contains("no agent is called"), "{said}");
    Ok(())
}

fn quarantine_and_release() -> Result<()> {
    let tree = Tree::new("cut")?;
    let daemon = Daemon::start(&format!("  - cgroup: {}/*\n", tree.cgroup()), "")?;
    let port = port();
    let _server = echo(port)?;
    let said = daemon.place.text("said");
    let script = daemon.place.file("client.py", CLIENT)?;
    let _agent = tree.start(
        "a",
        &format!("exec /usr/bin/python3 {script} {port} {said}"),
    )?;
    let last = || fs::read_to_string(&said).unwrap_or_default();
    until("an answer", || last() == "ok")?;
    until("the agent", || daemon.is("a", "watched"))?;
    let (ok, text) = daemon.verb(&["quarantine", "a"])?;
    ensure!(ok, "{text}");
    until("no answer", || last() == "refused")?;
    ensure!(daemon.is("a", "quarantined"), "{:?}", daemon.agent("a"));
    let (ok, text) = daemon.verb(&["release", "a"])?;
    ensure!(ok, "{text}");
    until("an answer again", || last() == "ok")?;
    ensure!(daemon.is("a", "watched"), "{:?}", daemon.agent("a"));
    Ok(())
}

/// Asks for an action by a connection of its own, and by one that a process opened which has ended.
const ASK: &str = r#"
import os, socket, sys, time
path, go, said = sys.argv[1:]
while not os.path.exists(go):
    time.sleep(.01)
def ask(connection):
    body = b'{"action":"thaw","reason":""}'
    connection.sendall(b"POST /v1/agents/a/actions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
        b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
    answer = b""
    while more := connection.recv(4096):
        answer += more
    return answer.split(b" ")[1].decode()
own, others = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
own.connect(path)
if os.fork() == 0:
    others.connect(path)
    os._exit(0)
os.wait()
time.sleep(.3)
with open(said + ".part", "w") as out:
    out.write(ask(own) + " " + ask(others))
os.rename(said + ".part", said)
time.sleep(60)
"#;

fn an_agent_does_not_let_itself_go() -> Result<()> {
    let tree = Tree::new("itself")?;
    let daemon = Daemon::start(&format!("  - cgroup: {}/*\n", tree.cgroup()), "")?;
    let script = daemon.place.file("ask.py", ASK)?;
    let (socket, go) = (daemon.place.text("socket"), daemon.place.text("go"));
    let said = daemon.place.text("said");
    let _agent = tree.start(
        "a",
        &format!("exec /usr/bin/python3 {script} {socket} {go} {said}"),
    )?;
    until("the agent", || daemon.is("a", "watched"))?;
    fs::write(&go, "")?;
    until("its answers", || fs::exists(&said).unwrap_or(false))?;
    let said = fs::read_to_string(&said)?;
    ensure!(said == "403 403", "{said}");
    Ok(())
}

fn who_may_read_and_who_may_act() -> Result<()> {
    let tree = Tree::new("who")?;
    let agents = format!("  - cgroup: {}/*\n", tree.cgroup());
    let daemon = Daemon::start(&agents, "socket_group: '65534'\n")?;
    // The test's folder is its owner's.
    let folder = daemon.place.path("");
    Command::new("chmod").arg("755").arg(&folder).status()?;
    let _agent = tree.start("a", "exec sleep 60")?;
    until("the agent", || daemon.is("a", "watched"))?;
    let curl = |group: &str, more: &[&str]| -> Result<String> {
        let output = Command::new("setpriv")
            .args([
                "--reuid=65534",
                &format!("--regid={group}"),
                "--clear-groups",
            ])
            .args(["curl", "-s", "-w", "%{http_code}", "--unix-socket"])
            .arg(daemon.place.path("socket"))
            .args(more)
            .output()?;
        Ok(String::from_utf8(output.stdout)?)
    };
    let read = curl("65534", &["http://x/v1/agents"])?;
    ensure!(read.ends_with("200") && read.contains("\"a\""), "{read}");
    let kill = [
        "-H",
        "content-type: application/json",
        "-d",
        r#"{"action":"kill"}"#,
        "http://x/v1/agents/a/actions",
    ];
    let acted = curl("65534", &kill)?;
    ensure!(acted.ends_with("403") && acted.contains("root"), "{acted}");
    let other = curl("65533", &["http://x/v1/agents"])?;
    ensure!(other == "000", "{other}");
    ensure!(daemon.is("a", "watched"), "{:?}", daemon.agent("a"));
    // What makes no sense is refused with the reason, as root too.
    for (method, path, body, status, words) in [
        ("GET", "/v1/nothing", "", 404, "openapi.json"),
        ("DELETE", "/v1/agents", "", 405, "method"),
        ("GET", "/v1/events?limit=0", "", 400, "1 to 1000"),
        ("GET", "/v1/events?kind=exek", "", 400, "exek"),
        ("GET", "/v1/events?limmit=1", "", 400, "limmit"),
        ("GET", "/v1/events?after=x", "", 400, "`next`"),
        (
            "POST",
            "/v1/agents/a/actions",
            r#"{"action":"explode"}"#,
            400,
            "explode",
        ),
        (
            "POST",
            "/v1/agents/b/actions",
            r#"{"action":"kill"}"#,
            404,
            "no agent",
        ),
    ] {
        let (got, said) = daemon.ask(method, path, body)?;
        ensure!(
            got == status && said.contains(words),
            "{method} {path}: {got} {said}"
        );
    }
    Ok(())
}

/// A reader of the stream that does not read, while an agent does more than fits into its queue.
fn a_reader_that_stalls_costs_nobody_else_an_event() -> Result<()> {
    let tree = Tree::new("stall")?;
    let mut daemon = Daemon::start(&format!("  - cgroup: {}/*\n", tree.cgroup()), "")?;
    let mut stalled = UnixStream::connect(daemon.place.path("socket"))?;
    stalled.write_all(b"GET /v1/events/stream HTTP/1.1\r\nhost: x\r\n\r\n")?;
    let mut head = [0; 15];
    stalled.read_exact(&mut head)?;
    ensure!(head == *b"HTTP/1.1 200 OK", "{head:?}");
    let work = daemon.place.text("work");
    let load = tree.start(
        "a",
        &format!("cd {work}; for i in $(seq 20); do for j in $(seq 100); do : > f$j; done; rm -f f*; done"),
    )?;
    load.finish()?;
    until("the reader to miss something", || {
        daemon
            .get("/v1/health")
            .is_ok_and(|health| health["stream_missed"].as_u64() > Some(0))
    })?;
    // It is told when it reads again.
    let (mut got, mut piece) = (Vec::new(), [0; 16384]);
    let told = b"event: missed\ndata: {\"missed\":";
    let quiet = tree.start("b", "while :; do /bin/true; sleep .05; done")?;
    stalled.set_read_timeout(Some(Duration::from_secs(20)))?;
    while !got.windows(told.len()).any(|part| part == told) {
        match stalled.read(&mut piece)? {
            0 => bail!("the stream ended"),
            n => got.extend_from_slice(&piece[..n]),
        }
    }
    drop(quiet);
    daemon.stop()?;
    let deleted = daemon.events(&["unlink"])?.len();
    ensure!(
        deleted == 2000,
        "{deleted} of 2000 deletions are in the history"
    );
    Ok(())
}

fn one_daemon_at_a_socket() -> Result<()> {
    let tree = Tree::new("again")?;
    let mut daemon = Daemon::start(&format!("  - cgroup: {}/*\n", tree.cgroup()), "")?;
    let second = Daemon::child(&daemon.place)?.wait()?;
    ensure!(!second.success(), "a second one runs");
    ensure!(
        daemon.said().contains("another daemon listens at"),
        "{}",
        daemon.said()
    );
    // One that is killed leaves its socket; the next one takes its place.
    let pid = daemon.get("/v1/health")?["pid"].to_string();
    Command::new("kill").args(["-9", &pid]).status()?;
    daemon.child.wait()?;
    ensure!(daemon.place.path("socket").exists(), "no socket is left");
    daemon.child = Daemon::child(&daemon.place)?;
    until("the next daemon", || daemon.get("/v1/health").is_ok())?;
    daemon.stop()?;
    ensure!(!daemon.place.path("socket").exists(), "the socket is left");
    let (ok, said) = daemon.verb(&["agents"])?;
    ensure!(!ok && said.contains("no daemon listens at"), "{said}");
    Ok(())
}

fn pages_of_events() -> Result<()> {
    let tree = Tree::new("pages")?;
    let daemon = Daemon::start(&format!("  - cgroup: {}/*\n", tree.cgroup()), "")?;
    let agent = tree.start("a", "for i in 1 2 3 4 5; do /bin/true $i; done")?;
    agent.finish()?;
    let of = |page: &Value| -> Vec<String> {
        let events = page["events"].as_array().cloned().unwrap_or_default();
        let word = |event: &Value| event["detail"]["argv"][1].as_str().map(str::to_owned);
        events.iter().filter_map(word).collect()
    };
    until("all of it in the history", || {
        daemon
            .get("/v1/events?kind=exec&agent=a")
            .is_ok_and(|page| of(&page).len() == 5)
    })?;
    let page = daemon.get("/v1/events?kind=exec&agent=a&since=1h&limit=3")?;
    ensure!(
        of(&page) == ["1", "2", "3"] && page["more"] == true,
        "{page}"
    );
    let next = page["next"].as_str().unwrap_or_default();
    let page = daemon.get(&format!(
        "/v1/events?kind=exec&agent=a&limit=3&after={next}"
    ))?;
    ensure!(of(&page) == ["4", "5"] && page["more"] == false, "{page}");
    // The place is there still when nothing follows it.
    let next = page["next"].as_str().unwrap_or_default().to_owned();
    let page = daemon.get(&format!("/v1/events?kind=exec&agent=a&after={next}"))?;
    ensure!(of(&page).is_empty() && page["next"] == *next, "{page}");
    let last = daemon.get("/v1/events?kind=exec&limit=2")?;
    ensure!(of(&last) == ["4", "5"], "{last}");
    let document = daemon.get("/v1/openapi.json")?;
    ensure!(
        document["openapi"]
            .as_str()
            .is_some_and(|v| v.starts_with("3.")),
        "{document}"
    );
    Ok(())
}

pub const CLIENT: &str = "
import os, socket, sys, time
while True:
    try:
        s = socket.create_connection(('127.0.0.1', int(sys.argv[1])), 1); s.send(b'x'); s.recv(1); s.close()
        now = 'ok'
    except OSError:
        now = 'refused'
    with open(sys.argv[2] + '.new', 'w') as f: f.write(now)
    os.rename(sys.argv[2] + '.new', sys.argv[2])
    time.sleep(.05)
";
