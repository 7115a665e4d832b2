//! Denial: what the policy does not allow fails with EPERM, and is told.

pub mod network;
pub mod others;

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::support::{Agent, Outcome, Place};

/// What every script begins with: `t` prints a name and how it went.
pub const TRY: &str = "
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
pub fn run(place: &Place, policy: &str, script: &str) -> Result<(Outcome, Vec<(String, String)>)> {
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
pub fn went(said: &[(String, String)], expected: &[(&str, &str)]) -> Result<()> {
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

pub fn is_denied(outcome: &Outcome, expected: &[(&str, &str, &str)]) -> Result<()> {
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
