use serde_json::json;

use super::*;
use crate::finding::Severity;

/// A finding so many seconds after ten, of a process with these above it.
fn finding(n: u32, s: i64, chain: &[(u64, bool)], evidence: &Value) -> Finding {
    let at = "2026-11-21T10:00:00Z".parse::<Timestamp>().unwrap() + SignedDuration::from_secs(s);
    let process = |(pid, member): &(u64, bool)| json!({"pid": pid, "start_ns": pid * 10, "exe": "/x", "argv": [], "uid": 0, "member": member});
    let severity = if n == 2 { "critical" } else { "medium" };
    serde_json::from_value(json!({
        "id": format!("f-{n}"), "time": at.to_string(), "time_ns": 1_000_000_000_000_i64 + s * 1_000_000_000,
        "agent": "a", "detector": format!("d{n}"), "severity": severity, "message": format!("m{n}"),
        "techniques": [{"id": format!("T{n}"), "name": "x"}],
        "process": process(&chain[0]), "ancestry": chain[1..].iter().map(process).collect::<Vec<_>>(),
        "evidence": evidence,
        "response": {"requested": "alert", "taken": if n == 2 { "kill" } else { "alert" }},
    }))
    .unwrap()
}

fn group(all: &[Finding]) -> Vec<Vec<String>> {
    let mut incidents = Incidents::default();
    for finding in all {
        incidents.add(finding);
    }
    let ids = incidents.all().map(|incident| incident.findings.clone());
    ids.collect()
}

const ROOT: (u64, bool) = (1, true);
const SHELL: (u64, bool) = (0, false);

#[test]
fn what_has_nothing_in_common_stays_apart() {
    // The agent's first process is above all of them, and what started the agent too.
    let a = finding(1, 0, &[(2, true), ROOT, SHELL], &json!([]));
    let b = finding(2, 5, &[(3, true), ROOT, SHELL], &json!([]));
    assert_eq!(group(&[a, b]), [["f-1"], ["f-2"]]);
}

#[test]
fn a_chain_of_processes_is_one_incident() {
    let all = [
        // Two that a script started, the script itself, and the agent's first process.
        finding(1, 0, &[(5, true), (4, true), ROOT, SHELL], &json!([])),
        finding(2, 5, &[(6, true), (4, true), ROOT, SHELL], &json!([])),
        finding(3, 9, &[(4, true), ROOT, SHELL], &json!([])),
        finding(4, 9, &[ROOT, SHELL], &json!([])),
    ];
    assert_eq!(group(&all), [["f-1", "f-2", "f-3", "f-4"]]);
    // The order in which they are heard of does not matter.
    let mut back = all;
    back.reverse();
    assert_eq!(group(&back)[0].len(), 4);
}

#[test]
fn a_process_id_that_is_used_again_is_another_process() {
    let mut later = finding(2, 5, &[(5, true), ROOT], &json!([]));
    later.rest["process"]["start_ns"] = 7777.into();
    let all = [finding(1, 0, &[(5, true), ROOT], &json!([])), later];
    assert_eq!(group(&all).len(), 2);
}

#[test]
fn a_file_or_a_peer_links_too_and_what_two_are_linked_by_a_third_is_one() {
    let written =
        json!([{"time_ns": 1, "kind": "open", "pid": 2, "what": "wrote", "path": "/tmp/x"}]);
    let ran = json!([{"time_ns": 1, "kind": "denied", "pid": 3, "what": "ran", "path": "/tmp/x", "remote": "192.0.2.1:1"}]);
    let sent = json!([{"time_ns": 1, "kind": "connect", "pid": 4, "what": "sent", "remote": "192.0.2.1:1"}]);
    let a = finding(1, 0, &[(2, true), ROOT], &written);
    let b = finding(3, 4, &[(4, true), ROOT], &sent);
    let c = finding(2, 9, &[(3, true), ROOT], &ran);
    assert_eq!(group(&[a.clone(), b.clone()]).len(), 2);
    let mut incidents = Incidents::default();
    for finding in [&a, &b, &c] {
        incidents.add(finding);
    }
    assert_eq!(incidents.all().count(), 1);
    let one = incidents.of("f-3").unwrap();
    assert_eq!(one.findings, ["f-1", "f-3", "f-2"]);
    assert_eq!((one.id.as_str(), one.severity), ("i-1", Severity::Critical));
    // In short it is what the worst of them says.
    assert_eq!((one.summary.as_str(), one.taken), ("m2", Action::Kill));
    assert_eq!(one.techniques, ["T1", "T2", "T3"]);
    let links = [
        Link::File {
            path: "/tmp/x".to_owned(),
        },
        Link::Flow {
            remote: "192.0.2.1:1".to_owned(),
        },
    ];
    assert!(
        links.iter().all(|link| one.linked_by.contains(link)),
        "{one:?}"
    );
    assert!(one.begin.starts_with("2026-11-21T10:00:00") && one.end.contains("10:00:09"));
}

#[test]
fn hours_later_is_another_incident_and_another_agent_is_too() {
    let chain = [(5, true), ROOT];
    let first = finding(1, 0, &chain, &json!([]));
    let late = finding(2, 2 * 3600, &chain, &json!([]));
    let mut other = finding(3, 1, &chain, &json!([]));
    other.agent = "b".to_owned();
    assert_eq!(group(&[first, late, other]).len(), 3);
}

#[test]
fn the_story_is_in_order_of_time_and_tells_nothing_twice() {
    let ns = |s: i64| 1_000_000_000_000_i64 + s * 1_000_000_000;
    let piece = |s: i64, what: &str| json!({"time_ns": ns(s), "kind": "x", "pid": 5, "what": what});
    let chain = [(5, true), ROOT];
    let all = [
        finding(2, 9, &chain, &json!([piece(1, "early"), piece(8, "late")])),
        finding(
            1,
            4,
            &chain,
            &json!([piece(1, "early"), piece(3, "middle")]),
        ),
    ];
    let mut incidents = Incidents::default();
    for finding in &all {
        incidents.add(finding);
    }
    let story = &incidents.all().next().unwrap().story;
    let told: Vec<(&str, &str)> = story
        .iter()
        .map(|step| (&step.time[17..19], step.what.as_str()))
        .collect();
    assert_eq!(
        told,
        [
            ("01", "early"),
            ("03", "middle"),
            ("04", "d1: m1"),
            ("04", "action: alert"),
            ("08", "late"),
            ("09", "d2: m2"),
            ("09", "killed the agent")
        ]
    );
}

#[test]
fn a_story_is_bounded_and_says_what_is_left_out() {
    let many: Vec<Value> = (0..3 * STEPS)
        .map(|n| json!({"time_ns": n, "kind": "x", "pid": 5, "what": format!("n{n}")}))
        .collect();
    let mut incidents = Incidents::default();
    incidents.add(&finding(2, 9, &[(5, true), ROOT], &Value::Array(many)));
    let one = incidents.all().next().unwrap();
    assert_eq!(one.story.len(), STEPS);
    assert_eq!(one.steps_left_out, 2 * STEPS as u64 + 2);
    assert_eq!(one.story.last().unwrap().what, "killed the agent");
}
