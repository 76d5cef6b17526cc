//! What is kept of a document over time: its log is folded into snapshots, and unused documents are let go.

use bytes::Bytes;
use meshagent_document::merge_updates;
use meshagent_store::{StoredDocument, Timestamp, Write};

use super::Room;
use super::batch::Then;
use super::documents::{Document, Slot};

/// A log up to this length is never too long. With it and half a snapshot of log, and as much again for what
/// arrives while the log is being folded, a document's stored size stays below twice its merged state and 128 KiB.
const FREE_LOG_BYTES: usize = 64 << 10;
/// How often a document that deleted something is compared with its merged state, which only encoding tells.
const DELETED_CHECK_MILLIS: i64 = 30_000;

/// What the store keeps of a document.
#[derive(Debug, Default)]
pub(super) struct Stored {
    /// Bytes of the snapshot.
    snapshot_bytes: usize,
    /// Updates after it, and their bytes.
    updates: usize,
    log_bytes: usize,
    /// Whether an update deleted something since the last comparison with the merged state, and when that was.
    deleted: bool,
    compared_at: Timestamp,
    under_way: bool,
}

/// What a snapshot that is on its way to the disk replaces.
#[derive(Debug)]
pub(super) struct Fold {
    snapshot_bytes: usize,
    updates: usize,
    log_bytes: usize,
}

impl Stored {
    pub(super) fn of(stored: &StoredDocument, now: Timestamp) -> Self {
        let updates = stored.updates.iter().map(|stored| stored.update.len());
        Self {
            snapshot_bytes: stored.snapshot.as_ref().map_or(0, Bytes::len),
            updates: stored.updates.len(),
            log_bytes: updates.sum(),
            // What the log before the snapshot deleted is not known.
            deleted: true,
            compared_at: now,
            under_way: false,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.snapshot_bytes + self.log_bytes
    }

    /// An update is in the log.
    pub(super) fn appended(&mut self, bytes: usize, deletes: bool) {
        self.updates += 1;
        self.log_bytes += bytes;
        self.deleted |= deletes;
    }

    /// A snapshot is on disk, or was refused.
    pub(super) fn folded(&mut self, fold: Option<&Fold>) {
        self.under_way = false;
        if let Some(fold) = fold {
            self.snapshot_bytes = fold.snapshot_bytes;
            self.updates = self.updates.saturating_sub(fold.updates);
            self.log_bytes = self.log_bytes.saturating_sub(fold.log_bytes);
        }
    }

    /// Whether the log is longer than it should be.
    pub(super) fn is_worn(&self, max_updates: usize) -> bool {
        !self.under_way
            && (self.updates >= max_updates
                || self.log_bytes > FREE_LOG_BYTES.max(self.snapshot_bytes / 2))
    }

    /// Whether only the merged state can tell if more is kept than should be.
    fn wants_comparison(&self, now: Timestamp, is_leaving: bool) -> bool {
        let is_due = now.0.saturating_sub(self.compared_at.0) >= DELETED_CHECK_MILLIS;
        self.deleted && (is_due || is_leaving) && self.bytes() > FREE_LOG_BYTES
    }
}

impl Room {
    /// Lets documents go that nobody has had open for a while, and folds long logs into snapshots.
    pub(crate) fn handle_timeout(&mut self, now: Timestamp) {
        self.now = now;
        self.is_worn = false;
        self.retry_waiting(None);
        let unload_after = i64::try_from(self.config.unload_after.as_millis()).unwrap_or(i64::MAX);
        let mut worn = Vec::new();
        let mut uncertain = Vec::new();
        let mut gone = Vec::new();
        let mut broken = Vec::new();
        self.largest_document_bytes = 0;
        for (path, slot) in &mut self.documents {
            let Slot::Open(document) = slot else { continue };
            if document.broken {
                broken.push(path.clone());
                continue;
            }
            document.tidy(now);
            self.largest_document_bytes = self.largest_document_bytes.max(document.bytes);
            let idle = document.streams.is_empty()
                && document.deferred.is_empty()
                && document
                    .idle_since
                    .is_some_and(|since| now.0.saturating_sub(since.0) >= unload_after);
            let settled = document.head == document.committed && !document.stored.under_way;
            if document.stored.is_worn(self.config.snapshot_every) {
                worn.push(path.clone());
            } else if document.stored.wants_comparison(now, idle) {
                uncertain.push(path.clone());
            } else if idle && settled {
                // Reading one snapshot beats replaying a log, so a document is folded before it goes.
                if document.stored.updates > 16 {
                    worn.push(path.clone());
                } else {
                    gone.push(path.clone());
                }
            }
        }
        for path in worn {
            self.snapshot(&path, false);
        }
        for path in uncertain {
            self.snapshot(&path, true);
        }
        for path in gone {
            self.documents.remove(&path);
            self.metrics.documents.dec();
            tracing::debug!(room = %self.id.room, path, "document let go");
        }
        for path in broken {
            self.reload(&path);
        }
    }

    /// Folds a document's log into one state; or, `if_worth`, only if that makes it shorter by half.
    fn snapshot(&mut self, path: &str, if_worth: bool) {
        let Some(Slot::Open(document)) = self.documents.get_mut(path) else {
            return;
        };
        if document.stored.under_way || document.broken {
            return;
        }
        let state = match whole_state(document) {
            Ok(state) => state,
            Err(error) => {
                // Without the waiting part the snapshot would lose edits, so there is none.
                tracing::warn!(%error, path, "no snapshot: the waiting updates do not merge");
                return;
            }
        };
        document.stored.deleted = false;
        document.stored.compared_at = self.now;
        if if_worth && document.stored.bytes() <= state.len().saturating_mul(2) {
            return;
        }
        document.stored.under_way = true;
        let then = Then::Snapshotted {
            path: path.to_owned(),
            document: document.id,
            fold: Fold {
                snapshot_bytes: state.len(),
                updates: document.stored.updates,
                log_bytes: document.stored.log_bytes,
            },
        };
        // Later updates, staged before this one, stay in the log and are contained in the state.
        let write = Write::Snapshot {
            document: document.id,
            through: document.last_seq,
            state: Bytes::from(state),
            fold_before: self.provenance_horizon(),
        };
        self.metrics.snapshots.inc();
        self.stage(write, then);
    }
}

impl Room {
    /// Records of what ended before it are folded.
    fn provenance_horizon(&self) -> Timestamp {
        match i64::try_from(self.config.provenance_kept.as_millis()) {
            Ok(0) | Err(_) => Timestamp(i64::MIN),
            Ok(kept) => Timestamp(self.now.0.saturating_sub(kept)),
        }
    }
}

/// All of a document: what is visible and what waits.
fn whole_state(document: &mut Document) -> Result<Vec<u8>, meshagent_document::DecodeError> {
    let state = document.replica.encode_state();
    document.bytes = state.len();
    match document.replica.encode_pending() {
        Some(pending) => merge_updates(&[&state, &pending]),
        None => Ok(state),
    }
}
