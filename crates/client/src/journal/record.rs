//! The form of a journal's bytes: records with checksums, and what a damaged file looks like.
//!
//! ```text
//! file   = magic (8 bytes), head record, records…
//! record = length of the payload: u32 ‖ checksum of kind and payload: u32 ‖ kind: u8 ‖ checksum of these 9 bytes: u32 ‖ payload
//! ```
//!
//! Numbers are little-endian, checksums CRC-32. Files of the first version have no magic, and record heads without a
//! checksum of their own.

use std::fmt;

/// Begins a file of this version.
pub(super) const MAGIC: &[u8; 8] = b"meshjnl2";

/// JSON: whose journal it is, the schema, and `base_bytes`, the length of the records that were written with it.
pub(super) const HEAD: u8 = 1;
/// An update that the server has.
pub(super) const STATE: u8 = 2;
/// The number of an edit: u64 ‖ how many edits are merged in it: u32 ‖ its update. In the first version without the count.
pub(super) const EDIT: u8 = 3;
/// The number up to which all edits are acknowledged: u64.
pub(super) const SAVED: u8 = 4;
/// The numbers of the first and of the last of several edits: u64 each. The record of the last one has all of them, so
/// the others before it are not edits of their own any more. Readers that don't know it ignore it.
pub(super) const MERGED: u8 = 5;
/// The number of an update: u64. Its record, an [`EDIT`] of no edits that follows, takes the place of operations that were
/// given up; without this one before it, it repeats what the server lacks. Readers that don't know it ignore it.
pub(super) const BLANK: u8 = 6;

/// Length, checksum, kind, checksum of these.
const RECORD_HEAD: usize = 13;
const OLD_RECORD_HEAD: usize = 9;

/// Blocks that were allocated and not written before a power cut read as zeros from a multiple of this on.
const PAGE: usize = 4096;
/// Fewer zeros than this may be content.
const MIN_HOLE: usize = 8;

/// The kind of a record, its payload, and the offset of its end.
pub(super) type Record<'a> = (u8, &'a [u8], usize);

/// Why bytes are not a journal.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Damage {
    pub(super) at: usize,
    pub(super) reason: &'static str,
}

impl fmt::Display for Damage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} at byte {}", self.reason, self.at)
    }
}

pub(super) fn push(out: &mut Vec<u8>, kind: u8, payload: &[u8]) {
    let start = out.len();
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&checksum(kind, payload).to_le_bytes());
    out.push(kind);
    let head = crc32fast::hash(&out[start..]);
    out.extend_from_slice(&head.to_le_bytes());
    out.extend_from_slice(payload);
}

/// The whole records after the magic. A last record that was cut off by a crash is left
/// out; anything else that is not a record is damage.
pub(super) fn records(bytes: &[u8]) -> Result<Vec<Record<'_>>, Damage> {
    let mut records = Vec::new();
    let mut at = MAGIC.len();
    while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
        let damage = |reason| Damage { at, reason };
        let Some((head, body)) = rest.split_at_checked(RECORD_HEAD) else {
            break;
        };
        if word(head, 9) != Some(crc32fast::hash(&head[..9])) {
            if is_hole(bytes, at, at + RECORD_HEAD) {
                break;
            }
            return Err(damage("the head of a record is damaged"));
        }
        let length = word(head, 0).unwrap_or_default() as usize;
        // The length is what was written, so the rest was not.
        let Some(payload) = body.get(..length) else {
            break;
        };
        let kind = head[8];
        if word(head, 4) != Some(checksum(kind, payload)) {
            if is_hole(bytes, at, at + RECORD_HEAD + length) {
                break;
            }
            return Err(damage("a record is damaged"));
        }
        at += RECORD_HEAD + length;
        records.push((kind, payload, at));
    }
    Ok(records)
}

/// The same for a file of the first version. Nothing checks a length there, so one that goes beyond the end is damage if
/// whole records follow.
pub(super) fn old_records(bytes: &[u8]) -> Result<Vec<Record<'_>>, Damage> {
    let mut records = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let damage = |reason| Damage { at, reason };
        if let Some((kind, payload)) = old_record(bytes, at) {
            at += OLD_RECORD_HEAD + payload.len();
            records.push((kind, payload, at));
            continue;
        }
        let follows = (at + 1..bytes.len())
            .any(|at| matches!(old_record(bytes, at), Some((HEAD..=SAVED, _))));
        let length = word(&bytes[at..], 0).map(|length| length as usize);
        let is_torn = length.is_none_or(|length| {
            let end = at + OLD_RECORD_HEAD + length;
            bytes.len() < end || is_hole(bytes, at, end)
        });
        if follows || !is_torn {
            return Err(damage("a record is damaged"));
        }
        break;
    }
    Ok(records)
}

fn old_record(bytes: &[u8], at: usize) -> Option<(u8, &[u8])> {
    let (head, body) = bytes.get(at..)?.split_at_checked(OLD_RECORD_HEAD)?;
    let payload = body.get(..word(head, 0)? as usize)?;
    let kind = head[8];
    (word(head, 4)? == checksum(kind, payload)).then_some((kind, payload))
}

/// Whether the end of the file, from within these offsets of a record on, was allocated but never written. Zeros that begin
/// behind them say nothing of what is there.
fn is_hole(bytes: &[u8], at: usize, end: usize) -> bool {
    let zeros = bytes.iter().rev().take_while(|byte| **byte == 0).count();
    let written = bytes.len() - zeros;
    let hole = written.next_multiple_of(PAGE).max(at);
    written <= at || (hole < end && bytes.len().saturating_sub(hole) >= MIN_HOLE)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..at + 4)?;
    Some(u32::from_le_bytes(word.try_into().ok()?))
}

fn checksum(kind: u8, payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&[kind]);
    hasher.update(payload);
    hasher.finalize()
}
