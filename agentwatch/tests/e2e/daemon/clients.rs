//! Clients that stall, or take all that they can.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

use super::{Daemon, Tree};
use crate::{
    support::{Background, until},
    tests,
};

tests! {
    a_crowd_costs_no_event_and_root_gets_in needs "/usr/bin/python3", "setpriv";
    metrics_by_tcp needs "curl";
}

/// A user who may read opens what connections there are, and more, and asks all the time for what is dear,
/// while an agent works: root gets in, may act, and no event is lost.
fn a_crowd_costs_no_event_and_root_gets_in() -> Result<()> {
    let tree = Tree::new("crowd")?;
    let agents = format!("  - cgroup: {}/*\n", tree.cgroup());
    let mut daemon = Daemon::start(&agents, "socket_group: '65534'\n")?;
    Command::new("chmod")
        .arg("755")
        .arg(daemon.place.path(""))
        .status()?;
    let script = daemon.place.file("crowd.py", CROWD)?;
    let _sleeper = tree.start("sleeper", "exec sleep 60")?;
    until("the agent", || daemon.is("sleeper", "watched"))?;
    let report = daemon.place.path("report");
    let crowd = Background::start(
        Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .args(["/usr/bin/python3", &script])
            .arg(daemon.place.path("socket"))
            .stdout(fs::File::create(&report)?)
            .stdin(Stdio::null()),
    )?;
    let said = || fs::read_to_string(&report).unwrap_or_default();
    until("the crowd to fill all places", || {
        said().contains("refused")
    })?;
    let work = daemon.place.text("work");
    let load = tree.start(
        "worker",
        &format!("cd {work}; for i in $(seq 10); do for j in $(seq 100); do : > f$j; done; rm -f f*; done"),
    )?;
    load.finish()?;
    let (ok, text) = daemon.verb(&["kill", "sleeper"])?;
    ensure!(ok, "{text}");
    // The crowd is there still.
    let mut stream = UnixStream::connect(daemon.place.path("socket"))?;
    stream.write_all(b"GET /v1/health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    drop(crowd);
    daemon.stop()?;
    let deleted = daemon.events(&["unlink"])?.len();
    ensure!(
        deleted == 1000,
        "{deleted} of 1000 deletions are in the history"
    );
    Ok(())
}

/// Where the configuration names an address, the metrics are there, and nothing else.
fn metrics_by_tcp() -> Result<()> {
    let tree = Tree::new("tcp")?;
    let port = crate::support::port();
    let daemon = Daemon::start(
        &format!("  - cgroup: {}/*\n", tree.cgroup()),
        &format!("metrics: 127.0.0.1:{port}\n"),
    )?;
    let curl = |path: &str| -> Result<String> {
        let url = format!("http://127.0.0.1:{port}{path}");
        let output = Command::new("curl")
            .args(["-s", "-w", "%{http_code}", &url])
            .output()?;
        String::from_utf8(output.stdout).context("no text")
    };
    let page = curl("/metrics")?;
    ensure!(
        page.ends_with("200") && page.contains("agentwatch_build_info{"),
        "{page}"
    );
    for path in ["/v1/agents", "/v1/events", "/"] {
        let refused = curl(path)?;
        ensure!(
            refused.ends_with("404") && refused.contains("/metrics only"),
            "{refused}"
        );
    }
    drop(daemon);
    Ok(())
}

/// Half a head in most connections, requests for what is dear in the others, and new ones all the time.
const CROWD: &str = "
import socket, sys, time
path = sys.argv[1]
def connect(text):
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(5)
    s.connect(path)
    s.sendall(text)
    return s
dear = b'GET /v1/agents/sleeper/flows HTTP/1.1\\r\\nhost: x\\r\\n\\r\\nGET /v1/events?limit=1000 HTTP/1.1\\r\\nhost: x\\r\\n\\r\\n'
held, total, told = [], 0, False
while True:
    try:
        s = connect(dear * 20 if total % 3 == 0 else b'POST /v1/agents/sleeper/actions HTTP/1.1\\r\\nhost: x\\r\\ncontent-length: 99999999\\r\\n')
        total += 1
        held.append(s)
        if not told and total > 300 and s.recv(12) == b'HTTP/1.1 503':
            told = True
            print('refused', flush=True)
    except OSError:
        time.sleep(.01)
    if len(held) > 2000:
        for s in held: s.close()
        held = []
";
