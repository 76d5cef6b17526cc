//! Disk space that is kept for the WAL, so that deletions succeed on a full disk.
//!
//! A deletion frees pages within the database, but needs space in the WAL first. The WAL is often
//! empty: a stop removes it, and a deletion truncates it, to erase what it contains. So a file
//! holds the space in the meantime.
//!
//! Three rules keep the space, however often the disk is filled:
//!
//! - The reserve and the WAL together have at least [`RESERVE_BYTES`]. When the WAL is truncated,
//!   the reserve takes back what the WAL had.
//! - The database grows only if that is so, and into other space; only a deletion may grow it into
//!   the reserve. Its file is extended before a commit adds pages
//!   ([`OpenFiles::grow`](crate::identity::OpenFiles::grow)), so a checkpoint needs no space and
//!   the WAL can always restart.
//! - Writes that delete nothing leave [`FOR_DELETIONS`] to those that do. Only a start may take
//!   some of it, and fills it again.

use std::fs::File;
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use crate::open::private;

/// The name of the file in the data directory.
pub const RESERVE_FILE: &str = "meshagent.reserve";

/// The bytes that the reserve and the WAL have together. The WAL is moved into the database after
/// 4 MiB, and one transaction may add as much before that.
const RESERVE_BYTES: u64 = 8 << 20;
/// The bytes that only deletions use.
const FOR_DELETIONS: u64 = 4 << 20;
/// The bytes that a start needs: the index of the longest usual WAL, and the smallest files.
const FOR_START: u64 = 256 << 10;
const BLOCK: usize = 64 << 10;

/// What a transaction may use on a full disk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Use {
    /// It opens the database. A start takes little, also of what deletions need.
    Start,
    /// It frees space.
    Deletion,
    Other,
    /// It checks whether there is space to write.
    Probe,
}

#[derive(Debug)]
pub(crate) struct Reserve {
    /// `None` if it can't be created.
    file: Option<File>,
    bytes: u64,
}

impl Reserve {
    /// Opens the reserve, or creates an empty one. A server starts without one, too.
    ///
    /// It is first filled when the database exists and its WAL is emptied: the
    /// [inspection](crate::open) of a directory takes a reserve with content for the proof that
    /// there was a database.
    pub(crate) fn open(data_dir: &Path) -> Self {
        let opened = private()
            .create(true)
            .truncate(false)
            .open(data_dir.join(RESERVE_FILE));
        let length = |file: &File| file.metadata().map(|found| found.len());
        let file = opened
            .ok()
            .and_then(|file| Some((length(&file).ok()?, file)));
        let mut reserve = match file {
            Some((bytes, file)) => Self {
                file: Some(file),
                bytes,
            },
            None => Self {
                file: None,
                bytes: 0,
            },
        };
        reserve.release_to(RESERVE_BYTES);
        reserve
    }

    /// Returns whether the reserve is complete beside a WAL of this length.
    pub(crate) fn is_whole(&self, wal: u64) -> bool {
        self.file.is_none() || self.bytes + wal >= RESERVE_BYTES
    }

    /// Takes space until the reserve is complete beside a WAL of this length, or the disk is full.
    ///
    /// # Errors
    /// The disk is full, for example. What was taken stays.
    pub(crate) fn refill(&mut self, wal: u64) -> io::Result<()> {
        if self.is_whole(wal) {
            return Ok(());
        }
        let Some(file) = &mut self.file else {
            return Ok(());
        };
        let mut block = vec![0; BLOCK];
        file.seek(SeekFrom::Start(self.bytes))?;
        while self.bytes + wal < RESERVE_BYTES {
            let missing = RESERVE_BYTES - self.bytes - wal;
            let part = &mut block[..usize::try_from(missing).unwrap_or(BLOCK).min(BLOCK)];
            // A file system that compresses would reserve next to nothing for zeros.
            fill(part, self.bytes);
            match file.write(part) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => self.bytes += written as u64,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Gives up the space that this use may take, and returns whether there was any.
    pub(crate) fn release(&mut self, purpose: Use) -> bool {
        self.release_to(match purpose {
            Use::Start => self.bytes.saturating_sub(FOR_START),
            Use::Deletion => 0,
            Use::Other | Use::Probe => FOR_DELETIONS,
        })
    }

    fn release_to(&mut self, bytes: u64) -> bool {
        let Some(file) = self.file.as_ref().filter(|_| self.bytes > bytes) else {
            return false;
        };
        let is_released = file.set_len(bytes).is_ok();
        if is_released {
            self.bytes = bytes;
        }
        is_released
    }
}

/// Fills a block with bytes that can't be compressed.
fn fill(block: &mut [u8], seed: u64) {
    let mut state = seed ^ 0x9e37_79b9_7f4a_7c15;
    for part in block.chunks_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        part.copy_from_slice(&state.to_le_bytes()[..part.len()]);
    }
}
