//! Sockets, devices, sysctls; observing; a flood; what a kernel cannot refuse.

use agentwatch::{
    policy::Need,
    probe::{Options, Probe},
};
use anyhow::{Context as _, Result, ensure};

use super::{is_denied, run, went};
use crate::{
    support::{Agent, Place, echo, port},
    tests,
};

tests! {
    kinds_of_sockets needs "/usr/bin/python3";
    devices needs "/usr/bin/python3";
    sysctls needs "/usr/bin/python3";
    observed_only needs "/usr/bin/python3";
    a_flood_of_attempts needs "/usr/bin/python3";
    what_cannot_be_refused_is_an_error needs "true";
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
    let policy = "mode: observe\nnetwork: {deny: ['127.0.0.1'], bind: {default: deny}}\n\
                  sockets: {deny: [raw]}\ndevices: {deny: [/dev/zero]}\n";
    let script = format!(
        "t('connect', lambda: conn('127.0.0.1', {port}))\n\
         t('bind', lambda: bind('127.0.0.1', 0))\n\
         t('raw', lambda: S.socket(2, 3, 1))\n\
         t('device', lambda: open('/dev/zero', 'rb').close())\n"
    );
    let (outcome, said) = run(&place, policy, &script)?;
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

/// Where security modules cannot be had. Where they can be, `smoke.rs` tests them.
fn what_cannot_be_refused_is_an_error() -> Result<()> {
    let place = Place::new()?;
    let asks =
        "apiVersion: agentwatch/v1\nkind: Policy\ndeny: [mount]\nsockets: {deny: [packet]}\n";
    let policy = place.file("policy.yaml", asks)?;
    let agent = Agent::new(&place).with("--policy", &policy);
    let outcome = agent.run(&["true"])?;
    let can = Probe::load(&Options::DEFAULT)?
        .status(Need::Mount)
        .missing
        .is_none();
    if can {
        ensure!(outcome.status == Some(0), "{}", outcome.stderr);
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
    ensure!(outcome.status == Some(0), "{}", outcome.stderr);
    outcome
        .stderr
        .contains("would deny is not told here")
        .then_some(())
        .context("nothing was said")
}
