//! Repair of updates that Yjs writes but some readers reject.
//!
//! One unsupported operation must not block its author, whose later operations build on it. So it
//! is applied as deleted, under its id and at its place, and its author must delete it, too.

use std::ops::Range;

use super::reader::{Reader, Unsupported};
use super::scan::{IdRange, Sink, Struct, check_bytes, read_structs};
use super::{DecodeError, merge_updates, writer};
use crate::document::Limits;
use crate::schema::{Violation, Violations};

/// The content kind of deleted operations, and the bits of their first byte that hold the kind.
const DELETED: u8 = 1;
const KIND: u8 = 0x0f;

/// An update that every reader accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fitted {
    /// The v1 update.
    pub update: Vec<u8>,
    /// The number of surrogate halves in JSON that became U+FFFD. Yjs does the same for texts.
    pub halves: u64,
    /// The operations that were deleted. They have no place in the document, so the pointers
    /// are empty.
    pub removed: Violations,
}

/// Repairs an update that is malformed only for some readers.
///
/// Escaped surrogate halves in the JSON of formats and embedded objects become `\ufffd`. Values
/// nested deeper than 127 levels, XML hooks and subdocuments are deleted.
///
/// # Errors
/// [`DecodeError`] if the update is malformed for every reader, or exceeds the limits.
pub fn fit_update(update: &[u8], limits: &Limits) -> Result<Fitted, DecodeError> {
    check_bytes(update, limits)?;
    let mut fit = Fit::default();
    read_structs(&mut Reader::new(update), limits, &mut fit)?;
    let halves = fit.unsupported.halves.len() as u64;
    let mut update = update.to_vec();
    for place in fit.unsupported.halves {
        update[place..place + 4].copy_from_slice(b"fffd");
    }
    let mut removed = Violations::default();
    if fit.removals.is_empty() {
        return Ok(Fitted {
            update,
            halves,
            removed,
        });
    }
    let (mut out, mut position) = (Vec::with_capacity(update.len()), 0);
    let mut deletes = Vec::with_capacity(fit.removals.len());
    for one in fit.removals {
        out.extend_from_slice(&update[position..one.start]);
        out.push(update[one.start] & !KIND | DELETED);
        out.extend_from_slice(&update[one.start + 1..one.content.start]);
        writer::unsigned(&mut out, u64::from(one.range.end - one.range.start));
        position = one.content.end;
        let (clock, client, what) = (one.range.start, one.range.client, one.what);
        removed.report(|| {
            let found = format_args!("{what} (operation {clock} of client {client})");
            Violation::new("", "content that every Yjs reader supports", found)
        });
        deletes.push(one.range);
    }
    out.extend_from_slice(&update[position..]);
    let deletes = writer::update(Vec::new(), deletes, |_| 0)?;
    let update = merge_updates(&[&out, &deletes])?;
    Ok(Fitted {
        update,
        halves,
        removed,
    })
}

/// An operation to be deleted, and its position in the update.
struct Removal {
    range: IdRange,
    what: &'static str,
    start: usize,
    content: Range<usize>,
}

#[derive(Default)]
struct Fit {
    structs: usize,
    unsupported: Unsupported,
    /// The number of surrogate halves in operations that are kept.
    halves: usize,
    removals: Vec<Removal>,
}

impl<'a> Sink<'a> for Fit {
    fn reserve(&mut self, _: usize) {}

    fn push(&mut self, found: Struct<'a>, end: usize) -> usize {
        if let Some(what) = self.unsupported.found.take() {
            self.unsupported.halves.truncate(self.halves);
            self.removals.push(Removal {
                range: IdRange {
                    client: found.id.client,
                    start: found.id.clock,
                    end: found.end(),
                },
                what,
                start: end - found.bytes.len(),
                content: end - found.content_bytes.len()..end,
            });
        }
        self.halves = self.unsupported.halves.len();
        self.structs += 1;
        self.structs
    }

    fn filler(&mut self) {}

    fn unsupported(&mut self) -> Option<&mut Unsupported> {
        Some(&mut self.unsupported)
    }
}
