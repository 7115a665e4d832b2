//! DNS, by real resolvers and a real name server; and the names that follow from it.

use std::process::{Command, Stdio};

use agentwatch_common::flow;
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::{
    payload::{said, web_server},
    support::{Agent, Background, Place, port, program, until},
    tests,
};

tests! {
    from_a_name_server needs "dnsmasq", "dig", "curl", "python3";
    by_glibc needs "dnsmasq", "getent", "unshare";
    one_socket_for_many_questions needs "dnsmasq", "python3";
    a_flood_of_questions_is_bounded needs "python3";
}

/// dnsmasq, outside the agent: `www.example.org` is another name of `web.example.org`, which is
/// 127.0.0.1.
fn name_server(address: &str, port: u16) -> Result<Background> {
    let server = Background::start(
        Command::new("dnsmasq")
            .args([
                "-k",
                "--conf-file=/dev/null",
                "--bind-interfaces",
                "--no-resolv",
                "--no-hosts",
            ])
            .args(["--user=root", "--pid-file=", &format!("--port={port}")])
            .arg(format!("--listen-address={address}"))
            .args([
                "--host-record=web.example.org,127.0.0.1,60",
                "--address=/nx.example.org/",
                "--edns-packet-max=4096",
            ])
            .arg("--cname=www.example.org,web.example.org")
            .arg(format!(
                "--txt-record=long.example.org,{}",
                vec!["x".repeat(200); 9].join(",")
            ))
            .stderr(Stdio::null()),
    )?;
    // By its address too: another test's may use the same port elsewhere.
    let hex: Vec<String> = address
        .split('.')
        .rev()
        .map(|n| format!("{:02X}", n.parse().unwrap_or(0_u8)))
        .collect();
    let wanted = format!(" {}:{port:04X} ", hex.concat());
    until("the name server", || {
        std::fs::read_to_string("/proc/net/tcp").is_ok_and(|table| table.contains(&wanted))
    })?;
    Ok(server)
}

fn from_a_name_server() -> Result<()> {
    let place = Place::new()?;
    let (dns, web) = (port(), port());
    let _names = name_server("127.0.0.1", dns)?;
    let _web = web_server(&place, web)?;
    let record = place.text("record");
    let outcome = Agent::new(&place).with("--record", &record).sh(&format!(
        "set -e; dig='dig +tries=1 +short @127.0.0.1 -p {dns}'\n\
         test \"$($dig WWW.example.org | tail -n 1)\" = 127.0.0.1\n\
         $dig no.nx.example.org\n\
         test \"$($dig +bufsize=4096 TXT long.example.org | wc -c)\" -gt 1800\n\
         $dig +tcp TXT long.example.org >/dev/null\n\
         curl -s -o /dev/null http://127.0.0.1:{web}/"
    ))?;
    outcome.is_quiet()?;
    let questions: Vec<Value> = said(&outcome, "dns", "out")?;
    let names: Vec<&Value> = questions
        .iter()
        .map(|dns| &dns["dns.question.name"])
        .collect();
    ensure!(
        names
            == [
                "WWW.example.org",
                "no.nx.example.org",
                "long.example.org",
                "long.example.org"
            ],
        "{names:?}"
    );
    let answers = said(&outcome, "dns", "in")?;
    ensure!(answers.len() == 4, "{answers:?}");
    ensure!(
        answers[0]["dns.resolved_ip"] == json!(["127.0.0.1"]),
        "{}",
        answers[0]
    );
    ensure!(
        answers[0]["dns.answers"][0]["type"] == "CNAME",
        "{}",
        answers[0]
    );
    ensure!(
        answers[1]["dns.response_code"] == "NXDOMAIN",
        "{}",
        answers[1]
    );
    // An answer of 1,800 bytes is whole; the last is over TCP.
    for long in &answers[2..] {
        ensure!(
            long["dns.answers"][0]["bytes"] == 9 * 201 && long["partial"] == Value::Null,
            "{long}"
        );
    }
    let remote = format!("127.0.0.1:{web}");
    for event in outcome.events("connect,flow_open,flow_close")? {
        if event["remote"] == *remote && event["direction"] == "out" {
            let detail = &event["detail"];
            ensure!(
                detail["destination.domain"] == "www.example.org"
                    && detail["destination.domain_source"] == "dns",
                "{event}"
            );
        }
    }
    let peer = &outcome.account["peers"][format!("tcp out {remote}")];
    ensure!(peer["names"] == json!(["www.example.org"]), "{peer}");
    let replay = Command::new(program()).args(["replay", &record]).output()?;
    let page = String::from_utf8(replay.stdout)?;
    let line = format!("tcp out {remote} www.example.org ");
    ensure!(page.contains(&line), "no {line:?} in {page}");
    Ok(())
}

/// The C library's own resolver, with its nameserver in a mount namespace of its own: over UDP, A and
/// AAAA by one socket; and over TCP.
fn by_glibc() -> Result<()> {
    let place = Place::new()?;
    let id = std::process::id();
    let address = format!("127.77.{}.{}", id / 250 % 250, 1 + id % 250);
    let _names = name_server(&address, 53)?;
    for options in ["timeout:5", "use-vc"] {
        let file = place.file(
            "resolv.conf",
            &format!("nameserver {address}\noptions {options}\n"),
        )?;
        let outcome = Agent::new(&place).run(&[
            "unshare",
            "-m",
            "sh",
            "-ec",
            &format!(
                "mount --bind {file} /etc/resolv.conf; echo 'hosts: dns' > conf; \
                 mount --bind conf /etc/nsswitch.conf; getent ahosts www.example.org"
            ),
        ])?;
        ensure!(
            outcome.stdout.contains("127.0.0.1"),
            "{} {}",
            outcome.stdout,
            outcome.stderr
        );
        outcome.is_quiet()?;
        let run = &outcome.account["run"];
        let found: Vec<Value> = outcome
            .events("dns")?
            .into_iter()
            .filter(|event| event["run"] == *run && event["remote"] == format!("{address}:53"))
            .collect();
        let mut short: Vec<String> = found
            .iter()
            .map(|event| {
                let text = |name: &str| event["detail"][name].as_str().unwrap_or("?").to_owned();
                [
                    event["protocol"].as_str().unwrap_or("?"),
                    &text("dns.type"),
                    &text("dns.question.type"),
                ]
                .join(" ")
            })
            .collect();
        short.sort_unstable();
        let protocol = if options == "use-vc" { "tcp" } else { "udp" };
        let expected = ["answer A", "answer AAAA", "query A", "query AAAA"];
        ensure!(
            short == expected.map(|what| format!("{protocol} {what}")),
            "{found:#?}"
        );
        let resolved = found
            .iter()
            .any(|event| event["detail"]["dns.resolved_ip"] == json!(["127.0.0.1"]));
        ensure!(resolved, "{found:#?}");
    }
    Ok(())
}

/// More than the first packets of a flow: each question and each answer is seen.
fn one_socket_for_many_questions() -> Result<()> {
    let place = Place::new()?;
    let dns = port();
    let _names = name_server("127.0.0.1", dns)?;
    let script = format!(
        "import socket\n\
         s = socket.socket(2, 2); s.connect(('127.0.0.1', {dns})); s.settimeout(5)\n\
         for n in range(40):\n\
         \x20   q = b'\\x03n%02d\\x02nx\\x07example\\x03org\\0\\0\\1\\0\\1' % n\n\
         \x20   s.send(bytes([n, n, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]) + q); s.recv(999)"
    );
    let outcome = Agent::new(&place).run(&["/usr/bin/python3", "-c", &script])?;
    outcome.is_quiet()?;
    let expected: Vec<String> = (0..40).map(|n| format!("n{n:02}.nx.example.org")).collect();
    for way in ["out", "in"] {
        let found = said(&outcome, "dns", way)?;
        let names: Vec<&Value> = found.iter().map(|dns| &dns["dns.question.name"]).collect();
        ensure!(json!(names) == json!(expected), "{way}: {names:?}");
    }
    Ok(())
}

/// Of more questions than anybody asks some are seen, and none is lost on the way.
fn a_flood_of_questions_is_bounded() -> Result<()> {
    let place = Place::new()?;
    let dns = port();
    let script = format!(
        "import socket\n\
         r = socket.socket(2, 2); r.bind(('127.0.0.1', {dns}))\n\
         s = socket.socket(2, 2); s.connect(('127.0.0.1', {dns}))\n\
         for n in range(5000):\n\
         \x20   s.send(n.to_bytes(2, 'big') + b'\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0\\1a\\0\\0\\1\\0\\1')"
    );
    let outcome = Agent::new(&place).run(&["/usr/bin/python3", "-c", &script])?;
    outcome.is_quiet()?;
    let events: Vec<Value> = outcome
        .events("dns")?
        .into_iter()
        .filter(|event| event["direction"] == "out")
        .collect();
    let time = |event: Option<&Value>| -> Result<jiff::Timestamp> {
        let text = event.and_then(|event| event["time"].as_str());
        Ok(text.context("no question")?.parse()?)
    };
    let took = time(events.last())?.duration_since(time(events.first())?);
    let window = 1 << flow::DNS_WINDOW_SHIFT;
    let windows = usize::try_from(took.as_nanos() / window)? + 2;
    let most = windows * usize::from(flow::DNS_MESSAGES);
    ensure!(
        (usize::from(flow::DNS_MESSAGES)..=most).contains(&events.len()),
        "{} in {took}",
        events.len()
    );
    // Those that are not seen are counted as bytes.
    let closes = outcome.events("flow_close")?;
    let close = closes.iter().find(|event| event["direction"] == "out");
    ensure!(
        close.is_some_and(|close| close["bytes_out"] == 5000 * 19),
        "{closes:?}"
    );
    Ok(())
}
