//! Updates that Yjs writes and not every reader takes, made fit for all of them.
//!
//! One operation that can't be passed on must not keep the others of its author out: what its client makes later builds
//! on it. So it is taken up as deleted, by its name and at its place, and its author is to delete it, too.

use std::ops::Range;

use super::reader::{Misfits, Reader};
use super::scan::{IdRange, Sink, Struct, check_bytes, read_structs};
use super::{DecodeError, merge_updates, writer};
use crate::document::Limits;
use crate::schema::{Violation, Violations};

/// The kind of operations whose content was deleted, and where the kind stands in their first byte.
const DELETED: u8 = 1;
const KIND: u8 = 0x0f;

/// An update that every reader takes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fitted {
    /// The v1 update.
    pub update: Vec<u8>,
    /// How many halves of characters in JSON are U+FFFD now. Yjs does the same with those in texts.
    pub halves: u64,
    /// What is deleted now. It has no place in the document, so the pointers are empty.
    pub removed: Violations,
}

/// Makes an update fit for all readers that is malformed only for some of them.
///
/// Escaped halves of characters in the JSON of formats and embedded objects become `\ufffd`. Values nested deeper than
/// 127 levels, XML hooks and documents inside the document are deleted.
///
/// # Errors
/// [`DecodeError`] if it is malformed for everybody, or too large.
pub fn fit_update(update: &[u8], limits: &Limits) -> Result<Fitted, DecodeError> {
    check_bytes(update, limits)?;
    let mut fit = Fit::default();
    read_structs(&mut Reader::new(update), limits, &mut fit)?;
    let halves = fit.misfits.halves.len() as u64;
    let mut update = update.to_vec();
    for place in fit.misfits.halves {
        update[place..place + 4].copy_from_slice(b"fffd");
    }
    let mut removed = Violations::default();
    if fit.doomed.is_empty() {
        return Ok(Fitted {
            update,
            halves,
            removed,
        });
    }
    let (mut out, mut position) = (Vec::with_capacity(update.len()), 0);
    let mut deletes = Vec::with_capacity(fit.doomed.len());
    for one in fit.doomed {
        out.extend_from_slice(&update[position..one.start]);
        out.push(update[one.start] & !KIND | DELETED);
        out.extend_from_slice(&update[one.start + 1..one.content.start]);
        writer::unsigned(&mut out, u64::from(one.range.end - one.range.start));
        position = one.content.end;
        let (clock, client, what) = (one.range.start, one.range.client, one.what);
        removed.report(|| {
            let found = format_args!("{what}, which is operation {clock} of client {client}");
            Violation::new("", "what all readers take", found)
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

/// An operation that is to be deleted, and where it stands in the update.
struct Doomed {
    range: IdRange,
    what: &'static str,
    start: usize,
    content: Range<usize>,
}

#[derive(Default)]
struct Fit {
    structs: usize,
    misfits: Misfits,
    /// How many of the halves are in operations that stay.
    halves: usize,
    doomed: Vec<Doomed>,
}

impl<'a> Sink<'a> for Fit {
    fn reserve(&mut self, _: usize) {}

    fn push(&mut self, found: Struct<'a>, end: usize) -> usize {
        if let Some(what) = self.misfits.found.take() {
            self.misfits.halves.truncate(self.halves);
            self.doomed.push(Doomed {
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
        self.halves = self.misfits.halves.len();
        self.structs += 1;
        self.structs
    }

    fn filler(&mut self) {}

    fn misfits(&mut self) -> Option<&mut Misfits> {
        Some(&mut self.misfits)
    }
}
