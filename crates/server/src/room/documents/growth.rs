//! How much an update lets its document grow, and whether that fits into the bound.

use std::collections::BTreeMap;
use std::sync::Arc;

use meshagent_store::Timestamp;

use super::{Document, Measured, Refusal, Version};
use crate::metrics::Metrics;

/// A document at its bound that has changed is measured again after this time, or after it has
/// grown by this fraction of its size. Measuring goes through the whole document.
const MEASURED_MILLIS: i64 = 1_000;
const MEASURED_GROWTH: usize = 64;

/// Participants whose refused patches a document remembers.
const TRIED: usize = 64;

/// The patches of the newest version that were refused after they had been tried on a copy of the
/// document: the bound of the smallest one of each participant, and its refusal.
#[derive(Debug, Default)]
pub(super) struct Tried {
    version: Version,
    refused: BTreeMap<Arc<str>, (usize, Refusal)>,
}

/// The part of an update that is applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::room) enum Growth {
    /// The whole update, as it arrived.
    Whole,
    /// Only the part that is new here: the rest has no space a second time.
    New,
    /// Nothing, because there is no space.
    TooLarge,
}

impl Document {
    /// The part of an update that the document can take within its bound. A client may send its
    /// whole state for one missing edit, so only the new part counts.
    pub(in crate::room) fn growth(
        &mut self,
        update: &[u8],
        max_bytes: usize,
        now: Timestamp,
        metrics: &Metrics,
    ) -> Growth {
        let whole = update.len();
        // An update without operations only deletes, which makes space.
        if update.first() == Some(&0) || self.bytes.saturating_add(whole) <= max_bytes {
            return Growth::Whole;
        }
        let new = self.replica.new_bytes(update).unwrap_or(whole).min(whole);
        if !self.takes(new, max_bytes, now, metrics) {
            Growth::TooLarge
        } else if new < whole {
            Growth::New
        } else {
            Growth::Whole
        }
    }

    /// Whether the document may grow by this many bytes. Its size is known only as an upper bound
    /// that deletions do not lower, so a document at its bound is measured, but not for every
    /// request.
    pub(in crate::room) fn takes(
        &mut self,
        bytes: usize,
        max_bytes: usize,
        now: Timestamp,
        metrics: &Metrics,
    ) -> bool {
        if self.would_measure(bytes, max_bytes, now) {
            metrics.state_encodings.inc();
            self.bytes = self.replica.encode_state().len();
            self.measured = Some(Measured {
                at: now,
                version: self.head,
                bytes: self.bytes,
            });
        }
        self.bytes.saturating_add(bytes) <= max_bytes
    }

    /// Whether [`Self::takes`] would measure the document, which encodes its state.
    pub(in crate::room) fn would_measure(
        &self,
        bytes: usize,
        max_bytes: usize,
        now: Timestamp,
    ) -> bool {
        if self.bytes.saturating_add(bytes) <= max_bytes {
            return false;
        }
        let Some(last) = &self.measured else {
            return true;
        };
        let has_passed = now.0.saturating_sub(last.at.0) >= MEASURED_MILLIS;
        let grown = self.bytes.saturating_sub(last.bytes);
        last.version != self.head && (has_passed || grown >= last.bytes / MEASURED_GROWTH)
    }

    /// Remembers that a patch with this bound on its bytes was refused after it had been tried.
    pub(in crate::room) fn note_tried(
        &mut self,
        participant: &str,
        bytes: usize,
        refusal: &Refusal,
    ) {
        let tried = self.tried.get_or_insert_default();
        if tried.version != self.head || tried.refused.len() >= TRIED {
            tried.refused.clear();
        }
        tried.version = self.head;
        let refused = (bytes, refusal.clone());
        tried.refused.insert(participant.into(), refused);
    }

    /// The refusal of a patch that need not be tried: the version is the same, and the patch is
    /// hardly smaller than one that was refused.
    pub(in crate::room) fn tried(&self, participant: &str, bytes: usize) -> Option<Refusal> {
        let tried = self.tried.as_ref();
        let tried = tried.filter(|tried| tried.version == self.head)?;
        let (known, refusal) = tried.refused.get(participant)?;
        (bytes >= *known - *known / 8).then(|| refusal.clone())
    }
}
