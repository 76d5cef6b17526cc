//! The memory of documents: which participant it counts for, its bounds, and eviction to make
//! space.

use std::collections::BTreeMap;

use meshagent_document::Inspection;
use meshagent_ledger::{OpenCharge, TooMuchOpen};
use meshagent_protocol::ErrorCode;
use meshagent_store::DocumentId;

use super::documents::{Document, Growth};
use super::{Conn, Participant, Refusal, Room};

/// Bytes that a document takes even if it is empty.
const BASE_BYTES: usize = 4 << 10;
/// Growth is counted in steps of this many bytes, because the counts belong to the whole server.
const STEP_BYTES: usize = 1 << 10;
/// The approximate maximum of memory that one byte of an update takes in the document: a deleted
/// range of two bytes may split a run twice.
const MEMORY_PER_BYTE: usize = 128;

impl Document {
    /// The approximate bytes of memory that the document takes, without those charged elsewhere and
    /// without the recent changes.
    pub(super) fn memory(&self) -> usize {
        let contents = self.bytes + self.replica.pending_bytes();
        BASE_BYTES + contents + self.replica.structure_bytes()
    }

    /// Counts the document's present memory; growth counts for the participant.
    pub(super) fn count_memory(&mut self, participant: &str) {
        let (bytes, passing) = (self.memory(), self.recent_bytes());
        if let Some(charge) = &mut self.charge
            && charge.bytes().abs_diff(bytes) >= STEP_BYTES
        {
            charge.set(participant, bytes, passing);
        }
    }

    /// Whether the document may grow by this many bytes within the participant's share.
    fn fits_into_share(
        &self,
        participant: &str,
        bytes: usize,
        max: usize,
        only_deletes: bool,
    ) -> Result<(), TooMuchOpen> {
        let Some(charge) = &self.charge else {
            return Ok(());
        };
        let grown = self.memory().saturating_add(bytes);
        let grown = grown.saturating_sub(charge.bytes());
        if grown < STEP_BYTES {
            return Ok(());
        }
        charge.takes(participant, grown, max, only_deletes)
    }

    /// Counts memory that was released, and the recent changes. Growth is counted with the next
    /// edit.
    pub(super) fn recount_memory(&mut self) {
        let (bytes, passing) = (self.memory(), self.recent_bytes());
        if let Some(charge) = &mut self.charge {
            charge.set("", bytes.min(charge.bytes()), passing);
        }
    }
}

/// The participant whose share of the memory a connection uses. Connections that have left use one
/// share together.
pub(super) fn share_of(participants: &BTreeMap<Conn, Participant>, conn: Conn) -> &str {
    let participant = participants.get(&conn);
    participant.map_or("", |one| one.account.participant())
}

impl Room {
    /// Counts the memory of a document that was read, for the first waiting connection whose share
    /// has space for it.
    pub(super) fn charge_open(
        &mut self,
        path: &str,
        document: &Document,
    ) -> Result<OpenCharge, Refusal> {
        let mut refusal = None;
        let waiting: Vec<Conn> = self.documents.waiting_at(path).collect();
        for conn in waiting {
            match self.hold_open(conn, document.memory()) {
                Ok(charge) => return Ok(charge),
                Err(error) => refusal = refusal.or(Some(error)),
            }
        }
        // A request waits for the document, otherwise it would not have been read.
        Err(refusal.unwrap_or_else(|| Refusal::invalid("nobody waits for the document any more")))
    }

    /// Counts a document of this many bytes for the participant of a connection.
    pub(super) fn hold_open(&mut self, conn: Conn, bytes: usize) -> Result<OpenCharge, Refusal> {
        let max = self.config.limits.max_open_bytes;
        let participant = share_of(&self.participants, conn).to_owned();
        self.making_room(&participant, None, |room| {
            room.usage.open().hold(&participant, bytes, max)
        })
    }

    /// Decides which part of an update the document may take: within the bound of documents, and
    /// within the author's share of the memory.
    pub(super) fn may_grow(
        &mut self,
        conn: Conn,
        id: DocumentId,
        update: &[u8],
        inspection: &Inspection,
    ) -> Result<Growth, Refusal> {
        let max = self.config.limits.max_document_bytes;
        let (now, metrics) = (self.now, &self.metrics);
        let document = self.documents.get_mut(id);
        let growth = document.map_or(Growth::Whole, |document| {
            document.growth(update, max, now, metrics)
        });
        if growth == Growth::TooLarge {
            return Err(too_large(max));
        }
        // A deletion makes space, unless it waits for its operations or splits what it leaves.
        let bytes = inspection.growth.max(inspection.waiting);
        if bytes > 0 {
            let only_deletes = bytes == inspection.splits && inspection.waiting == 0;
            self.may_take(conn, id, bytes, only_deletes)?;
        }
        Ok(growth)
    }

    /// Checks that a document may grow by this many bytes within its author's share of the memory.
    /// Makes space if necessary.
    pub(super) fn may_take(
        &mut self,
        conn: Conn,
        id: DocumentId,
        bytes: usize,
        only_deletes: bool,
    ) -> Result<(), Refusal> {
        let max = self.config.limits.max_open_bytes;
        let participant = share_of(&self.participants, conn);
        let Some(document) = self.documents.get_mut(id) else {
            return Ok(());
        };
        let fits = document.fits_into_share(participant, bytes, max, only_deletes);
        if fits.is_ok() {
            return Ok(());
        }
        let participant = participant.to_owned();
        // The size is known only as an upper bound, so it is measured.
        document.takes(bytes, 0, self.now, &self.metrics);
        document.recount_memory();
        self.making_room(&participant, Some(id), |room| {
            let document = room.documents.get(id);
            document.map_or(Ok(()), |one| {
                one.fits_into_share(&participant, bytes, max, only_deletes)
            })
        })
    }

    /// Whether an update of this many bytes may not fit into its author's share of the memory at
    /// first, so that its document is measured.
    pub(super) fn may_be_short(&self, conn: Conn, document: &Document, bytes: usize) -> bool {
        let Some(charge) = &document.charge else {
            return false;
        };
        let max = self.config.limits.max_open_bytes;
        let left = charge.left(share_of(&self.participants, conn), max);
        left < bytes
            .saturating_mul(MEMORY_PER_BYTE)
            .saturating_add(STEP_BYTES)
    }

    /// Repeats `attempt` until it is within the bounds. In between, unused documents are unloaded,
    /// the least recently used first, except for `kept`.
    fn making_room<T>(
        &mut self,
        participant: &str,
        kept: Option<DocumentId>,
        attempt: impl Fn(&Self) -> Result<T, TooMuchOpen>,
    ) -> Result<T, Refusal> {
        let mut crossed = match attempt(self) {
            Ok(done) => return Ok(done),
            Err(crossed) => crossed,
        };
        let under_way = self.documents_under_way();
        let unused = |document: &&Document| {
            document.is_unused() && Some(document.id) != kept && !under_way.contains(&document.id)
        };
        let unused = self.documents.iter().filter(unused);
        let mut unused: Vec<_> = unused.map(|one| (one.idle_since, one.id)).collect();
        unused.sort_unstable();
        for (_, id) in unused {
            let charge = self.documents.get(id).and_then(|one| one.charge.as_ref());
            let helps = charge.is_some_and(|charge| match crossed {
                TooMuchOpen::Participant { .. } => charge.is_shared_by(participant),
                TooMuchOpen::Server { .. } => true,
            });
            if helps {
                self.let_go(id);
                match attempt(self) {
                    Ok(done) => return Ok(done),
                    Err(other) => crossed = other,
                }
            }
        }
        let text = crossed.to_string();
        Err(Refusal::new(ErrorCode::OperationFailed, text))
    }

    /// Unloads a document that is unused.
    pub(super) fn let_go(&mut self, id: DocumentId) {
        if let Some(document) = self.documents.remove(id) {
            self.metrics.documents.dec();
            tracing::debug!(
                room = &*self.id.room,
                path = &*document.path,
                "document let go"
            );
        }
    }
}

/// The refusal of an edit because the document has reached its largest size.
pub(super) fn too_large(max: usize) -> Refusal {
    let text = format!(
        "a document may have {max} bytes at most; delete something, or begin another document"
    );
    Refusal::invalid(text)
}
