//! HTTP: the request line and Host (RFC 9112), CONNECT (RFC 9110, 9.3.6), and the preface with which
//! HTTP/2 begins without TLS (RFC 9113, 3.4). What HTTP/2 says after it is compressed, and not read.

use httparse::{EMPTY_HEADER, Status};

use super::{Parsed, text};

/// Most headers that are looked at.
const HEADERS: usize = 64;
/// Most bytes of a request up to the end of its headers.
const LONGEST: usize = 16 * 1024;
/// Most bytes of a method: the registered ones have at most 17.
const METHOD: usize = 24;
/// Most bytes of a target that are kept.
const TARGET: usize = 1024;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Request {
    /// `GET`; `None` for HTTP/2, whose preface only is seen.
    pub method: Option<String>,
    /// The target as sent: a path; for a proxy a URL, or `host:port` with CONNECT.
    pub target: Option<String>,
    /// The header Host, with the port if it has one.
    pub host: Option<String>,
    /// `1.0`, `1.1`, `2`.
    pub version: &'static str,
    /// Bytes are missing: what follows them is not known.
    pub cut: bool,
}

impl Request {
    /// It asks a proxy: whom it names is not who is talked to.
    pub fn is_for_proxy(&self) -> bool {
        let target = self.target.as_deref().unwrap_or_default();
        self.is_connect() || !(target.starts_with('/') || target == "*" || target.is_empty())
    }

    /// It asks for a tunnel.
    pub fn is_connect(&self) -> bool {
        self.method.as_deref() == Some("CONNECT")
    }
}

/// Reads a request up to the end of its headers.
pub fn request(bytes: &[u8]) -> Parsed<Request> {
    if bytes.starts_with(PREFACE) {
        let request = Request {
            version: "2",
            ..Request::default()
        };
        return Parsed::Whole(request, PREFACE.len());
    }
    if PREFACE.starts_with(bytes) {
        return Parsed::Begun;
    }
    match read(bytes) {
        Some((request, Some(len))) => Parsed::Whole(request, len),
        Some((_, None)) if bytes.len() < LONGEST => Parsed::Begun,
        _ => Parsed::Other,
    }
}

/// What there is of a request whose end is missing: the beginning of its target at least.
pub fn cut(bytes: &[u8]) -> Option<Request> {
    let (mut request, None) = read(bytes)? else {
        return None;
    };
    if request.target.is_none() {
        let target = bytes.get(request.method.as_ref()?.len() + 1..)?;
        let known = [&b"/"[..], b"http://"]
            .iter()
            .any(|start| target.starts_with(start));
        request.target = known.then(|| long_text(target));
    }
    request.target.is_some().then_some(request)
}

/// Reads a request, and its length where it is whole.
fn read(bytes: &[u8]) -> Option<(Request, Option<usize>)> {
    // Anything that begins with a word is a method to httparse.
    let method = bytes.iter().position(|b| !b.is_ascii_uppercase());
    match method {
        Some(at) if !(3..=METHOD).contains(&at) || bytes[at] != b' ' => return None,
        None if bytes.is_empty() || bytes.len() > METHOD => return None,
        _ => {}
    }
    let mut headers = [EMPTY_HEADER; HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let end = match request.parse(bytes) {
        Ok(Status::Complete(len)) => Some(len),
        Ok(Status::Partial) => None,
        // The target stands, however many headers there are.
        Err(httparse::Error::TooManyHeaders) => Some(bytes.len()),
        Err(_) => return None,
    };
    let host = request
        .headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case("host"));
    let read = Request {
        method: request.method.map(|method| text(method.as_bytes())),
        target: request.path.map(|path| long_text(path.as_bytes())),
        host: host.map(|host| text(host.value)),
        version: match request.version {
            Some(0) => "1.0",
            _ => "1.1",
        },
        cut: end.is_none(),
    };
    Some((read, end))
}

fn long_text(bytes: &[u8]) -> String {
    crate::text::escape(&bytes[..bytes.len().min(TARGET)])
}
