//! The document of the API, tried against the daemon: whatever fits it is answered as it says, and what does
//! not is refused.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{Daemon, Tree};
use crate::{
    support::{Background, port, until},
    tests,
};

tests! {
    the_document_is_true needs "schemathesis", "socat";
}

/// What a schema cannot say of a run: which names and policies make sense, and that 7.0 is no integer here.
const RUNS: &str = r#"
[[operations]]
include-name = ["POST /v1/agents", "POST /v1/agents/{agent}/end"]
checks.positive_data_acceptance.expected-statuses = ["2xx", "400", "403", "404", "409"]
"#;

fn the_document_is_true() -> Result<()> {
    let tree = Tree::new("openapi")?;
    let daemon = Daemon::start(&format!("  - cgroup: {}/*\n", tree.cgroup()), "")?;
    let _a = tree.start("a", "while :; do /bin/true; sleep .2; done")?;
    let _b = tree.start("b", "exec sleep 90")?;
    until("both", || {
        daemon.is("a", "watched") && daemon.is("b", "watched")
    })?;
    // It speaks TCP only.
    let port = port();
    let _bridge = Background::start(
        Command::new("socat")
            .arg(format!("TCP-LISTEN:{port},bind=127.0.0.1,fork,reuseaddr"))
            .arg(format!("UNIX-CONNECT:{}", daemon.place.text("socket")))
            .stderr(Stdio::null()),
    )?;
    until("socat", || {
        std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
    })?;
    let document = daemon.get("/v1/openapi.json")?;
    let paths = document["paths"].as_object().context("no paths")?;
    let all = paths.values().filter_map(Value::as_object).flatten();
    let all = all.filter(|(name, _)| ["get", "post"].contains(&name.as_str()));
    let all = all.count();
    let url = format!("http://127.0.0.1:{port}/v1/openapi.json");
    // First with names of its own making, then with an agent that is there. What it does to agents hits
    // those of this test.
    let there = format!("[parameters]\n\"path.agent\" = \"a\"\n{RUNS}");
    let there = daemon.place.file("there.toml", &there)?;
    let any = daemon.place.file("any.toml", RUNS)?;
    for (config, phases) in [
        (any, "examples,coverage,fuzzing,stateful"),
        (there, "coverage,fuzzing"),
    ] {
        let output = Command::new("timeout")
            .args([
                "-k",
                "5",
                "80",
                "schemathesis",
                "--config-file",
                &config,
                "run",
                &url,
            ])
            .args([
                "--checks",
                "all",
                "--phases",
                phases,
                "--max-examples",
                "20",
                "--seed",
                "1",
            ])
            // It does not end.
            .args(["--exclude-path", "/v1/events/stream"])
            .args(["--workers", "1", "--no-color"])
            .current_dir(daemon.place.path(""))
            .output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(
            output.status.success(),
            "{}\n{said}\n{}",
            output.status,
            daemon.said()
        );
        // All of them but the stream and the document itself, which it does not count; and not that
        // there was nothing to try.
        let selected = format!("{} selected / {} total", all - 2, all - 1);
        ensure!(said.contains(&selected), "not {selected}: {said}");
    }
    daemon.get("/v1/health")?;
    Ok(())
}
