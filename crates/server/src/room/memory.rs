//! The memory of documents: for whom it counts, what it bounds, and what is let go to make room.

use std::collections::BTreeMap;

use meshagent_document::Inspection;
use meshagent_protocol::ErrorCode;
use meshagent_store::DocumentId;

use super::documents::{Document, Growth};
use super::{Conn, Participant, Refusal, Room};
use crate::open_memory::{OpenCharge, TooMuchOpen};

/// What a document takes however little is in it.
const BASE_BYTES: usize = 4 << 10;
/// What a document grows by is counted in steps: the counts are the whole server's.
const STEP_BYTES: usize = 1 << 10;

impl Document {
    /// Bytes of memory that it takes, about, beside what is charged elsewhere and what passes.
    pub(super) fn memory(&self) -> usize {
        let contents = self.bytes + self.replica.pending_bytes();
        BASE_BYTES + contents + self.replica.structure_bytes()
    }

    /// Counts what it takes by now; what it has grown by for a participant.
    pub(super) fn count_memory(&mut self, participant: &str) {
        let (bytes, passing) = (self.memory(), self.recent_bytes());
        if let Some(charge) = &mut self.charge
            && charge.bytes().abs_diff(bytes) >= STEP_BYTES
        {
            charge.set(participant, bytes, passing);
        }
    }

    /// Whether it may grow by so many bytes within a participant's share.
    fn fits_into_share(
        &self,
        participant: &str,
        bytes: usize,
        max: usize,
    ) -> Result<(), TooMuchOpen> {
        let Some(charge) = &self.charge else {
            return Ok(());
        };
        let grown = self.memory().saturating_add(bytes);
        let grown = grown.saturating_sub(charge.bytes());
        if grown < STEP_BYTES {
            return Ok(());
        }
        charge.takes(participant, grown, max)
    }

    /// Counts what it takes no longer, and what passes. What it has grown by is counted with the next change.
    pub(super) fn recount_memory(&mut self) {
        let (bytes, passing) = (self.memory(), self.recent_bytes());
        if let Some(charge) = &mut self.charge {
            charge.set("", bytes.min(charge.bytes()), passing);
        }
    }
}

/// The participant whose share of the memory a connection uses. Connections that have left share one.
pub(super) fn share_of(participants: &BTreeMap<Conn, Participant>, conn: Conn) -> &str {
    let participant = participants.get(&conn);
    participant.map_or("", |one| one.account.participant())
}

impl Room {
    /// Counts the memory of a document that was read, for the first of those who wait for it that may have it.
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
        // Somebody waits, else it would not have been read.
        Err(refusal.unwrap_or_else(|| Refusal::invalid("nobody waits for the document any more")))
    }

    /// Counts a document of so many bytes.
    pub(super) fn hold_open(&mut self, conn: Conn, bytes: usize) -> Result<OpenCharge, Refusal> {
        let max = self.config.limits.max_open_bytes;
        let participant = share_of(&self.participants, conn).to_owned();
        self.making_room(&participant, None, |room| {
            room.usage.open().hold(&participant, bytes, max)
        })
    }

    /// What of an update a document may take: as large as documents may be, and within its author's share of the memory.
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
        // An update without a group of operations only deletes, which helps.
        if update.first() != Some(&0) {
            self.may_take(conn, id, inspection.growth.max(inspection.waiting))?;
        }
        Ok(growth)
    }

    /// Whether a document may grow by so many bytes of its author's share of the memory.
    pub(super) fn may_take(
        &mut self,
        conn: Conn,
        id: DocumentId,
        bytes: usize,
    ) -> Result<(), Refusal> {
        let max = self.config.limits.max_open_bytes;
        let participant = share_of(&self.participants, conn);
        let Some(document) = self.documents.get_mut(id) else {
            return Ok(());
        };
        if document.fits_into_share(participant, bytes, max).is_ok() {
            document.is_short = false;
            return Ok(());
        }
        let participant = participant.to_owned();
        // Its size is known only as an upper bound.
        document.is_short = true;
        document.takes(bytes, 0, self.now, &self.metrics);
        document.recount_memory();
        self.making_room(&participant, Some(id), |room| {
            let document = room.documents.get(id);
            document.map_or(Ok(()), |one| one.fits_into_share(&participant, bytes, max))
        })
    }

    /// By how many bytes its author's share of the memory lets a document grow, without making room.
    pub(super) fn left_of_share(&self, conn: Conn, id: DocumentId) -> usize {
        let document = self.documents.get(id);
        let charge = document.and_then(|document| document.charge.as_ref());
        let max = self.config.limits.max_open_bytes;
        let participant = share_of(&self.participants, conn);
        charge.map_or(usize::MAX, |charge| charge.left(participant, max))
    }

    /// Tries something until it is within the bounds. In between, documents are let go that nobody uses, those first that
    /// were used least lately; but for one.
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

    /// Lets a document go that nobody uses.
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

/// A document has its largest size.
pub(super) fn too_large(max: usize) -> Refusal {
    let text = format!(
        "a document may have {max} bytes at most; delete something, or begin another document"
    );
    Refusal::invalid(text)
}
