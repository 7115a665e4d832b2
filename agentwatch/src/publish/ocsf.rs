//! Events and findings in the words of OCSF 1.8.0, the Open Cybersecurity Schema Framework.
//!
//! Classes: Process Activity 1007, File System Activity 1001, Network Activity 4001, DNS Activity 4003 and
//! Detection Finding 2004. What OCSF has no class for is a Process Activity of another kind, whose
//! `activity_name` says which. What has no field there is in `unmapped`.

use std::net::SocketAddr;

use serde_json::{Map, Value, json};

use crate::store::{query::StoredFinding, row::Row};

/// The version of the schema.
pub const VERSION: &str = "1.8.0";

/// A class: its number, name, and its category's.
#[derive(Clone, Copy)]
struct Class(u32, &'static str, u32, &'static str);

const PROCESS: Class = Class(1007, "Process Activity", 1, "System Activity");
const FILE: Class = Class(1001, "File System Activity", 1, "System Activity");
const NETWORK: Class = Class(4001, "Network Activity", 4, "Network Activity");
const DNS: Class = Class(4003, "DNS Activity", 4, "Network Activity");
const FINDING: Class = Class(2004, "Detection Finding", 2, "Findings");

/// The activity that is none of those that a class names.
const OTHER: u32 = 99;

/// An event. `node` is the host's name.
pub fn event(row: &Row, node: &str) -> Value {
    let (class, (activity, name)) = class(row);
    let mut event = base(class, activity, &name, 1, row.time_ns, node);
    let failed = row.result.is_some_and(|result| result < 0);
    put(&mut event, "status_id", json!(if failed { 2 } else { 1 }));
    if let Some(result) = row.result.filter(|_| failed) {
        put(&mut event, "status_code", json!((-result).to_string()));
    }
    put(&mut event, "actor", actor(row));
    match class.0 {
        1007 => put(&mut event, "process", subject(row)),
        1001 => file_activity(&mut event, row),
        _ => network(&mut event, row),
    }
    if class.0 == 4003 {
        dns(&mut event, row);
    }
    put(&mut event, "unmapped", json!({"agentwatch": row}));
    event
}

/// A finding. `node` is the host's name.
pub fn finding(stored: &StoredFinding, node: &str) -> Value {
    let of = &stored.finding;
    let severity = match of["severity"].as_str() {
        Some("info") => 1,
        Some("low") => 2,
        Some("medium") => 3,
        Some("high") => 4,
        Some("critical") => 5,
        _ => 0,
    };
    let mut event = base(FINDING, 1, "Create", severity, stored.time_ns, node);
    let techniques = of["techniques"].as_array().into_iter().flatten();
    let attacks: Vec<Value> = techniques
        .map(|technique| json!({"technique": {"uid": technique["id"], "name": technique["name"]}}))
        .collect();
    let detector = &of["detector"];
    put(
        &mut event,
        "finding_info",
        json!({
            "uid": of["id"], "title": detector, "desc": of["message"],
            "created_time": stored.time_ns / 1_000_000, "attacks": attacks,
            "analytic": {"uid": detector, "name": detector, "type_id": 1, "type": "Rule"},
        }),
    );
    put(&mut event, "status_id", json!(1));
    put(&mut event, "is_alert", json!(true));
    put(&mut event, "message", of["message"].clone());
    let process = &of["process"];
    let exe = process["exe"].as_str().unwrap_or_default();
    put(
        &mut event,
        "evidences",
        json!([{"actor": {"process": {
            "pid": process["pid"], "cmd_line": command(&process["argv"]), "file": file(exe, 1),
        }}}]),
    );
    put(
        &mut event,
        "unmapped",
        json!({"agentwatch": {"agent": of["agent"], "run": stored.run, "finding": of}}),
    );
    event
}

fn put(event: &mut Value, name: &str, value: Value) {
    event[name] = value;
}

/// What every class has.
fn base(
    class: Class,
    activity: u32,
    activity_name: &str,
    severity: u32,
    time_ns: i64,
    node: &str,
) -> Value {
    let Class(uid, name, category, category_name) = class;
    json!({
        "class_uid": uid, "class_name": name, "category_uid": category, "category_name": category_name,
        "activity_id": activity, "activity_name": activity_name, "type_uid": uid * 100 + activity,
        "severity_id": severity, "time": time_ns / 1_000_000,
        "metadata": {
            "version": VERSION, "profiles": ["host"],
            "product": {
                "name": "agentwatch", "vendor_name": "agentwatch", "version": env!("CARGO_PKG_VERSION"),
            },
        },
        "device": {"hostname": node, "type_id": 0},
    })
}

/// The class of an event, and its activity there.
fn class(row: &Row) -> (Class, (u32, String)) {
    let known = |class, activity, name: &str| (class, (activity, name.to_owned()));
    let endpoint = address(row.remote.as_deref()).or(address(row.local.as_deref()));
    let is_file = row.path.is_some();
    match row.kind.as_str() {
        "exec" | "fork" => known(PROCESS, 1, "Launch"),
        "exit" => known(PROCESS, 2, "Terminate"),
        "setuid" => known(PROCESS, 5, "Set User ID"),
        "ptrace" | "process_vm_write" => known(PROCESS, 4, "Inject"),
        "dns" if endpoint.is_some() => match row.told("dns.type") {
            Some("answer") => known(DNS, 2, "Response"),
            _ => known(DNS, 1, "Query"),
        },
        "connect" | "accept" | "flow_open" if endpoint.is_some() => {
            if row
                .result
                .is_some_and(|result| result < 0 && result != -115)
            {
                known(NETWORK, 4, "Fail")
            } else {
                known(NETWORK, 1, "Open")
            }
        }
        "flow_close" if endpoint.is_some() => known(NETWORK, 2, "Close"),
        "flow_data" | "tls" | "http" | "ssh" | "stratum" if endpoint.is_some() => {
            known(NETWORK, 6, "Traffic")
        }
        "listen" if endpoint.is_some() => known(NETWORK, 7, "Listen"),
        "denied" if endpoint.is_some() => known(NETWORK, 5, "Refuse"),
        "open" if row.is("created") => known(FILE, 1, "Create"),
        "open" => known(FILE, 14, "Open"),
        "mkdir" | "link" | "symlink" | "mknod" => known(FILE, 1, "Create"),
        "truncate" => known(FILE, 3, "Update"),
        "unlink" | "rmdir" => known(FILE, 4, "Delete"),
        "rename" => known(FILE, 5, "Rename"),
        "xattr" => known(FILE, 6, "Set Attributes"),
        "chmod" | "chown" => known(FILE, 7, "Set Security"),
        "mount" if is_file => known(FILE, 12, "Mount"),
        "umount" if is_file => known(FILE, 13, "Unmount"),
        other if is_file && matches!(other, "denied" | "pivot_root" | "chroot" | "mmap_exec") => {
            known(FILE, OTHER, other)
        }
        other if endpoint.is_some() => known(NETWORK, OTHER, other),
        other => known(PROCESS, OTHER, other),
    }
}

/// Who did it: of a process that begins, the one that it was before.
fn actor(row: &Row) -> Value {
    let process = match row.kind.as_str() {
        "fork" => json!({"pid": row.ppid}),
        _ => process(row),
    };
    json!({"process": process, "user": {"uid": row.uid.to_string()}})
}

/// The process that an event is about.
fn subject(row: &Row) -> Value {
    let mut process = process(row);
    if let ("exec" | "seed", Some(path)) = (row.kind.as_str(), &row.path) {
        process["file"] = file(path, 1);
        process["cmd_line"] = row.argv().join(" ").into();
    }
    process["parent_process"] = json!({"pid": row.ppid});
    process
}

fn process(row: &Row) -> Value {
    let mut process = Map::new();
    process.insert("pid".to_owned(), row.pid.into());
    if !row.comm.is_empty() {
        process.insert("name".to_owned(), row.comm.clone().into());
    }
    if let Some(exe) = &row.exe {
        process.insert("file".to_owned(), file(exe, 1));
    }
    if let Some(cwd) = row.told("cwd") {
        process.insert("working_directory".to_owned(), cwd.into());
    }
    process.into()
}

/// A file. Type 0 is unknown, 1 a regular file, 2 a folder.
fn file(path: &str, kind: u32) -> Value {
    let name = path.trim_end_matches('/').rsplit('/').next();
    let name = name.filter(|name| !name.is_empty()).unwrap_or(path);
    json!({"name": name, "path": path, "type_id": kind})
}

fn file_activity(event: &mut Value, row: &Row) {
    let kind = match row.kind.as_str() {
        "mkdir" | "rmdir" => 2,
        _ => 0,
    };
    // The first is what was there, the second what it is called now.
    let first = row.path.as_deref().unwrap_or_default();
    put(event, "file", file(first, kind));
    if let Some(second) = &row.path2 {
        put(event, "file_result", file(second, kind));
    }
}

fn network(event: &mut Value, row: &Row) {
    let (local, remote) = (
        address(row.local.as_deref()),
        address(row.remote.as_deref()),
    );
    let direction = match row.direction.as_deref() {
        Some("in") => 1,
        Some("out") => 2,
        _ => 0,
    };
    let mut named = remote;
    if let (Some(remote), Some(domain)) = (&mut named, row.told("destination.domain")) {
        remote["hostname"] = domain.into();
    }
    // Who asked is the source.
    let (from, to) = if direction == 1 {
        (named, local)
    } else {
        (local, named)
    };
    for (name, endpoint) in [("src_endpoint", from), ("dst_endpoint", to)] {
        if let Some(endpoint) = endpoint {
            put(event, name, endpoint);
        }
    }
    let mut connection = json!({"direction_id": direction});
    if let Some(protocol) = &row.protocol {
        connection["protocol_name"] = protocol.clone().into();
    }
    put(event, "connection_info", connection);
    if let (Some(bytes_in), Some(bytes_out)) = (row.bytes_in, row.bytes_out) {
        let all = bytes_in.saturating_add(bytes_out);
        put(
            event,
            "traffic",
            json!({"bytes_in": bytes_in, "bytes_out": bytes_out, "bytes": all}),
        );
    }
}

/// An address and port as an endpoint.
fn address(text: Option<&str>) -> Option<Value> {
    let text = text?;
    match text.parse::<SocketAddr>() {
        Ok(address) => Some(json!({"ip": address.ip().to_string(), "port": address.port()})),
        Err(_) => Some(json!({"ip": text.parse::<std::net::IpAddr>().ok()?.to_string()})),
    }
}

fn dns(event: &mut Value, row: &Row) {
    let Some(detail) = row.detail.as_ref().map(|detail| detail.value()) else {
        return;
    };
    if let Some(name) = detail["dns.question.name"].as_str() {
        let mut query = json!({"hostname": name});
        if let Some(kind) = detail["dns.question.type"].as_str() {
            query["type"] = kind.into();
        }
        put(event, "query", query);
    }
    let answers = detail["dns.answers"].as_array().into_iter().flatten();
    let answers: Vec<Value> = answers
        .filter_map(|answer| {
            let data = answer["data"].as_str()?;
            Some(json!({"rdata": data, "type": answer["type"], "ttl": answer["ttl"]}))
        })
        .collect();
    if !answers.is_empty() {
        put(event, "answers", answers.into());
    }
    if let Some(code) = detail["dns.response_code"].as_str() {
        put(event, "rcode", code.into());
    }
}

/// Arguments in a line.
fn command(argv: &Value) -> String {
    let words = argv.as_array().into_iter().flatten();
    let words: Vec<&str> = words.filter_map(Value::as_str).collect();
    words.join(" ")
}
