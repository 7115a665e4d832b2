//! Rows of the history as columns of the tables. The names are those of `migrations/`.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use serde_json::Value;

use super::block::{Block, Column, Encoded};
use crate::store::{
    detail::Detail,
    follow::{Ended, Placed, Rows, Started, StoredAction},
    query::StoredFinding,
    row::Row,
};

const TIME: &str = "DateTime64(9, 'UTC')";

/// The table that rows go to, and the rows as it wants them.
pub fn encode(rows: &Rows, node: &str) -> (&'static str, Encoded) {
    let (table, block) = match rows {
        Rows::Events(rows) => ("events", events(rows, node)),
        Rows::Findings(rows) => ("findings", findings(rows, node)),
        Rows::Actions(rows) => ("actions", actions(rows, node)),
        Rows::Runs(rows) => ("agents", started(rows, node)),
        Rows::Ends(rows) => ("agents", ended(rows, node)),
    };
    (table, block.encode())
}

/// The columns of a block, one after the other.
macro_rules! columns {
    ($rows:expr, $([$column:expr, |$to:ident, $row:pat_param| $put:expr]),+ $(,)?) => {{
        let rows = $rows;
        let columns = vec![$({
            let mut $to = $column;
            for $row in rows {
                $put;
            }
            $to
        }),+];
        Block::new(rows.len(), columns)
    }};
}

fn events(rows: &[Placed<Row>], node: &str) -> Block {
    columns![
        rows,
        [Column::plain("time", TIME), |c, r| c
            .put(&r.what.time_ns.to_le_bytes())],
        [Column::few("node"), |c, _| c.text(node)],
        [Column::few("agent"), |c, r| c.text(&r.what.agent)],
        [Column::few("run"), |c, r| c.text(&r.what.run)],
        [Column::few("kind"), |c, r| c.text(&r.what.kind)],
        [Column::plain("id", "UInt64"), |c, r| c
            .put(&r.id.to_le_bytes())],
        [Column::plain("pid", "UInt32"), |c, r| c
            .put(&r.what.pid.to_le_bytes())],
        [Column::plain("start_ns", "UInt64"), |c, r| c
            .put(&r.what.start_ns.to_le_bytes())],
        [Column::plain("ppid", "UInt32"), |c, r| c
            .put(&r.what.ppid.to_le_bytes())],
        [Column::plain("uid", "UInt32"), |c, r| c
            .put(&r.what.uid.to_le_bytes())],
        [Column::few("comm"), |c, r| c.text(&r.what.comm)],
        [Column::few("exe"), |c, r| c.text(some(r.what.exe.as_ref()))],
        [Column::plain("path", "String"), |c, r| c
            .text(some(r.what.path.as_ref()))],
        [Column::plain("path2", "String"), |c, r| c
            .text(some(r.what.path2.as_ref()))],
        [Column::nullable("result", "Nullable(Int32)"), |c, r| c
            .put_some(r.what.result.map(i32::to_le_bytes))],
        [Column::plain("dev", "UInt32"), |c, r| c
            .put(&r.what.dev.unwrap_or(0).to_le_bytes())],
        [Column::plain("ino", "UInt64"), |c, r| c
            .put(&number(r.what.ino))],
        [Column::few("protocol"), |c, r| c
            .text(some(r.what.protocol.as_ref()))],
        [Column::few("direction"), |c, r| c
            .text(some(r.what.direction.as_ref()))],
        [Column::plain("local", "String"), |c, r| c
            .text(some(r.what.local.as_ref()))],
        [Column::plain("remote", "String"), |c, r| c
            .text(some(r.what.remote.as_ref()))],
        [Column::plain("remote_ip", "IPv6"), |c, r| c
            .put(&address(r.what.remote.as_ref()).octets())],
        [Column::plain("remote_port", "UInt16"), |c, r| c
            .put(&r.what.remote_port.unwrap_or(0).to_le_bytes())],
        [Column::plain("bytes_in", "UInt64"), |c, r| c
            .put(&number(r.what.bytes_in))],
        [Column::plain("bytes_out", "UInt64"), |c, r| c
            .put(&number(r.what.bytes_out))],
        [Column::plain("cookie", "UInt64"), |c, r| c
            .put(&number(r.what.cookie))],
        [Column::few("domain"), |c, r| c.text(
            r.what.told("destination.domain").unwrap_or_default()
        )],
        [Column::plain("count", "UInt32"), |c, r| c
            .put(&count(&r.what).to_le_bytes())],
        [Column::few("detail"), |c, r| c
            .text(&detail(r.what.detail.as_ref()))],
    ]
}

fn findings(rows: &[Placed<StoredFinding>], node: &str) -> Block {
    let told = |row: &'_ Placed<StoredFinding>, path: &str| -> Value {
        row.what.finding.pointer(path).cloned().unwrap_or_default()
    };
    let text = |row: &Placed<StoredFinding>, path: &str| -> String {
        told(row, path).as_str().unwrap_or_default().to_owned()
    };
    columns![
        rows,
        [Column::plain("time", TIME), |c, r| c
            .put(&r.what.time_ns.to_le_bytes())],
        [Column::few("node"), |c, _| c.text(node)],
        [Column::few("agent"), |c, r| c.text(&text(r, "/agent"))],
        [Column::few("run"), |c, r| c.text(&r.what.run)],
        [Column::plain("id", "String"), |c, r| c
            .text(&text(r, "/id"))],
        [Column::few("detector"), |c, r| c
            .text(&text(r, "/detector"))],
        [Column::plain("severity", "String"), |c, r| c
            .text(&text(r, "/severity"))],
        [Column::plain("message", "String"), |c, r| c
            .text(&text(r, "/message"))],
        [Column::lists("techniques"), |c, r| {
            let techniques = r.what.finding["techniques"].as_array();
            let ids = techniques
                .into_iter()
                .flatten()
                .filter_map(|t| t["id"].as_str());
            c.list(ids);
        }],
        [Column::plain("pid", "UInt32"), |c, r| {
            let pid = told(r, "/process/pid").as_u64().unwrap_or(0);
            c.put(&(pid as u32).to_le_bytes());
        }],
        [Column::plain("start_ns", "UInt64"), |c, r| c
            .put(&number(told(r, "/process/start_ns").as_u64()))],
        [Column::plain("exe", "String"), |c, r| c
            .text(&text(r, "/process/exe"))],
        [Column::few("requested"), |c, r| c
            .text(&text(r, "/response/requested"))],
        [Column::few("taken"), |c, r| c
            .text(&text(r, "/response/taken"))],
        [Column::plain("finding", "String"), |c, r| c
            .text(&r.what.finding.to_string())],
    ]
}

fn actions(rows: &[Placed<StoredAction>], node: &str) -> Block {
    columns![
        rows,
        [Column::plain("time", TIME), |c, r| c
            .put(&r.what.time_ns.to_le_bytes())],
        [Column::few("node"), |c, _| c.text(node)],
        [Column::few("agent"), |c, r| c.text(&r.what.action.agent)],
        [Column::few("run"), |c, r| c
            .text(some(r.what.action.run.as_ref()))],
        [Column::few("action"), |c, r| c
            .text(r.what.action.action.name())],
        [Column::plain("reason", "String"), |c, r| c
            .text(&r.what.action.reason)],
        [Column::plain("asked_by", "String"), |c, r| {
            let asked = serde_json::to_string(&r.what.action.asked_by);
            c.text(&asked.unwrap_or_default());
        }],
        [Column::plain("done", "Bool"), |c, r| c
            .put(&[u8::from(r.what.action.done)])],
        [Column::plain("outcome", "String"), |c, r| c
            .text(&r.what.action.outcome)],
        [
            Column::nullable("ordered_us", "Nullable(UInt64)"),
            |c, r| c.put_some(r.what.action.ordered_us.map(u64::to_le_bytes))
        ],
        [Column::nullable("done_us", "Nullable(UInt64)"), |c, r| c
            .put_some(r.what.action.done_us.map(u64::to_le_bytes))],
    ]
}

fn started(rows: &[Placed<Started>], node: &str) -> Block {
    columns![
        rows,
        [Column::few("node"), |c, _| c.text(node)],
        [Column::plain("run", "String"), |c, r| c.text(&r.what.run)],
        [Column::plain("agent", "String"), |c, r| c
            .text(&r.what.agent)],
        [Column::lists("command"), |c, r| c
            .list(r.what.command.iter().map(String::as_str))],
        [Column::plain("started", TIME), |c, r| c
            .put(&r.what.started_ns.to_le_bytes())],
        [Column::plain("seen", TIME), |c, r| c
            .put(&r.what.started_ns.to_le_bytes())],
    ]
}

fn ended(rows: &[Placed<Ended>], node: &str) -> Block {
    columns![
        rows,
        [Column::few("node"), |c, _| c.text(node)],
        [Column::plain("run", "String"), |c, r| c.text(&r.what.run)],
        [Column::plain("agent", "String"), |c, r| c
            .text(&r.what.agent)],
        [Column::plain("ended", TIME), |c, r| c
            .put(&r.what.ended_ns.to_le_bytes())],
        [
            Column::nullable("exit_status", "Nullable(Int32)"),
            |c, r| c.put_some(r.what.exit_status.map(i32::to_le_bytes))
        ],
        [Column::plain("killed_by", "String"), |c, r| c
            .text(some(r.what.killed_by.as_ref()))],
        [Column::plain("events", "UInt64"), |c, r| c
            .put(&r.what.stored.to_le_bytes())],
        [Column::plain("dropped", "UInt64"), |c, r| c
            .put(&r.what.dropped.to_le_bytes())],
        [Column::plain("lost", "UInt64"), |c, r| c
            .put(&lost(&r.what.tally).to_le_bytes())],
        [Column::plain("tally", "String"), |c, r| c
            .text(&r.what.tally.to_string())],
        [Column::plain("seen", TIME), |c, r| c
            .put(&r.what.ended_ns.to_le_bytes())],
    ]
}

fn some(text: Option<&String>) -> &str {
    text.map_or("", String::as_str)
}

fn number(number: Option<u64>) -> [u8; 8] {
    number.unwrap_or(0).to_le_bytes()
}

/// How many calls a row stands for.
fn count(row: &Row) -> u32 {
    row.number("count")
        .map_or(1, |n| u32::try_from(n).unwrap_or(u32::MAX))
}

fn detail(detail: Option<&Detail>) -> String {
    detail.map(ToString::to_string).unwrap_or_default()
}

/// All losses of a tally.
fn lost(tally: &Value) -> u64 {
    let reasons = tally["lost"].as_array();
    let numbers = reasons
        .into_iter()
        .flatten()
        .filter_map(|pair| pair[1].as_u64());
    numbers.sum()
}

/// The address of `10.1.2.3:443`, `[2001:db8::1]:443` or of an address alone; `::` where it is none.
fn address(text: Option<&String>) -> Ipv6Addr {
    let Some(text) = text else {
        return Ipv6Addr::UNSPECIFIED;
    };
    let whole = text.parse::<SocketAddr>().map(|at| at.ip());
    match whole.or_else(|_| text.parse()) {
        Ok(IpAddr::V4(ip)) => ip.to_ipv6_mapped(),
        Ok(IpAddr::V6(ip)) => ip,
        Err(_) => Ipv6Addr::UNSPECIFIED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_found_in_what_is_shown() {
        for (text, ip) in [
            ("10.1.2.3:443", "::ffff:10.1.2.3"),
            ("[2001:db8::1]:443", "2001:db8::1"),
            ("10.1.2.3", "::ffff:10.1.2.3"),
            ("fe80::1", "fe80::1"),
            ("/run/a.sock", "::"),
            ("", "::"),
        ] {
            let expected: Ipv6Addr = ip.parse().unwrap();
            assert_eq!(address(Some(&text.to_owned())), expected, "{text}");
        }
        assert_eq!(address(None), Ipv6Addr::UNSPECIFIED);
    }

    #[test]
    fn losses_add_up() {
        let tally = serde_json::json!({"lost": [["ring_full", 3], ["other", 4]]});
        assert_eq!(lost(&tally), 7);
        assert_eq!(lost(&Value::Null), 0);
    }
}
