//! The record format of journals: checksums, and the detection of damage.
//!
//! ```text
//! file   = magic (8 bytes), head record, records…
//! record = length of the payload: u32 ‖ checksum of kind and payload: u32 ‖ kind: u8
//!          ‖ checksum of these 9 bytes: u32 ‖ payload
//! ```
//!
//! Numbers are little-endian, checksums are CRC-32. Files of the first version have no magic, and
//! their record heads have no checksum of their own.

use std::fmt;

/// Starts a file of this version.
pub(super) const MAGIC: &[u8; 8] = b"meshjnl2";

/// JSON: the journal's project, room and path, the schema, the document's identity, and
/// `base_bytes`, the length of the records that were written together with it.
pub(super) const HEAD: u8 = 1;
/// An update that the server has.
pub(super) const STATE: u8 = 2;
/// An edit's number: u64 ‖ how many edits are merged in it: u32 ‖ its update. The first version has
/// no count.
pub(super) const EDIT: u8 = 3;
/// The number up to which all edits are acknowledged: u64.
pub(super) const SAVED: u8 = 4;
/// The numbers of the first and the last of several edits: u64 each. The record of the last one
/// contains all of them, so the others are no longer separate edits. Readers that do not know this
/// kind ignore it.
pub(super) const MERGED: u8 = 5;
/// The number of an update: u64. Its record, an [`EDIT`] of no edits that follows, replaces
/// operations that were given up. An [`EDIT`] of no edits without this record repeats what the
/// server lacks. Readers that do not know this kind ignore it.
pub(super) const BLANK: u8 = 6;

/// Length, checksum and kind, and the checksum of these.
const RECORD_HEAD: usize = 13;
const OLD_RECORD_HEAD: usize = 9;

/// Blocks that were allocated but not written before a power cut read as zeros, from a multiple of
/// this size.
const PAGE: usize = 4096;
/// Fewer zeros may be content.
const MIN_HOLE: usize = 8;

/// The kind of a record, its payload, and the offset of its end.
pub(super) type Record<'a> = (u8, &'a [u8], usize);

/// Why bytes are not a valid journal.
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

/// The whole records after the magic. A last record that a crash cut off is skipped; anything else
/// that is not a record is damage.
pub(super) fn records(bytes: &[u8]) -> Result<Vec<Record<'_>>, Damage> {
    let mut records = Vec::new();
    let mut at = MAGIC.len();
    while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
        let damage = |reason| Damage { at, reason };
        let Some((head, body)) = rest.split_at_checked(RECORD_HEAD) else {
            break;
        };
        if word(head, 9) != Some(crc32fast::hash(&head[..9])) {
            if is_hole(bytes, at) {
                break;
            }
            return Err(damage("the head of a record is damaged"));
        }
        let length = word(head, 0).unwrap_or_default() as usize;
        // The length is intact, so the rest was not written.
        let Some(payload) = body.get(..length) else {
            break;
        };
        let kind = head[8];
        if word(head, 4) != Some(checksum(kind, payload)) {
            if is_hole(bytes, at) {
                break;
            }
            return Err(damage("a record is damaged"));
        }
        at += RECORD_HEAD + length;
        records.push((kind, payload, at));
    }
    Ok(records)
}

/// The same for a file of the first version. Its lengths are not covered by a checksum, so a length
/// beyond the end is damage if whole records follow.
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
        let is_cut = match word(&bytes[at..], 0) {
            Some(length) => bytes.len() - at < OLD_RECORD_HEAD + length as usize,
            None => true,
        };
        if follows || !(is_cut || is_hole(bytes, at)) {
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

/// Whether the end of the file, within the record at this offset, was allocated but never written.
fn is_hole(bytes: &[u8], at: usize) -> bool {
    let zeros = bytes.iter().rev().take_while(|byte| **byte == 0).count();
    let written = bytes.len() - zeros;
    let hole = written.next_multiple_of(PAGE).max(at);
    written <= at || bytes.len().saturating_sub(hole) >= MIN_HOLE
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
