//! What is said on a flow, by real programs: TLS, HTTP, SSH, Stratum.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::{
    support::{Agent, Background, Outcome, Place, echo, is_listening, port, python, until},
    tests,
};

tests! {
    tls_names_its_server needs "openssl";
    a_hello_in_pieces needs "python3";
    http_and_a_proxy needs "curl", "openssl", "python3";
    an_ssh_banner_on_any_port needs "ssh", "python3";
    a_miner_and_its_pool needs "python3";
}

/// The ClientHello of Firefox: 1,837 bytes, for `www.example.org`.
const HELLO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/payloads/firefox135.tls");

/// The details of messages of one kind that went one way on the flows that the agent opened.
pub fn said(outcome: &Outcome, kind: &str, way: &str) -> Result<Vec<Value>> {
    let events = outcome.events(kind)?.into_iter();
    Ok(events
        .filter(|event| event["direction"] == "out" && event["detail"]["way"] == way)
        .map(|event| event["detail"].clone())
        .collect())
}

/// `openssl s_server`, outside the agent.
fn tls_server(place: &Place, port: u16) -> Result<Background> {
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
        ])
        .args([
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=www.example.org",
            "-keyout",
            "key",
            "-out",
            "crt",
        ])
        .current_dir(place.path(""))
        .stderr(Stdio::null())
        .status()?;
    ensure!(made.success(), "making a certificate");
    let server = Background::start(
        Command::new("openssl")
            .args([
                "s_server", "-www", "-key", "key", "-cert", "crt", "-alpn", "http/1.1",
            ])
            .args(["-accept", &format!("127.0.0.1:{port}")])
            .current_dir(place.path(""))
            .stdout(Stdio::null())
            .stderr(Stdio::null()),
    )?;
    until("the TLS server", || is_listening(port))?;
    Ok(server)
}

fn tls_names_its_server() -> Result<()> {
    let place = Place::new()?;
    let port = port();
    let _server = tls_server(&place, port)?;
    let outcome = Agent::new(&place).sh(&format!(
        "openssl s_client -connect 127.0.0.1:{port} -servername www.example.org -alpn h2,http/1.1 \
         </dev/null >/dev/null 2>&1"
    ))?;
    outcome.is_quiet()?;
    let hellos = said(&outcome, "tls", "out")?;
    ensure!(hellos.len() == 1, "{hellos:?}");
    let hello = &hellos[0];
    ensure!(
        hello["tls.client.server_name"] == "www.example.org",
        "{hello}"
    );
    ensure!(
        hello["tls.client.alpn"] == json!(["h2", "http/1.1"]),
        "{hello}"
    );
    ensure!(
        hello["tls.client.supported_versions"][0] == "1.3",
        "{hello}"
    );
    // It is the only one who says so.
    let closes = outcome.events("flow_close")?;
    let detail = &closes.first().context("no flow")?["detail"];
    ensure!(
        detail["destination.domain"] == "www.example.org"
            && detail["destination.domain_source"] == "sni",
        "{detail}"
    );
    let peer = &outcome.account["peers"][format!("tcp out 127.0.0.1:{port}")];
    ensure!(peer["names"] == json!(["www.example.org"]), "{peer}");
    Ok(())
}

/// Longer than a segment, and sent in pieces; also to a server that is the agent.
fn a_hello_in_pieces() -> Result<()> {
    let place = Place::new()?;
    for pieces in [
        "[0, 1837]",
        "[0, 1, 5, 700, 1400, 1837]",
        "list(range(0, 1837, 64)) + [1837]",
    ] {
        let port = port();
        let script = format!(
            "import socket, threading, time\n\
             s = socket.create_server(('127.0.0.1', {port}))\n\
             def serve():\n\
             \x20   c, _ = s.accept(); n = 0\n\
             \x20   while n < 1837: n += len(c.recv(4096))\n\
             \x20   c.close()\n\
             t = threading.Thread(target=serve); t.start()\n\
             c = socket.create_connection(('127.0.0.1', {port})); c.setsockopt(6, 1, 1)\n\
             hello = open('{HELLO}', 'rb').read(); at = {pieces}\n\
             for a, b in zip(at, at[1:]): c.sendall(hello[a:b]); time.sleep(0.01)\n\
             t.join()"
        );
        let outcome = Agent::new(&place).run(&["/usr/bin/python3", "-c", &script])?;
        outcome.is_quiet()?;
        let hellos: Vec<Value> = outcome
            .events("tls")?
            .into_iter()
            .filter(|event| event["run"] == outcome.account["run"])
            .collect();
        let ways: Vec<&Value> = hellos.iter().map(|event| &event["detail"]["way"]).collect();
        ensure!(ways == ["out", "in"], "{pieces}: {hellos:?}");
        for event in &hellos {
            let detail = &event["detail"];
            ensure!(
                detail["tls.client.server_name"] == "www.example.org"
                    && detail["tls.client.ech"] == true
                    && detail["partial"] == Value::Null,
                "{pieces}: {detail}"
            );
        }
    }
    Ok(())
}

/// A web server, outside the agent.
pub fn web_server(place: &Place, port: u16) -> Result<Background> {
    let server = Background::start(
        Command::new("/usr/bin/python3")
            .args(["-m", "http.server", "--bind", "127.0.0.1"])
            .arg(port.to_string())
            .current_dir(place.path(""))
            .stdout(Stdio::null())
            .stderr(Stdio::null()),
    )?;
    until("the web server", || is_listening(port))?;
    Ok(server)
}

/// A proxy that knows CONNECT and nothing else.
const PROXY: &str = "
import socket, sys, threading
s = socket.create_server(('127.0.0.1', int(sys.argv[1])))
def copy(a, b):
    try:
        while d := a.recv(65536): b.sendall(d)
        b.shutdown(1)
    except OSError: pass
def serve(c):
    head = b''
    while b'\\r\\n\\r\\n' not in head: head += c.recv(4096)
    port = int(head.split()[1].split(b':')[1])
    o = socket.create_connection(('127.0.0.1', port)); c.sendall(b'HTTP/1.1 200 OK\\r\\n\\r\\n')
    threading.Thread(target=copy, args=(o, c), daemon=True).start(); copy(c, o)
while True: threading.Thread(target=serve, args=(s.accept()[0],), daemon=True).start()
";

fn http_and_a_proxy() -> Result<()> {
    let place = Place::new()?;
    let (tls, proxy, web) = (port(), port(), port());
    let _server = tls_server(&place, tls)?;
    let _proxy = Background::start(&mut python(PROXY, &[&proxy.to_string()]))?;
    let _web = web_server(&place, web)?;
    until("the proxy", || is_listening(proxy))?;
    // A target that is longer than the head of an ordinary flow.
    let long = "x".repeat(600);
    let outcome = Agent::new(&place).sh(&format!(
        "curl -s -o /dev/null -H 'Host: files.example.org:{web}' http://127.0.0.1:{web}/{long}; \
         curl -sk -o /dev/null -x http://127.0.0.1:{proxy} https://www.example.org:{tls}/"
    ))?;
    outcome.is_quiet()?;
    let requests = said(&outcome, "http", "out")?;
    ensure!(requests.len() == 2, "{requests:?}");
    let get = &requests[0];
    ensure!(
        get["http.request.method"] == "GET"
            && get["url.original"] == format!("/{long}")
            && get["url.full"] == format!("http://files.example.org:{web}/{long}")
            && get["server.address"] == "files.example.org"
            && get["server.port"] == web,
        "{get}"
    );
    let connect = &requests[1];
    ensure!(
        connect["http.request.method"] == "CONNECT"
            && connect["server.address"] == "www.example.org"
            && connect["server.port"] == tls,
        "{connect}"
    );
    let hellos = said(&outcome, "tls", "out")?;
    ensure!(
        hellos.len() == 1 && hellos[0]["tls.client.server_name"] == "www.example.org",
        "{hellos:?}"
    );
    // What is behind the proxy is not the proxy's name.
    let peers = &outcome.account["peers"];
    ensure!(
        peers[format!("tcp out 127.0.0.1:{proxy}")]["names"] == Value::Null,
        "{peers}"
    );
    ensure!(
        peers[format!("tcp out 127.0.0.1:{web}")]["names"] == json!(["files.example.org"]),
        "{peers}"
    );
    Ok(())
}

fn an_ssh_banner_on_any_port() -> Result<()> {
    let place = Place::new()?;
    let port = port();
    let _server = Background::start(&mut python(
        "import socket, sys\n\
         s = socket.create_server(('127.0.0.1', int(sys.argv[1]))); c, _ = s.accept()\n\
         c.sendall(b'Welcome\\r\\nSSH-2.0-Odd_1.0 a comment\\r\\n'); c.recv(999); c.close()",
        &[&port.to_string()],
    ))?;
    until("the server", || is_listening(port))?;
    let outcome = Agent::new(&place).sh(&format!(
        "ssh -F none -o BatchMode=yes -o UserKnownHostsFile=none -p {port} a@127.0.0.1 2>&1; true"
    ))?;
    outcome.is_quiet()?;
    let own = said(&outcome, "ssh", "out")?;
    let software = own
        .first()
        .and_then(|banner| banner["ssh.software"].as_str());
    ensure!(
        software.is_some_and(|name| name.starts_with("OpenSSH_")),
        "{own:?}"
    );
    let servers = said(&outcome, "ssh", "in")?;
    let expected = json!({"ssh.version": "2.0", "ssh.software": "Odd_1.0 a comment", "way": "in"});
    ensure!(servers == [expected], "{servers:?}");
    Ok(())
}

fn a_miner_and_its_pool() -> Result<()> {
    let place = Place::new()?;
    let port = port();
    let _pool = echo(port)?;
    // An echo is enough of a pool: what it says is what a pool says.
    let miner = format!(
        "import socket\n\
         c = socket.create_connection(('127.0.0.1', {port})); f = c.makefile('rwb', 0)\n\
         for line in [\n\
         \x20   '{{\"id\":1,\"method\":\"mining.subscribe\",\"params\":[\"cpuminer/2.5.1\"]}}',\n\
         \x20   '{{\"id\":2,\"method\":\"mining.authorize\",\"params\":[\"wallet.rig\",\"secret\"]}}',\n\
         \x20   '{{\"id\":null,\"method\":\"mining.notify\",\"params\":[\"' + 'f' * 1000 + '\"]}}',\n\
         \x20   '{{\"id\":4,\"method\":\"mining.submit\",\"params\":[\"wallet.rig\",\"1\"]}}']:\n\
         \x20   f.write(line.encode() + b'\\n'); assert f.readline()"
    );
    let outcome = Agent::new(&place).run(&["/usr/bin/python3", "-c", &miner])?;
    outcome.is_quiet()?;
    let expected =
        ["subscribe", "authorize", "notify", "submit"].map(|name| format!("mining.{name}"));
    for way in ["out", "in"] {
        let found = said(&outcome, "stratum", way)?;
        let methods: Vec<&Value> = found.iter().map(|line| &line["stratum.method"]).collect();
        ensure!(json!(methods) == json!(expected), "{way}: {methods:?}");
        ensure!(
            found[0]["stratum.software"] == "cpuminer/2.5.1",
            "{}",
            found[0]
        );
        ensure!(found[1]["stratum.user"] == "wallet.rig", "{}", found[1]);
    }
    Ok(())
}
