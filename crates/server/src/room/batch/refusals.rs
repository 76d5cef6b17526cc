//! Refusals of writes and of the answers that wait for them: what fails, or is gone.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use meshagent_protocol::ErrorCode;
use meshagent_store::{DocumentId, StoreError, WriteError};

use super::{Flight, Then};
use crate::room::documents::{Deferred, StreamId, Version};
use crate::room::{Refusal, Request, Room};

impl Room {
    /// Reports that an update is not on disk. Published clients learn it from the close of the
    /// stream that sent it.
    pub(super) fn refuse_append(
        &mut self,
        document: DocumentId,
        sender: Option<StreamId>,
        request: Option<Request>,
        refusal: &Refusal,
    ) {
        if let Some(stream) = sender {
            self.note_lost(document, stream, 1, || {
                format!("an update was refused: {}", refusal.text)
            });
        }
        if let Some(request) = request {
            self.refuse(request, refusal.clone());
        }
    }

    /// Refuses one write of a batch; the others stand.
    pub(super) fn refuse_write(&mut self, then: Then, error: &WriteError) {
        let refusal = |document: bool| {
            let is_lost = document && matches!(error, WriteError::NotStored);
            if is_lost
                || matches!(
                    error,
                    WriteError::Behind { .. } | WriteError::WrongEnd { .. }
                )
            {
                return read_again();
            }
            let code = match error {
                WriteError::AlreadyExists { .. } if document => ErrorCode::AlreadyExists,
                WriteError::AlreadyExists { .. } => ErrorCode::StorageAlreadyExists,
                WriteError::NotFound { .. } | WriteError::NoSuchDocument { .. } if document => {
                    ErrorCode::NotFound
                }
                WriteError::NotFound { .. } => ErrorCode::StorageNotFound,
                WriteError::RecursiveRequired { .. } => ErrorCode::StorageRecursiveRequired,
                WriteError::IntoItself | WriteError::IsRoot | WriteError::PathTooLong { .. } => {
                    ErrorCode::StorageInvalidPath
                }
                WriteError::Damaged { .. } | WriteError::Full | WriteError::NotStored => {
                    ErrorCode::OperationFailed
                }
                WriteError::TooMany { .. } | WriteError::PathsTooLong { .. } => {
                    ErrorCode::InvalidRequest
                }
                _ => ErrorCode::Conflict,
            };
            Refusal::new(code, error.to_string())
        };
        match then {
            Then::Created { path, creator, .. } => {
                if let WriteError::AlreadyExists { .. } = error {
                    self.creation_overtaken(&path, *creator, refusal(true));
                } else {
                    self.creation_failed(&path, *creator, refusal(true));
                }
            }
            Then::Appended {
                document,
                version,
                sender,
                answer,
                ..
            } => {
                self.refuse_append(
                    document,
                    sender,
                    answer.map(|(request, _)| request),
                    &refusal(true),
                );
                if self.documents.contains(document) {
                    // The replica already contains this update and all later ones.
                    tracing::warn!(%error, document = document.0, "update refused by the store");
                    self.refuse_staged(|id| id == document, &read_again());
                    self.break_document(document, version, &read_again());
                }
            }
            Then::Deleted { request, path } => {
                let refusal = match error {
                    WriteError::OutOfReach { path: found } => {
                        self.out_of_reach(request.conn, &path, None, found)
                    }
                    _ => refusal(false),
                };
                self.refuse(request, refusal);
            }
            Then::Moved {
                request,
                source,
                destination,
            } => {
                let refusal = match error {
                    WriteError::OutOfReach { path: found } => {
                        self.out_of_reach(request.conn, &source, Some(&destination), found)
                    }
                    _ => refusal(false),
                };
                self.refuse(request, refusal);
            }
            Then::Put { upload, .. } => self.end_upload(&upload, Err(refusal(false))),
            Then::Snapshotted { .. } => {}
        }
    }

    /// Refuses a batch of which nothing is on disk, and has the documents that were ahead of the
    /// disk read again.
    pub(super) fn fail_batch(&mut self, batch: Vec<Flight>, error: &Arc<StoreError>) {
        let refusal = Refusal::storage(error);
        let mut broken = BTreeMap::<DocumentId, Version>::new();
        for then in batch.into_iter().flat_map(|flight| flight.thens) {
            match then {
                Then::Appended {
                    document,
                    version,
                    sender,
                    answer,
                    ..
                } => {
                    self.refuse_append(
                        document,
                        sender,
                        answer.map(|(request, _)| request),
                        &refusal,
                    );
                    let from = broken.entry(document).or_insert(version);
                    *from = version.min(*from);
                }
                Then::Created { path, creator, .. } => {
                    self.creation_failed(&path, *creator, refusal.clone());
                }
                Then::Deleted { request, .. } | Then::Moved { request, .. } => {
                    self.refuse(request, refusal.clone());
                }
                Then::Put { upload, .. } => self.end_upload(&upload, Err(refusal.clone())),
                Then::Snapshotted { document, .. } => {
                    if let Some(document) = self.documents.get_mut(document) {
                        document.stored.folded(None);
                    }
                }
            }
        }
        self.refuse_staged(|id| broken.contains_key(&id), &refusal);
        for (id, from) in broken {
            self.break_document(id, from, &refusal);
        }
    }

    /// Refuses what is staged for documents whose replica has versions that will never be on disk.
    pub(super) fn refuse_staged(
        &mut self,
        builds_on: impl Fn(DocumentId) -> bool,
        refusal: &Refusal,
    ) {
        let (dependent, independent): (Vec<_>, Vec<_>) = std::mem::take(&mut self.staged)
            .into_iter()
            .partition(|staged| {
                let mut documents = staged.thens.iter().filter_map(Then::document);
                documents.any(&builds_on)
            });
        self.staged_bytes = independent.iter().map(|staged| staged.write.bytes()).sum();
        self.staged = independent;
        for then in dependent.into_iter().flat_map(|staged| staged.thens) {
            match then {
                Then::Appended {
                    document,
                    sender,
                    answer,
                    ..
                } => self.refuse_append(
                    document,
                    sender,
                    answer.map(|(request, _)| request),
                    refusal,
                ),
                Then::Snapshotted { document, .. } => {
                    if let Some(document) = self.documents.get_mut(document) {
                        document.stored.folded(None);
                    }
                }
                _ => {}
            }
        }
    }

    /// Refuses the updates of a document that are not on disk and, because it is gone, never will
    /// be. The closes of its streams then report them.
    pub(super) fn refuse_under_way(&mut self, id: DocumentId, refusal: &Refusal) {
        let settling = self.settling.iter_mut();
        let in_flight = settling.chain(self.in_flight.iter_mut().flatten());
        let staged = self.staged.iter_mut().flat_map(|staged| &mut staged.thens);
        let mut refused = Vec::new();
        for then in in_flight.flat_map(|flight| &mut flight.thens).chain(staged) {
            if let Then::Appended {
                document,
                sender,
                answer,
                ..
            } = then
                && *document == id
            {
                refused.push((sender.take(), answer.take()));
            }
        }
        for (sender, answer) in refused {
            let request = answer.map(|(request, _)| request);
            self.refuse_append(id, sender, request, refusal);
        }
    }

    /// Refuses answers that waited for a version.
    pub(super) fn refuse_deferred(
        &mut self,
        deferred: VecDeque<(Version, Deferred)>,
        refusal: &Refusal,
    ) {
        for (_, deferred) in deferred {
            match deferred {
                Deferred::Answer { request, .. } | Deferred::Described { request, .. } => {
                    self.refuse(request, refusal.clone());
                }
                Deferred::State {
                    request,
                    tool_call_id,
                    number,
                    ..
                } => self.refuse_opening(request, &tool_call_id, number, refusal.clone()),
                Deferred::CatchUp { .. } => {}
                Deferred::Close {
                    request,
                    document,
                    stream,
                    // What was lost was recorded when its updates were refused.
                } => self.end_closed(request, document, stream),
            }
        }
    }
}

/// The refusal of an update whose document has to be read again first.
pub(super) fn read_again() -> Refusal {
    let text = "storage failed and the document is being read again; send the update again";
    Refusal::new(ErrorCode::OperationFailed, text)
}

pub(super) fn gone(path: &str) -> Refusal {
    let text = format!("{path:?} was deleted or moved meanwhile");
    Refusal::new(ErrorCode::NotFound, text)
}
