//! The daemon: agents that come and go, what can be done to them, and its API.

mod running;

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
};

use agentwatch::store::query::History;
use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use crate::{
    support::{Background, Place, echo, port, program, until},
    tests,
};

use running::{Daemon, Tree};

tests! {
    agents_that_are_there_and_that_come;
    a_thousand_short_lived_cgroups;
    one_is_killed_and_the_others_are_not;
    freeze_thaw_and_kill;
    a_policy_may_ask_for_a_freeze;
    quarantine_and_release needs "/usr/bin/python3";
    what_is_no_agent_is_not_acted_upon;
    who_may_read_and_who_may_act needs "curl", "setpriv";
    a_reader_that_stalls_costs_nobody_else_an_event;
    one_daemon_at_a_socket;
    pages_of_events;
}

fn agents_that_are_there_and_that_come() -> Result<()> {
    let tree = Tree::new("come")?;
    let _there = tree.start("there", "exec sleep 60")?;
    let agents = format!(
        "  - cgroup: {0}/there\n    name: first\n  - cgroup: {0}/*\n    name: '{{parent}}-{{name}}'\n",
        tree.cgroup()
    );
    let mut daemon = Daemon::start(&agents, "")?;
    let first = daemon.agent("first").context("the one that was there")?;
    ensure!(
        first["processes"] == 1 || first["processes"] == 0,
        "{first}"
    );
    ensure!(
        first["found_by"] == json!({"by": "cgroup", "glob": format!("{}/there", tree.cgroup())}),
        "{first}"
    );
    let _new = tree.start("new", "true here; /bin/true seen; exec sleep 60")?;
    let name = format!("{}-new", &tree.cgroup()[1..]);
    until("the new one", || {
        let processes = daemon.get(&format!("/v1/agents/{name}/processes")).ok();
        processes.is_some_and(|list| list[0]["argv"] == json!(["sleep", "60"]))
    })?;
    let (ok, table) = daemon.verb(&["agents"])?;
    ensure!(
        ok && table.contains("first") && table.contains(&name),
        "{table}"
    );
    daemon.stop()?;
    let seen = daemon.events(&["exec"])?;
    ensure!(
        seen.iter()
            .any(|row| row.agent == name && row.argv() == ["/bin/true", "seen"]),
        "{seen:#?}"
    );
    ensure!(
        daemon
            .events(&["seed"])?
            .iter()
            .any(|row| row.agent == "first"),
        "the process that was there is not told"
    );
    Ok(())
}

fn a_thousand_short_lived_cgroups() -> Result<()> {
    const MANY: usize = 1000;
    let tree = Tree::new("many")?;
    let mut daemon = Daemon::start(&format!("  - cgroup: {}/c*\n", tree.cgroup()), "")?;
    let script = format!(
        "cd {}; for i in $(seq {MANY}); do mkdir c$i; \
         sh -c \"echo \\$\\$ > c$i/cgroup.procs; exec /bin/true n$i\"; rmdir c$i; done; \
         mkdir other; sh -c 'echo $$ > other/cgroup.procs; exec /bin/true other'; rmdir other",
        tree.0.display()
    );
    let status = Command::new("sh").args(["-c", &script]).status()?;
    ensure!(status.success(), "{status}");
    until("all of them to be gone", || {
        let health = daemon.get("/v1/health").unwrap_or_default();
        health["agents_gone"] == MANY && health["agents"] == 0
    })
    .with_context(|| format!("{:?}", daemon.get("/v1/health")))?;
    let health = daemon.get("/v1/health")?;
    let mut left = health["maps"].clone();
    // The folder that they were made in is looked below still.
    ensure!(left["PARENTS"] == 1, "{health}");
    left["PARENTS"] = 0.into();
    let left: Vec<_> = left
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(_, n)| **n != 0)
        .collect();
    ensure!(left.is_empty(), "left in the kernel's maps: {left:?}");
    daemon.stop()?;
    let execs = daemon.events(&["exec"])?;
    ensure!(execs.len() == MANY, "{} of {MANY} are seen", execs.len());
    for row in &execs {
        let n = row.agent.trim_start_matches('c');
        ensure!(row.argv() == ["/bin/true", &format!("n{n}")], "{row:?}");
    }
    let runs = History::open(&daemon.place.path("history"))?.runs()?;
    ensure!(runs.len() == MANY, "{} runs", runs.len());
    for run in runs {
        let tally: Value = serde_json::from_str(&run.tally.context("a run without an end")?)?;
        ensure!(tally["lost"] == json!([]), "{}: {tally}", run.agent);
        ensure!(
            tally["emitted"] == tally["delivered"],
            "{}: {tally}",
            run.agent
        );
    }
    Ok(())
}

fn one_is_killed_and_the_others_are_not() -> Result<()> {
    let tree = Tree::new("one")?;
    let mut daemon = Daemon::start(&format!("  - cgroup: {}/*\n", tree.cgroup()), "")?;
    let files = daemon.place.tree("files", 400)?;
    let _good = tree.start("good", "exec sleep 60")?;
    let (script, go) = deletes(&daemon.place, &files);
    let _bad = tree.start("bad", &script)?;
    until("the bad one to be watched", || daemon.is("bad", "watched"))?;
    fs::write(go, "")?;
    until("the bad one to be killed", || daemon.is("bad", "killed"))
        .with_context(|| daemon.said())?;
    ensure!(daemon.is("good", "watched"), "{:?}", daemon.agent("good"));
    let bad = daemon.agent("bad").context("it is gone")?;
    let reason = bad["state_reason"].as_str().unwrap_or_default();
    ensure!(
        reason.contains("removed") && bad["findings"]["critical"] == 1,
        "{bad}"
    );
    ensure!(walk(&files) > 350, "{} of 400 files are left", walk(&files));
    let empty = fs::read_to_string(tree.0.join("bad/cgroup.procs"))?;
    ensure!(empty.is_empty(), "left: {empty}");
    daemon.stop()?;
    let runs = History::open(&daemon.place.path("history"))?.runs()?;
    let killed: Vec<_> = runs.iter().filter(|run| run.killed_by.is_some()).collect();
    ensure!(killed.len() == 1 && killed[0].agent == "bad", "{runs:?}");
    Ok(())
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

fn a_policy_may_ask_for_a_freeze() -> Result<()> {
    let tree = Tree::new("freeze")?;
    let place = Place::new()?;
    let policy = place.file(
        "freeze.yaml",
        "apiVersion: agentwatch/v1\nkind: Policy\ndetectors:\n  mass-deletion:\n    action: freeze\n",
    )?;
    let files = place.tree("files", 400)?;
    let agents = format!("  - cgroup: {}/*\n    policy: {policy}\n", tree.cgroup());
    let daemon = Daemon::start(&agents, "")?;
    let (script, go) = deletes(&place, &files);
    let _agent = tree.start("a", &script)?;
    until("it to be watched", || daemon.is("a", "watched"))?;
    fs::write(go, "")?;
    until("it to be frozen", || daemon.is("a", "frozen")).with_context(|| daemon.said())?;
    let events = fs::read_to_string(tree.0.join("a/cgroup.events"))?;
    ensure!(events.contains("frozen 1"), "{events}");
    ensure!(walk(&files) > 350, "{} of 400 files are left", walk(&files));
    let findings = daemon.get("/v1/findings?agent=a");
    until("the finding in the history", || {
        daemon
            .get("/v1/findings?agent=a")
            .is_ok_and(|all| all[0]["response"]["taken"] == "freeze")
    })
    .with_context(|| format!("{findings:?}"))?;
    let (ok, said) = daemon.verb(&["kill", "a"])?;
    ensure!(ok, "{said}");
    Ok(())
}

/// A script that deletes a folder once a file is there, and that file.
fn deletes(place: &Place, folder: &Path) -> (String, PathBuf) {
    let go = place.path("go");
    let script = format!(
        "while [ ! -e {} ]; do sleep .02; done; rm -r {}; exec sleep 60",
        go.display(),
        folder.display()
    );
    (script, go)
}

/// How many files are below a folder.
fn walk(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| {
            let path = entry.path();
            if path.is_dir() { walk(&path) } else { 1 }
        })
        .sum()
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

const CLIENT: &str = "
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

fn what_is_no_agent_is_not_acted_upon() -> Result<()> {
    let tree = Tree::new("none")?;
    // The daemon's own parent is in it.
    let inside = tree.0.join("own");
    fs::create_dir(&inside)?;
    let place = Place::new()?;
    let config = place.file(
        "config.yaml",
        &format!(
            "apiVersion: agentwatch/v1\nkind: Config\nsocket: {}\ndata_dir: {}\nagents:\n  - cgroup: {}/*\n",
            place.text("socket"),
            place.text("history"),
            tree.cgroup()
        ),
    )?;
    let script = format!(
        "echo $$ > {}/cgroup.procs; {} daemon --config {config} & sleep 60; wait",
        inside.display(),
        program().display()
    );
    let log = fs::File::create(place.path("log"))?;
    let _shell = Background::start(Command::new("sh").args(["-c", &script]).stderr(log))?;
    let said = || fs::read_to_string(place.path("log")).unwrap_or_default();
    until("the daemon", || said().contains("the API is at"))?;
    ensure!(
        said().contains("is no agent's cgroup: agentwatch itself is in it"),
        "{}",
        said()
    );
    ensure!(said().contains("watching 0 agents"), "{}", said());
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
    let (mut got, mut piece) = (Vec::new(), vec![0; 65536]);
    let told = b"event: missed\ndata: {\"missed\":";
    let quiet = tree.start("b", "while :; do /bin/true; sleep .05; done")?;
    stalled.set_read_timeout(Some(std::time::Duration::from_secs(20)))?;
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
