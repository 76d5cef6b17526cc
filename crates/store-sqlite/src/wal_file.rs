//! Detection of damage in SQLite's WAL. SQLite reads the WAL up to the first invalid frame,
//! takes that for the end, and reports nothing: acknowledged transactions after it would be
//! lost silently.
//!
//! # Proof of damage
//!
//! A power cut may leave a WAL that simply ends, or one whose last transaction is torn. Frames may
//! have reached the disk in any order, so complete frames after a torn one prove nothing, and
//! neither does the last frame, which is marked as a commit.
//!
//! Each frame has a checksum that continues the one of the frame before it, and SQLite continues
//! the checksum of a commit only after the commit is done: with `synchronous=FULL`, after the sync.
//! Suppose that after (or at) the first invalid frame there is a frame marked as a commit, followed
//! by a frame that continues *its* checksum. Then that commit was on the disk at one time, with
//! everything before it, and was acknowledged. A power cut can't remove the middle of that, so it
//! is damage. The verification of this pair needs nothing of what precedes it, except the salts,
//! which distinguish the present round of the WAL from earlier ones.
//!
//! It would be wrong just to count the commits after the invalid frame. Transactions whose sync
//! failed, or that were abandoned, remain after the end of the WAL with the salts of the present
//! round, until others overwrite them, and each may have its commit. But none of them continues a
//! commit of another: each continued the last one that succeeded.
//!
//! # Limits
//!
//! Damage to the last transaction, or to the commit before it and nothing after it, looks like a
//! torn transaction, and is treated as one.
//!
//! False alarms: with `synchronous=NORMAL` a commit is done before it is on the disk, so a power
//! cut may leave such pairs. The caller has to know that mode, and does not know of other programs
//! that write to the database in that mode. A disk that reports a write too early loses
//! acknowledged data, so that is not a false alarm. In both modes, the header is synced by itself
//! before the first frame of its round is written, and fits into one sector. A power cut can leave
//! an invalid header before valid frames only if the disk tears a sector while the WAL restarts;
//! the database then contains everything in those frames.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _, SeekFrom};

/// Lengths of the WAL's parts, <https://www.sqlite.org/fileformat2.html#the_write_ahead_log>.
const HEADER: usize = 32;
const FRAME_HEADER: usize = 24;
const MIN_PAGE: usize = 512;
const MAX_PAGE: usize = 1 << 16;
/// The magic number; its last bit is the byte order of the checksums.
const MAGIC: u32 = 0x377f_0682;
const BUFFER_BYTES: usize = 1 << 18;

/// What SQLite will read from the WAL.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum WalFile {
    /// Everything that was committed, as far as can be known.
    Whole,
    /// Nothing, because the header is invalid, although there are frames.
    NoHeader,
    /// Everything before this byte, although there were commits after it.
    Gap { at: u64 },
}

/// Reads the WAL, one page at a time.
pub(crate) fn examine(wal: &File) -> io::Result<WalFile> {
    match read(wal)? {
        WalFile::Whole => Ok(WalFile::Whole),
        // Another program may have written in the meantime, so that half of a frame was read before
        // the write and the rest after it.
        found if read(wal)? == found => Ok(found),
        _ => Ok(WalFile::Whole),
    }
}

fn read(wal: &File) -> io::Result<WalFile> {
    let length = wal.metadata()?.len();
    if length < (HEADER + FRAME_HEADER + MIN_PAGE) as u64 {
        // A frame was never completed, or the WAL was cut to that length.
        return Ok(WalFile::Whole);
    }
    let mut reader = BufReader::with_capacity(BUFFER_BYTES, wal);
    reader.seek(SeekFrom::Start(0))?;
    let mut header = [0; HEADER];
    if !fill(&mut reader, &mut header)? {
        return Ok(WalFile::Whole);
    }
    let Some(Header {
        page_size,
        salts,
        sum,
    }) = Header::parse(&header)
    else {
        return Ok(WalFile::NoHeader);
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
                return Ok(WalFile::Gap { at: end });
            }
            before = Some(frame);
        } else {
            end.get_or_insert(at);
            before = None;
            reader.seek_relative(i64::try_from(page_size).unwrap_or(i64::MAX))?;
        }
        at += (FRAME_HEADER + page_size) as u64;
    }
    Ok(WalFile::Whole)
}

struct Header {
    page_size: usize,
    salts: [u8; 8],
    sum: Sum,
}

impl Header {
    /// Parses the header; `None` if SQLite would take the WAL for an empty one. Whether the version
    /// is supported is not decided here.
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

/// A checksum that continues from frame to frame.
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

/// Fills `bytes`, and returns whether there was enough to read.
fn fill(reader: &mut impl Read, bytes: &mut [u8]) -> io::Result<bool> {
    match reader.read_exact(bytes) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}
