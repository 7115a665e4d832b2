//! Bytes from the kernel as text that is safe to print: names and arguments are whatever the agent
//! chose them to be.

use std::fmt::Write as _;

/// Turns bytes into text. Printable UTF-8 stays; control characters, characters that change the
/// direction of text, and what is not UTF-8 become `\xNN` or `\u{NNNN}`, and a backslash is doubled:
/// so two different byte strings never give the same text, and nothing reaches the terminal that it
/// would obey.
pub fn escape(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    escape_into(&mut out, bytes);
    out
}

/// The same, at the end of a text.
pub fn escape_into(out: &mut String, bytes: &[u8]) {
    if let Some(text) = plain(bytes) {
        out.push_str(text);
        return;
    }
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                c if c.is_ascii_control() => push_hex(out, c as u8),
                c if is_unsafe(c) => {
                    let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
                }
                c => out.push(c),
            }
        }
        for byte in chunk.invalid() {
            push_hex(out, *byte);
        }
    }
}

/// Bytes that stand for themselves, as text: printable ASCII but the backslash. Nearly all names are.
pub fn plain(bytes: &[u8]) -> Option<&str> {
    // Without a way out of the loop, which lets the compiler look at many bytes at once.
    let is_plain = bytes.iter().fold(true, |all, byte| {
        all & matches!(byte, b' '..=b'[' | b']'..=b'~')
    });
    is_plain.then(|| str::from_utf8(bytes).ok()).flatten()
}

/// The same for text that came from elsewhere.
pub fn escape_str(text: &str) -> String {
    escape(text.as_bytes())
}

fn push_hex(out: &mut String, byte: u8) {
    let _ = write!(out, "\\x{byte:02x}");
}

/// C1 controls, line and paragraph separators, zero-width and bidirectional controls (Unicode TR 36).
fn is_unsafe(c: char) -> bool {
    matches!(c,
        '\u{80}'..='\u{9f}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_bytes_are_shown() {
        assert_eq!(escape(b"\x1b[2Jx\ny"), "\\x1b[2Jx\\ny");
        assert_eq!(escape(b"a\xff\xfe"), "a\\xff\\xfe");
        assert_eq!(escape("p\u{202e}gpj.sh".as_bytes()), "p\\u{202e}gpj.sh");
        assert_eq!(escape("bär \u{1f600}".as_bytes()), "bär \u{1f600}");
        assert_eq!(escape(b"a\\x1b"), "a\\\\x1b");
    }
}
