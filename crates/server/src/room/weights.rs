//! How many bytes a turn of the room may go through, told before it: what is much is done where it keeps nobody waiting.
//!
//! An estimate errs upwards where what somebody sends decides on it.

use std::collections::BTreeSet;

use meshagent_protocol::{ClientToServer, Content};
use meshagent_store::{DocumentId, Timestamp, Written};

use super::batch::Then;
use super::documents::{Deferred, Document};
use super::waiting::Waiting;
use super::{Call, Conn, FetchResult, Room, SyncCall};
use crate::committer::BatchResult;

/// What an entry of a folder takes to be shown, or told of.
const ENTRY_BYTES: usize = 128;
/// What an upload takes to be ended for others.
const UPLOAD_BYTES: usize = 1024;

impl Room {
    /// Of a message, besides its own bytes.
    pub(crate) fn message_weight(&self, conn: Conn, message: &ClientToServer) -> usize {
        match message {
            // It may encode a document.
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
                        self.update_weight(*document, chunk)
                    }
                    Some(Call::Upload(_)) => self.upload_weight(chunk),
                    _ => 0,
                }
            }
            _ => 0,
        }
    }

    /// Of an update to an open document: what waits may come up with it, and at its bound the document is measured. Else an
    /// update costs about what it brings; what it deletes, somebody brought before, and a turn that takes long all the same
    /// sends the next ones to the lane.
    fn update_weight(&self, id: DocumentId, chunk: &Content) -> usize {
        let (Some(document), Content::Binary { data, .. }) = (self.documents.get(id), chunk) else {
            return 0;
        };
        let bytes = data.len() / 4 * 3;
        let max = if document.is_short {
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

    /// Of a piece of a file: uploads that stand still may be ended for it, one for each byte at worst.
    fn upload_weight(&self, chunk: &Content) -> usize {
        let Content::Binary { data, .. } = chunk else {
            return 0;
        };
        let max = self.config.limits.max_upload_bytes_per_room;
        let missing = (self.uploads.bytes() + data.len()).saturating_sub(max);
        missing.min(self.uploads.len()).saturating_mul(UPLOAD_BYTES)
    }

    /// Of what a connection gets that has read what was queued for it: what it missed, and what it waits for.
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

    /// Of what follows the batch under way.
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
                // Whoever waits where it arrives is served from memory.
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
            .map(Document::release_weight)
            .fold(weight, usize::saturating_add)
    }

    /// Of what was read, and what is done with it.
    pub(crate) fn fetched_weight(&self, result: &FetchResult) -> usize {
        let read = match result {
            FetchResult::List(Some(entries)) => entries.len().saturating_mul(ENTRY_BYTES),
            other => other.bytes(),
        };
        read.saturating_add(self.waiting_weight(!self.waiting.is_empty()))
    }

    /// Of what the clock drives now: about the states of the documents that are due.
    pub(crate) fn timeout_weight(&self, now: Timestamp) -> usize {
        let waiting = self.waiting_weight(!self.waiting.is_empty());
        self.due_bytes(now).saturating_add(waiting)
    }

    /// Whoever waits for a state may get one, or the introductions of all others.
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
    /// Whether a reader is brought up to date behind it, and what it sent early is handled.
    pub(super) fn begins_a_stream(&self) -> bool {
        matches!(self, Self::State { .. } | Self::CatchUp { .. })
    }
}
