//! Events and findings in OCSF: against what the schema, version 1.8.0, requires. `ocsf-1.8.0.json` was made
//! of its JSON files (github.com/ocsf/ocsf-schema, Apache-2.0): the required attributes of the classes and
//! objects that are used, their constraints, and the names of the activities.

#![expect(
    clippy::unwrap_used,
    reason = "helpers fail as their test does; clippy.toml allows it in #[test] functions only"
)]

mod kinds;

use agentwatch::{
    event::Kind,
    publish::ocsf,
    store::{query::StoredFinding, row::Row},
};
use serde_json::{Value, json};

use kinds::{event, every_kind};

fn schema() -> Value {
    serde_json::from_str(include_str!("ocsf-1.8.0.json")).unwrap()
}

fn row(kind: Kind) -> Row {
    Row::new(
        &event(5, kind),
        Some("/bin/sh"),
        "a",
        1_795_000_000_000_000_000,
    )
}

/// Where an attribute's value is an object of the schema.
fn object_of(attribute: &str) -> Option<&'static str> {
    Some(match attribute {
        "metadata" => "metadata",
        "product" => "product",
        "device" => "device",
        "actor" => "actor",
        "process" | "parent_process" => "process",
        "file" | "file_result" => "file",
        "user" => "user",
        "src_endpoint" | "dst_endpoint" => "network_endpoint",
        "connection_info" => "network_connection_info",
        "query" => "dns_query",
        "answers" => "dns_answer",
        "finding_info" => "finding_info",
        "technique" => "technique",
        "attacks" => "attack",
        _ => return None,
    })
}

fn has(value: &Value, name: &str) -> bool {
    value.get(name).is_some_and(|value| !value.is_null())
}

/// Checks an object, and what is in it.
fn check(value: &Value, rules: &Value, what: &str) {
    for name in rules["required"].as_array().unwrap() {
        let name = name.as_str().unwrap();
        assert!(has(value, name), "{what} has no {name}: {value}");
    }
    if let Some(names) = rules["constraints"]["at_least_one"].as_array() {
        let any = names.iter().any(|name| has(value, name.as_str().unwrap()));
        assert!(any, "{what} has none of {names:?}: {value}");
    }
    if let Some(all) = rules["all"].as_array() {
        for name in value.as_object().unwrap().keys() {
            assert!(
                all.contains(&json!(name)),
                "{what} has no attribute {name} in the schema"
            );
        }
    }
    within(value, what);
}

fn within(value: &Value, what: &str) {
    for (name, value) in value.as_object().into_iter().flatten() {
        if name == "unmapped" {
            continue;
        }
        let list = value
            .as_array()
            .map_or(std::slice::from_ref(value), Vec::as_slice);
        for value in list {
            match object_of(name) {
                Some(object) => check(
                    value,
                    &schema()["objects"][object],
                    &format!("{what}.{name}"),
                ),
                None => within(value, &format!("{what}.{name}")),
            }
        }
    }
}

/// Checks an event; its class.
fn check_event(event: &Value, what: &str) -> u64 {
    let uid = event["class_uid"].as_u64().unwrap();
    let schema = schema();
    let class = schema["classes"].as_object().unwrap().values();
    let class = class.clone().find(|class| class["uid"] == uid).unwrap();
    check(event, class, what);
    let activity = event["activity_id"].as_u64().unwrap();
    let name = &class["activities"][activity.to_string()];
    assert!(name.is_string(), "{what}: {uid} has no activity {activity}");
    if activity != 99 {
        assert_eq!(&event["activity_name"], name, "{what}");
    }
    assert_eq!(event["type_uid"], uid * 100 + activity);
    assert_eq!(event["metadata"]["version"], schema["version"]);
    assert_eq!(event["metadata"]["version"], ocsf::VERSION);
    uid
}

#[test]
fn every_kind_of_event_has_what_its_class_requires() {
    let mut classes = std::collections::BTreeSet::new();
    for kind in every_kind() {
        let row = row(kind);
        let event = ocsf::event(&row, "node-1");
        assert_eq!(event["time"], 1_795_000_000_000_u64);
        assert_eq!(event["unmapped"]["agentwatch"]["kind"], row.kind);
        let uid = check_event(&event, &row.kind);
        let expected = match row.kind.as_str() {
            "exec" | "exit" | "fork" | "signal" => Some(1007),
            "unlink" | "rename" | "chmod" | "open" | "mkdir" => Some(1001),
            "flow_open" | "flow_close" | "tls" | "http" => Some(4001),
            "dns" => Some(4003),
            _ => None,
        };
        assert!(
            expected.is_none_or(|expected| expected == uid),
            "{}: {uid}",
            row.kind
        );
        classes.insert(uid);
    }
    assert_eq!(
        classes.into_iter().collect::<Vec<_>>(),
        [1001, 1007, 4001, 4003]
    );
}

#[test]
fn a_finding_has_what_its_class_requires() {
    for (severity, id) in [
        ("info", 1),
        ("low", 2),
        ("medium", 3),
        ("high", 4),
        ("critical", 5),
    ] {
        let stored = StoredFinding {
            time_ns: 1_795_000_000_000_000_000,
            run: "r".to_owned(),
            finding: json!({
                "id": "f-1", "agent": "a", "detector": "reverse-tunnel", "severity": severity,
                "message": "a tunnel", "techniques": [{"id": "T1572", "name": "Protocol Tunneling"}],
                "process": {"pid": 42, "start_ns": 7, "exe": "/usr/bin/ssh", "argv": ["ssh", "-R"]},
            }),
        };
        let event = ocsf::finding(&stored, "node-1");
        assert_eq!(check_event(&event, "finding"), 2004);
        assert_eq!(event["severity_id"], id);
        assert_eq!(
            event["finding_info"]["attacks"][0]["technique"]["uid"],
            "T1572"
        );
        assert_eq!(
            event["evidences"][0]["actor"]["process"]["cmd_line"],
            "ssh -R"
        );
    }
}
