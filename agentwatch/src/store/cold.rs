//! Days that are over, compressed: `agentwatch-DAY.db.zst` instead of `agentwatch-DAY.db`.
//!
//! They are read from a copy that is uncompressed beside them, and has no name any more when it is open: so
//! it is gone with its reader, however that ends. A `SQLite` that reads compressed pages would need no copy;
//! the extensions that do are no crates, and each file would depend on them for ever, while `zstd -d` gives
//! an ordinary file.
//!
//! Where both files are there, agentwatch was killed between making one and removing the other: `.db` counts.

use std::{
    fs,
    io::{self, BufReader, Read as _, Write as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use anyhow::{Context as _, Result, bail, ensure};
use rusqlite::{Connection, OpenFlags};
use rustix::fs::FlockOperation;

use super::{files, schema};

/// How much is left free on the disk where a copy is made, bytes.
const SPARE: u64 = 64 << 20;
/// How hard zstd tries: more costs much time for little.
const LEVEL: i32 = 3;
/// What a file that is being made is called until it is whole.
pub const UNFINISHED: &str = ".new";

/// The compressed file beside a day's file.
pub fn compressed(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".zst");
    name.into()
}

/// Whoever makes or removes the file of a day holds this: nobody makes one anew while the old one's log is
/// still about to be removed.
pub fn lock(dir: &Path) -> Result<fs::File> {
    let path = dir.join("files.lock");
    let file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    rustix::fs::flock(&file, FlockOperation::LockExclusive)
        .with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}

/// Compresses the file of a day, and removes it. False where it is in use: later, then. Nothing may be
/// written to it meanwhile; a writer that holds it open sees that it is gone ([`files::is_there`]).
///
/// # Errors
///
/// When it cannot be read, or the new one not be written: the old one stays.
pub fn compress(path: &Path) -> Result<bool> {
    let Some(writer) = alone(path)? else {
        return Ok(false);
    };
    let copy = new_name(path);
    let _ = fs::remove_file(&copy);
    let to = compressed(path);
    let unfinished = new_name(&to);
    let made = (|| -> Result<()> {
        // A copy by SQLite itself: to open the file otherwise would take away this process's locks on it.
        let reader = files::read_only(path)?;
        reader.execute("VACUUM INTO ?1", [copy.to_string_lossy()])?;
        drop(reader);
        let mut from = fs::File::open(&copy)?;
        let file = fs::File::create(&unfinished)?;
        let mut encoder = zstd::Encoder::new(file, LEVEL)?;
        encoder.include_checksum(true)?;
        encoder.include_contentsize(true)?;
        encoder.set_pledged_src_size(Some(from.metadata()?.len()))?;
        io::copy(&mut from, &mut encoder)?;
        encoder.finish()?.sync_all()?;
        Ok(())
    })();
    let _ = fs::remove_file(&copy);
    if let Err(error) = made {
        let _ = fs::remove_file(&unfinished);
        return Err(error).with_context(|| format!("cannot compress {}", path.display()));
    }
    let dir = path.parent().context("it is in no folder")?;
    let _lock = lock(dir)?;
    fs::rename(&unfinished, &to)?;
    fs::File::open(dir)?.sync_all()?;
    unlink(path)?;
    drop(writer);
    Ok(true)
}

/// Removes the file of a day, of either kind. False where it is in use.
///
/// # Errors
///
/// When it cannot be removed.
pub fn remove(path: &Path) -> Result<bool> {
    let dir = path.parent().context("it is in no folder")?;
    let writer = if path.exists() {
        match alone(path) {
            Ok(None) => return Ok(false),
            Ok(Some(writer)) => Some(writer),
            // Damaged: nobody writes to it either.
            Err(error) if files::is_damage(&error) => None,
            Err(error) => return Err(error),
        }
    } else {
        None
    };
    let _lock = lock(dir)?;
    unlink(path)?;
    drop(writer);
    gone(&compressed(path))?;
    Ok(true)
}

/// A day's file with everything in it and nothing in its log, locked against writers; `None` where somebody
/// reads or writes it.
fn alone(path: &Path) -> Result<Option<Connection>> {
    let mut connection = Connection::open(path)?;
    schema::prepare(&mut connection)?;
    let busy: bool =
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
    if busy {
        return Ok(None);
    }
    match connection.execute_batch("BEGIN IMMEDIATE") {
        Ok(()) => {}
        Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy) => {
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    }
    let log = fs::metadata(with(path, "-wal")).map_or(0, |log| log.len());
    Ok((log == 0).then_some(connection))
}

/// Removes a day's file, then what belongs to it: its log is empty, so what is left when this is cut short
/// means nothing.
fn unlink(path: &Path) -> Result<()> {
    gone(path)?;
    gone(&with(path, "-wal"))?;
    gone(&with(path, "-shm"))
}

fn gone(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Makes the file of a day of its compressed one again, since something is to be written to it. To be
/// called with the [`lock`].
///
/// # Errors
///
/// When it cannot be read or written.
pub fn restore(path: &Path) -> Result<()> {
    let from = compressed(path);
    if path.exists() || !from.exists() {
        return Ok(());
    }
    let to = new_name(path);
    expand(&from, &to)?;
    fs::File::open(&to)?.sync_all()?;
    fs::rename(&to, path)?;
    gone(&from)
}

/// An uncompressed copy that is removed at its end.
pub struct Copy(PathBuf);

impl Copy {
    /// Makes one.
    ///
    /// # Errors
    ///
    /// When the file is damaged, or there is no room for a copy.
    pub fn new(compressed: &Path) -> Result<Self> {
        static COPIES: AtomicU64 = AtomicU64::new(0);
        let dir = compressed.parent().context("it is in no folder")?;
        let number = COPIES.fetch_add(1, Ordering::Relaxed);
        let path = dir.join(format!(".read-{}-{number}{UNFINISHED}", std::process::id()));
        expand(compressed, &path)?;
        Ok(Self(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Opens a compressed file for reading.
///
/// # Errors
///
/// When it is damaged, or there is no room for a copy.
pub fn open(compressed: &Path) -> Result<Connection> {
    let copy = Copy::new(compressed)?;
    let connection = Connection::open_with_flags(copy.path(), OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    // SQLite opens a file when it first reads it; from then on its name does not matter.
    schema::version(&connection)?;
    Ok(connection)
}

/// Uncompresses a file.
fn expand(from: &Path, to: &Path) -> Result<()> {
    let work = || -> Result<()> {
        let mut file = BufReader::new(fs::File::open(from)?);
        let mut head = [0; 18];
        let len = file.read(&mut head)?;
        let size = zstd::zstd_safe::get_frame_content_size(&head[..len]);
        let Ok(Some(size)) = size else {
            bail!("it is damaged: it does not begin as a compressed file");
        };
        let dir = to.parent().context("it is in no folder")?;
        let room = rustix::fs::statvfs(dir)?;
        let room = room.f_bavail * room.f_frsize;
        ensure!(
            room > size.saturating_add(SPARE),
            "it needs {} MiB of the disk to be read, and {} are free",
            size >> 20,
            room >> 20
        );
        let mut out = fs::File::create(to)?;
        let mut decoder = zstd::Decoder::new(io::Cursor::new(&head[..len]).chain(file))?;
        // No more than it said, whatever is in it.
        let copied =
            io::copy(&mut io::Read::take(&mut decoder, size), &mut out).context("it is damaged")?;
        ensure!(copied == size, "it is damaged: it is cut");
        // The checksum is behind the end.
        let more = decoder.read(&mut [0]).context("it is damaged")?;
        ensure!(more == 0, "it is damaged: it is longer than it says");
        Ok(out.flush()?)
    };
    let done = work().with_context(|| format!("cannot read {}", from.display()));
    if done.is_err() {
        let _ = fs::remove_file(to);
    }
    done
}

fn new_name(path: &Path) -> PathBuf {
    with(path, UNFINISHED)
}

fn with(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}
