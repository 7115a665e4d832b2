//! Reading wire structures and strings out of a record.

use super::DecodeError;
use crate::text::{escape, escape_into, plain};

/// A wire structure.
///
/// # Safety
///
/// Every bit pattern of its size is a value: integers and byte arrays only.
pub unsafe trait Wire: Copy {}

/// What is left of a record.
pub struct Reader<'a> {
    record: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub fn new(record: &'a [u8]) -> Self {
        Self { record, at: 0 }
    }

    /// Copies the next structure out: records are not aligned.
    pub fn take<T: Wire>(&mut self) -> Result<T, DecodeError> {
        let bytes = self.slice(size_of::<T>())?;
        // SAFETY: `bytes` has the size of `T`, every bit pattern is a `T`, and the read is made for
        // any alignment.
        Ok(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
    }

    /// The next bytes of the tail.
    pub fn bytes(&mut self, len: u16) -> Result<&'a [u8], DecodeError> {
        self.slice(usize::from(len))
    }

    fn slice(&mut self, need: usize) -> Result<&'a [u8], DecodeError> {
        let short = DecodeError::Short {
            at: self.at,
            need,
            len: self.record.len(),
        };
        let end = self.at.checked_add(need).ok_or(short.clone())?;
        let slice = self.record.get(self.at..end).ok_or(short)?;
        self.at = end;
        Ok(slice)
    }
}

/// Text that is safe to print.
pub fn text(bytes: &[u8]) -> String {
    escape(bytes)
}

/// Text up to the first NUL.
pub fn until_nul(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    escape(&bytes[..end])
}

/// A path that was written leaf first, as an absolute one. A cut one begins with `…/`.
pub fn reversed_path(bytes: &[u8], cut: bool) -> String {
    // One more byte than the leaf-first form, which ends without a slash, and the mark of a cut.
    let mut out = String::with_capacity(bytes.len() + '…'.len_utf8() + 1);
    reversed_path_into(&mut out, bytes, cut);
    out
}

/// The same, at the end of `out`.
pub fn reversed_path_into(out: &mut String, bytes: &[u8], cut: bool) {
    if cut {
        out.push('…');
    }
    let start = out.len();
    if let Some(text) = plain(bytes) {
        for component in text.rsplit('/').filter(|c| !c.is_empty()) {
            out.push('/');
            out.push_str(component);
        }
    } else {
        for component in bytes.rsplit(|b| *b == b'/').filter(|c| !c.is_empty()) {
            out.push('/');
            escape_into(out, component);
        }
    }
    if out.len() == start {
        out.push('/');
    }
}

/// Arguments: each ends with NUL, the last may be cut. At most `max`, since a program may have put
/// more behind them.
pub fn words(bytes: &[u8], max: usize) -> Vec<String> {
    let bytes = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    if bytes.is_empty() {
        return Vec::new();
    }
    bytes.split(|b| *b == 0).take(max).map(escape).collect()
}
