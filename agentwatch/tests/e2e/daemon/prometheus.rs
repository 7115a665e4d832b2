//! The rules that ship in `dashboards/prometheus`: by Prometheus' own tests, and from an agent's deed to
//! the message that wakes somebody.

use std::{
    fmt::Write as _,
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::{Daemon, Tree, deletes};
use crate::{
    support::{Background, Place, port, until},
    tests,
};

tests! {
    rules_that_ship needs "promtool", "amtool";
    an_alert_arrives needs "prometheus", "prometheus-alertmanager";
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../dashboards/prometheus")
}

fn rules_that_ship() -> Result<()> {
    for words in [
        "promtool check rules alerts.yaml recording.yaml",
        "promtool test rules alerts_test.yaml recording_test.yaml",
        "promtool check config prometheus.yaml",
        "amtool check-config alertmanager.yaml",
    ] {
        let (program, arguments) = words.split_once(' ').context("no arguments")?;
        let output = Command::new(program)
            .args(arguments.split(' '))
            .current_dir(folder())
            .output()?;
        let said = [output.stdout, output.stderr].concat();
        ensure!(
            output.status.success(),
            "{words}: {}",
            String::from_utf8_lossy(&said)
        );
    }
    Ok(())
}

/// A daemon is scraped, an agent of its does harm, and what ships makes of it a message to a person.
fn an_alert_arrives() -> Result<()> {
    let [metrics, scraper, manager] = [port(), port(), port()];
    let tree = Tree::new("prometheus")?;
    let daemon = Daemon::start(
        &format!("  - cgroup: {}/*\n", tree.cgroup()),
        &format!("metrics: 127.0.0.1:{metrics}\n"),
    )?;
    let (hook, posted) = webhook()?;
    let place = Place::new()?;
    let _manager = alertmanager(&place, manager, hook)?;
    let _scraper = prometheus(&place, scraper, metrics, manager)?;
    // A rise is only seen by who has seen the number before it.
    let none = "agentwatch_findings_total{detector=\"mass-deletion\",severity=\"critical\"} == 0";
    until("Prometheus to have read the metrics", || {
        query(scraper, none).is_ok_and(|found| found.len() == 1)
    })
    .with_context(|| said(&place))?;

    let files = daemon.place.tree("files", 400)?;
    let (script, go) = deletes(&daemon.place, &files);
    let _bad = tree.start("bad", &script)?;
    until("the agent", || daemon.is("bad", "watched"))?;
    fs::write(go, "")?;

    let message = posted
        .recv_timeout(Duration::from_secs(30))
        .with_context(|| format!("no alert came: {}", said(&place)))?;
    let instance = format!("127.0.0.1:{metrics}");
    let alert = &message["alerts"][0];
    ensure!(
        alert["status"] == "firing"
            && alert["labels"]
                == json!({
                    "alertname": "AgentwatchCriticalFinding", "severity": "critical", "job": "agentwatch",
                    "detector": "mass-deletion", "instance": instance,
                })
            && alert["annotations"]["summary"] == format!("mass-deletion found on {instance}")
            && message["receiver"] == "on-call",
        "{message:#}"
    );
    // What the dashboards read has the node's own name.
    let recorded =
        "node_detector_severity:agentwatch_findings:increase1h{detector=\"mass-deletion\"} > 0";
    until("the recording rules", || {
        query(scraper, recorded)
            .is_ok_and(|found| found.len() == 1 && found[0]["metric"]["node"] == "test")
    })
    .with_context(|| said(&place))
}

/// A file that ships, with other words in it.
fn with(name: &str, changes: &[(&str, &str)]) -> Result<String> {
    let mut text = fs::read_to_string(folder().join(name))?;
    for (from, to) in changes {
        ensure!(text.contains(from), "{name} has no {from}");
        text = text.replace(from, to);
    }
    Ok(text)
}

fn alertmanager(place: &Place, port: u16, hook: u16) -> Result<Background> {
    let ours = format!("http://127.0.0.1:{hook}/");
    let config = with(
        "alertmanager.yaml",
        &[
            ("http://on-call.example/agentwatch", &ours),
            ("http://mornings.example/agentwatch", &ours),
        ],
    )?;
    start(
        Command::new("prometheus-alertmanager")
            .arg("--config.file")
            .arg(place.file("alertmanager.yaml", &config)?)
            .arg("--storage.path")
            .arg(place.path("alertmanager"))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            // It looks for no others, and so opens no port for them.
            .arg("--cluster.listen-address="),
        &place.path("alertmanager.log"),
    )
}

fn prometheus(place: &Place, port: u16, metrics: u16, manager: u16) -> Result<Background> {
    let target = format!("targets: [\"127.0.0.1:{metrics}\"]");
    let to = format!("targets: [\"127.0.0.1:{manager}\"]");
    let config = with(
        "prometheus.yaml",
        &[
            ("15s", "1s"),
            ("targets: [\"gpu-1:9464\", \"gpu-2:9464\"]", &target),
            ("targets: [\"alertmanager:9093\"]", &to),
        ],
    )?;
    for rules in ["alerts.yaml", "recording.yaml"] {
        fs::copy(folder().join(rules), place.path(rules))?;
    }
    start(
        Command::new("prometheus")
            .arg("--config.file")
            .arg(place.file("prometheus.yaml", &config)?)
            .arg("--storage.tsdb.path")
            .arg(place.path("prometheus"))
            .arg(format!("--web.listen-address=127.0.0.1:{port}")),
        &place.path("prometheus.log"),
    )
}

fn start(command: &mut Command, log: &Path) -> Result<Background> {
    Background::start(command.stdout(Stdio::null()).stderr(fs::File::create(log)?))
}

fn said(place: &Place) -> String {
    let logs = ["alertmanager.log", "prometheus.log"].map(|log| place.path(log));
    logs.map(|log| fs::read_to_string(log).unwrap_or_default())
        .join("\n")
}

/// What Prometheus answers to a question, now.
fn query(port: u16, question: &str) -> Result<Vec<Value>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    let mut body = "query=".to_owned();
    for byte in question.bytes() {
        write!(body, "%{byte:02x}")?;
    }
    write!(
        stream,
        "POST /api/v1/query HTTP/1.0\r\nhost: x\r\ncontent-type: application/x-www-form-urlencoded\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (_, body) = answer.split_once("\r\n\r\n").context("no body")?;
    let answer: Value = serde_json::from_str(body)?;
    let found = answer["data"]["result"].as_array();
    Ok(found.with_context(|| format!("{answer}"))?.clone())
}

/// Listens for what Alertmanager posts; its port.
fn webhook() -> Result<(u16, Receiver<Value>)> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let port = listener.local_addr()?.port();
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            // Whoever waits says that nothing came; and when nobody waits any more, this is over.
            let Ok(message) = stream.map_err(Into::into).and_then(receive) else {
                continue;
            };
            if sender.send(message).is_err() {
                break;
            }
        }
    });
    Ok((port, receiver))
}

fn receive(stream: TcpStream) -> Result<Value> {
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let line = line.trim().to_ascii_lowercase();
        if let Some(number) = line.strip_prefix("content-length:") {
            length = number.trim().parse()?;
        }
        if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    reader.get_mut().write_all(answer)?;
    Ok(serde_json::from_slice(&body)?)
}
