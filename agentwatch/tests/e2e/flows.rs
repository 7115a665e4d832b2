//! Flows: who, where to, and every byte.

use std::io::{BufRead as _, BufReader, Write as _};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{
    outside::Outside,
    support::{Agent, Background, Place, echo, is_listening, port, python, until},
    tests,
};

tests! {
    what_goes_on_is_told_before_it_ends needs "/usr/bin/python3";
    tcp_over_ipv4_and_ipv6 needs "python3";
    udp_connected_and_not needs "python3";
    a_refused_connection needs "python3";
    accepted_connections needs "python3";
    what_is_sent_again_is_counted needs "python3", "ip";
}

const SENT: u64 = 1_000_003;

fn closed(events: &[Value], remote: &str) -> Result<Value> {
    let found = events
        .iter()
        .find(|event| event["kind"] == "flow_close" && event["remote"] == remote);
    found
        .cloned()
        .with_context(|| format!("no flow to {remote} was closed: {events:#?}"))
}

fn tcp_over_ipv4_and_ipv6() -> Result<()> {
    let place = Place::new()?;
    for (address, shown) in [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")] {
        let port = port();
        let server = python(
            "import socket, sys\n\
             a = sys.argv[1]; s = socket.socket(10 if ':' in a else 2); s.setsockopt(1, 2, 1)\n\
             s.bind((a, int(sys.argv[2]))); s.listen(1); c, _ = s.accept(); n = 0\n\
             while True:\n\
             \x20   d = c.recv(65536); n += len(d)\n\
             \x20   if not d: break\n\
             c.sendall(b'x' * 77); c.close()",
            &[address, &port.to_string()],
        );
        let mut server = server;
        let _server = Background::start(&mut server)?;
        std::thread::sleep(std::time::Duration::from_millis(500));
        let client = format!(
            "import socket\n\
             s = socket.create_connection(('{address}', {port})); s.sendall(b'y' * {SENT}); s.shutdown(1)\n\
             n = 0\n\
             while True:\n\
             \x20   d = s.recv(100); n += len(d)\n\
             \x20   if not d: break\n\
             assert n == 77"
        );
        let outcome = Agent::new(&place).run(&["/usr/bin/python3", "-c", &client])?;
        outcome.is_quiet()?;
        let remote = format!("{shown}:{port}");
        let events = outcome.events("connect,flow_open,flow_close,flow_data")?;
        let mut kinds: Vec<&str> = Vec::new();
        for event in events.iter().filter(|event| event["remote"] == *remote) {
            kinds.push(event["kind"].as_str().unwrap_or_default());
        }
        ensure!(
            kinds.first() == Some(&"connect") && kinds.contains(&"flow_open"),
            "{kinds:?}"
        );
        let close = closed(&events, &remote)?;
        ensure!(
            close["bytes_out"] == SENT && close["bytes_in"] == 77,
            "{close}"
        );
        ensure!(
            close["detail"]["established"] == true && close["direction"] == "out",
            "{close}"
        );
        ensure!(
            close["local"]
                .as_str()
                .is_some_and(|local| !local.ends_with(":0")),
            "{close}"
        );
        let head = events
            .iter()
            .find(|event| event["kind"] == "flow_data" && event["detail"]["way"] == "in");
        ensure!(
            head.is_some_and(|event| event["detail"]["head"] == "x".repeat(77)),
            "{head:?}"
        );
    }
    Ok(())
}

fn udp_connected_and_not() -> Result<()> {
    let place = Place::new()?;
    let (one, two) = (port(), port());
    let mut server = python(
        "import socket, sys, select\n\
         ss = []\n\
         for p in sys.argv[1:]:\n\
         \x20   s = socket.socket(2, 2); s.bind(('127.0.0.1', int(p))); ss.append(s)\n\
         print('up', flush=True)\n\
         while True:\n\
         \x20   for s in select.select(ss, [], [])[0]:\n\
         \x20       d, a = s.recvfrom(9000); s.sendto(b'z' * 11, a)",
        &[&one.to_string(), &two.to_string()],
    );
    let _server = Background::start(server.stdout(std::process::Stdio::null()))?;
    std::thread::sleep(std::time::Duration::from_millis(700));
    let client = format!(
        "import socket\n\
         s = socket.socket(2, 2); s.connect(('127.0.0.1', {one})); s.settimeout(5)\n\
         for _ in range(3): s.send(b'a' * 100); s.recv(100)\n\
         s.close()\n\
         s = socket.socket(2, 2); s.settimeout(5)\n\
         for p in [{one}, {two}, {two}]: s.sendto(b'b' * 7, ('127.0.0.1', p)); s.recv(100)\n\
         s.close()"
    );
    let outcome = Agent::new(&place).run(&["/usr/bin/python3", "-c", &client])?;
    outcome.is_quiet()?;
    let closes = outcome.events("flow_close")?;
    let mut counts: Vec<(u64, u64, u64)> = closes
        .iter()
        .filter(|event| event["protocol"] == "udp")
        .map(|event| {
            let number = |name: &str| event[name].as_u64().unwrap_or(u64::MAX);
            (
                number("remote_port"),
                number("bytes_out"),
                number("bytes_in"),
            )
        })
        .collect();
    counts.sort_unstable();
    let (one, two) = (u64::from(one), u64::from(two));
    let mut expected = vec![(one, 7, 11), (one, 300, 33), (two, 14, 22)];
    expected.sort_unstable();
    ensure!(counts == expected, "{counts:?} are not {expected:?}");
    Ok(())
}

fn a_refused_connection() -> Result<()> {
    let place = Place::new()?;
    let port = port();
    let client = format!(
        "import socket\n\
         try: socket.create_connection(('127.0.0.1', {port}))\n\
         except ConnectionRefusedError: pass"
    );
    let outcome = Agent::new(&place).run(&["/usr/bin/python3", "-c", &client])?;
    outcome.is_quiet()?;
    let close = closed(&outcome.events("flow_close")?, &format!("127.0.0.1:{port}"))?;
    ensure!(close["detail"]["established"] == false, "{close}");
    ensure!(close["bytes_out"] == 0 && close["bytes_in"] == 0, "{close}");
    Ok(())
}

fn accepted_connections() -> Result<()> {
    let place = Place::new()?;
    let port = port();
    let server = format!(
        "import socket\n\
         s = socket.socket(); s.setsockopt(1, 2, 1); s.bind(('127.0.0.1', {port})); s.listen(1)\n\
         c, _ = s.accept(); assert c.recv(100) == b'question'; c.sendall(b'a longer answer'); c.close()"
    );
    let agent = Agent::new(&place);
    let running = agent
        .command(&["/usr/bin/python3", "-c", &server])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()?;
    until("the server", || is_listening(port))?;
    let client = format!(
        "import socket\ns = socket.create_connection(('127.0.0.1', {port})); s.sendall(b'question'); s.recv(100); s.close()"
    );
    ensure!(python(&client, &[]).status()?.success(), "the client");
    let outcome = agent.outcome(&running.wait_with_output()?)?;
    outcome.is_quiet()?;
    let local = format!("127.0.0.1:{port}");
    let events = outcome.events("listen,accept,flow_close")?;
    let of = |kind: &str| {
        events
            .iter()
            .find(|event| event["kind"] == kind && event["local"] == *local)
            .cloned()
    };
    of("listen").context("no listen")?;
    let accept = of("accept").context("no accept")?;
    ensure!(
        accept["direction"] == "in" && accept["pid"].as_u64() > Some(0),
        "{accept}"
    );
    let close = of("flow_close").context("no close")?;
    ensure!(
        close["bytes_in"] == 8 && close["bytes_out"] == 15 && close["cookie"] == accept["cookie"],
        "{close}"
    );
    Ok(())
}

/// The answers of a host outside are lost for a while: what is sent again is no more bytes, and counted.
fn what_is_sent_again_is_counted() -> Result<()> {
    let place = Place::new()?;
    let outside = Outside::new()?;
    let port = port();
    let _server = outside.python(
        "import socket, sys\n\
         s = socket.socket(); s.bind(('0.0.0.0', int(sys.argv[1]))); s.listen(1); c, _ = s.accept()\n\
         while c.recv(65536): pass\n\
         c.close()",
        &[&port.to_string()],
    )?;
    let address = &outside.address;
    let client = format!(
        "import socket, sys, time\n\
         for _ in range(100):\n\
         \x20   try: s = socket.create_connection(('{address}', {port}), 5); break\n\
         \x20   except OSError: time.sleep(.1)\n\
         print(s.getsockname()[0], flush=True); input()\n\
         s.sendall(b'again' * 20); time.sleep(1.5); print('sent', flush=True); input()\n\
         s.shutdown(1); s.recv(1); s.close()"
    );
    let agent = Agent::new(&place);
    let mut running = agent
        .command(&["/usr/bin/python3", "-c", &client])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()?;
    let mut input = running.stdin.take().context("no input")?;
    let mut lines = BufReader::new(running.stdout.take().context("no output")?).lines();
    let own = lines.next().context("no connection")??;
    let route = |what: &str| -> Result<()> {
        let status = outside
            .inside("ip")
            .args(["route", what, "blackhole", &own])
            .status()?;
        ensure!(status.success(), "ip route {what}: {status}");
        Ok(())
    };
    route("add")?;
    input.write_all(b"\n")?;
    lines.next().context("nothing sent")??;
    route("del")?;
    input.write_all(b"\n")?;
    let outcome = agent.outcome(&running.wait_with_output()?)?;
    outcome.is_quiet()?;
    let close = closed(&outcome.events("flow_close")?, &format!("{address}:{port}"))?;
    ensure!(close["bytes_out"] == 100, "{close}");
    let again = close["detail"]["retransmits"].as_u64();
    ensure!(again >= Some(1), "{close}");
    Ok(())
}

/// A flow and a process are told of while they go on, with what has been used by then.
fn what_goes_on_is_told_before_it_ends() -> Result<()> {
    let place = Place::new()?;
    let port = port();
    let _server = echo(port)?;
    let script = place.file(
        "work/busy.py",
        "import hashlib, socket, sys, threading, time\n\
         connection = socket.create_connection(('127.0.0.1', int(sys.argv[1])))\n\
         connection.sendall(b'x' * 1000)\n\
         end = time.time() + 16\n\
         def work():\n\
         \x20   while time.time() < end: hashlib.sha256(bytes(1 << 20)).digest()\n\
         threads = [threading.Thread(target=work) for _ in range(8)]\n\
         for thread in threads: thread.start()\n\
         for thread in threads: thread.join()\n\
         connection.sendall(b'y' * 24)\n",
    )?;
    let outcome = Agent::new(&place).run(&["/usr/bin/python3", &script, &port.to_string()])?;
    outcome.is_quiet()?;
    let events = outcome.events("flow_alive,flow_close,usage")?;
    let of = |kind: &str| events.iter().find(|event| event["kind"] == kind);
    let (alive, close) = (of("flow_alive"), of("flow_close"));
    let (alive, close) = alive.zip(close).with_context(|| format!("{events:#?}"))?;
    ensure!(
        alive["bytes_out"] == 1000 && alive["detail"]["alive"] == true,
        "{alive}"
    );
    ensure!(
        close["bytes_out"] == 1024 && close["cookie"] == alive["cookie"],
        "{close}"
    );
    let usage = of("usage").with_context(|| format!("{events:#?}"))?;
    let cpu_ns = usage["detail"]["recent_cpu_ns"].as_u64();
    ensure!(cpu_ns > Some(1_200_000_000), "{usage}");
    ensure!(
        usage["pid"] == close["pid"] && usage["comm"] == "python3",
        "{usage}"
    );
    Ok(())
}
