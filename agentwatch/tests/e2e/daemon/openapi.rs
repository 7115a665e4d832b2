//! The document of the API, tried against the daemon: whatever fits it is answered as it says, and what does
//! not is refused.

use std::process::{Command, Stdio};

use anyhow::{Result, ensure};

use super::{Daemon, Tree};
use crate::{
    support::{Background, port, until},
    tests,
};

tests! {
    the_document_is_true needs "schemathesis", "socat";
}

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
    let url = format!("http://127.0.0.1:{port}/v1/openapi.json");
    // First with names of its own making, then with an agent that is there. What it does to agents hits
    // those of this test.
    let there = daemon
        .place
        .file("there.toml", "[parameters]\n\"path.agent\" = \"a\"\n")?;
    let any = daemon.place.file("any.toml", "")?;
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
        // All of them, and not that there was nothing to try.
        ensure!(said.contains("13 selected / 14 total"), "{said}");
    }
    daemon.get("/v1/health")?;
    Ok(())
}
