//! SSH: the line with which each side begins (RFC 4253, 4.2), on any port.

use super::{Parsed, text};

/// The longest that the line may be (RFC 4253, 4.2).
const LONGEST: usize = 255;
/// Most bytes of other lines that a server sends before it and that are looked through.
const BEFORE: usize = 256;

/// How a side introduces itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Banner {
    /// `2.0`; `1.99` of servers that know the first version too.
    pub version: String,
    /// `OpenSSH_9.2p1`, and what the side adds behind it.
    pub software: String,
}

/// Reads the line. A server may send others before it.
pub fn banner(bytes: &[u8]) -> Parsed<Banner> {
    let head = &bytes[..bytes.len().min(BEFORE)];
    if bytes.starts_with(b"SSH-") {
        return line(bytes, 0);
    }
    if b"SSH-".starts_with(head) {
        return Parsed::Begun;
    }
    let before = head
        .windows(6)
        .position(|w| w == b"\nSSH-2" || w == b"\nSSH-1");
    match before {
        Some(at) if head[..at].iter().all(|b| is_text(*b)) => line(&bytes[at + 1..], at + 1),
        _ => Parsed::Other,
    }
}

/// Reads the line itself, which begins `at` bytes in.
fn line(bytes: &[u8], at: usize) -> Parsed<Banner> {
    let Some(end) = bytes.iter().take(LONGEST).position(|b| *b == b'\n') else {
        return if bytes.len() < LONGEST && bytes.iter().all(|b| is_text(*b)) {
            Parsed::Begun
        } else {
            Parsed::Other
        };
    };
    let line = bytes[..end].strip_suffix(b"\r").unwrap_or(&bytes[..end]);
    let mut parts = line.splitn(3, |b| *b == b'-').skip(1);
    match (parts.next(), parts.next()) {
        (Some(version), Some(software)) if version.first().is_some_and(u8::is_ascii_digit) => {
            let banner = Banner {
                version: text(version),
                software: text(software),
            };
            Parsed::Whole(banner, at + end + 1)
        }
        _ => Parsed::Other,
    }
}

fn is_text(byte: u8) -> bool {
    byte == b'\r' || byte == b'\n' || byte == b'\t' || (b' '..=b'~').contains(&byte)
}
