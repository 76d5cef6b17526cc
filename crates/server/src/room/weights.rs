//! The bytes that a turn of the room may go through, estimated before it: a heavy turn runs where
//! it delays no other room.
//!
//! Where the content of a message decides, an estimate errs upwards.

use std::collections::BTreeSet;

use meshagent_protocol::{ClientToServer, Content};
use meshagent_store::{DocumentId, Timestamp, Written};

use super::batch::Then;
use super::documents::Deferred;
use super::waiting::Waiting;
use super::{Call, Conn, FetchResult, Room, SyncCall};
use crate::committer::BatchResult;

/// The bytes that a turn goes through to show an entry of a folder, or to send its event.
const ENTRY_BYTES: usize = 128;
/// The bytes that a turn goes through to end a call of a connection that leaves.
const CALL_BYTES: usize = 128;
/// The bytes that a turn goes through to end a stalled upload.
const UPLOAD_BYTES: usize = 1024;

impl Room {
    /// The weight of a message, in addition to its own bytes.
    pub(crate) fn message_weight(&self, conn: Conn, message: &ClientToServer) -> usize {
        match message {
            // The message may encode a document.
            ClientToServer::Invoke(invoke) if invoke.toolkit == "sync" => {
                self.largest_document_bytes
            }
            ClientToServer::Invoke(invoke)
                if invoke.toolkit == "messaging" && invoke.tool == "enable" =>
            {
                self.introductions_bytes()
            }
            ClientToServer::RequestChunk {
                tool_call_id,
                chunk,
            } => {
                let participant = self.participants.get(&conn);
                let call = participant.and_then(|one| one.calls.get(tool_call_id));
                match call {
                    Some(Call::Sync(SyncCall::AwaitingStart)) => self.largest_document_bytes,
                    Some(Call::Sync(SyncCall::Open { document, .. })) => {
                        self.update_weight(conn, *document, chunk)
                    }
                    Some(Call::Upload(_)) => self.upload_weight(chunk),
                    _ => 0,
                }
            }
            _ => 0,
        }
    }

    /// The weight of an update to an open document. The update may release pending operations, and
    /// a document at its bound is measured. Otherwise an update costs approximately what it brings:
    /// what it deletes was brought before, and a turn that takes long nevertheless sends the next
    /// ones to the heavy-work pool.
    fn update_weight(&self, conn: Conn, id: DocumentId, chunk: &Content) -> usize {
        let (Some(document), Content::Binary { data, .. }) = (self.documents.get(id), chunk) else {
            return 0;
        };
        let bytes = data.len() / 4 * 3;
        let max = if self.may_be_short(conn, document, bytes) {
            0
        } else {
            self.config.limits.max_document_bytes
        };
        let measured = if document.would_measure(bytes, max, self.now) {
            document.bytes
        } else {
            0
        };
        measured.saturating_add(document.replica.pending_bytes())
    }

    /// The weight of a chunk of a file. Stalled uploads may be ended for it: in the worst case, one
    /// for each byte.
    fn upload_weight(&self, chunk: &Content) -> usize {
        let Content::Binary { data, .. } = chunk else {
            return 0;
        };
        let max = self.config.limits.max_upload_bytes_per_room;
        let missing = (self.uploads.bytes() + data.len()).saturating_sub(max);
        missing.min(self.uploads.len()).saturating_mul(UPLOAD_BYTES)
    }

    /// The weight of continuing for a connection that has read its queue: what it missed, and the
    /// requests that wait.
    pub(crate) fn drained_weight(&self, conn: Conn) -> usize {
        let Some(participant) = self.participants.get(&conn) else {
            return 0;
        };
        let documents = participant.calls.iter().filter_map(|(_, call)| match call {
            Call::Sync(SyncCall::Open { document, stream }) => {
                Some(self.documents.get(*document)?.catch_up_weight(*stream))
            }
            _ => None,
        });
        let waits = self.waiting.iter().any(|waiting| waiting.conn() == conn);
        documents.fold(self.waiting_weight(waits), usize::saturating_add)
    }

    /// The weight of ending the calls of a connection.
    pub(crate) fn leave_weight(&self, conn: Conn) -> usize {
        let participant = self.participants.get(&conn);
        participant.map_or(0, |one| one.calls.len().saturating_mul(CALL_BYTES))
    }

    /// The weight of what follows the batch in flight.
    pub(crate) fn committed_weight(&self, result: &BatchResult) -> usize {
        let written = result.as_ref().into_iter().flatten().flatten();
        let entries = written.map(|written| match written {
            Written::Deleted { entries } => entries.len(),
            Written::Moved { entries, replaced } => entries.len() + replaced.len(),
            _ => 0,
        });
        let entries = entries.sum::<usize>().saturating_mul(ENTRY_BYTES);
        let mut documents = BTreeSet::new();
        let mut weight = self
            .in_flight_bytes
            .saturating_add(entries)
            .saturating_add(self.waiting_weight(!self.waiting.is_empty()));
        for then in self.in_flight_thens() {
            match then {
                // Requests that wait at the new path are served from memory.
                Then::Moved { .. } => weight = weight.saturating_add(self.largest_document_bytes),
                Then::Appended { document, .. } => {
                    documents.insert(*document);
                }
                _ => {}
            }
        }
        let documents = documents
            .into_iter()
            .filter_map(|id| self.documents.get(id));
        documents
            .map(|document| document.release_weight(self.in_flight_bytes))
            .fold(weight, usize::saturating_add)
    }

    /// The weight of a read's result, and of what is done with it.
    pub(crate) fn fetched_weight(&self, result: &FetchResult) -> usize {
        let read = match result {
            FetchResult::List(Some(entries)) => entries.len().saturating_mul(ENTRY_BYTES),
            other => other.bytes(),
        };
        read.saturating_add(self.waiting_weight(!self.waiting.is_empty()))
    }

    /// The weight of the next timeout: approximately the states of the documents that are due.
    pub(crate) fn timeout_weight(&self, now: Timestamp) -> usize {
        let waiting = self.waiting_weight(!self.waiting.is_empty());
        self.due_bytes(now).saturating_add(waiting)
    }

    /// The weight of retrying requests: one may get a state, or the introductions of all
    /// participants.
    fn waiting_weight(&self, waits: bool) -> usize {
        if !waits {
            return 0;
        }
        let weight = |waiting: &Waiting| match waiting {
            Waiting::Document { .. } => self.largest_document_bytes,
            Waiting::Enable { .. } => self.introductions_bytes(),
            Waiting::Download { .. } | Waiting::List { .. } => 0,
        };
        self.waiting.iter().map(weight).max().unwrap_or_default()
    }
}

impl Deferred {
    /// Whether a reader is brought up to date after this, and its early chunks are handled.
    pub(super) fn begins_a_stream(&self) -> bool {
        matches!(self, Self::State { .. } | Self::CatchUp { .. })
    }
}
