//! Recordings: what `source` delivers, in a file, so that everything after it can be run again
//! without root and without the machine.
//!
//! The format: [`MAGIC`], then the records as they are on the wire, each beginning with its own
//! length (native byte order, like all of it: the magic tells on which kind of machine it was made).
//! A file that ends in the middle of a record, since the machine did, is read up to there.

use std::{
    fs::File,
    io::{BufReader, BufWriter, Read, Write as _},
    path::{Path, PathBuf},
};

use agentwatch_common::Header;
use anyhow::{Context as _, Result, bail};
use bytes::Bytes;

/// The beginning of a recording: name, version of the wire, a number that shows the byte order.
pub const MAGIC: [u8; 16] = {
    let mut magic = *b"AGENTWATCH\0\x01....";
    let order = 0x0102_0304_u32.to_ne_bytes();
    magic[12] = order[0];
    magic[13] = order[1];
    magic[14] = order[2];
    magic[15] = order[3];
    magic
};

/// No record is longer: the kernel's scratch memory is smaller.
const RECORD_MAX: usize = 64 * 1024;

/// A recording being made.
pub struct Recorder {
    file: BufWriter<File>,
    path: PathBuf,
}

impl Recorder {
    /// Begins a recording.
    ///
    /// # Errors
    ///
    /// When the file exists or cannot be made.
    pub fn create(path: &Path) -> Result<Self> {
        let file = File::options()
            .write(true)
            .create_new(true)
            .open(path)
            .with_context(|| format!("cannot make the recording {}", path.display()))?;
        let mut recorder = Self {
            file: BufWriter::new(file),
            path: path.to_owned(),
        };
        recorder.write(&MAGIC)?;
        Ok(recorder)
    }

    /// Appends records.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn append(&mut self, batch: &[Bytes]) -> Result<()> {
        for record in batch {
            self.write(record)?;
        }
        self.file
            .flush()
            .with_context(|| format!("cannot write {}", self.path.display()))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file
            .write_all(bytes)
            .with_context(|| format!("cannot write {}", self.path.display()))
    }
}

/// A recording being read.
pub struct Recording<R> {
    file: R,
    name: String,
    at: u64,
    /// Bytes at the end that are no whole record.
    pub cut: u64,
}

impl Recording<BufReader<File>> {
    /// Opens a recording.
    ///
    /// # Errors
    ///
    /// When it cannot be read or is none.
    pub fn open(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let file = File::open(path).with_context(|| format!("cannot open the recording {name}"))?;
        Self::new(BufReader::new(file), name)
    }
}

impl<R: Read> Recording<R> {
    /// Reads a recording from anywhere; `name` is for messages.
    ///
    /// # Errors
    ///
    /// When it is none.
    pub fn new(mut file: R, name: String) -> Result<Self> {
        let mut magic = [0; MAGIC.len()];
        let read = fill(&mut file, &mut magic).with_context(|| format!("cannot read {name}"))?;
        if read < magic.len() || magic[..10] != MAGIC[..10] {
            bail!("{name} is not a recording of agentwatch (`agentwatch record` makes one)");
        }
        if magic[11] != MAGIC[11] {
            bail!(
                "{name} is a recording of version {}, this agentwatch reads version {}",
                magic[11],
                MAGIC[11]
            );
        }
        if magic != MAGIC {
            bail!("{name} was recorded on a machine of the other byte order");
        }
        Ok(Self {
            file,
            name,
            at: MAGIC.len() as u64,
            cut: 0,
        })
    }

    /// The next record, `None` at the end.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, or what follows cannot be a record.
    pub fn read(&mut self) -> Result<Option<Bytes>> {
        let mut len = [0; 4];
        let read =
            fill(&mut self.file, &mut len).with_context(|| format!("cannot read {}", self.name))?;
        if read < len.len() {
            self.cut = read as u64;
            return Ok(None);
        }
        let total = usize::try_from(u32::from_ne_bytes(len)).unwrap_or(usize::MAX);
        if !(size_of::<Header>()..=RECORD_MAX).contains(&total) {
            bail!(
                "{} is damaged: at byte {} a record of {total} bytes is announced",
                self.name,
                self.at
            );
        }
        let mut record = vec![0; total];
        record[..4].copy_from_slice(&len);
        let read = fill(&mut self.file, &mut record[4..])
            .with_context(|| format!("cannot read {}", self.name))?;
        if read < total - 4 {
            self.cut = read as u64 + 4;
            return Ok(None);
        }
        self.at += total as u64;
        Ok(Some(record.into()))
    }
}

/// Reads until the buffer is full or the file ends; how much it was.
fn fill(file: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut at = 0;
    while at < buffer.len() {
        match file.read(&mut buffer[at..]) {
            Ok(0) => break,
            Ok(n) => at += n,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<(usize, u64)> {
        let mut recording = Recording::new(bytes, "x".to_owned())?;
        let mut n = 0;
        while recording.read()?.is_some() {
            n += 1;
        }
        Ok((n, recording.cut))
    }

    #[test]
    fn a_cut_recording_is_read_up_to_the_cut() {
        let mut file = MAGIC.to_vec();
        for _ in 0..2 {
            file.extend_from_slice(&100u32.to_ne_bytes());
            file.extend_from_slice(&[0; 96]);
        }
        assert_eq!(read(&file).unwrap(), (2, 0));
        assert_eq!(read(&file[..file.len() - 1]).unwrap(), (1, 99));
        assert_eq!(read(&file[..16 + 100 + 3]).unwrap(), (1, 3));
    }

    #[test]
    fn what_is_no_recording_is_refused() {
        assert!(
            read(b"")
                .unwrap_err()
                .to_string()
                .contains("not a recording")
        );
        assert!(
            read(&[b'x'; 64])
                .unwrap_err()
                .to_string()
                .contains("not a recording")
        );
        let mut newer = MAGIC;
        newer[11] = 9;
        assert!(read(&newer).unwrap_err().to_string().contains("version 9"));
        let mut damaged = MAGIC.to_vec();
        damaged.extend_from_slice(&7u32.to_ne_bytes());
        assert!(
            read(&damaged)
                .unwrap_err()
                .to_string()
                .contains("damaged: at byte 16")
        );
    }
}
