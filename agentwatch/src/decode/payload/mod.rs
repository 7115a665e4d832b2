//! What is said at the beginning of a flow, or in a DNS message: bytes → [`Message`]. Like all of
//! `decode` pure and total: any bytes give a message or none, never a panic. What bytes belong
//! together is known in `enrich/conversations`.
//!
//! Behaviour decides, not ports: each protocol is known by its bytes. At DNS's own port more is read
//! as DNS than elsewhere, where it must be so beyond doubt.

pub mod dns;
pub mod http;
pub mod ssh;
pub mod stratum;
pub mod tls;

use crate::event::{Direction, Endpoint};

/// Most bytes kept of any one text of a message. Names have at most 255 (RFC 1035, 2.3.4).
const TEXT: usize = 255;

/// A message in the payload of a flow.
#[derive(Debug, Clone)]
pub struct Payload {
    /// The flow.
    pub endpoint: Endpoint,
    /// Which way it went.
    pub direction: Direction,
    /// Bytes in this direction before it. Not 0: what was said before, with a proxy for instance, may
    /// have changed who it is said to.
    pub offset: u64,
    /// The message.
    pub message: Message,
}

/// What was said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// The beginning of TLS.
    Tls(tls::ClientHello),
    /// A question or an answer.
    Dns(dns::Dns),
    /// A request.
    Http(http::Request),
    /// How one side of SSH introduces itself.
    Ssh(ssh::Banner),
    /// A miner and its pool.
    Stratum(stratum::Stratum),
}

impl Message {
    /// The stable name: the event's kind.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Tls(_) => "tls",
            Self::Dns(_) => "dns",
            Self::Http(_) => "http",
            Self::Ssh(_) => "ssh",
            Self::Stratum(_) => "stratum",
        }
    }
}

/// What the beginning of some bytes is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed<T> {
    /// A message, and how many bytes it has, at least 1.
    Whole(T, usize),
    /// The beginning of one, perhaps.
    Begun,
    /// Something else.
    Other,
}

impl<T> Parsed<T> {
    /// The same of another type.
    pub fn map<U>(self, make: impl FnOnce(T) -> U) -> Parsed<U> {
        match self {
            Self::Whole(message, len) => Parsed::Whole(make(message), len),
            Self::Begun => Parsed::Begun,
            Self::Other => Parsed::Other,
        }
    }
}

type Parser = fn(&[u8]) -> Parsed<Message>;

/// Looks at the beginning of a TCP stream, or of what begins with a packet in it.
pub fn stream(bytes: &[u8]) -> Parsed<Message> {
    let parsers: [Parser; 6] = [
        |bytes| tls::client_hello(bytes).map(Message::Tls),
        |bytes| http::request(bytes).map(Message::Http),
        |bytes| ssh::banner(bytes).map(Message::Ssh),
        |bytes| stratum::line(bytes).map(Message::Stratum),
        |bytes| stratum::setup_connection(bytes).map(Message::Stratum),
        |bytes| dns::any_stream(bytes).map(Message::Dns),
    ];
    first(bytes, &parsers)
}

/// The same where no more bytes come: what there is of a message that is cut.
pub fn cut_stream(bytes: &[u8]) -> Option<Message> {
    tls::cut(bytes)
        .map(Message::Tls)
        .or_else(|| http::cut(bytes).map(Message::Http))
        .or_else(|| stratum::cut(bytes).map(Message::Stratum))
}

/// What the first parser says that does not say [`Parsed::Other`]; begun ones wait for later ones.
fn first(bytes: &[u8], parsers: &[Parser]) -> Parsed<Message> {
    let mut begun = false;
    for parser in parsers {
        match parser(bytes) {
            Parsed::Whole(message, len) if len > 0 => return Parsed::Whole(message, len),
            Parsed::Whole(..) | Parsed::Other => {}
            Parsed::Begun => begun = true,
        }
    }
    if begun { Parsed::Begun } else { Parsed::Other }
}

/// Untrusted bytes as text, cut.
fn text(bytes: &[u8]) -> String {
    crate::text::escape(&bytes[..bytes.len().min(TEXT)])
}

#[cfg(test)]
mod tests;
