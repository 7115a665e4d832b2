//! The examples of docs/api.md, run as they stand there. What must come of each stands behind it, in a
//! comment: `<!-- STATUS [text|stream] PATH[=JSON] … -->`.

use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::{Daemon, Tree};
use crate::{support::until, tests};

tests! {
    the_examples_of_the_api needs "curl";
}

const PAGE: &str = include_str!("../../../../docs/api.md");

struct Example<'a> {
    command: &'a str,
    expected: &'a str,
}

impl Example<'_> {
    /// Runs it, and looks at what comes of it.
    fn run(&self, daemon: &Daemon) -> Result<()> {
        let Self { command, expected } = self;
        let output = Command::new("sh")
            .args([
                "-c",
                &format!("{} -w '\\n%{{http_code}}'", command.trim_end()),
            ])
            .env("SOCKET", daemon.place.path("socket"))
            .output()?;
        let said = String::from_utf8(output.stdout)?;
        let (body, status) = said.rsplit_once('\n').context("no status")?;
        let fail = |what: &str| format!("{what} comes of\n{command}\n{status} {body}");
        let expected = words(expected);
        let (wanted, rest) = expected.split_first().context("no status is expected")?;
        ensure!(status == wanted, fail(&format!("not {wanted}")));
        match rest {
            [how, text] if how == "text" => {
                ensure!(body.contains(text), fail("something else"));
                return Ok(());
            }
            [how, name] if how == "stream" => {
                let line = format!("event: {name}\ndata: {{");
                ensure!(body.contains(&line), fail("no such item"));
                return Ok(());
            }
            _ => {}
        }
        let body: Value = serde_json::from_str(body).with_context(|| fail("no JSON"))?;
        for check in rest {
            let (path, value) = check.split_once('=').unwrap_or((check, ""));
            let got = at(&body, path);
            if value.is_empty() {
                ensure!(!got.is_null(), fail(&format!("no {path}")));
            } else if *got != serde_json::from_str::<Value>(value)? {
                bail!(fail(&format!("{path} = {got}, not {value},")));
            }
        }
        Ok(())
    }
}

/// Each block of the shell with what must come of it.
fn examples() -> Result<Vec<Example<'static>>> {
    let mut all = Vec::new();
    for block in PAGE.split("```sh\n").skip(1) {
        let (command, rest) = block.split_once("```").context("a block without end")?;
        let expected = rest
            .trim_start()
            .strip_prefix("<!-- ")
            .and_then(|rest| rest.split_once(" -->"))
            .with_context(|| format!("nothing says what must come of:\n{command}"))?;
        all.push(Example {
            command,
            expected: expected.0,
        });
    }
    Ok(all)
}

/// `events[0].pid` of a value.
fn at<'a>(value: &'a Value, path: &str) -> &'a Value {
    let mut value = value;
    for part in path.split(['.', '[']) {
        value = match part.strip_suffix(']') {
            Some(index) => &value[index.parse::<usize>().unwrap_or(usize::MAX)],
            None if part.is_empty() => value,
            None => &value[part],
        };
    }
    value
}

/// Splits at spaces, but for those in strings.
fn words(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let (mut inside, mut escaped) = (false, false);
    for letter in text.chars() {
        inside ^= letter == '"' && !escaped;
        escaped = letter == '\\' && !escaped;
        match words.last_mut() {
            Some(word) if letter != ' ' || inside => word.push(letter),
            _ => words.push(String::new()),
        }
    }
    words
}

fn the_examples_of_the_api() -> Result<()> {
    let examples = examples()?;
    let tree = Tree::new("docs")?;
    let daemon = Daemon::start(&format!("  - cgroup: {}/*\n", tree.cgroup()), "")?;
    let file = daemon.place.text("file");
    let script = format!("while :; do echo x >> {file}; /bin/true; sleep .1; done");
    let _a = tree.start("a", &script)?;
    until("events in the history", || {
        let page = daemon
            .get("/v1/events?agent=a&kind=exec")
            .unwrap_or_default();
        page["events"].as_array().map_or(0, Vec::len) > 3
    })?;
    for example in &examples {
        // What was just done is in the history a moment later.
        let mut came = example.run(&daemon);
        let asks = !example.command.contains(" -d ");
        let _ = until("the example", || {
            if asks && came.is_err() {
                came = example.run(&daemon);
            }
            came.is_ok() || !asks
        });
        came?;
    }
    // Every path is in the page, and every group has an example.
    let document = daemon.get("/v1/openapi.json")?;
    for path in document["paths"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(path, _)| path)
    {
        let example = path.replace("{agent}", "a");
        let shown = examples
            .iter()
            .any(|example_of| example_of.command.contains(&format!("http://x{example}")));
        ensure!(shown, "docs/api.md has no example of {path}");
    }
    Ok(())
}
