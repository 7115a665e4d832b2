//! TLS: the ClientHello (RFC 8446, 4.1.2; RFC 5246, 7.4.1.2), which names the server in the clear.

use tls_parser::{
    SNIType, TlsExtension, TlsRecordType, parse_tls_client_hello_extensions,
    parse_tls_handshake_client_hello, parse_tls_record_header,
};

use super::{Parsed, text};

/// Bytes of a record's header.
const RECORD_HEADER: usize = 5;
/// Bytes of a handshake message's header: type, length.
const HANDSHAKE_HEADER: usize = 4;
/// The type of a ClientHello.
const CLIENT_HELLO: u8 = 1;
/// The type of the extension `encrypted_client_hello` (RFC 9849, 5).
const ECH: u16 = 0xfe0d;
/// Most protocols and versions that are kept.
const OFFERED: usize = 16;
/// No ClientHello is longer: the largest that are made have a few thousand bytes.
const LONGEST: usize = 16 * 1024;

/// What a client offers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// The name in the clear (SNI, RFC 6066, 3).
    pub server_name: Option<String>,
    /// Application protocols (ALPN, RFC 7301), as `h2`, `http/1.1`.
    pub alpn: Vec<String>,
    /// Versions, as the client prefers them: `1.3`, `1.2`.
    pub versions: Vec<String>,
    /// Encrypted Client Hello or its predecessor ESNI is offered: `server_name` may be that of a
    /// provider, which hides the true one. Browsers also send an empty offer, so that the true ones do
    /// not stand out; nobody but the server can tell them apart.
    pub ech: bool,
    /// Bytes are missing: what follows them is not known.
    pub cut: bool,
}

/// Reads a ClientHello, of one record or of several.
pub fn client_hello(bytes: &[u8]) -> Parsed<ClientHello> {
    let Some((message, used)) = handshake(bytes) else {
        return Parsed::Other;
    };
    let Some(len) = length(&message) else {
        return if message.first().is_none_or(|kind| *kind == CLIENT_HELLO) {
            Parsed::Begun
        } else {
            Parsed::Other
        };
    };
    if message[0] != CLIENT_HELLO || len > LONGEST {
        return Parsed::Other;
    }
    match message.get(HANDSHAKE_HEADER..HANDSHAKE_HEADER + len) {
        Some(body) => hello(body).map_or(Parsed::Other, |hello| Parsed::Whole(hello, used)),
        None => Parsed::Begun,
    }
}

/// What there is of a ClientHello whose end is missing.
pub fn cut(bytes: &[u8]) -> Option<ClientHello> {
    let (message, _) = handshake(bytes)?;
    length(&message).filter(|_| message[0] == CLIENT_HELLO)?;
    let hello = hello(message.get(HANDSHAKE_HEADER..)?)?;
    Some(ClientHello { cut: true, ..hello })
}

/// Puts the first handshake message together from the records that it is in, up to where the bytes
/// end, and says how many bytes they have.
fn handshake(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let mut message = Vec::new();
    let mut at = 0;
    loop {
        let rest = &bytes[at..];
        let done = length(&message).is_some_and(|len| message.len() >= HANDSHAKE_HEADER + len);
        if done || rest.is_empty() {
            return (at > 0).then_some((message, at));
        }
        // What there is of a header has to fit.
        if rest[0] != TlsRecordType::Handshake.0 || rest.get(1).is_some_and(|major| *major != 3) {
            return None;
        }
        let Ok((_, header)) = parse_tls_record_header(rest) else {
            return Some((message, bytes.len()));
        };
        let end = at + RECORD_HEADER + usize::from(header.len);
        let data = &bytes[at + RECORD_HEADER..end.min(bytes.len())];
        if header.len == 0 || message.len() > LONGEST {
            return None;
        }
        message.extend_from_slice(data);
        at = end.min(bytes.len());
    }
}

/// The length that a handshake message says it has, without its header.
fn length(message: &[u8]) -> Option<usize> {
    let len = message.get(1..HANDSHAKE_HEADER)?;
    Some(usize::from(len[0]) << 16 | usize::from(len[1]) << 8 | usize::from(len[2]))
}

/// Reads the body, as far as it goes.
fn hello(body: &[u8]) -> Option<ClientHello> {
    let (rest, contents) = parse_tls_handshake_client_hello(body).ok()?;
    // Without its end the extensions are left behind their length.
    let extensions = contents.ext.or_else(|| rest.get(2..)).unwrap_or_default();
    let mut hello = ClientHello::default();
    let (_, extensions) = parse_tls_client_hello_extensions(extensions).ok()?;
    for extension in extensions {
        match extension {
            TlsExtension::SNI(names) => {
                let name = names.iter().find(|(kind, _)| *kind == SNIType::HostName);
                hello.server_name = name.map(|(_, name)| text(name)).filter(|n| !n.is_empty());
            }
            TlsExtension::ALPN(protocols) => {
                hello.alpn = protocols.iter().take(OFFERED).map(|p| text(p)).collect();
            }
            TlsExtension::SupportedVersions(versions) => {
                hello.versions = versions
                    .iter()
                    .filter_map(|version| version_name(version.0))
                    .take(OFFERED)
                    .map(str::to_owned)
                    .collect();
            }
            TlsExtension::EncryptedServerName { .. } => hello.ech = true,
            TlsExtension::Unknown(kind, _) if kind.0 == ECH => hello.ech = true,
            _ => {}
        }
    }
    if hello.versions.is_empty() {
        hello
            .versions
            .extend(version_name(contents.version.0).map(str::to_owned));
    }
    Some(hello)
}

/// A version's name. What clients put in at random (GREASE, RFC 8701) has none.
fn version_name(version: u16) -> Option<&'static str> {
    match version {
        0x0300 => Some("ssl3"),
        0x0301 => Some("1.0"),
        0x0302 => Some("1.1"),
        0x0303 => Some("1.2"),
        0x0304 => Some("1.3"),
        _ => None,
    }
}
