//! Stratum: how miners talk to pools. Version 1 and its relatives are lines of JSON-RPC: `mining.*`
//! (Bitcoin and most others), `eth_*` (Ethereum's descendants), and `login`, `job`, `submit` as Monero's
//! pools have them. Version 2 is binary and encrypted as a rule: its first bytes are a key then, which
//! looks like any other random bytes. Only where it is plain is its first message recognised.

use serde_json::Value;

use super::{Parsed, text};

/// Most bytes of a line: jobs have some thousand.
const LONGEST: usize = 16 * 1024;

/// A message of a miner or a pool.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stratum {
    /// 1 or 2.
    pub version: u8,
    /// `mining.subscribe`, `login`, `job`, `SetupConnection`…
    pub method: String,
    /// Whose account it mines for: mostly a wallet. Passwords are not kept.
    pub user: Option<String>,
    /// The mining program, as it calls itself.
    pub software: Option<String>,
    /// Bytes are missing: what follows them is not known.
    pub cut: bool,
}

/// Reads a line of version 1.
pub fn line(bytes: &[u8]) -> Parsed<Stratum> {
    let start = bytes.iter().position(|b| !b.is_ascii_whitespace());
    if start.is_none_or(|at| bytes[at] != b'{') {
        return Parsed::Other;
    }
    let (line, used) = match bytes.iter().position(|b| *b == b'\n') {
        Some(end) => (&bytes[..end], end + 1),
        // Some send no end of line, so a whole value counts as a line.
        None => (bytes, bytes.len()),
    };
    match serde_json::from_slice::<Value>(line) {
        Ok(value) => message(&value).map_or(Parsed::Other, |message| Parsed::Whole(message, used)),
        Err(error) if error.is_eof() && used == line.len() && used < LONGEST => Parsed::Begun,
        Err(_) => Parsed::Other,
    }
}

/// What there is of a line whose end is missing: its method.
pub fn cut(bytes: &[u8]) -> Option<Stratum> {
    if bytes.first() != Some(&b'{') || bytes.contains(&b'\n') {
        return None;
    }
    let after = |what: &[u8]| {
        let ends = bytes.windows(what.len()).zip(what.len()..);
        let mut found = ends.filter(|(word, _)| *word == what);
        found.find_map(|(_, end)| value(&bytes[end..]))
    };
    let method = after(b"\"method\"").map(text)?;
    let known = is_stratum(&method) || (method == "login" && after(b"\"agent\"").is_some());
    known.then(|| Stratum {
        version: 1,
        user: after(b"\"login\"").map(text).filter(|_| method == "login"),
        software: after(b"\"agent\"").map(text),
        method,
        cut: true,
    })
}

/// The string after the name of a member.
fn value(bytes: &[u8]) -> Option<&[u8]> {
    let bytes = bytes.trim_ascii_start().strip_prefix(b":")?;
    let text = bytes.trim_ascii_start().strip_prefix(b"\"")?;
    Some(&text[..text.iter().position(|b| *b == b'"')?])
}

/// Methods that nothing else has.
fn is_stratum(method: &str) -> bool {
    method.starts_with("mining.")
        || matches!(
            method,
            "eth_submitLogin" | "eth_submitHashrate" | "eth_submitWork" | "eth_getWork"
        )
}

/// What a JSON-RPC message says, if it is Stratum's.
fn message(value: &Value) -> Option<Stratum> {
    let params = &value["params"];
    let told = |of: &Value| of.as_str().map(|told| text(told.as_bytes()));
    let made = |method: &str| Stratum {
        version: 1,
        method: text(method.as_bytes()),
        ..Stratum::default()
    };
    let Some(method) = value["method"].as_str() else {
        // The answer to a login brings the first job.
        let job = &value["result"]["job"];
        return is_job(job).then(|| made("job"));
    };
    let message = match method {
        "mining.subscribe" => Stratum {
            software: told(&params[0]),
            ..made(method)
        },
        "mining.authorize" | "mining.submit" => Stratum {
            user: told(&params[0]),
            ..made(method)
        },
        "eth_submitLogin" => Stratum {
            user: told(&params[0]),
            software: told(&value["worker"]),
            ..made(method)
        },
        "login" if params["login"].is_string() => {
            let mining = params["agent"].is_string() || params["pass"].is_string();
            if !mining {
                return None;
            }
            Stratum {
                user: told(&params["login"]),
                software: told(&params["agent"]),
                ..made(method)
            }
        }
        "job" if is_job(params) => made(method),
        "submit" if params["job_id"].is_string() && params["nonce"].is_string() => made(method),
        _ if is_stratum(method) => made(method),
        _ => return None,
    };
    Some(message)
}

/// A job of Monero's kind.
fn is_job(value: &Value) -> bool {
    value["blob"].is_string() && value["target"].is_string()
}

/// Reads the plain first message of version 2, SetupConnection: extension 0, type 0, a length of three
/// bytes, then protocol, two versions, flags, five strings with a port among them, little-endian
/// (Stratum V2 specification, 3.2 and 5.3.1).
pub fn setup_connection(bytes: &[u8]) -> Parsed<Stratum> {
    const HEADER: usize = 6;
    /// Protocol, minimum and maximum version: all begin so, 2 being the only version there is.
    const VERSIONS: [u8; 4] = [2, 0, 2, 0];
    let Some(([0, 0, 0], len)) = bytes
        .get(..HEADER)
        .map(|head| ([head[0], head[1], head[2]], head))
    else {
        return Parsed::Other;
    };
    let len = usize::from(len[3]) | usize::from(len[4]) << 8 | usize::from(len[5]) << 16;
    let Some(body) = bytes.get(HEADER..HEADER + len) else {
        return Parsed::Other; // it has a hundred bytes or two, and comes at once
    };
    let read = || {
        let (protocol, rest) = body.split_first()?;
        let rest = rest.strip_prefix(&VERSIONS)?.get(4..)?;
        let (_host, rest) = string(rest)?;
        let (vendor, rest) = string(rest.get(2..)?)?;
        let (_hardware, rest) = string(rest)?;
        let (firmware, rest) = string(rest)?;
        let (_device, rest) = string(rest)?;
        (*protocol <= 2 && rest.is_empty()).then_some((vendor, firmware))
    };
    let Some((vendor, firmware)) = read() else {
        return Parsed::Other;
    };
    let software = [vendor, firmware].map(text).join(" ").trim().to_owned();
    let message = Stratum {
        version: 2,
        method: "SetupConnection".to_owned(),
        software: Some(software).filter(|software| !software.is_empty()),
        ..Stratum::default()
    };
    Parsed::Whole(message, HEADER + len)
}

/// A string with its length in a byte before it.
fn string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(*len))
}
