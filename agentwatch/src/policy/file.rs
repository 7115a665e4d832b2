//! Files that people write: a policy, a configuration.

use std::{fs::File, io::Read as _, path::Path};

use super::PolicyError;

/// Longer files, in bytes, are refused: they are something else.
pub const MAX_BYTES: u64 = 1 << 20;

/// The text of a file, which should be a `what`.
///
/// # Errors
///
/// When it cannot be read, or can be nothing that a person wrote.
pub fn read(path: &Path, what: &str) -> Result<String, PolicyError> {
    let name = path.display().to_string();
    let refuse = |message: String| PolicyError::whole(&name, &message);
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|e| refuse(format!("cannot open it: {e}")))?;
    if file.metadata().is_ok_and(|m| m.is_dir()) {
        return Err(refuse(format!("this is a directory; a {what} is a file")));
    }
    file.take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| refuse(format!("cannot read it: {e}")))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(refuse(format!("larger than 1 MiB; this is no {what}")));
    }
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        refuse(format!("not UTF-8 text (at byte {at}); this is no {what}"))
    })
}
