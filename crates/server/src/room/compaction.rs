//! Compaction and eviction: logs become snapshots, and unused documents are unloaded.

use bytes::Bytes;
use meshagent_document::merge_updates;
use meshagent_store::{DocumentId, Seq, StoredDocument, Timestamp, Write};

use super::Room;
use super::batch::Then;
use super::documents::Document;

/// A log of at most this many bytes is never too long. A log may grow to this, or to half the
/// snapshot, and by as much again during the compaction. So the stored size of a document stays
/// below twice its merged state plus 128 KiB.
const FREE_LOG_BYTES: usize = 64 << 10;
/// When the states that one turn compacts have this many bytes, further compactions wait for the
/// next turn.
const FOLDED_BYTES: usize = 4 << 20;
/// How often the stored size of a document that deleted something is compared with its merged
/// state. The comparison encodes the state.
const DELETED_CHECK_MILLIS: i64 = 30_000;

/// The sizes of a document in the store.
#[derive(Debug, Default)]
pub(super) struct Stored {
    /// Bytes of the snapshot.
    snapshot_bytes: usize,
    /// The number of updates after the snapshot, and their bytes.
    updates: usize,
    log_bytes: usize,
    /// Whether an update deleted something since the last comparison with the merged state, and the
    /// time of that comparison.
    deleted: bool,
    compared_at: Timestamp,
    under_way: bool,
    /// The end of the log after everything that was handed to the committer.
    pub(super) log_end: Seq,
}

/// What a snapshot in flight replaces.
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
            // Whether the log before the snapshot deleted something is unknown.
            deleted: true,
            compared_at: now,
            under_way: false,
            log_end: stored.last_seq,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.snapshot_bytes + self.log_bytes
    }

    /// Counts an update that is in the log.
    pub(super) fn appended(&mut self, bytes: usize, deletes: bool) {
        self.updates += 1;
        self.log_bytes += bytes;
        self.deleted |= deletes;
    }

    /// Ends a compaction: the snapshot is on disk, or was refused (`None`).
    pub(super) fn folded(&mut self, fold: Option<&Fold>) {
        self.under_way = false;
        if let Some(fold) = fold {
            self.snapshot_bytes = fold.snapshot_bytes;
            self.updates = self.updates.saturating_sub(fold.updates);
            self.log_bytes = self.log_bytes.saturating_sub(fold.log_bytes);
        }
    }

    /// Whether the log needs compaction.
    pub(super) fn is_worn(&self, max_updates: usize) -> bool {
        !self.under_way
            && (self.updates >= max_updates
                || self.log_bytes > FREE_LOG_BYTES.max(self.snapshot_bytes / 2))
    }

    /// Whether only a comparison with the merged state can show if the store keeps too much.
    fn wants_comparison(&self, now: Timestamp, is_leaving: bool) -> bool {
        let is_due = now.0.saturating_sub(self.compared_at.0) >= DELETED_CHECK_MILLIS;
        self.deleted && (is_due || is_leaving) && self.bytes() > FREE_LOG_BYTES
    }
}

/// What is due for a document.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Due {
    /// Compaction is due.
    Fold,
    /// Compaction is due if it makes the stored size much smaller.
    Compare,
    /// The document is to be unloaded.
    Unload,
    /// The document is to be read again.
    Reload,
}

impl Document {
    /// Whether the document has no readers, and no answer waits for it.
    fn is_idle(&self) -> bool {
        self.streams.is_empty() && self.deferred.is_empty()
    }

    /// Whether the whole document is on disk.
    fn is_settled(&self) -> bool {
        self.head == self.committed && !self.stored.under_way
    }

    /// Whether the document can be unloaded immediately, even if its log is long.
    pub(super) fn is_unused(&self) -> bool {
        self.is_idle() && self.is_settled() && !self.is_broken()
    }
}

impl Room {
    /// Bytes of the documents that are due.
    pub(super) fn due_bytes(&self, now: Timestamp) -> usize {
        let due = self
            .documents
            .iter()
            .map(|document| match self.due(document, now) {
                Some(Due::Fold | Due::Compare | Due::Unload) => document.bytes,
                Some(Due::Reload) | None => 0,
            });
        due.fold(0, usize::saturating_add)
    }

    fn due(&self, document: &Document, now: Timestamp) -> Option<Due> {
        if document.is_broken() {
            return Some(Due::Reload);
        }
        // When memory is tight, documents without readers make space for others, of this room or
        // another.
        let unload_after = if self
            .usage
            .open()
            .is_tight(self.config.limits.max_open_bytes)
        {
            0
        } else {
            i64::try_from(self.config.unload_after.as_millis()).unwrap_or(i64::MAX)
        };
        let since = document.idle_since.filter(|_| document.is_idle());
        let idle = since.is_some_and(|since| now.0.saturating_sub(since.0) >= unload_after);
        let settled = document.is_settled();
        if document.stored.is_worn(self.config.snapshot_every) {
            Some(Due::Fold)
        } else if document.stored.wants_comparison(now, idle) {
            // A compaction in flight comes first.
            (!document.stored.under_way).then_some(Due::Compare)
        } else if idle && settled {
            // A snapshot is read faster than a log is replayed, so the document is compacted before
            // it is unloaded.
            let is_long = document.stored.updates > 16;
            Some(if is_long { Due::Fold } else { Due::Unload })
        } else {
            None
        }
    }

    /// Unloads documents that have been idle for a while, compacts long logs, and reads broken
    /// documents again.
    pub(crate) fn handle_timeout(&mut self, now: Timestamp) {
        self.now = now;
        self.is_worn = false;
        // Encoded states that are not being sent make space for requests that wait, in this room or
        // another.
        let is_wanted = self.usage.ledger().is_wanted();
        if is_wanted {
            for document in self.documents.iter_mut() {
                document.tidy(now, true);
            }
        }
        self.retry_waiting(None);
        let mut worn = Vec::new();
        let mut uncertain = Vec::new();
        let mut gone = Vec::new();
        let mut broken = Vec::new();
        self.largest_document_bytes = 0;
        let max = self.config.limits.max_open_bytes;
        let is_tight = self.usage.open().is_tight(max);
        for document in self.documents.iter_mut() {
            if !document.is_broken() {
                document.tidy(now, false);
                document.forget_recent(is_tight);
                document.recount_memory();
                self.largest_document_bytes = self.largest_document_bytes.max(document.bytes);
            }
        }
        let mut folded = 0_usize;
        for document in self.documents.iter() {
            let id = document.id;
            let Some(due) = self.due(document, now) else {
                continue;
            };
            // What does not fit into this turn has the next one.
            let fits = folded < FOLDED_BYTES;
            match due {
                Due::Fold if fits => worn.push(id),
                Due::Compare if fits => uncertain.push(id),
                Due::Fold | Due::Compare => {
                    self.is_worn = true;
                    continue;
                }
                Due::Unload => gone.push(id),
                Due::Reload => broken.push(id),
            }
            if matches!(due, Due::Fold | Due::Compare) {
                folded = folded.saturating_add(document.bytes);
            }
        }
        if !gone.is_empty() {
            // The next reader would find the document as it is on disk, without what is staged or
            // in flight.
            let under_way = self.documents_under_way();
            gone.retain(|id| !under_way.contains(id));
        }
        for id in worn {
            self.snapshot(id, false);
        }
        for id in uncertain {
            self.snapshot(id, true);
        }
        for id in gone {
            self.let_go(id);
        }
        for id in broken {
            self.reload(id);
        }
    }

    /// Compacts a document's log into one state; with `if_worth`, only if that more than halves the
    /// stored size.
    fn snapshot(&mut self, id: DocumentId, if_worth: bool) {
        let Some(document) = self.documents.get_mut(id) else {
            return;
        };
        if document.stored.under_way || document.is_broken() {
            return;
        }
        let state = match whole_state(document) {
            Ok(state) => state,
            Err(error) => {
                // A snapshot without the pending updates would lose edits.
                tracing::warn!(%error, path = &*document.path, "no snapshot: the waiting updates \
                                                                do not merge");
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
            document: id,
            fold: Fold {
                snapshot_bytes: state.len(),
                updates: document.stored.updates,
                log_bytes: document.stored.log_bytes,
            },
        };
        // Updates after `through` that were staged before this snapshot stay in the log. The state
        // contains them, too.
        let write = Write::Snapshot {
            document: id,
            end: None,
            through: document.last_seq,
            state: Bytes::from(state),
            fold_before: self.provenance_horizon(),
        };
        self.metrics.snapshots.inc();
        self.stage(write, then);
    }
}

impl Room {
    /// The time before which ended provenance records are merged into one for each author.
    fn provenance_horizon(&self) -> Timestamp {
        match i64::try_from(self.config.provenance_kept.as_millis()) {
            Ok(0) | Err(_) => Timestamp(i64::MIN),
            Ok(kept) => Timestamp(self.now.0.saturating_sub(kept)),
        }
    }
}

/// Returns the full state of a document: the visible part and the pending updates.
fn whole_state(document: &mut Document) -> Result<Vec<u8>, meshagent_document::DecodeError> {
    let state = document.replica.encode_state();
    document.bytes = state.len();
    match document.replica.encode_pending() {
        Some(pending) => merge_updates(&[&state, &pending]),
        None => Ok(state),
    }
}
