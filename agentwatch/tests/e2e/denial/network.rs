//! Peers, own addresses, quarantine.

use std::{fs, process::Stdio};

use agentwatch::{
    decode, event,
    policy::Policy,
    probe::{Options, Probe},
    source::Source,
};
use anyhow::{Result, ensure};
use serde_json::Value;

use super::{TRY, is_denied, run, went};
use crate::{
    support::{Background, Cgroup, Place, echo, port, python, until},
    tests,
};

tests! {
    connections_over_ipv4_ipv6_and_mapped needs "/usr/bin/python3";
    datagrams_connected_and_not needs "/usr/bin/python3";
    only_what_is_allowed needs "/usr/bin/python3";
    own_addresses needs "/usr/bin/python3";
    packets_of_raw_sockets_and_icmp needs "/usr/bin/python3";
    quarantine_cuts_what_is_open needs "/usr/bin/python3";
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
    let enforced = probe.enforce(1, &cgroup.0, &policy, &[])?;
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
