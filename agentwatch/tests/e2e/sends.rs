//! Bytes of a flow are the kernel's own count, whichever way they were sent and however it ends.

use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{
    support::{Agent, Background, Outcome, Place, is_listening, port, python, until},
    tests,
};

tests! {
    by_sendfile_splice_and_zero_copy needs "/usr/bin/python3";
    half_closed_and_reset needs "/usr/bin/python3";
    mapped_ipv4_is_ipv4 needs "/usr/bin/python3";
    short_flows_are_all_there needs "/usr/bin/python3";
    large_datagrams needs "/usr/bin/python3";
    an_inherited_socket needs "/usr/bin/python3";
}

/// Reads to the end of each connection and answers five bytes; resets where it is told `R` first.
const SERVER: &str = "
import socket, struct, sys, threading
s = socket.socket(); s.setsockopt(1, 2, 1); s.bind(('127.0.0.1', int(sys.argv[1]))); s.listen(500)
def go(c):
    d = c.recv(65536)
    if d[:1] == b'R':
        c.setsockopt(1, 13, struct.pack('ii', 1, 0)); c.close(); return
    while d: d = c.recv(65536)
    c.sendall(b'12345'); c.close()
while True:
    c, _ = s.accept(); threading.Thread(target=go, args=(c,)).start()
";

pub fn server(port: u16) -> Result<Background> {
    let mut command = python(SERVER, &[&port.to_string()]);
    let server = Background::start(command.stderr(Stdio::null()))?;
    until("the server", || is_listening(port))?;
    Ok(server)
}

pub fn client(place: &Place, script: &str) -> Result<Outcome> {
    let script = place.file("work/client.py", script)?;
    let outcome = Agent::new(place).run(&["/usr/bin/python3", &script])?;
    outcome.is_quiet()?;
    Ok(outcome)
}

/// The flows that ended, as (bytes out, bytes in), in order.
fn flows(outcome: &Outcome, remote: &str) -> Result<Vec<(u64, u64)>> {
    let closes = outcome.events("flow_close")?;
    let bytes = |event: &Value| Some((event["bytes_out"].as_u64()?, event["bytes_in"].as_u64()?));
    closes
        .iter()
        .filter(|event| event["remote"] == remote)
        .map(|event| bytes(event).with_context(|| event.to_string()))
        .collect()
}

fn by_sendfile_splice_and_zero_copy() -> Result<()> {
    let place = Place::new()?;
    let port = port();
    let _server = server(port)?;
    let outcome = client(
        &place,
        &format!(
            "import os, socket\n\
             open('data', 'wb').write(b'd' * 300007); f = os.open('data', os.O_RDONLY)\n\
             def to(): return socket.create_connection(('127.0.0.1', {port}))\n\
             def end(s):\n\
             \x20   s.shutdown(1); n = 0\n\
             \x20   while d := s.recv(100): n += len(d)\n\
             \x20   assert n == 5; s.close()\n\
             s = to(); n = 0\n\
             while n < 300007: n += os.sendfile(s.fileno(), f, n, 300007 - n)\n\
             end(s)\n\
             s = to(); r, w = os.pipe(); n = 0\n\
             while n < 200003:\n\
             \x20   m = os.splice(f, w, min(65536, 200003 - n), offset_src=n); n += m\n\
             \x20   while m: m -= os.splice(r, s.fileno(), m)\n\
             end(s)\n\
             s = to(); s.setsockopt(1, 60, 1); n = 0; d = b'z' * 100003\n\
             while n < len(d): n += s.send(d[n:], 0x4000000)\n\
             end(s)\n\
             s = to(); s.sendmsg([b'a' * 1000, b'b' * 2001]); os.writev(s.fileno(), [b'c' * 99]); end(s)\n"
        ),
    )?;
    let flows = flows(&outcome, &format!("127.0.0.1:{port}"))?;
    let expected = [(300_007, 5), (200_003, 5), (100_003, 5), (3100, 5)];
    ensure!(flows == expected, "{flows:?}");
    Ok(())
}

fn half_closed_and_reset() -> Result<()> {
    let place = Place::new()?;
    let port = port();
    let _server = server(port)?;
    let outcome = client(
        &place,
        &format!(
            "import socket\n\
             s = socket.create_connection(('127.0.0.1', {port})); s.sendall(b'h' * 10); s.shutdown(1)\n\
             assert s.recv(5, socket.MSG_WAITALL) == b'12345'; s.close()\n\
             s = socket.create_connection(('127.0.0.1', {port})); s.sendall(b'R' * 20)\n\
             try: s.recv(1)\n\
             except ConnectionResetError: print('reset')\n\
             s.close()\n"
        ),
    )?;
    ensure!(outcome.stdout.contains("reset"), "{}", outcome.stdout);
    let flows = flows(&outcome, &format!("127.0.0.1:{port}"))?;
    ensure!(flows == [(10, 5), (20, 0)], "{flows:?}");
    Ok(())
}

fn mapped_ipv4_is_ipv4() -> Result<()> {
    let place = Place::new()?;
    let port = port();
    let _server = server(port)?;
    let outcome = client(
        &place,
        &format!(
            "import socket\n\
             s = socket.socket(socket.AF_INET6); s.connect(('::ffff:127.0.0.1', {port}))\n\
             s.sendall(b'm' * 33); s.shutdown(1); s.recv(5, socket.MSG_WAITALL); s.close()\n"
        ),
    )?;
    let remote = format!("127.0.0.1:{port}");
    ensure!(
        flows(&outcome, &remote)? == [(33, 5)],
        "{:?}",
        flows(&outcome, &remote)
    );
    let connects = outcome.events("connect")?;
    ensure!(
        connects.iter().any(|event| event["remote"] == *remote),
        "{connects:#?}"
    );
    Ok(())
}

fn short_flows_are_all_there() -> Result<()> {
    let place = Place::new()?;
    let port = port();
    let _server = server(port)?;
    let outcome = client(
        &place,
        &format!(
            "import socket\n\
             for n in range(300):\n\
             \x20   s = socket.create_connection(('127.0.0.1', {port})); s.sendall(b'x' * (n + 1)); s.shutdown(1)\n\
             \x20   s.recv(5, socket.MSG_WAITALL); s.close()\n"
        ),
    )?;
    let mut flows = flows(&outcome, &format!("127.0.0.1:{port}"))?;
    flows.sort_unstable();
    let expected: Vec<(u64, u64)> = (1..=300).map(|n| (n, 5)).collect();
    ensure!(flows == expected, "{} flows: {flows:?}", flows.len());
    Ok(())
}

/// More than a packet holds: what is counted is what was sent, not the fragments of it.
fn large_datagrams() -> Result<()> {
    let place = Place::new()?;
    let outcome = client(
        &place,
        "import socket\n\
         a = socket.socket(2, 2); a.bind(('127.0.0.1', 0)); b = socket.socket(2, 2)\n\
         for n in [1, 1400, 9000, 60000]: b.sendto(b'u' * n, a.getsockname()); assert len(a.recv(65536)) == n\n\
         print(a.getsockname()[1]); b.close(); a.close()\n",
    )?;
    let remote = format!("127.0.0.1:{}", outcome.stdout.trim());
    let flows = flows(&outcome, &remote)?;
    ensure!(flows == [(70_401, 0)], "{flows:?}");
    Ok(())
}

/// Made by the parent, used by a child with another program: one flow, of the agent.
fn an_inherited_socket() -> Result<()> {
    let place = Place::new()?;
    let port = port();
    let _server = server(port)?;
    let outcome = client(
        &place,
        &format!(
            "import socket, subprocess\n\
             s = socket.create_connection(('127.0.0.1', {port}))\n\
             subprocess.run(['sh', '-c', 'printf 1234567'], stdout=s.fileno()); s.shutdown(1)\n\
             s.recv(5, socket.MSG_WAITALL); s.close()\n"
        ),
    )?;
    let flows = flows(&outcome, &format!("127.0.0.1:{port}"))?;
    ensure!(flows == [(7, 5)], "{flows:?}");
    Ok(())
}
