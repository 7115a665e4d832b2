//! Denial: what the policy does not allow fails with EPERM, and is told.

use std::{fs, process::Stdio};

use agentwatch::{
    decode, event,
    policy::Policy,
    probe::{Options, Probe},
    source::Source,
};
use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::{
    support::{Agent, Background, Cgroup, Outcome, Place, echo, port, python, until},
    tests,
};

tests! {
    connections_over_ipv4_ipv6_and_mapped needs "/usr/bin/python3";
    datagrams_connected_and_not needs "/usr/bin/python3";
    only_what_is_allowed needs "/usr/bin/python3";
    own_addresses needs "/usr/bin/python3";
    kinds_of_sockets needs "/usr/bin/python3";
    packets_of_raw_sockets_and_icmp needs "/usr/bin/python3";
    devices needs "/usr/bin/python3";
    sysctls needs "/usr/bin/python3";
    observed_only needs "/usr/bin/python3";
    a_flood_of_attempts needs "/usr/bin/python3";
    quarantine_cuts_what_is_open needs "/usr/bin/python3";
    what_cannot_be_refused_is_an_error needs "true";
}

/// What every script begins with: `t` prints a name and how it went.
const TRY: &str = "
import socket as S, errno, os
def t(name, f):
    try: f(); print(name, 'ok', flush=True)
    except OSError as e: print(name, errno.errorcode.get(e.errno, str(e)), flush=True)
def conn(a, p, kind=1):
    s = S.socket(10 if ':' in a else 2, kind); s.settimeout(5); s.connect((a, p)); s.close()
def send(a, p, family=0):
    s = S.socket(family or (10 if ':' in a else 2), 2); s.sendto(b'x', (a, p)); s.close()
def bind(a, p):
    s = S.socket(10 if ':' in a else 2, 1); s.bind((a, p)); s.close()
";

/// Runs a script under a policy; what it printed, by name.
fn run(place: &Place, policy: &str, script: &str) -> Result<(Outcome, Vec<(String, String)>)> {
    let head = "apiVersion: agentwatch/v1\nkind: Policy\n";
    let policy = place.file("policy.yaml", &format!("{head}{policy}"))?;
    let script = place.file("work/script.py", &format!("{TRY}{script}"))?;
    let outcome = Agent::new(place)
        .with("--policy", &policy)
        .run(&["/usr/bin/python3", &script])?;
    ensure!(outcome.status == Some(0), "{}", outcome.stderr);
    ensure!(
        outcome.account["events"]["lost"] == serde_json::json!([]),
        "lost: {}",
        outcome.account["events"]
    );
    let words = outcome.stdout.lines().filter_map(|l| l.split_once(' '));
    let said = words.map(|(a, b)| (a.to_owned(), b.to_owned())).collect();
    Ok((outcome, said))
}

/// It went as it should: each that is named.
fn went(said: &[(String, String)], expected: &[(&str, &str)]) -> Result<()> {
    let said: Vec<(&str, &str)> = said.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    ensure!(said == expected, "{said:?} is not {expected:?}");
    Ok(())
}

/// The denials: operation, what about, rule.
fn denials(outcome: &Outcome) -> Result<Vec<(String, String, String)>> {
    let text = |event: &Value, name: &str| event["detail"][name].as_str().unwrap_or("").to_owned();
    let events = outcome.events("denied")?;
    for event in &events {
        ensure!(
            event["result"] == -1 && event["pid"].as_u64() > Some(0),
            "{event}"
        );
    }
    Ok(events
        .iter()
        .map(|e| (text(e, "operation"), text(e, "target"), text(e, "rule")))
        .collect())
}

fn is_denied(outcome: &Outcome, expected: &[(&str, &str, &str)]) -> Result<()> {
    let told = denials(outcome)?;
    let told: Vec<(&str, &str, &str)> = told
        .iter()
        .map(|(a, b, c)| (a.as_str(), b.as_str(), c.as_str()))
        .collect();
    ensure!(told == expected, "{told:#?} is not {expected:#?}");
    // One finding for each rule.
    let mut rules: Vec<&str> = expected.iter().map(|(_, _, rule)| *rule).collect();
    rules.sort_unstable();
    rules.dedup();
    ensure!(
        outcome.findings.len() == rules.len(),
        "{:#?}",
        outcome.findings
    );
    for finding in &outcome.findings {
        ensure!(
            finding["detector"] == "policy-violation"
                && finding["severity"] == "medium"
                && finding["response"]["taken"] == "alert",
            "{finding}"
        );
    }
    Ok(())
}

fn connections_over_ipv4_ipv6_and_mapped() -> Result<()> {
    let place = Place::new()?;
    let port = port();
    let _server = echo(port)?;
    let policy = format!("network: {{deny: ['127.0.0.0/8:{port}', 'tcp [::1]:{port}']}}\n");
    let script = format!(
        "p = {port}\n\
         t('v4', lambda: conn('127.0.0.1', p))\n\
         t('v6', lambda: conn('::1', p))\n\
         t('mapped', lambda: conn('::ffff:127.0.0.1', p))\n\
         t('any4', lambda: conn('0.0.0.0', p))\n\
         t('any6', lambda: conn('::', p))\n\
         t('mapped-any', lambda: conn('::ffff:0.0.0.0', p))\n\
         t('another-port', lambda: conn('127.0.0.1', p + 7000))\n\
         t('fastopen', lambda: S.socket(2, 1).sendto(b'x', 0x20000000, ('127.0.0.1', p)))\n"
    );
    let (outcome, said) = run(&place, &policy, &script)?;
    let no = "EPERM";
    went(
        &said,
        &[
            ("v4", no),
            ("v6", no),
            ("mapped", no),
            ("any4", no),
            ("any6", no),
            ("mapped-any", no),
            ("another-port", "ECONNREFUSED"),
            ("fastopen", no),
        ],
    )?;
    let (v4, v6) = ("network.deny[0]", "network.deny[1]");
    let target = |address: &str| format!("{address}:{port} (tcp)");
    is_denied(
        &outcome,
        &[
            ("connect", &target("127.0.0.1"), v4),
            ("connect", &target("[::1]"), v6),
            ("connect", &target("127.0.0.1"), v4),
            ("connect", &target("0.0.0.0"), v4),
            ("connect", &target("[::]"), v6),
            ("connect", &target("0.0.0.0"), v4),
            ("connect", &target("127.0.0.1"), v4),
        ],
    )?;
    // Nothing of it was a connection.
    let tried = outcome.events("connect,flow_open")?;
    ensure!(tried.len() == 1, "{tried:#?}");
    Ok(())
}

fn datagrams_connected_and_not() -> Result<()> {
    let place = Place::new()?;
    let port = port();
    let policy = format!("network: {{deny: ['udp 127.0.0.1:{port}', '::1']}}\n");
    let script = format!(
        "p = {port}\n\
         t('named', lambda: send('127.0.0.1', p))\n\
         t('connected', lambda: conn('127.0.0.1', p, 2))\n\
         t('mapped', lambda: send('::ffff:127.0.0.1', p))\n\
         t('v6', lambda: send('::1', p))\n\
         t('v6-connected', lambda: conn('::1', p, 2))\n\
         t('another-port', lambda: send('127.0.0.1', p + 7000))\n\
         t('tcp', lambda: conn('127.0.0.1', p))\n\
         s = S.socket(2, 2)\n\
         t('first-allowed', lambda: s.sendto(b'x', ('127.0.0.1', p + 7000)))\n\
         t('then-denied', lambda: s.sendto(b'x', ('127.0.0.1', p)))\n"
    );
    let (outcome, said) = run(&place, &policy, &script)?;
    let no = "EPERM";
    went(
        &said,
        &[
            ("named", no),
            ("connected", no),
            ("mapped", no),
            ("v6", no),
            ("v6-connected", no),
            ("another-port", "ok"),
            ("tcp", "ECONNREFUSED"),
            ("first-allowed", "ok"),
            ("then-denied", no),
        ],
    )?;
    let (v4, v6) = (
        format!("127.0.0.1:{port} (udp)"),
        format!("[::1]:{port} (udp)"),
    );
    is_denied(
        &outcome,
        &[
            ("sendmsg", &v4, "network.deny[0]"),
            ("connect", &v4, "network.deny[0]"),
            ("sendmsg", &v4, "network.deny[0]"),
            ("sendmsg", &v6, "network.deny[1]"),
            ("connect", &v6, "network.deny[1]"),
            ("sendmsg", &v4, "network.deny[0]"),
        ],
    )
}

fn only_what_is_allowed() -> Result<()> {
    let place = Place::new()?;
    let (allowed, another) = (port(), port());
    let _servers = [echo(allowed)?, echo(another)?];
    let policy = format!(
        "network: {{default: deny, allow: ['127.0.0.0/8:{allowed}'], deny: ['127.0.0.9']}}\n"
    );
    let script = format!(
        "t('allowed', lambda: conn('127.0.0.1', {allowed}))\n\
         t('mapped', lambda: conn('::ffff:127.0.0.1', {allowed}))\n\
         t('another', lambda: conn('127.0.0.1', {another}))\n\
         t('v6', lambda: conn('::1', {allowed}))\n\
         t('more-exact', lambda: conn('127.0.0.9', {allowed}))\n"
    );
    let (outcome, said) = run(&place, &policy, &script)?;
    let no = "EPERM";
    went(
        &said,
        &[
            ("allowed", "ok"),
            ("mapped", "ok"),
            ("another", no),
            ("v6", no),
            ("more-exact", no),
        ],
    )?;
    is_denied(
        &outcome,
        &[
            (
                "connect",
                &format!("127.0.0.1:{another} (tcp)"),
                "network.default",
            ),
            (
                "connect",
                &format!("[::1]:{allowed} (tcp)"),
                "network.default",
            ),
            (
                "connect",
                &format!("127.0.0.9:{allowed} (tcp)"),
                "network.deny[0]",
            ),
        ],
    )
}

fn own_addresses() -> Result<()> {
    let place = Place::new()?;
    let port = port();
    let policy = "network: {bind: {default: deny, allow: [127.0.0.1]}}\n";
    let script = format!(
        "t('allowed', lambda: bind('127.0.0.1', {port}))\n\
         t('mapped', lambda: bind('::ffff:127.0.0.1', {port}))\n\
         t('any', lambda: bind('0.0.0.0', {port}))\n\
         t('v6', lambda: bind('::', {port}))\n"
    );
    let (outcome, said) = run(&place, policy, &script)?;
    went(
        &said,
        &[
            ("allowed", "ok"),
            ("mapped", "ok"),
            ("any", "EPERM"),
            ("v6", "EPERM"),
        ],
    )?;
    let rule = "network.bind.default";
    is_denied(
        &outcome,
        &[
            ("bind", &format!("0.0.0.0:{port} (tcp)"), rule),
            ("bind", &format!("[::]:{port} (tcp)"), rule),
        ],
    )
}

fn kinds_of_sockets() -> Result<()> {
    let place = Place::new()?;
    let script = "t('tcp', lambda: S.socket(2, 1))\n\
                  t('udp6', lambda: S.socket(10, 2))\n\
                  t('raw', lambda: S.socket(2, 3, 1))\n\
                  t('raw6', lambda: S.socket(10, 3, 58))\n\
                  t('unix', lambda: S.socket(1, 1))\n";
    let (outcome, said) = run(&place, "sockets: {deny: [raw, udp]}\n", script)?;
    went(
        &said,
        &[
            ("tcp", "ok"),
            ("udp6", "EPERM"),
            ("raw", "EPERM"),
            ("raw6", "EPERM"),
            ("unix", "ok"),
        ],
    )?;
    is_denied(
        &outcome,
        &[
            ("socket", "inet6 dgram 17", "sockets.deny[1]"),
            ("socket", "inet raw 1", "sockets.deny[0]"),
            ("socket", "inet6 raw 58", "sockets.deny[0]"),
        ],
    )
}

/// A raw socket names its peer in the packet: no other program sees that.
fn packets_of_raw_sockets_and_icmp() -> Result<()> {
    let place = Place::new()?;
    let port = port();
    let policy = format!("network: {{deny: ['icmp 127.0.0.1', 'udp 127.0.0.1:{port}']}}\n");
    // RFC 792: an echo request. RFC 768: a datagram of eight bytes, without a checksum.
    let script = format!(
        "import struct\n\
         p = {port}\n\
         s = S.socket(2, 3, 1)\n\
         echo = struct.pack('!BBHHH', 8, 0, 0xf7fd, 1, 1)\n\
         t('echo', lambda: s.sendto(echo, ('127.0.0.1', 0)))\n\
         t('echo-elsewhere', lambda: s.sendto(echo, ('127.0.0.2', 0)))\n\
         u = S.socket(2, 3, 17)\n\
         t('datagram', lambda: u.sendto(struct.pack('!HHHH', 9, p, 8, 0), ('127.0.0.1', 0)))\n\
         t('another-port', lambda: u.sendto(struct.pack('!HHHH', 9, p + 1, 8, 0), ('127.0.0.1', 0)))\n"
    );
    let (outcome, said) = run(&place, &policy, &script)?;
    went(
        &said,
        &[
            ("echo", "EPERM"),
            ("echo-elsewhere", "ok"),
            ("datagram", "EPERM"),
            ("another-port", "ok"),
        ],
    )?;
    let events = outcome.events("denied")?;
    let rules: Vec<&Value> = events.iter().map(|e| &e["detail"]["rule"]).collect();
    ensure!(rules == ["network.deny[0]", "network.deny[1]"], "{rules:?}");
    ensure!(
        events
            .iter()
            .all(|e| e["detail"]["operation"] == "packet_out"),
        "{events:#?}"
    );
    Ok(())
}

fn devices() -> Result<()> {
    let place = Place::new()?;
    let node = place.text("node");
    let policy = "devices: {deny: ['/dev/zero r', 'c 1:8 m']}\n";
    let script = format!(
        "t('read', lambda: open('/dev/zero', 'rb').close())\n\
         t('write', lambda: open('/dev/zero', 'wb').close())\n\
         t('mknod', lambda: os.mknod('{node}', 0o20600, os.makedev(1, 8)))\n\
         t('mknod-other', lambda: os.mknod('{node}', 0o20600, os.makedev(1, 5)))\n\
         t('by-another-name', lambda: open('{node}', 'rb').close())\n\
         t('null', lambda: open('/dev/null', 'rb').close())\n"
    );
    let (outcome, said) = run(&place, policy, &script)?;
    went(
        &said,
        &[
            ("read", "EPERM"),
            ("write", "ok"),
            ("mknod", "EPERM"),
            ("mknod-other", "ok"),
            ("by-another-name", "EPERM"),
            ("null", "ok"),
        ],
    )?;
    is_denied(
        &outcome,
        &[
            ("device", "c 1:5 r", "devices.deny[0]"),
            ("device", "c 1:8 m", "devices.deny[1]"),
            ("device", "c 1:5 r", "devices.deny[0]"),
        ],
    )
}

/// Each is written with the value that it has.
fn sysctls() -> Result<()> {
    let place = Place::new()?;
    let policy = "sysctl: {deny: [kernel.printk_ratelimit, 'net.ipv4.*']}\n";
    let script = "def write(name):\n\
                  \x20   path = '/proc/sys/' + name\n\
                  \x20   value = open(path, 'rb').read()\n\
                  \x20   f = os.open(path, os.O_WRONLY)\n\
                  \x20   try: os.write(f, value)\n\
                  \x20   finally: os.close(f)\n\
                  for name in ['kernel/printk_ratelimit', 'kernel/printk_ratelimit_burst',\n\
                  \x20            'net/ipv4/ip_default_ttl', 'net/core/somaxconn']:\n\
                  \x20   t(name, lambda: write(name))\n";
    let (outcome, said) = run(&place, policy, script)?;
    went(
        &said,
        &[
            ("kernel/printk_ratelimit", "EPERM"),
            ("kernel/printk_ratelimit_burst", "ok"),
            ("net/ipv4/ip_default_ttl", "EPERM"),
            ("net/core/somaxconn", "ok"),
        ],
    )?;
    is_denied(
        &outcome,
        &[
            ("sysctl", "kernel/printk_ratelimit", "sysctl.deny[0]"),
            ("sysctl", "net/ipv4/ip_default_ttl", "sysctl.deny[1]"),
        ],
    )
}

fn observed_only() -> Result<()> {
    let place = Place::new()?;
    let port = port();
    let _server = echo(port)?;
    let policy = format!(
        "mode: observe\nnetwork: {{deny: ['127.0.0.1'], bind: {{default: deny}}}}\n\
         sockets: {{deny: [raw]}}\ndevices: {{deny: [/dev/zero]}}\n"
    );
    let script = format!(
        "t('connect', lambda: conn('127.0.0.1', {port}))\n\
         t('bind', lambda: bind('127.0.0.1', 0))\n\
         t('raw', lambda: S.socket(2, 3, 1))\n\
         t('device', lambda: open('/dev/zero', 'rb').close())\n"
    );
    let (outcome, said) = run(&place, &policy, &script)?;
    ensure!(said.iter().all(|(_, how)| how == "ok"), "{said:?}");
    let events = outcome.events("denied")?;
    let told: Vec<&str> = events
        .iter()
        .filter_map(|e| e["detail"]["operation"].as_str())
        .collect();
    ensure!(told == ["connect", "bind", "socket", "device"], "{told:?}");
    ensure!(
        events
            .iter()
            .all(|e| e["detail"]["verdict"] == "would_deny" && e["result"] == 0),
        "{events:#?}"
    );
    // What passed is told as always.
    ensure!(outcome.events("connect")?.len() == 1, "no connect");
    Ok(())
}

fn a_flood_of_attempts() -> Result<()> {
    let place = Place::new()?;
    let script = "n = 0\n\
                  for _ in range(5000):\n\
                  \x20   try: conn('127.0.0.1', 9)\n\
                  \x20   except PermissionError: n += 1\n\
                  print('refused', n)\n";
    let (outcome, said) = run(&place, "network: {deny: ['*']}\n", script)?;
    went(&said, &[("refused", "5000")])?;
    let events = outcome.events("denied")?;
    let counted: u64 = events
        .iter()
        .map(|e| 1 + e["detail"]["repeats"].as_u64().unwrap_or(0))
        .sum();
    ensure!(counted == 5000, "{counted} are told of");
    ensure!(events.len() < 500, "{} events", events.len());
    ensure!(
        (1..=5).contains(&outcome.findings.len()),
        "{} findings",
        outcome.findings.len()
    );
    Ok(())
}

/// By the library: `agentwatch run` has no word for it yet.
fn quarantine_cuts_what_is_open() -> Result<()> {
    let place = Place::new()?;
    let (cut, kept) = (port(), port());
    let _servers = [echo(cut)?, echo(kept)?];
    let cgroup = Cgroup::new("quarantine")?;
    let policy = format!(
        "apiVersion: agentwatch/v1\nkind: Policy\nnetwork: {{keep: ['127.0.0.1:{kept}']}}\n"
    );
    let policy = Policy::parse(&policy, "policy")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let guard = runtime.enter();
    let mut probe = Probe::load(&Options::DEFAULT)?;
    let mut source = Source::new(probe.take_rings()?)?;
    let enforced = probe.enforce(1, &cgroup.0, &policy)?;
    ensure!(enforced.missing.is_empty(), "{}", enforced.explain());
    let id = std::os::unix::fs::MetadataExt::ino(&fs::metadata(&cgroup.0)?);
    probe.watch(1, &cgroup.0, id)?;
    // It says what it is about to do; between two steps the test does something.
    let script = format!(
        "{TRY}\n\
         open('{procs}', 'w').write('0')\n\
         def say(s, n=4):\n\
         \x20   s.sendall(b'ping'); s.settimeout(1); assert s.recv(n) == b'ping'\n\
         def fresh(p):\n\
         \x20   s = S.create_connection(('127.0.0.1', p), 5); say(s); s.close()\n\
         a = S.create_connection(('127.0.0.1', {cut})); b = S.create_connection(('127.0.0.1', {kept}))\n\
         def step(name, f):\n\
         \x20   try: f(); print(name, 'ok', flush=True)\n\
         \x20   except S.timeout: print(name, 'timeout', flush=True)\n\
         \x20   except OSError as e: print(name, errno.errorcode.get(e.errno, str(e)), flush=True)\n\
         step('before', lambda: say(a)); step('kept-before', lambda: say(b))\n\
         input()\n\
         step('cut', lambda: say(a)); step('kept', lambda: say(b))\n\
         step('new', lambda: fresh({cut})); step('new-kept', lambda: fresh({kept}))\n\
         step('udp', lambda: send('127.0.0.1', {cut}))\n\
         input()\n\
         step('again', lambda: fresh({cut}))\n",
        procs = cgroup.0.join("cgroup.procs").display(),
    );
    let lines = place.path("lines");
    let mut command = python(&script, &[]);
    let mut agent = Background::with_input(
        command
            .stdout(fs::File::create(&lines)?)
            .stderr(Stdio::inherit()),
    )?;
    let reached = |name: &str| {
        until(name, || {
            fs::read_to_string(&lines).is_ok_and(|text| text.contains(name))
        })
    };
    reached("kept-before ok")?;
    probe.quarantine(1, true)?;
    agent.type_line()?;
    reached("udp")?;
    probe.quarantine(1, false)?;
    agent.type_line()?;
    reached("again")?;
    agent.finish()?;
    let text = fs::read_to_string(&lines)?;
    let said: Vec<&str> = text.lines().collect();
    // TCP says again what gets no answer: a cut connection hangs.
    let expected = [
        "before ok",
        "kept-before ok",
        "cut timeout",
        "kept ok",
        "new EPERM",
        "new-kept ok",
        "udp EPERM",
        "again ok",
    ];
    ensure!(said == expected, "{said:?}");
    let mut batch = Vec::new();
    source.drain(&mut batch);
    drop(guard);
    let mut told = Vec::new();
    for record in &batch {
        if let event::Kind::Denied(denied) = decode::decode(record)?.kind {
            told.push((denied.op.name(), denied.object.to_string()));
        }
    }
    for (op, protocol) in [
        ("packet_out", "tcp"),
        ("connect", "tcp"),
        ("sendmsg", "udp"),
    ] {
        let wanted = (op, format!("127.0.0.1:{cut} ({protocol})"));
        ensure!(told.contains(&wanted), "no {wanted:?} in {told:?}");
    }
    Ok(())
}

/// Where security modules cannot be had. Where they can be, `smoke.rs` tests them.
fn what_cannot_be_refused_is_an_error() -> Result<()> {
    let place = Place::new()?;
    let asks =
        "apiVersion: agentwatch/v1\nkind: Policy\ndeny: [mount]\nsockets: {deny: [packet]}\n";
    let policy = place.file("policy.yaml", asks)?;
    let agent = Agent::new(&place).with("--policy", &policy);
    let outcome = agent.run(&["true"])?;
    if outcome.status == Some(0) {
        // This kernel can.
        return Ok(());
    }
    ensure!(outcome.status == Some(125), "{:?}", outcome.status);
    for part in [
        "the policy denies what this kernel cannot refuse",
        "deny (deny-mount) needs lsm",
        "sockets.deny (deny-other-sockets) needs lsm",
        "best_effort",
    ] {
        ensure!(
            outcome.stderr.contains(part),
            "no {part:?}: {}",
            outcome.stderr
        );
    }
    place.file("policy.yaml", &format!("{asks}enforcement: best_effort\n"))?;
    let outcome = agent.run(&["true"])?;
    ensure!(outcome.status == Some(0), "{}", outcome.stderr);
    ensure!(
        outcome
            .stderr
            .contains("not in force here: sockets.deny (deny-other-sockets)"),
        "{}",
        outcome.stderr
    );
    place.file("policy.yaml", &format!("{asks}mode: observe\n"))?;
    let outcome = agent.run(&["true"])?;
    if outcome.status != Some(0) {
        bail!("observing needs nothing: {}", outcome.stderr);
    }
    outcome
        .stderr
        .contains("would deny is not told here")
        .then_some(())
        .context("nothing was said")
}
