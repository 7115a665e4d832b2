//! The daemon as a service: what the service manager is told, and what SIGHUP does.

use std::{
    fs,
    net::{TcpListener, TcpStream, UdpSocket},
    os::unix::net::UnixDatagram,
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use super::{Daemon, Tree};
use crate::{
    support::{Place, until},
    tests,
};

tests! {
    the_service_manager_is_told;
    the_configuration_is_read_again;
    who_is_cut_off_stays_so_while_it_is needs "/usr/bin/python3";
    the_unit_is_right needs "systemd-analyze";
}

impl Daemon {
    fn hangup(&self) -> Result<()> {
        let pid = self.get("/v1/health")?["pid"].to_string();
        Command::new("kill").args(["-HUP", &pid]).status()?;
        Ok(())
    }
}

fn the_service_manager_is_told() -> Result<()> {
    let tree = Tree::new("told")?;
    let place = Place::new()?;
    let notify = place.path("notify");
    let socket = UnixDatagram::bind(&notify)?;
    socket.set_read_timeout(Some(Duration::from_secs(20)))?;
    let told = |wanted: &str| -> Result<String> {
        let mut all = String::new();
        let mut text = [0; 4096];
        while !all.contains(wanted) {
            let n = socket
                .recv(&mut text)
                .with_context(|| format!("{wanted}: not after {all:?}"))?;
            all.push_str(&String::from_utf8_lossy(&text[..n]));
        }
        Ok(all)
    };
    config(&place, &format!("  - cgroup: {}/*\n", tree.cgroup()))?;
    let log = fs::File::create(place.path("log"))?;
    let child = Daemon::command(&place, log)
        .env("NOTIFY_SOCKET", &notify)
        .env("WATCHDOG_USEC", "3000000")
        .spawn()?;
    let mut daemon = Daemon { child, place };
    let ready = told("READY=1\n")?;
    ensure!(!ready.contains("WATCHDOG=1"), "{ready}");
    // Ready means ready.
    daemon.get("/v1/health")?;
    told("WATCHDOG=1\n")?;
    let _agent = tree.start("a", "exec sleep 60")?;
    told("STATUS=watching 1 agents\n")?;
    daemon.hangup()?;
    let again = told("READY=1\n")?;
    ensure!(again.contains("RELOADING=1\nMONOTONIC_USEC="), "{again}");
    daemon.stop()?;
    told("STOPPING=1\n")?;
    Ok(())
}

fn config(place: &Place, agents: &str) -> Result<()> {
    place.file(
        "config.yaml",
        &format!(
            "apiVersion: agentwatch/v1\nkind: Config\nnode: test\nsocket: {}\ndata_dir: {}\nagents:\n{agents}",
            place.text("socket"),
            place.text("history"),
        ),
    )?;
    Ok(())
}

fn the_configuration_is_read_again() -> Result<()> {
    let tree = Tree::new("hup")?;
    let server = TcpListener::bind("127.0.0.1:0")?;
    let port = server.local_addr()?.port();
    // The server is there: what is refused is refused by the policy.
    TcpStream::connect(("127.0.0.1", port))?;
    let a = format!("  - cgroup: {}/a\n    policy: p.yaml\n", tree.cgroup());
    let b = format!("  - cgroup: {}/b\n", tree.cgroup());
    let place = Place::new()?;
    let head = "apiVersion: agentwatch/v1\nkind: Policy\n";
    place.file("p.yaml", head)?;
    config(&place, &a)?;
    let child = Daemon::child(&place)?;
    let mut daemon = Daemon { child, place }.started()?;
    let said = daemon.place.text("said");
    let connect = format!("(exec 3<>/dev/tcp/127.0.0.1/{port}) 2>/dev/null");
    let script = format!(
        "while :; do if {connect}; then echo ok; else echo refused; fi > {said}.new; mv {said}.new {said}; sleep .05; done"
    );
    let _first = tree.start("a", &format!("exec bash -c '{script}'"))?;
    let _second = tree.start("b", "exec sleep 60")?;
    let last = || fs::read_to_string(&said).unwrap_or_default();
    until("an answer", || last() == "ok\n")?;
    until("the first", || daemon.is("a", "watched"))?;
    ensure!(daemon.agent("b").is_none(), "b is watched already");
    // Another policy for one, and one more; both hold without a restart.
    let deny = format!("{head}network:\n  deny: ['127.0.0.1:{port}']\n");
    daemon.place.file("p.yaml", &deny)?;
    let called = "    name: x-{name}\n    workspace: /srv/{name}\n";
    config(&daemon.place, &format!("{a}{called}{b}"))?;
    daemon.hangup()?;
    until("no answer", || last() == "refused\n").with_context(|| daemon.said())?;
    until("the second", || daemon.is("b", "watched"))?;
    ensure!(daemon.is("a", "watched"), "{:?}", daemon.agent("a"));
    let differs = serde_json::json!(["network.deny"]);
    until("the policy to be told", || {
        daemon
            .get("/v1/policy/a")
            .is_ok_and(|policy| policy["differs"] == differs)
    })?;
    let policy = daemon.get("/v1/policy/a")?;
    ensure!(
        policy["policy"]["network"]["deny"].as_array().map(Vec::len) == Some(1),
        "{policy}"
    );
    ensure!(policy["found_by"]["by"] == "cgroup", "{policy}");
    let (ok, shown) = daemon.verb(&["policy", "show", "--agent", "a"])?;
    let of = format!(
        "# of a\n# {}, by the glob {}/a\n",
        daemon.place.text("p.yaml"),
        tree.cgroup()
    );
    ensure!(ok && shown.starts_with(&of), "{shown}");
    ensure!(shown.contains("but for network.deny\n"), "{shown}");
    // It is a policy itself.
    let copy = daemon.place.file("copy.yaml", &shown)?;
    let (ok, said) = daemon.verb(&["policy", "check", &copy])?;
    ensure!(ok, "{said}");
    // It is watched already: its name and workspace stay, and that is said.
    for field in ["name", "workspace"] {
        let said = daemon.said();
        ensure!(
            said.contains(&format!("{field} has changed, which holds for agents")),
            "{said}"
        );
    }
    // What is wrong changes nothing.
    daemon
        .place
        .file("p.yaml", &format!("{head}netwrok: {{}}\n"))?;
    daemon.hangup()?;
    until("it to be refused", || {
        daemon.said().contains("the configuration stays as it was")
    })?;
    ensure!(daemon.said().contains("netwrok"), "{}", daemon.said());
    ensure!(last() == "refused\n", "{}", last());
    ensure!(daemon.is("b", "watched"), "{:?}", daemon.agent("b"));
    // And back; the second is no agent any more.
    daemon.place.file("p.yaml", head)?;
    config(&daemon.place, &a)?;
    daemon.hangup()?;
    until("an answer again", || last() == "ok\n")?;
    until("the policy to be told as it is now", || {
        let policy = daemon.get("/v1/policy/a").unwrap_or_default();
        policy["differs"] == serde_json::json!([])
    })?;
    until("the second to be let go", || daemon.agent("b").is_none())?;
    daemon.stop()?;
    ensure!(
        daemon.said().matches("read again").count() == 2,
        "{}",
        daemon.said()
    );
    Ok(())
}

/// Not a packet gets out while another policy is put in force.
fn who_is_cut_off_stays_so_while_it_is() -> Result<()> {
    const RELOADS: usize = 10;
    let tree = Tree::new("cut")?;
    let server = UdpSocket::bind("127.0.0.1:0")?;
    server.set_nonblocking(true)?;
    let port = server.local_addr()?.port();
    let place = Place::new()?;
    let policy = |files: usize| {
        format!(
            "apiVersion: agentwatch/v1\nkind: Policy\ndetectors:\n  mass-deletion:\n    max_files: {files}\n"
        )
    };
    place.file("p.yaml", &policy(100))?;
    let client = place.file("client.py", SENDER)?;
    config(
        &place,
        &format!("  - cgroup: {}/*\n    policy: p.yaml\n", tree.cgroup()),
    )?;
    let child = Daemon::child(&place)?;
    let daemon = Daemon { child, place }.started()?;
    let _agent = tree.start("a", &format!("exec /usr/bin/python3 {client} {port}"))?;
    let mut text = [0; 16];
    until("a packet", || server.recv(&mut text).is_ok())?;
    until("the agent", || daemon.is("a", "watched"))?;
    let (ok, said) = daemon.verb(&["quarantine", "a"])?;
    ensure!(ok, "{said}");
    // What was on its way is there by then.
    let mut silent = 0;
    until("the last packet", || {
        silent = if server.recv(&mut text).is_ok() {
            0
        } else {
            silent + 1
        };
        silent > 20
    })?;
    for n in 1..=RELOADS {
        daemon.place.file("p.yaml", &policy(100 + n))?;
        daemon.hangup()?;
        until("the policy", || {
            daemon.said().matches("has another policy now").count() == n
        })?;
    }
    let mut got = 0;
    while server.recv(&mut text).is_ok() {
        got += 1;
    }
    ensure!(got == 0, "{got} packets came");
    let (ok, said) = daemon.verb(&["release", "a"])?;
    ensure!(ok, "{said}");
    until("a packet again", || server.recv(&mut text).is_ok())
}

/// Sends as fast as it can.
const SENDER: &str = "
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
while True:
    try:
        s.sendto(b'x', ('127.0.0.1', int(sys.argv[1])))
    except OSError:
        pass
";

fn the_unit_is_right() -> Result<()> {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/systemd/agentwatch.service");
    let place = Place::new()?;
    // The program that it starts must be there.
    let program = crate::support::program();
    let text = fs::read_to_string(&unit)?
        .replace("/usr/local/bin/agentwatch", &program.display().to_string());
    let copy = place.file("agentwatch.service", &text)?;
    let output = Command::new("systemd-analyze")
        .args(["verify", "--man=no", "--recursive-errors=no", &copy])
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        output.status.success() && !said.contains("agentwatch.service"),
        "{}: {said}",
        output.status
    );
    Ok(())
}
