//! The positions that writes expect: where the log of a document ends by then.

use bytes::Bytes;
use meshagent_store::{Contribution, DocumentId, Seq, Timestamp, Write};

use crate::room::Room;
use crate::room::compaction::Stored;

/// An append to a document's log. Its batch will name the position.
pub(in crate::room) fn append(
    document: DocumentId,
    update: impl Into<Bytes>,
    contributions: Vec<Contribution>,
    at: Timestamp,
) -> Write {
    Write::Append {
        document,
        end: None,
        update: update.into(),
        contributions,
        at,
    }
}

impl Stored {
    /// Sets where the log ends, when nothing of it is in flight.
    pub(super) fn set_log_end(&mut self, seq: Seq) {
        self.log_end = seq;
    }

    /// Counts updates that are handed to the committer. Returns the end of the log before them.
    fn extend_log(&mut self, updates: u64) -> Seq {
        let end = self.log_end;
        self.log_end.0 += updates;
        end
    }
}

impl Room {
    /// Names in each append and snapshot of a batch where the log of its document ends by then.
    pub(super) fn expect_ends(&mut self, writes: &mut [Write]) {
        for write in writes {
            let (document, end, appended) = match write {
                Write::Append { document, end, .. } => (*document, end, 1),
                Write::Snapshot { document, end, .. } => (*document, end, 0),
                _ => continue,
            };
            // The updates of a document that is no longer open have been refused.
            let log_end = self
                .documents
                .get_mut(document)
                .map_or(Seq(u64::MAX), |document| {
                    document.stored.extend_log(appended)
                });
            *end = Some(log_end);
        }
    }
}
