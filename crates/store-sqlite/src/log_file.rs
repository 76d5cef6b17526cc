//! Whether SQLite's log was damaged. SQLite itself reads it up to the first frame that is not valid, takes that for
//! the end, and says nothing: what was acknowledged and lies behind would be gone without a word.
//!
//! # What is proof
//!
//! A log that simply ends, and one whose last transaction is torn, are what a power cut leaves. Its frames may have
//! reached the disk in any order, so whole frames behind a torn one prove nothing, and neither does the last one, which
//! is marked as a commit.
//!
//! Each frame has a checksum that continues the one in the frame before it, and SQLite continues that of a commit only
//! after the commit is done: with `synchronous=FULL`, after the sync. So if somewhere behind (or at) the first frame that
//! is not valid there is a frame marked as a commit, and a frame that continues *its* checksum, then that commit was on
//! the disk once with everything before it, and was acknowledged. A power cut can't take away the middle of that: it is
//! damage. To verify this pair needs nothing of what is before it, but for the salts, which tell the present round of
//! the log from what earlier ones left behind.
//!
//! Merely to count commits behind the invalid frame would be wrong. Transactions whose sync failed, or that were given
//! up, lie behind the end of the log with the salts of the present round, until others overwrite them, and each may
//! have its commit. But none continues a commit of another: they all continued the last one that succeeded.
//!
//! # What remains
//!
//! Damage to the last transaction, or to the commit before it and nothing behind, looks like a torn transaction, and
//! is taken for one.
//!
//! False alarms: with `synchronous=NORMAL` a commit is done before it is on the disk, so a power cut may leave such
//! pairs; that is for the caller to know, and it does not know of other programs that write to the database in this way.
//! A disk that says too early that it has written loses acknowledged data, so that is no false alarm. The header is
//! synced by itself before the first frame of its round is written, in both modes, and lies within one sector. A power
//! cut can leave a wrong one behind which there are frames only if the disk tears a sector while the log begins
//! again; all that those frames have is in the database then.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _, SeekFrom};

/// Lengths of the log's parts, <https://www.sqlite.org/fileformat2.html#the_write_ahead_log>.
const HEADER: usize = 32;
const FRAME_HEADER: usize = 24;
const MIN_PAGE: usize = 512;
const MAX_PAGE: usize = 1 << 16;
/// With the last bit for the byte order of the checksums.
const MAGIC: u32 = 0x377f_0682;
const BUFFER_BYTES: usize = 1 << 18;

/// What SQLite is going to make of the log.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum LogFile {
    /// All that was committed, as far as can be told.
    Whole,
    /// Nothing, though there are frames: the header is not one.
    NoHeader,
    /// What is before this place, though there were commits behind it.
    Gap { at: u64 },
}

/// Reads the log, of which it keeps a page at a time.
pub(crate) fn examine(log: &File) -> io::Result<LogFile> {
    match read(log)? {
        LogFile::Whole => Ok(LogFile::Whole),
        // Another program may have written meanwhile, and half of a frame was read before, what follows it after.
        found if read(log)? == found => Ok(found),
        _ => Ok(LogFile::Whole),
    }
}

fn read(log: &File) -> io::Result<LogFile> {
    let length = log.metadata()?.len();
    if length < (HEADER + FRAME_HEADER + MIN_PAGE) as u64 {
        // No frame was ever completed, or it was cut to that.
        return Ok(LogFile::Whole);
    }
    let mut reader = BufReader::with_capacity(BUFFER_BYTES, log);
    reader.seek(SeekFrom::Start(0))?;
    let mut header = [0; HEADER];
    if !fill(&mut reader, &mut header)? {
        return Ok(LogFile::Whole);
    }
    let Some(Header {
        page_size,
        salts,
        sum,
    }) = Header::parse(&header)
    else {
        return Ok(LogFile::NoHeader);
    };

    let mut page = vec![0; page_size];
    let mut at = HEADER as u64;
    let mut end = None;
    let mut before = Some(Frame {
        sum,
        is_commit: false,
    });
    let mut head = [0; FRAME_HEADER];
    while fill(&mut reader, &mut head)? {
        let is_of_round = head[8..16] == salts && number(&head, 0) != 0;
        if is_of_round {
            if !fill(&mut reader, &mut page)? {
                break;
            }
            let frame = Frame {
                sum: sum.of(number(&head, 16), number(&head, 20)),
                is_commit: number(&head, 4) != 0,
            };
            let continues = |before: &Frame| before.sum.over(&head[..8]).over(&page) == frame.sum;
            let is_valid = before.as_ref().is_some_and(continues);
            if !is_valid {
                end.get_or_insert(at);
            } else if let Some(end) = end
                && before.is_some_and(|before| before.is_commit)
            {
                return Ok(LogFile::Gap { at: end });
            }
            before = Some(frame);
        } else {
            end.get_or_insert(at);
            before = None;
            reader.seek_relative(i64::try_from(page_size).unwrap_or(i64::MAX))?;
        }
        at += (FRAME_HEADER + page_size) as u64;
    }
    Ok(LogFile::Whole)
}

struct Header {
    page_size: usize,
    salts: [u8; 8],
    sum: Sum,
}

impl Header {
    /// `None` if SQLite would take the log for an empty one. What it says of a version that it doesn't know is not
    /// decided here.
    fn parse(bytes: &[u8; HEADER]) -> Option<Self> {
        let magic = number(bytes, 0);
        let page_size = usize::try_from(number(bytes, 8)).ok()?;
        if magic & !1 != MAGIC
            || !page_size.is_power_of_two()
            || !(MIN_PAGE..=MAX_PAGE).contains(&page_size)
        {
            return None;
        }
        let start = Sum {
            is_big_endian: magic & 1 == 1,
            halves: [0; 2],
        };
        let sum = start.over(&bytes[..24]);
        let salts = *bytes[16..].first_chunk()?;
        (sum == start.of(number(bytes, 24), number(bytes, 28))).then_some(Self {
            page_size,
            salts,
            sum,
        })
    }
}

struct Frame {
    sum: Sum,
    is_commit: bool,
}

/// A checksum that goes on from frame to frame.
#[derive(Clone, Copy, Eq, PartialEq)]
struct Sum {
    is_big_endian: bool,
    halves: [u32; 2],
}

impl Sum {
    fn of(self, first: u32, second: u32) -> Self {
        Self {
            halves: [first, second],
            ..self
        }
    }

    fn over(self, bytes: &[u8]) -> Self {
        let word = if self.is_big_endian {
            u32::from_be_bytes
        } else {
            u32::from_le_bytes
        };
        let [mut first, mut second] = self.halves;
        for &[a, b, c, d, e, f, g, h] in bytes.as_chunks().0 {
            first = first.wrapping_add(word([a, b, c, d])).wrapping_add(second);
            second = second.wrapping_add(word([e, f, g, h])).wrapping_add(first);
        }
        self.of(first, second)
    }
}

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Whether there was as much.
fn fill(reader: &mut impl Read, bytes: &mut [u8]) -> io::Result<bool> {
    match reader.read_exact(bytes) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}
