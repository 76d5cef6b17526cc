//! By how much an update lets its document grow, and whether there is room for that.

use meshagent_store::Timestamp;

use super::{Document, Measured};
use crate::metrics::Metrics;

/// A document at its bound that has changed is measured again after so long, or when it has grown by this part of itself:
/// measuring goes through all of it.
const MEASURED_MILLIS: i64 = 1_000;
const MEASURED_GROWTH: usize = 64;

/// What of an update goes into its document.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::room) enum Growth {
    /// All of it, as it came.
    Whole,
    /// Only what is not there yet: there is no room for the rest a second time.
    New,
    /// Nothing: there is no room.
    TooLarge,
}

impl Document {
    /// What of an update goes into the document within its bound. A client may send its whole state
    /// for one edit that is missing here, so only what is new counts.
    pub(in crate::room) fn growth(
        &mut self,
        update: &[u8],
        max_bytes: usize,
        now: Timestamp,
        metrics: &Metrics,
    ) -> Growth {
        let whole = update.len();
        // An update without a group of operations only deletes, which helps.
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

    /// Whether it may grow by so many bytes. Its size is known only as an upper bound, which what is deleted doesn't
    /// lower; so at the bound it is measured, but not again for every request.
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

    /// Whether that question takes an encoding.
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
}
