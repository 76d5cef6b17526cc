//! The length that SQLite's WAL must have, by the header of the WAL index. SQLite does not notice
//! that another program has cut the WAL; it continues to write behind the gap.

use std::io;
use std::path::Path;

/// The bytes of the WAL index that all programs with the database agree on: one header, which
/// precedes its copy. See "WAL-Index Header" in SQLite's description of the format.
#[cfg(unix)]
type Header = [u8; 48];
/// The lengths of the header of the WAL, and of the header of each frame.
#[cfg(unix)]
const LOG_HEADER: u64 = 32;
#[cfg(unix)]
const FRAME_HEADER: u64 = 24;

/// What the WAL index says of the WAL and the database.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) is_complete: bool,
    /// The length of the database, in pages, after the last commit; `None` if there was none since
    /// the index was made.
    pub(crate) pages: Option<u64>,
}

/// The open WAL index.
#[derive(Debug)]
pub(crate) struct WalIndex {
    /// Close it after all connections: closing any descriptor of a file releases the process's
    /// locks on it.
    #[cfg(unix)]
    file: std::fs::File,
}

#[cfg(unix)]
impl WalIndex {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = std::fs::File::open(path)?;
        Ok(Self { file })
    }

    /// Returns whether the WAL, by its length, contains everything that was committed.
    pub(crate) fn find(&self, length: impl FnOnce() -> io::Result<u64>) -> io::Result<Found> {
        let before = self.header()?;
        let length = length()?;
        let is_long_enough = before.is_none_or(|before| length >= needed(&before));
        Ok(Found {
            // The header is changed before the WAL becomes shorter, and after it became longer. So
            // if the header is the same, no program that obeys it has changed the WAL in the
            // meantime.
            is_complete: is_long_enough || self.header()? != before,
            pages: before.as_ref().and_then(pages),
        })
    }

    /// Returns how many bytes of the WAL have been moved into the database.
    pub(crate) fn moved_bytes(&self) -> io::Result<u64> {
        use std::os::unix::fs::FileExt as _;
        let Some(header) = self.header()? else {
            return Ok(0);
        };
        let mut frames = [0; 4];
        // The count follows the header's copy.
        let at = 2 * header.len() as u64;
        self.file.read_exact_at(&mut frames, at)?;
        Ok(length_of(u32::from_ne_bytes(frames), &header))
    }

    /// Reads the header; `None` if there is none yet.
    fn header(&self) -> io::Result<Option<Header>> {
        use std::os::unix::fs::FileExt as _;
        let mut header: Header = [0; 48];
        match self.file.read_exact_at(&mut header, 0) {
            Ok(()) => Ok(Some(header)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
        }
    }
}

#[cfg(not(unix))]
impl WalIndex {
    #[expect(clippy::unnecessary_wraps, reason = "the signature on other systems")]
    pub(crate) fn open(_: &Path) -> io::Result<Self> {
        Ok(Self {})
    }

    #[expect(clippy::unused_self, reason = "the signature on other systems")]
    pub(crate) fn find(&self, length: impl FnOnce() -> io::Result<u64>) -> io::Result<Found> {
        length().map(|_| Found {
            is_complete: true,
            pages: None,
        })
    }

    #[expect(
        clippy::unused_self,
        clippy::unnecessary_wraps,
        reason = "the signature on other systems"
    )]
    pub(crate) fn moved_bytes(&self) -> io::Result<u64> {
        Ok(0)
    }
}

/// Returns the length of a WAL with all frames that are in use; 0 if it will restart.
#[cfg(unix)]
fn needed(header: &Header) -> u64 {
    // The bytes are in the machine's order.
    let frames = u32::from_ne_bytes([header[16], header[17], header[18], header[19]]);
    length_of(frames, header)
}

/// The length of the database in pages. SQLite uses it too, except for 0.
#[cfg(unix)]
fn pages(header: &Header) -> Option<u64> {
    let pages = u32::from_ne_bytes([header[20], header[21], header[22], header[23]]);
    (pages > 0).then_some(u64::from(pages))
}

#[cfg(unix)]
fn length_of(frames: u32, header: &Header) -> u64 {
    let page_size = match u16::from_ne_bytes([header[14], header[15]]) {
        1 => 1 << 16,
        size => u64::from(size),
    };
    match u64::from(frames) {
        0 => 0,
        frames => LOG_HEADER + frames * (FRAME_HEADER + page_size),
    }
}
