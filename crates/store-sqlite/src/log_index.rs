//! How long SQLite's log must be, by the header of its index: what another program cut off is not missed by SQLite,
//! which writes on behind the gap.

use std::io;
use std::path::Path;

/// The bytes of the index that all programs with the database agree on: one header, before its copy.
/// See "WAL-Index Header" in SQLite's description of the format.
#[cfg(unix)]
type Header = [u8; 48];
/// What the log has before its frames, and each frame before its page.
#[cfg(unix)]
const LOG_HEADER: u64 = 32;
#[cfg(unix)]
const FRAME_HEADER: u64 = 24;

/// The open index.
#[derive(Debug)]
pub(crate) struct LogIndex {
    /// To be closed after all connections: to close any descriptor of a file gives up the process's locks on it.
    #[cfg(unix)]
    file: std::fs::File,
}

#[cfg(unix)]
impl LogIndex {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = std::fs::File::open(path)?;
        Ok(Self { file })
    }

    /// Whether the log, by its length, has all that was committed.
    pub(crate) fn has_whole_log(
        &self,
        length: impl FnOnce() -> io::Result<u64>,
    ) -> io::Result<bool> {
        let before = self.header()?;
        let length = length()?;
        if before.is_none_or(|before| length >= needed(&before)) {
            return Ok(true);
        }
        // The header is changed before the log is made shorter, and after it was made longer. So if it is the same,
        // no program that goes by it was at work meanwhile.
        Ok(self.header()? != before)
    }

    /// How much of the log is in the database already.
    pub(crate) fn moved_bytes(&self) -> io::Result<u64> {
        use std::os::unix::fs::FileExt as _;
        let Some(header) = self.header()? else {
            return Ok(0);
        };
        let mut frames = [0; 4];
        // Behind the header's copy.
        let at = 2 * header.len() as u64;
        self.file.read_exact_at(&mut frames, at)?;
        Ok(length_of(u32::from_ne_bytes(frames), &header))
    }

    /// `None` if there is none yet.
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
impl LogIndex {
    #[expect(clippy::unnecessary_wraps, reason = "as on other systems")]
    pub(crate) fn open(_: &Path) -> io::Result<Self> {
        Ok(Self {})
    }

    #[expect(clippy::unused_self, reason = "as on other systems")]
    pub(crate) fn has_whole_log(
        &self,
        length: impl FnOnce() -> io::Result<u64>,
    ) -> io::Result<bool> {
        length().map(|_| true)
    }

    #[expect(
        clippy::unused_self,
        clippy::unnecessary_wraps,
        reason = "as on other systems"
    )]
    pub(crate) fn moved_bytes(&self) -> io::Result<u64> {
        Ok(0)
    }
}

/// The length of a log with all frames that are in use; 0 if it is to begin again.
#[cfg(unix)]
fn needed(header: &Header) -> u64 {
    // In the order of the machine.
    let frames = u32::from_ne_bytes([header[16], header[17], header[18], header[19]]);
    length_of(frames, header)
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
