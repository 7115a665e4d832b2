//! DNS (RFC 1035): what was asked, and what came back. Over TCP a message has its length before it.

use std::net::IpAddr;

use domain::{
    base::{
        Message, ParsedName, ParsedRecord, Rtype,
        iana::{Class, Opcode},
    },
    rdata::{A, Aaaa, Cname},
};

use super::{Parsed, text};

/// Bytes of a message's header.
const HEADER: usize = 12;
/// Most records of each sort that a message has which is not at DNS's port.
const RECORDS: u16 = 64;
/// Most answers that are kept of a message.
const ANSWERS: usize = 64;

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dns {
    /// Its number, which an answer has from its question.
    pub id: u16,
    /// It answers.
    pub is_answer: bool,
    /// The question.
    pub question: Option<Question>,
    /// How the server found it: `NOERROR`, `NXDOMAIN`; of an answer.
    pub rcode: Option<String>,
    /// What the server told, at most 64.
    pub answers: Vec<Answer>,
    /// Bytes are missing, or the server could not send all: what follows is not known.
    pub cut: bool,
}

/// A question. Names are as sent, without the dot at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The name.
    pub name: String,
    /// `A`, `AAAA`, `TXT`…
    pub kind: String,
}

/// A record of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Whose.
    pub name: String,
    /// `A`, `CNAME`…
    pub kind: String,
    /// How long it may be believed, seconds.
    pub ttl_s: u32,
    /// What it says.
    pub data: Data,
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// A, AAAA.
    Address(IpAddr),
    /// CNAME: this is another name of that.
    Alias(String),
    /// Another kind, of so many bytes.
    Other(usize),
}

impl Dns {
    /// The addresses that the answer gives to the name that was asked, with the seconds that they may
    /// be believed: by the chain of its aliases, in whatever order the records are.
    pub fn resolved(&self) -> Vec<(IpAddr, u32)> {
        let Some(question) = &self.question else {
            return Vec::new();
        };
        let mut names = vec![question.name.to_ascii_lowercase()];
        let mut ttl_s = u32::MAX;
        // Each alias is one more name, so this ends.
        while let Some((alias, ttl)) = self.answers.iter().find_map(|answer| match &answer.data {
            Data::Alias(to) => {
                let (of, to) = (answer.name.to_ascii_lowercase(), to.to_ascii_lowercase());
                (names.contains(&of) && !names.contains(&to)).then_some((to, answer.ttl_s))
            }
            _ => None,
        }) {
            names.push(alias);
            ttl_s = ttl_s.min(ttl);
        }
        let of = |answer: &Answer| match answer.data {
            Data::Address(ip) if names.contains(&answer.name.to_ascii_lowercase()) => {
                Some((ip.to_canonical(), answer.ttl_s.min(ttl_s)))
            }
            _ => None,
        };
        self.answers.iter().filter_map(of).collect()
    }
}

/// Reads a datagram. At DNS's own port what is there of a message counts; elsewhere it must be one
/// beyond doubt: one question of the Internet class, and nothing that cannot be read.
pub fn datagram(bytes: &[u8], own_port: bool, cut: bool) -> Option<Dns> {
    let message = Message::from_octets(bytes).ok()?;
    let counts = message.header_counts();
    let query = message.header().opcode() == Opcode::QUERY;
    if own_port {
        let told = query && counts.qdcount() <= 1;
        return told
            .then(|| read(&message, cut))
            .filter(|dns| dns.question.is_some());
    }
    let class = message.question().next()?.ok()?.qclass();
    if !is_plausible(&message) || class != Class::IN || (!cut && !is_exact(&message)) {
        return None;
    }
    Some(read(&message, cut)).filter(|dns| dns.question.is_some())
}

/// Reads a message behind its length, as TCP has it.
pub fn stream(bytes: &[u8]) -> Parsed<Dns> {
    let Some((len, rest)) = bytes.split_first_chunk::<2>() else {
        return Parsed::Begun;
    };
    let len = usize::from(u16::from_be_bytes(*len));
    if len < HEADER {
        return Parsed::Other;
    }
    match rest.get(..len) {
        Some(message) => {
            datagram(message, true, false).map_or(Parsed::Other, |dns| Parsed::Whole(dns, 2 + len))
        }
        None => Parsed::Begun,
    }
}

/// The same at any port: only what must be a message, which begins with all of its header.
pub fn any_stream(bytes: &[u8]) -> Parsed<Dns> {
    let Some((len, rest)) = bytes.split_first_chunk::<2>() else {
        return Parsed::Other;
    };
    let len = usize::from(u16::from_be_bytes(*len));
    let begins = rest.get(..HEADER).is_some_and(|head| {
        let message = Message::from_octets(head);
        message.is_ok_and(|message| is_plausible(&message))
    });
    if !begins || len < HEADER {
        return Parsed::Other;
    }
    match rest.get(..len) {
        Some(message) => {
            datagram(message, false, false).map_or(Parsed::Other, |dns| Parsed::Whole(dns, 2 + len))
        }
        None => Parsed::Begun,
    }
}

/// What there is of a message over TCP whose end is missing.
pub fn cut_stream(bytes: &[u8]) -> Option<Dns> {
    datagram(bytes.get(2..)?, true, true)
}

/// One question, and as many records as messages have.
fn is_plausible(message: &Message<&[u8]>) -> bool {
    let (header, counts) = (message.header(), message.header_counts());
    let records = [counts.ancount(), counts.nscount(), counts.arcount()];
    header.opcode() == Opcode::QUERY
        && counts.qdcount() == 1
        && records.into_iter().all(|n| n <= RECORDS)
}

/// Every byte belongs to a record.
fn is_exact(message: &Message<&[u8]>) -> bool {
    let Ok(mut section) = message.answer() else {
        return false;
    };
    loop {
        let mut end = section.pos();
        while let Some(record) = section.next() {
            if record.is_err() {
                return false;
            }
            end = section.pos();
        }
        match section.next_section() {
            Ok(Some(next)) => section = next,
            Ok(None) => return end == message.as_slice().len(),
            Err(_) => return false,
        }
    }
}

/// Reads what can be read.
fn read(message: &Message<&[u8]>, cut: bool) -> Dns {
    let header = message.header();
    let question = message.question().next().and_then(Result::ok);
    let counts = message.header_counts();
    let records = message.answer().into_iter().flatten().map_while(Result::ok);
    let answers: Vec<Answer> = records.take(ANSWERS).filter_map(|r| answer(&r)).collect();
    let missing = answers.len() < usize::from(counts.ancount());
    Dns {
        id: header.id(),
        is_answer: header.qr(),
        question: question.map(|question| Question {
            name: name(question.qname()),
            kind: kind(question.qtype()),
        }),
        rcode: header
            .qr()
            .then(|| text(header.rcode().to_string().as_bytes())),
        answers,
        cut: cut || missing || header.tc(),
    }
}

fn answer(record: &ParsedRecord<'_, &[u8]>) -> Option<Answer> {
    let data = match record.rtype() {
        Rtype::A => {
            let record = record.to_record::<A>().ok()??;
            Data::Address(record.data().addr().into())
        }
        Rtype::AAAA => {
            let record = record.to_record::<Aaaa>().ok()??;
            Data::Address(record.data().addr().into())
        }
        Rtype::CNAME => {
            let record = record.to_record::<Cname<ParsedName<&[u8]>>>().ok()??;
            Data::Alias(name(record.data().cname()))
        }
        _ => Data::Other(record.rdlen().into()),
    };
    Some(Answer {
        name: name(&record.owner()),
        kind: kind(record.rtype()),
        ttl_s: record.ttl().as_secs(),
        data,
    })
}

/// A name as text: what is not printable in it is `\DDD` (RFC 1035, 5.1).
fn name(name: &impl std::fmt::Display) -> String {
    let name = name.to_string();
    text(if name.is_empty() {
        b"."
    } else {
        name.as_bytes()
    })
}

/// A type's name, `TYPE65` where it has none (RFC 3597, 5).
fn kind(kind: Rtype) -> String {
    text(kind.to_string().as_bytes())
}
