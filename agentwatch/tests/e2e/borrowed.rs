//! Sockets that somebody outside made, and flows from before the watching: what is credited to the agent,
//! and from when on.

use std::{
    fs,
    io::BufReader,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use agentwatch::{
    decode,
    event::{Kind, SocketOrigin},
    recording::Recording,
};
use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::{
    sends::{client, server},
    support::{Agent, Background, Cgroup, Outcome, Place, port, program, python, until},
    tests,
};

tests! {
    a_socket_from_a_message needs "/usr/bin/python3";
    a_connection_from_before needs "/usr/bin/python3";
    a_listener_from_before needs "/usr/bin/python3";
    what_the_giver_keeps_is_told_at_the_end needs "/usr/bin/python3";
    datagrams_of_a_socket_from_before needs "/usr/bin/python3";
    datagrams_of_a_socket_from_a_message needs "/usr/bin/python3";
    flows_alive_at_the_start needs "/usr/bin/python3";
}

/// Exactly one flow with this peer ended, whose socket somebody else made, with so many bytes.
fn borrowed(outcome: &Outcome, remote: &str, origin: &str, bytes: (u64, u64)) -> Result<()> {
    let closes = outcome.events("flow_close")?;
    let of_it: Vec<&Value> = closes
        .iter()
        .filter(|event| event["remote"] == remote)
        .collect();
    let [close] = of_it[..] else {
        bail!("not one flow with {remote}: {closes:#?}");
    };
    ensure!(close["detail"]["origin"] == origin, "{close}");
    ensure!(
        (close["bytes_out"].as_u64(), close["bytes_in"].as_u64()) == (Some(bytes.0), Some(bytes.1)),
        "{close}"
    );
    ensure!(close["pid"].as_u64() > Some(0), "{close}");
    Ok(())
}

/// Runs a Python program as an agent, started by another one outside that has a socket as descriptor 9.
fn with_descriptor_9(place: &Place, outside: &str, inside: &str) -> Result<Outcome> {
    let agent = Agent::new(place);
    let command = agent.command(&["/usr/bin/python3", "-c", inside]);
    let mut words: Vec<String> = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(
        command
            .get_args()
            .map(|word| word.to_string_lossy().into_owned()),
    );
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let script = format!(
        "import os, socket, subprocess, sys, time\n{outside}\nos.dup2(s.fileno(), 9)\n\
         sys.exit(subprocess.run(sys.argv[1:], pass_fds=[9]).returncode)"
    );
    let output = python(&script, &words)
        .current_dir(place.path("work"))
        .output()?;
    let outcome = agent.outcome(&output)?;
    outcome.is_quiet()?;
    Ok(outcome)
}

/// A connection that was there before the agent, as a service manager passes it on: the bytes before are
/// not the agent's.
fn a_connection_from_before() -> Result<()> {
    let place = Place::new()?;
    let port = port();
    let _server = server(port)?;
    let outcome = with_descriptor_9(
        &place,
        &format!("s = socket.create_connection(('127.0.0.1', {port})); s.sendall(b'before')"),
        "import socket\n\
         s = socket.socket(fileno=9); s.sendall(b'inherited'); s.shutdown(1)\n\
         assert s.recv(5, socket.MSG_WAITALL) == b'12345'; assert s.recv(1) == b''",
    )?;
    let remote = format!("127.0.0.1:{port}");
    let inherited = outcome.events("socket_inherited")?;
    ensure!(
        inherited.iter().any(|event| event["remote"] == *remote),
        "{inherited:#?}"
    );
    borrowed(&outcome, &remote, "inherited", (9, 5))
}

/// A listener that was there before the agent: what it accepts has the listener's cgroup.
fn a_listener_from_before() -> Result<()> {
    let place = Place::new()?;
    let (port, own) = (port(), port());
    let mut client = python(
        "import socket, sys, time\n\
         time.sleep(1)\n\
         s = socket.socket(); s.bind(('127.0.0.1', int(sys.argv[2])))\n\
         for _ in range(300):\n\
         \x20   try: s.connect(('127.0.0.1', int(sys.argv[1]))); break\n\
         \x20   except OSError: time.sleep(.1)\n\
         s.sendall(b'q' * 1234); s.shutdown(1); s.recv(7, socket.MSG_WAITALL)",
        &[&port.to_string(), &own.to_string()],
    );
    let _client = Background::start(&mut client)?;
    let outcome = with_descriptor_9(
        &place,
        &format!(
            "s = socket.socket(); s.setsockopt(1, 2, 1); s.bind(('127.0.0.1', {port})); s.listen(5)"
        ),
        "import socket\n\
         s = socket.socket(fileno=9); c, _ = s.accept(); n = 0\n\
         while True:\n\
         \x20   d = c.recv(9999); n += len(d)\n\
         \x20   if not d: break\n\
         assert n == 1234; c.sendall(b'answer!'); c.close()",
    )?;
    borrowed(
        &outcome,
        &format!("127.0.0.1:{own}"),
        "inherited",
        (7, 1234),
    )
}

/// A connection that somebody outside the agent made, and gave to it.
fn a_socket_from_a_message() -> Result<()> {
    let place = Place::new()?;
    let port = port();
    let _server = server(port)?;
    let giver = place.text("giver");
    let mut outside = python(
        "import array, socket, sys\n\
         u = socket.socket(socket.AF_UNIX); u.bind(sys.argv[1]); u.listen(1); c, _ = u.accept()\n\
         s = socket.create_connection(('127.0.0.1', int(sys.argv[2])))\n\
         c.sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [s.fileno()]))])\n\
         c.recv(1)",
        &[&giver, &port.to_string()],
    );
    let _outside = Background::start(&mut outside)?;
    until("the giver", || place.path("giver").exists())?;
    std::thread::sleep(Duration::from_millis(300));
    let outcome = client(
        &place,
        &format!(
            "import socket\n\
             u = socket.socket(socket.AF_UNIX); u.connect('{giver}')\n\
             _, fds, _, _ = socket.recv_fds(u, 1, 4); s = socket.socket(fileno=fds[0])\n\
             s.sendall(b'given'); s.shutdown(1); s.recv(5, socket.MSG_WAITALL)\n"
        ),
    )?;
    let remote = format!("127.0.0.1:{port}");
    let received = outcome.events("socket_received")?;
    ensure!(
        received.iter().any(|event| event["remote"] == *remote),
        "{received:#?}"
    );
    borrowed(&outcome, &remote, "received", (5, 5))
}

/// The giver keeps its descriptor, so the connection goes on when the agent has ended: what the agent
/// did is told then.
fn what_the_giver_keeps_is_told_at_the_end() -> Result<()> {
    let place = Place::new()?;
    let port = port();
    let _server = server(port)?;
    let outcome = with_descriptor_9(
        &place,
        &format!("s = socket.create_connection(('127.0.0.1', {port})); s.sendall(b'before')"),
        "import socket\n\
         s = socket.socket(fileno=9); s.sendall(b'x' * 77); s.detach()",
    )?;
    borrowed(&outcome, &format!("127.0.0.1:{port}"), "inherited", (77, 0))?;
    let closes = outcome.events("flow_close")?;
    ensure!(closes[0]["detail"]["alive"] == true, "{closes:#?}");
    Ok(())
}

/// Whether this kernel tells how much goes through a UDP socket.
fn has_lengths() -> bool {
    let has = Path::new("/sys/kernel/tracing/events/sock/sock_send_length").exists();
    if !has {
        eprintln!("skipped: this kernel has no tracepoint sock_send_length (since 6.3)");
    }
    has
}

/// A socket that has a peer, and that the giver goes on to use beside the agent.
fn datagrams_of_a_socket_from_before() -> Result<()> {
    if !has_lengths() {
        return Ok(());
    }
    let place = Place::new()?;
    let port = port();
    let outcome = with_descriptor_9(
        &place,
        &format!(
            "r = socket.socket(type=socket.SOCK_DGRAM); r.bind(('127.0.0.1', {port}))\n\
             s = socket.socket(type=socket.SOCK_DGRAM); s.connect(('127.0.0.1', {port}))\n\
             s.send(b'before'); r.sendto(b'12345', s.getsockname())"
        ),
        "import socket\n\
         s = socket.socket(fileno=9); s.send(b'x' * 100); s.sendall(b'y' * 11)\n\
         assert s.recv(9, socket.MSG_PEEK) == b'12345'; assert s.recv(9) == b'12345'; s.detach()",
    )?;
    borrowed(
        &outcome,
        &format!("127.0.0.1:{port}"),
        "inherited",
        (111, 5),
    )?;
    let closes = outcome.events("flow_close")?;
    ensure!(closes[0]["detail"]["alive"] == true, "{closes:#?}");
    Ok(())
}

/// Sockets without a peer, of which the agent has the only descriptor: their ends are told while the agent
/// runs. What goes through the first one may come before it is counted, and the event says so.
fn datagrams_of_a_socket_from_a_message() -> Result<()> {
    if !has_lengths() {
        return Ok(());
    }
    let place = Place::new()?;
    let (port, own) = (port(), port());
    let giver = place.text("giver");
    let mut outside = python(
        "import array, socket, sys\n\
         r = socket.socket(type=socket.SOCK_DGRAM); r.bind(('127.0.0.1', int(sys.argv[2])))\n\
         u = socket.socket(socket.AF_UNIX); u.bind(sys.argv[1]); u.listen(1); c, _ = u.accept()\n\
         for own in (0, int(sys.argv[3])):\n\
         \x20   s = socket.socket(type=socket.SOCK_DGRAM); s.bind(('127.0.0.1', own))\n\
         \x20   rights = array.array('i', [s.fileno()])\n\
         \x20   c.sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]); s.close()\n\
         data, peer = r.recvfrom(999); assert data == b'q' * 321; r.sendto(b'answer', peer)\n\
         c.recv(1)",
        &[&giver, &port.to_string(), &own.to_string()],
    );
    let _outside = Background::start(&mut outside)?;
    until("the giver", || place.path("giver").exists())?;
    std::thread::sleep(Duration::from_millis(300));
    let outcome = client(
        &place,
        &format!(
            "import socket, time\n\
             u = socket.socket(socket.AF_UNIX); u.connect('{giver}')\n\
             _, first, _, _ = socket.recv_fds(u, 1, 4); time.sleep(1)\n\
             _, fds, _, _ = socket.recv_fds(u, 1, 4); s = socket.socket(fileno=fds[0])\n\
             s.sendto(b'q' * 321, ('127.0.0.1', {port})); assert s.recv(99) == b'answer'\n\
             s.close(); time.sleep(2.5)\n"
        ),
    )?;
    let closes = outcome.events("flow_close")?;
    ensure!(
        closes
            .iter()
            .filter(|event| event["detail"]["partial"] == true)
            .count()
            == 1,
        "{closes:#?}"
    );
    let local = format!("127.0.0.1:{own}");
    let [close] = &closes
        .iter()
        .filter(|event| event["local"] == *local)
        .collect::<Vec<_>>()[..]
    else {
        bail!("not one flow of {local}: {closes:#?}");
    };
    ensure!(
        close["bytes_out"] == 321
            && close["bytes_in"] == 6
            && close["detail"]["origin"] == "received",
        "{close}"
    );
    let detail = &close["detail"];
    ensure!(
        detail["alive"] != true && detail["partial"].is_null(),
        "{close}"
    );
    Ok(())
}

/// Connects, says something, and waits for a line; then sends so many bytes more.
const WAITS: &str = "
import os, socket, sys
cgroup, port, number = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
if cgroup: open(cgroup + '/cgroup.procs', 'w').write(str(os.getpid()))
s = socket.create_connection(('127.0.0.1', port)); s.sendall(b'from before'); print(os.getpid(), flush=True)
input(); s.sendall(b'x' * number); s.shutdown(1); assert s.recv(5, socket.MSG_WAITALL) == b'12345'
";

/// A process that was moved to the agent's cgroup with its connection, one that made it there, and one
/// that comes later: the bytes of each count from then on.
fn flows_alive_at_the_start() -> Result<()> {
    let place = Place::new()?;
    let port = port();
    let _server = server(port)?;
    let cgroup = Cgroup::new("alive")?;
    let inside = cgroup.0.display().to_string();
    let mut clients = Vec::new();
    for (own, bytes) in [("", 1000), (&*inside, 2000), ("", 3000)] {
        let mut command = Command::new("/usr/bin/python3");
        command.args(["-c", WAITS, own, &port.to_string(), &bytes.to_string()]);
        let mut client = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        let output = client.stdout.as_mut().context("no output")?;
        std::io::BufRead::read_line(&mut BufReader::new(output), &mut line)?;
        clients.push(client);
    }
    let [first, _, last] = &clients[..] else {
        bail!("not three");
    };
    let enter = |pid: u32| fs::write(cgroup.0.join("cgroup.procs"), pid.to_string());
    enter(first.id())?;
    let recording = place.path("r.awrec");
    // It ends also where this test fails, and passes the signal on.
    let mut record = Command::new("timeout");
    record.args(["-s", "INT", "-k", "5", "60"]).arg(program());
    record.args(["record", "--to"]).arg(&recording);
    record.arg("--cgroup").arg(&cgroup.0).stderr(Stdio::null());
    let mut record = record.spawn()?;
    // What is there at the start stands in it once the agent is watched.
    until("the start", || {
        fs::metadata(&recording).is_ok_and(|file| file.len() > 200)
    })?;
    enter(last.id())?;
    std::thread::sleep(Duration::from_millis(500));
    for client in &mut clients {
        let mut input = client.stdin.take().context("no input")?;
        std::io::Write::write_all(&mut input, b"\n")?;
        drop(input);
        ensure!(client.wait()?.success(), "a client");
    }
    let pid = record.id().to_string();
    Command::new("kill").args(["-INT", &pid]).status()?;
    record.wait()?;
    let mut recording = Recording::open(&recording)?;
    let mut flows = Vec::new();
    while let Some(bytes) = recording.read()? {
        if let Kind::FlowClose(close) = decode::decode(&bytes)?.kind {
            flows.push((close.bytes_out, close.bytes_in, close.origin));
        }
    }
    flows.sort_by_key(|(out, ..)| *out);
    let inherited = Some(SocketOrigin::Inherited);
    let expected = [(1000, 5, inherited), (2000, 5, None), (3000, 5, inherited)];
    ensure!(flows == expected, "{flows:?}");
    Ok(())
}
