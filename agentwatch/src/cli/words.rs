//! What an event says, in words.

use crate::store::{detail::Detail, row::Row};

/// What happened, in words.
pub fn what(row: &Row) -> String {
    let path = row.path.as_deref().unwrap_or_default();
    let failed = match row.result {
        Some(errno) if errno < 0 => {
            format!("  failed: {}", std::io::Error::from_raw_os_error(-errno))
        }
        _ => String::new(),
    };
    let protocol = row.protocol.as_deref().unwrap_or_default();
    match row.kind.as_str() {
        "exec" => exec(row),
        "fork" => format!("made by {}", row.ppid),
        "exit" => match row.number("signal") {
            Some(signal) => format!("by signal {signal}"),
            None => format!("status {}", row.result.unwrap_or(0)),
        },
        "cgroup_move" => format!(
            "{} moved to cgroup {}",
            row.number("moved").unwrap_or(0),
            row.number("to").unwrap_or(0)
        ),
        "bind" => format!(
            "{protocol} at {}{failed}",
            row.path.as_deref().or(row.local.as_deref()).unwrap_or("?")
        ),
        "stopped" => format!(
            "past its deletion budget {} its workspace",
            if row.is("workspace") { "in" } else { "outside" }
        ),
        "denied" => format!(
            "{} {}  by {}{}",
            row.told("operation").unwrap_or("?"),
            row.told("target").unwrap_or(""),
            row.told("rule").unwrap_or("?"),
            if row.told("verdict") == Some("deny") {
                ""
            } else {
                "  (observed only)"
            }
        ),
        "usage" => usage(row),
        "signal" => format!(
            "{} to {}",
            row.number("signal").unwrap_or(0),
            row.number("target_pid").unwrap_or(0)
        ),
        "connect" | "accept" | "listen" | "socket_received" | "socket_inherited" | "flow_open"
        | "flow_data" | "flow_close" | "flow_alive" | "tls" | "dns" | "http" | "ssh"
        | "stratum" => flow(row, &failed),
        _ if row.path.is_some() => file(row, path, &failed),
        _ => format!("{}{failed}", facts(row)),
    }
}

/// How much of the CPUs a process used lately.
fn usage(row: &Row) -> String {
    let number = |name| row.number(name).unwrap_or(0);
    let recent_ns = number("recent_ns").max(1);
    format!(
        "{} % of a CPU for {} s, {} s of CPU time in all",
        number("recent_cpu_ns") * 100 / recent_ns,
        recent_ns / 1_000_000_000,
        number("cpu_ns") / 1_000_000_000,
    )
}

/// What was done to a file.
fn file(row: &Row, path: &str, failed: &str) -> String {
    let path2 = row.path2.as_deref().unwrap_or("?");
    match row.kind.as_str() {
        "open" => {
            let how = if row.is("created") {
                "created"
            } else if row.is("write") {
                "for writing"
            } else {
                "for reading"
            };
            let times = match row.number("count") {
                Some(count) => format!(", {count} times"),
                None => String::new(),
            };
            format!("{path}  {how}{times}{failed}")
        }
        "rename" => format!("{path} → {path2}{failed}"),
        "link" => format!("{path2} is {path} too{failed}"),
        "symlink" => format!("{path2} leads to {path}{failed}"),
        "chmod" => format!("{path}  to {:o}{failed}", row.number("mode").unwrap_or(0)),
        "mount" => format!("{path2} at {path}{failed}"),
        "mmap_exec" => format!("{path}  as code"),
        "pivot_root" => format!("{path}, the old root at {path2}{failed}"),
        "xattr" => format!("{path}  {}{failed}", row.told("attribute").unwrap_or("?")),
        _ => format!("{path}{failed}"),
    }
}

/// What a flow does.
fn flow(row: &Row, failed: &str) -> String {
    let remote = remote(row);
    let protocol = row.protocol.as_deref().unwrap_or_default();
    match row.kind.as_str() {
        // A unix socket's address is a path.
        "connect" if row.path.is_some() => {
            let path = row.path.as_deref().unwrap_or_default();
            format!("{protocol} to {path}{failed}")
        }
        "connect" => format!("{protocol} to {remote}{failed}"),
        "accept" => format!(
            "{protocol} from {remote} at {}",
            row.local.as_deref().unwrap_or("?")
        ),
        "socket_received" => format!(
            "{protocol} {} with {remote}, by a message",
            row.local.as_deref().unwrap_or("?")
        ),
        "socket_inherited" => format!(
            "{protocol} {} with {remote}, from before",
            row.local.as_deref().unwrap_or("?")
        ),
        "listen" => format!("{protocol} at {}", row.local.as_deref().unwrap_or("?")),
        "flow_open" => format!("{protocol} {} {remote}", arrow(row)),
        "flow_data" => format!(
            "{protocol} {} {remote}  {} {} bytes: {}",
            arrow(row),
            row.told("way").unwrap_or("?"),
            row.number("len").unwrap_or(0),
            row.told("head").unwrap_or_default()
        ),
        "flow_alive" => format!(
            "{protocol} {} {remote}  {} out, {} in so far",
            arrow(row),
            row.bytes_out.unwrap_or(0),
            row.bytes_in.unwrap_or(0),
        ),
        "flow_close" => format!(
            "{protocol} {} {remote}  {} out, {} in{}{}",
            arrow(row),
            row.bytes_out.unwrap_or(0),
            row.bytes_in.unwrap_or(0),
            match row.number("retransmits") {
                None | Some(0) => String::new(),
                Some(number) => format!(", {number} sent again"),
            },
            if row.is("established") {
                ""
            } else {
                "  never established"
            }
        ),
        _ => format!("{protocol} {} {remote}  {}", arrow(row), said(row)),
    }
}

/// A program, and how it came to run where that was not by its own file.
fn exec(row: &Row) -> String {
    let path = row.path.as_deref().unwrap_or_default();
    let command = format!("{path}  {}", row.argv().join(" "));
    let of = row.told("script").or_else(|| row.told("program"));
    match (row.told("means"), of) {
        (Some(means), Some(of)) => format!("{command}  [{means} {of}]"),
        (Some(means), None) => format!("{command}  [{means}]"),
        (None, _) => command,
    }
}

/// All that is known of a call, by name.
fn facts(row: &Row) -> String {
    let detail = row.detail.as_ref().map(Detail::value);
    let facts = detail.as_ref().and_then(|detail| detail.as_object());
    let words: Vec<String> = facts
        .into_iter()
        .flatten()
        .map(|(name, value)| match value {
            serde_json::Value::String(text) => format!("{name} {text}"),
            serde_json::Value::Array(list) => {
                let list: Vec<&str> = list.iter().filter_map(serde_json::Value::as_str).collect();
                format!("{name} {}", list.join(","))
            }
            other => format!("{name} {other}"),
        })
        .collect();
    words.join("  ")
}

/// The peer, with its name.
fn remote(row: &Row) -> String {
    let remote = row.remote.as_deref().unwrap_or("?");
    match row.told("destination.domain") {
        Some(name) => format!("{remote} ({name})"),
        None => remote.to_owned(),
    }
}

/// What a message says.
fn said(row: &Row) -> String {
    let told = |name: &str| row.told(name).unwrap_or_default();
    let text = match row.kind.as_str() {
        "tls" => format!(
            "ClientHello for {}{}{}",
            row.told("tls.client.server_name").unwrap_or("no name"),
            word(" over ", &row.list("tls.client.alpn")),
            if row.is("tls.client.ech") {
                ", another name may be encrypted"
            } else {
                ""
            },
        ),
        "dns" if told("dns.type") == "query" => {
            format!(
                "{} {}?",
                told("dns.question.type"),
                told("dns.question.name")
            )
        }
        "dns" => format!(
            "{} {}: {}{}",
            told("dns.question.type"),
            told("dns.question.name"),
            told("dns.response_code"),
            word(" ", &row.list("dns.resolved_ip")),
        ),
        "http" => format!(
            "{} {}{}",
            row.told("http.request.method").unwrap_or("HTTP/2"),
            told("url.original"),
            word(
                " at ",
                if told("http.request.method") == "CONNECT" {
                    ""
                } else {
                    told("server.address")
                }
            ),
        ),
        "ssh" => format!(
            "SSH {} {}, {}",
            told("ssh.version"),
            told("ssh.software"),
            told("way")
        ),
        _ => format!(
            "{}{}{}",
            told("stratum.method"),
            word(" for ", told("stratum.user")),
            word(" by ", told("stratum.software")),
        ),
    };
    if row.is("partial") {
        text + ", cut"
    } else {
        text
    }
}

/// A text with something before it, if there is one.
fn word(before: &str, text: &str) -> String {
    if text.is_empty() {
        String::new()
    } else {
        format!("{before}{text}")
    }
}

fn arrow(row: &Row) -> &'static str {
    if row.direction.as_deref() == Some("in") {
        "from"
    } else {
        "to"
    }
}
