//! The files of the history, opened for reading.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use rusqlite::{Connection, ErrorCode, OpenFlags, ffi};

use super::{cold, schema};

/// The files of a folder: the day of each, `2026-11-21`, and its path; oldest first. Of a day that is
/// compressed it is the path that the file would have.
///
/// # Errors
///
/// When the folder cannot be read.
pub fn day_files(dir: &Path) -> Result<Vec<(String, PathBuf)>> {
    let entries = fs::read_dir(dir).with_context(|| format!("no history in {}", dir.display()))?;
    let days: BTreeSet<String> = entries
        .filter_map(Result::ok)
        .filter_map(|entry| {
            let name = entry.file_name();
            let name = name.to_str()?.strip_prefix("agentwatch-")?;
            let day = name.strip_suffix(".zst").unwrap_or(name);
            Some(day.strip_suffix(".db")?.to_owned())
        })
        .collect();
    let path = |day: &String| dir.join(format!("agentwatch-{day}.db"));
    Ok(days
        .into_iter()
        .map(|day| (day.clone(), path(&day)))
        .collect())
}

/// Whether only the compressed file of a day is there.
pub fn is_cold(path: &Path) -> bool {
    !path.exists() && cold::compressed(path).exists()
}

/// The times of a day, Unix nanoseconds: its first, and that of the next one. `None` where it is none.
pub fn times(day: &str) -> Option<std::ops::Range<i64>> {
    let date: jiff::civil::Date = day.parse().ok()?;
    let at = |date: jiff::civil::Date| {
        let time = date.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp();
        i64::try_from(time.as_nanosecond()).ok()
    };
    Some(at(date)?..at(date.tomorrow().ok()?)?)
}

/// Opens a file for reading, beside a writer.
///
/// # Errors
///
/// When it cannot be read, or is of another version.
pub fn read_only(path: &Path) -> Result<Connection> {
    if is_cold(path) {
        return cold::open(&cold::compressed(path));
    }
    read(&uri(path))
}

/// A path as SQLite takes it with parameters behind.
pub fn uri(path: &Path) -> String {
    format!("file:{}", percent(&path.to_string_lossy()))
}

fn read(uri: &str) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    let connection = Connection::open_with_flags(uri, flags)?;
    connection.busy_timeout(std::time::Duration::from_secs(1))?;
    match schema::version(&connection)? {
        0 => bail!("it has no tables"),
        version if version <= schema::VERSION => Ok(connection),
        other => bail!(
            "its tables are of version {other}, this agentwatch knows version {}",
            schema::VERSION
        ),
    }
}

/// Whether a file is damaged, or of another version: trying again does not help.
pub fn is_damage(error: &anyhow::Error) -> bool {
    match error.downcast_ref::<rusqlite::Error>() {
        Some(error) => matches!(
            error.sqlite_error_code(),
            None | Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
        ),
        None => error.downcast_ref::<std::io::Error>().is_none(),
    }
}

/// Opens a file for reading, beside a writer or on a disk that cannot be written; with a warning where
/// that hides rows.
pub fn open(path: &Path) -> Result<(Connection, Option<String>)> {
    if is_cold(path) {
        return Ok((cold::open(&cold::compressed(path))?, None));
    }
    let uri = uri(path);
    let error = match read(&uri) {
        Ok(connection) => return Ok((connection, None)),
        Err(error) => error,
    };
    if !cannot_write_beside(&error) {
        return Err(error);
    }
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    let said = fs::metadata(&log).is_ok_and(|log| log.len() > 0).then(|| {
        format!(
            "the last rows of {0} are not read: they are in {0}-wal, for which SQLite must write in \
             the folder; copy both to where it can",
            path.display()
        )
    });
    match read(&format!("{uri}?immutable=1")) {
        Ok(connection) => Ok((connection, said)),
        Err(_) => Err(match said {
            Some(said) => error.context(said),
            None => error,
        }),
    }
}

/// Reading a WAL file wants to write an index beside it. Where that is not possible (no right, no
/// room) nobody writes to it either, and it can be read without its log. After another failure that
/// would be wrong: with a writer at work it gives torn pages.
fn cannot_write_beside(error: &anyhow::Error) -> bool {
    let Some(rusqlite::Error::SqliteFailure(error, _)) = error.downcast_ref() else {
        return false;
    };
    matches!(error.code, ErrorCode::CannotOpen | ErrorCode::ReadOnly)
        || matches!(
            error.extended_code,
            ffi::SQLITE_IOERR_SHMOPEN | ffi::SQLITE_IOERR_SHMSIZE | ffi::SQLITE_IOERR_SHMMAP
        )
}

/// What has a meaning in a URI, escaped.
fn percent(path: &str) -> String {
    path.replace('%', "%25")
        .replace('?', "%3f")
        .replace('#', "%23")
}
