//! The parts of agentwatch that need no kernel, by criterion: `agentwatch/benches/parts.rs`.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::workspace;

/// The name of these measurements: no ratios, so not among the works.
pub const PARTS: &str = "parts";
/// What decoding an event may cost, nanoseconds.
pub const DECODE_NS: f64 = 150.0;

/// What a frame of `agentwatch top` with 500 agents may cost, nanoseconds: one of 60 a second.
const FRAME_NS: f64 = 16_000_000.0;

/// Measures and prints; whether every kind of event is decoded, and a frame is drawn, in time.
pub fn measure() -> Result<bool> {
    let results = workspace::target_dir()?.join("criterion");
    if results.exists() {
        fs::remove_dir_all(&results).with_context(|| format!("emptying {}", results.display()))?;
    }
    let mut cargo = workspace::cargo()?;
    cargo.args(["bench", "--package", "agentwatch", "--bench", "parts"]);
    workspace::run(&mut cargo)?;
    let mut holds = true;
    println!("\nCPU time of one event, or of one frame, the median:");
    for group in ["decode", "pipeline", "top"] {
        let dir = results.join(group);
        let entries = fs::read_dir(&dir)
            .with_context(|| format!("criterion left nothing in {}", dir.display()))?;
        let mut names: Vec<String> = entries
            .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
            .filter(|name| name != "report")
            .collect();
        names.sort();
        for name in names {
            let ns = estimate(&dir.join(&name))?;
            let target = match group {
                "decode" => Some(DECODE_NS),
                "top" => Some(FRAME_NS),
                _ => None,
            };
            let verdict = match target {
                None => String::new(),
                Some(target) if ns <= target => format!(", target {target}: ok"),
                Some(target) => {
                    holds = false;
                    format!(", target {target}: OVER")
                }
            };
            println!("{PARTS}: {group} {name}: {ns:.0} ns{verdict}");
        }
    }
    Ok(holds)
}

/// The median of a benchmark, nanoseconds an event.
fn estimate(dir: &Path) -> Result<f64> {
    let read = |name: &str| -> Result<Value> {
        let path = dir.join("new").join(name);
        let text =
            fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is not JSON", path.display()))
    };
    let ns = read("estimates.json")?["median"]["point_estimate"].as_f64();
    let elements = read("benchmark.json")?["throughput"]["Elements"].as_f64();
    let ns = ns.with_context(|| format!("no estimate in {}", dir.display()))?;
    Ok(ns / elements.unwrap_or(1.0))
}
