//! Toolkit `sync`: create, describe, and the streamed open with the gate for inbound updates.
//!
//! The gate makes the cheapest checks first: size, *just sent by the server?*, base64, decode,
//! *already contained?*, grant, *the sender's own operations?*, size of the document, gap, schema.
//! Published clients send back every update that they receive, and the whole state after opening.
//! The second check recognizes these echoes by their bytes, the fifth by their content. What breaks
//! the schema is removed in the same step, so it is never visible.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use meshagent_document::{
    Applied, DecodeError, Inspection, MeshDocument, MeshSchema, Repair, UpdateKind, Violation,
    Violations, check_state_vector, fit_update, merge_updates,
};
use meshagent_ledger::{Held, Kind};
use meshagent_protocol::sync::{SyncChunk, SyncCreate, SyncDescribe, SyncOpenStart};
use meshagent_protocol::{Content, Control, ErrorCode, ServerToClient};
use meshagent_store::{Contribution, DocumentId};
use serde_json::{Value, json};

use super::batch::{Then, append};
use super::documents::{Deferred, Growth, Stream, StreamId};
use super::memory::share_of;
use super::opening::{Waiter, operations_of};
use super::{Call, Conn, Refusal, Request, Room};
use crate::metrics::UpdateOutcome;

/// The maximum number of chunks, and their maximum bytes, that are kept from a client that has not
/// received the state yet. One chunk may be larger. Beyond this, chunks are refused with 1006.
const EARLY_CHUNKS: usize = 256;
const EARLY_BYTES: usize = 4 << 20;

/// The `status` of `room.status` for a client that has operations which the server lacks.
const AHEAD: &str = "ahead";

/// The maximum number of clients of a state vector that answers list. A longer vector would be many
/// times as long as the update that it answers.
const TOLD_CLIENTS: usize = 1024;

/// The longest reason that a close gives for what was lost, in characters.
const LOST_CHARACTERS: usize = 400;

/// What was sent in a call and not kept.
#[derive(Debug)]
pub(super) struct Lost {
    /// Parts of updates that the schema does not allow, plus whole updates that were refused.
    count: usize,
    /// The reason for the first.
    first: String,
}

/// The stages of a streamed `open`.
#[derive(Debug, Default)]
pub(super) enum SyncCall {
    #[default]
    AwaitingStart,
    Opening {
        /// Distinguishes the call from others that have its id before or after it.
        number: u64,
        early: Vec<(Request, Content, Held)>,
    },
    Open {
        document: DocumentId,
        stream: StreamId,
    },
}

impl SyncCall {
    /// Whether this is the call with this number, and it waits for its document.
    pub(super) fn is_opening(&self, number: u64) -> bool {
        matches!(self, Self::Opening { number: own, .. } if *own == number)
    }
}

impl Room {
    pub(super) fn create(&mut self, request: Request, arguments: Content) {
        let create = match SyncCreate::from_content(arguments) {
            Ok(create) => create,
            Err(error) => return self.refuse(request, Refusal::request(&error)),
        };
        let path = create.path.to_string();
        let may_use = create
            .schema_path
            .as_ref()
            .map_or(Ok(()), |file| self.may_use_schema(request, file.as_str()));
        if let Err(refusal) = self.may_create(request, &path).and(may_use) {
            return self.refuse(request, refusal);
        }
        let held = self.take_held();
        let waiter = Waiter::Create {
            request,
            create,
            _held: held,
        };
        self.with_document(&path, waiter);
    }

    pub(super) fn describe(&mut self, request: Request, arguments: &Content) {
        let describe = match SyncDescribe::parse(arguments) {
            Ok(describe) => describe,
            Err(error) => return self.refuse(request, Refusal::request(&error)),
        };
        let path = describe.path.to_string();
        if let Err(refusal) = self.may_sync(request, &path, false) {
            return self.refuse(request, refusal);
        }
        let held = self.take_held();
        self.with_document(
            &path,
            Waiter::Describe {
                request,
                describe,
                _held: held,
            },
        );
    }

    pub(super) fn sync_chunk(&mut self, request: Request, tool_call_id: &str, chunk: Content) {
        let Some(participant) = self.participants.get_mut(&request.conn) else {
            return;
        };
        let Some(Call::Sync(call)) = participant.calls.get_mut(tool_call_id) else {
            return;
        };
        match call {
            SyncCall::AwaitingStart => self.start_sync(request, tool_call_id, chunk),
            SyncCall::Opening { early, .. }
                if early.is_empty()
                    || early.len() < EARLY_CHUNKS
                        && early_bytes(early) + self.held.bytes() <= EARLY_BYTES =>
            {
                // Its peer may take long to read what it has requested before.
                if let Err(over) = self.held.try_stand_back() {
                    return self.refuse(request, Refusal::over(over));
                }
                let held = std::mem::replace(&mut self.held, Held::none());
                early.push((request, chunk, held.into_kind(Kind::Early)));
            }
            SyncCall::Opening { .. } => {
                let text = "wait for the state chunk before sending more";
                self.refuse(request, Refusal::new(ErrorCode::InvalidState, text));
            }
            SyncCall::Open { document, stream } => {
                let (document, stream) = (*document, *stream);
                let open = self.documents.get(document);
                if open
                    .and_then(|open| open.streams.get(stream))
                    .is_some_and(|stream| stream.is_closing)
                {
                    let text = "the call was closed; open the document again to send more";
                    let closed = Refusal::new(ErrorCode::InvalidState, text);
                    return self.refuse_update(request, closed);
                }
                self.update_chunk(request, document, stream, &chunk);
            }
        }
    }

    fn start_sync(&mut self, request: Request, tool_call_id: &str, chunk: Content) {
        let start = match SyncOpenStart::from_content(chunk) {
            Ok(start) => start,
            Err(error) => {
                let refusal = Refusal::request(&error);
                return self.fail_call(Some(request), request.conn, tool_call_id, refusal);
            }
        };
        let path = start.path.to_string();
        if let Err(refusal) = self.may_sync(request, &path, false) {
            return self.fail_call(Some(request), request.conn, tool_call_id, refusal);
        }
        // Check the vector before a document is created for the call.
        if let Some(vector) = &start.vector
            && let Err(error) = check_state_vector(vector)
        {
            let refusal = Refusal::invalid(format!("vector is not a state vector: {error}"));
            return self.fail_call(Some(request), request.conn, tool_call_id, refusal);
        }
        let may_create = self.may_create(request, &path).and_then(|()| {
            let file = start.schema_path.as_ref();
            file.map_or(Ok(()), |file| self.may_use_schema(request, file.as_str()))
        });
        let number = self.number();
        let Some(participant) = self.participants.get_mut(&request.conn) else {
            return;
        };
        if let Some(Call::Sync(call)) = participant.calls.get_mut(tool_call_id) {
            *call = SyncCall::Opening {
                number,
                early: Vec::new(),
            };
        }
        let author = Box::new(self.author(request.conn, tool_call_id));
        let tool_call_id = tool_call_id.to_owned();
        let held = self.take_held();
        self.with_document(
            &path,
            Waiter::Open {
                _held: held,
                request,
                tool_call_id,
                number,
                author,
                start,
                may_create,
                overtaken: None,
            },
        );
    }

    fn update_chunk(
        &mut self,
        request: Request,
        id: DocumentId,
        stream: StreamId,
        chunk: &Content,
    ) {
        let max = self.config.limits.max_update_bytes;
        let chunk = match SyncChunk::parse(chunk) {
            Ok(chunk) if chunk.max_decoded_bytes() <= max => chunk,
            Ok(_) => {
                let text = format!("an update may have {max} bytes at most; send smaller ones");
                return self.refuse_sent(request, id, stream, Refusal::invalid(text));
            }
            Err(error) => return self.refuse_sent(request, id, stream, Refusal::request(&error)),
        };
        if let Some(document) = self.documents.get(id)
            && document.sent.contains(&chunk.payload)
        {
            // What the server sent is on disk, so the answer need not wait.
            self.metrics.echoes_unread.inc();
            self.metrics.count_update(UpdateOutcome::Echo);
            return self.respond(request, Content::Empty);
        }
        let update = match chunk.decode() {
            Ok(update) => Bytes::from(update),
            // Text that is not base64 contains no edit, so the close has nothing to report.
            Err(error) => return self.refuse_update(request, Refusal::invalid(error)),
        };
        if update.is_empty() {
            return self.respond(request, Content::Empty);
        }
        let Some(document) = self.documents.get(id) else {
            let gone = Refusal::new(ErrorCode::NotFound, "the document is gone");
            return self.refuse_update(request, gone);
        };
        let may_write = self.may_sync(request, &document.path, true);
        let Some(document) = self.documents.get_mut(id) else {
            return;
        };
        if document.is_broken() {
            let text = "storage failed and the document is being read again; send the update again";
            return self.refuse_sent(
                request,
                id,
                stream,
                Refusal::new(ErrorCode::OperationFailed, text),
            );
        }
        let (update, inspection, removed) = match inspect(&document.replica, update) {
            Ok(inspected) => inspected,
            Err(error) => return self.refuse_for_now(request, id, stream, no_update(&error)),
        };
        self.count_erased(request, id, inspection.erased);
        if matches!(inspection.kind, UpdateKind::Empty | UpdateKind::Contained) {
            self.metrics.count_update(UpdateOutcome::Echo);
            let content = unlike_sent(&inspection);
            // The operations that it repeats may themselves not be on disk yet.
            return self.answer_later(id, request, content);
        }
        if let Err(refusal) = may_write {
            return self.refuse_sent(request, id, stream, refusal);
        }
        if let Err(refusal) = self.may_be_theirs(request, id, &inspection) {
            return self.refuse_for_now(request, id, stream, refusal);
        }
        self.apply(request, id, stream, &inspection, update, removed);
    }

    /// Checks that what an update brings can be the sender's own.
    fn may_be_theirs(
        &self,
        request: Request,
        id: DocumentId,
        inspection: &Inspection,
    ) -> Result<(), Refusal> {
        let (Some(document), Some(participant)) =
            (self.documents.get(id), self.participants.get(&request.conn))
        else {
            return Ok(());
        };
        let path = &*document.path;
        let name = &participant.name;
        if let Some((client, clock)) = inspection.conflict {
            self.metrics.update_conflicts.inc();
            tracing::warn!(path, participant = ?name, client, clock, "an operation is another one \
                                                                      here; update refused");
            let text = format!(
                "operation {clock} of client {client} is not the one that the document has under that name; \
                 nothing of the update is kept. Open the document again in a new replica, and make the change there"
            );
            return Err(Refusal::new(ErrorCode::Conflict, text));
        }
        let is_here = |owner: &str| {
            let streams = document.streams.values();
            let mut there = streams.filter_map(|stream| self.participants.get(&stream.conn));
            there.any(|participant| participant.name == owner)
        };
        let is_anothers = |client: &&u64| {
            **client == document.replica.client_id()
                || document
                    .writers
                    .owner(**client)
                    .is_some_and(|owner| owner != name && is_here(owner))
        };
        let Some(client) = inspection.authors.iter().find(is_anothers) else {
            return Ok(());
        };
        self.metrics.update_conflicts.inc();
        tracing::warn!(path, participant = ?name, client, "somebody else writes with this client \
                                                           id; update refused");
        let text = format!(
            "somebody else writes with client id {client} now; nothing of the update is kept. \
             Open the document again in a new replica, and make the change there"
        );
        Err(Refusal::new(ErrorCode::Conflict, text))
    }

    fn apply(
        &mut self,
        request: Request,
        id: DocumentId,
        stream: StreamId,
        inspection: &Inspection,
        update: Bytes,
        removed: Violations,
    ) {
        let kind = inspection.kind;
        let Some(document) = self.documents.get_mut(id) else {
            return;
        };
        let tool_call_id = match document.streams.get(stream) {
            Some(stream) => Arc::clone(&stream.tool_call_id),
            None => Arc::default(),
        };
        let growth = match self.may_grow(request.conn, id, &update, inspection) {
            Ok(growth) => growth,
            Err(refusal) => return self.refuse_for_now(request, id, stream, refusal),
        };
        let author = self.author(request.conn, &tool_call_id);
        let Some(document) = self.documents.get_mut(id) else {
            return;
        };
        let waited = document.replica.has_gap();
        let max_pending = self.config.limits.max_pending_bytes;
        let pending = document.replica.pending_bytes() + inspection.waiting;
        if kind == UpdateKind::Gap && pending > max_pending {
            let text = format!(
                "more than {max_pending} bytes wait for operations that never came; open the \
                 document again and send what it lacks first"
            );
            let refusal = Refusal::new(ErrorCode::Conflict, text);
            return self.refuse_for_now(request, id, stream, refusal);
        }
        let mut applied = match document.replica.apply_placed_update(&update) {
            Ok(applied) => applied,
            Err(error) => {
                return self.refuse_for_now(request, id, stream, no_update(&error));
            }
        };
        // Pending deletions may have waited for these operations, or for some of them.
        let unlike_sent = if waited {
            let inspected = document.replica.inspect(&update);
            inspected.map_or(Content::Empty, |inspection| unlike_sent(&inspection))
        } else {
            unlike_sent(inspection)
        };
        // When updates are merged, a copy with content takes precedence over a collected one, and
        // either form of half a character may win. So if known operations differ, they are left
        // out, and what came first stays. Otherwise they stay in if there is space, so that the
        // update does not depend on earlier writes.
        let update = match applied.kept.take() {
            Some(kept) if inspection.differs || growth == Growth::New => kept.into(),
            _ => update,
        };
        let (update, mut violations) = match document.replica.repair() {
            None => (update, Violations::default()),
            Some(repair) => match with_repair(&update, &mut applied, &repair) {
                Ok(update) => (update, repair.violations),
                Err(error) => {
                    // The replica contains what must never be visible.
                    tracing::error!(%error, path = &*document.path, "a repair does not merge with \
                                                                     what it repairs");
                    let text = "the document is being read again; try again";
                    let refusal = Refusal::new(ErrorCode::OperationFailed, text);
                    let from = document.head + 1;
                    self.break_document(id, from, &refusal);
                    return self.refuse_sent(request, id, stream, refusal);
                }
            },
        };
        violations.append(removed);
        if applied.misplaced > 0 {
            let operations = applied.misplaced;
            tracing::warn!(
                operations,
                path = &*document.path,
                "what had waited can't have a place, and is taken up as collected"
            );
        }
        document.head += 1;
        document.bytes += update.len();
        document.count_memory(share_of(&self.participants, request.conn));
        self.largest_document_bytes = self.largest_document_bytes.max(document.bytes);
        if let Some(client) = inspection.writer {
            document.writers.note(client, &author.participant);
        }
        let path = Arc::clone(&document.path);
        let tells_gap = applied.gap
            && document
                .streams
                .get_mut(stream)
                .is_some_and(|stream| !std::mem::replace(&mut stream.is_ahead, true));
        let mut answer = if applied.gap {
            self.metrics.count_update(UpdateOutcome::Gap);
            let mut notice = json!({
                "pending": true,
                "message": "the update builds on operations that are missing here; it is kept and \
                            applied when they arrive",
            });
            // The charge for the vector goes with the write.
            self.held
                .grow_anyway(told_vector(&mut notice, &document.replica));
            Content::Json(notice)
        } else if violations.is_empty() {
            self.metrics.count_update(UpdateOutcome::Accepted);
            unlike_sent
        } else {
            Content::Json(json!({}))
        };
        if let Content::Json(answer) = &mut answer
            && !violations.is_empty()
        {
            self.metrics.count_update(UpdateOutcome::Repaired);
            tracing::info!(path = &*document.path, author = %author.participant, violations = violations.total(), "update broke the schema; repaired");
            tell_violations(answer, &violations);
        }
        let then = Then::Appended {
            document: id,
            version: document.head,
            visible: applied.visible,
            // Operations that were pending for this update may be another author's, which this
            // author has not seen. Nor has it seen the repair.
            known_to: (!waited && violations.is_empty()).then_some(stream),
            sender: Some(stream),
            answer: Some((request, answer)),
        };
        let contribution = Contribution {
            author,
            at: self.now,
            operations: operations_of(applied.operations),
        };
        let write = append(id, update, vec![contribution], self.now);
        self.stage(write, then);
        let schema = self.documents.get(id).map(|one| Arc::clone(&one.schema));
        let is_lost = |one: &&Violation| {
            let schema = schema.as_ref().map(|schema| &schema.parsed);
            !schema.is_some_and(|schema| repeats_children(schema, &one.pointer))
        };
        let lost = violations.iter().filter(is_lost).count();
        if let Some(first) = violations.iter().find(is_lost) {
            let unlisted = violations.total() - violations.iter().count();
            self.note_lost(id, stream, lost + unlisted, || {
                let Violation {
                    pointer,
                    expected,
                    found,
                    ..
                } = first;
                format!(
                    "the schema does not allow what was at {pointer:?}: expected {expected}, \
                         found {found}"
                )
            });
        }
        if tells_gap {
            self.tell_ahead(request.conn, &path, None);
        }
    }

    /// Takes the charge of the message being handled, for what the message causes.
    pub(super) fn take_held(&mut self) -> Held {
        std::mem::replace(&mut self.held, Held::none())
    }

    /// Reports in the log, the metrics and to the client that the client has operations which the
    /// server lacks, as after a restore. This happens once for each stream.
    pub(super) fn tell_ahead(&self, conn: Conn, path: &str, operations: Option<u64>) {
        let Some(participant) = self.participants.get(&conn) else {
            return;
        };
        self.metrics.clients_ahead.inc();
        tracing::warn!(path, participant = ?participant.name, operations, "a client has \
                                                                           operations that the \
                                                                           server lacks");
        self.send(
            conn,
            ServerToClient::RoomStatus {
                status: AHEAD.to_owned(),
                message: format!(
                    "this replica of {path:?} has operations that the server lacks, and what builds on them is shown to \
                     nobody before they come; if the client does not send them by itself, send the whole state, or open \
                     the document again in a new replica"
                ),
            },
        );
    }

    /// Ends a call that its client has closed. If something that was sent in the call was not kept,
    /// the close says so, and the client's `close` fails: published clients look at nothing else.
    ///
    /// The close is sent when everything that was sent before it is on disk or refused.
    pub(super) fn close_sync(&mut self, request: Request, tool_call_id: &str) {
        let participant = self.participants.get(&request.conn);
        let call = participant.and_then(|participant| participant.calls.get(tool_call_id));
        if let Some(&Call::Sync(SyncCall::Open { document, stream })) = call
            && let Some(open) = self.documents.get_mut(document)
        {
            // What a failed commit lost was recorded then, and its version never reaches the disk.
            if open.is_broken() {
                return self.end_closed(request, document, stream);
            }
            let Some(open) = open.streams.get_mut(stream) else {
                return self.respond(request, Content::Empty);
            };
            if open.is_closing {
                return self.respond(request, Content::Empty);
            }
            open.is_closing = true;
            let close = Deferred::Close {
                request,
                document,
                stream,
            };
            return self.defer(document, close);
        }
        self.respond(request, Content::Empty);
        self.end_call(request.conn, tool_call_id, Control::close());
    }

    /// Ends a call that its client has closed, when the outcome of everything that it sent is
    /// known.
    pub(super) fn end_closed(&mut self, request: Request, id: DocumentId, stream: StreamId) {
        self.respond(request, Content::Empty);
        let Some(stream) = self
            .documents
            .get_mut(id)
            .and_then(|document| document.streams.get_mut(stream))
        else {
            return;
        };
        let tool_call_id = Arc::clone(&stream.tool_call_id);
        let close = stream.take_close();
        self.end_call(request.conn, &tool_call_id, close);
    }

    pub(super) fn refuse_update(&self, request: Request, refusal: Refusal) {
        self.metrics.count_update(UpdateOutcome::Refused);
        self.refuse(request, refusal);
    }

    /// Refuses an update of a stream. Published clients ignore the answer, so the close reports it,
    /// too.
    fn refuse_sent(
        &mut self,
        request: Request,
        id: DocumentId,
        stream: StreamId,
        refusal: Refusal,
    ) {
        self.note_refused(id, stream, &refusal);
        self.refuse_update(request, refusal);
    }

    /// Refuses an update for a reason that depends on the newest version. The answer waits until
    /// that version is on disk. If the version never gets there, the storage failure is the answer
    /// instead.
    fn refuse_for_now(
        &mut self,
        request: Request,
        id: DocumentId,
        stream: StreamId,
        refusal: Refusal,
    ) {
        self.note_refused(id, stream, &refusal);
        self.metrics.count_update(UpdateOutcome::Refused);
        self.metrics.refused_requests.inc();
        tracing::debug!(code = refusal.code.number(), text = %refusal.text, "update refused");
        let content = refusal.into_content();
        self.answer_later(id, request, content);
    }

    fn note_refused(&mut self, id: DocumentId, stream: StreamId, refusal: &Refusal) {
        let text = || format!("an update was refused: {}", refusal.text);
        self.note_lost(id, stream, 1, text);
    }

    /// Counts operations that arrived with content which is deleted here and was not compared. The
    /// answer reports them, which published clients ignore. The close does not: that others deleted
    /// the content meanwhile would be no loss, and can't be told from one.
    fn count_erased(&self, request: Request, id: DocumentId, operations: u64) {
        if operations == 0 {
            return;
        }
        self.metrics.erased_operations.inc_by(operations);
        if let (Some(document), Some(participant)) =
            (self.documents.get(id), self.participants.get(&request.conn))
        {
            tracing::warn!(path = &*document.path, participant = ?participant.name, operations, "what was sent is deleted here, and was not compared");
        }
    }

    pub(super) fn note_lost(
        &mut self,
        id: DocumentId,
        stream: StreamId,
        count: usize,
        text: impl FnOnce() -> String,
    ) {
        if let Some(document) = self.documents.get_mut(id)
            && let Some(stream) = document.streams.get_mut(stream)
        {
            let lost = stream.lost.get_or_insert_with(|| Lost {
                count: 0,
                first: text().chars().take(LOST_CHARACTERS).collect(),
            });
            lost.count = lost.count.saturating_add(count);
        }
    }
}

/// Adds the replica's state vector to an answer if it is short; otherwise a hint to send the whole
/// state. Returns the bytes of the vector.
pub(super) fn told_vector(notice: &mut Value, replica: &MeshDocument) -> usize {
    if replica.clocks().take(TOLD_CLIENTS + 1).count() > TOLD_CLIENTS {
        notice["message"] = format!(
            "{}; more than {TOLD_CLIENTS} clients wrote the document, so its state vector is not \
             listed: send the whole state",
            notice["message"].as_str().unwrap_or_default()
        )
        .into();
        return 0;
    }
    let vector = STANDARD.encode(replica.state_vector());
    let bytes = vector.len();
    notice["state_vector"] = vector.into();
    bytes
}

impl Stream {
    /// Returns the close of the call, whichever side ends it. The close reports what was sent and
    /// not kept, except to clients that take merged changes, which read the answers.
    pub(super) fn take_close(&mut self) -> Control {
        let Some(Lost { count, first }) = self.lost.take().filter(|_| !self.merges) else {
            return Control::close();
        };
        let more = match count {
            1 => String::new(),
            _ => format!(" (and {} more)", count - 1),
        };
        Control::Close {
            status_code: Control::INVALID_DATA,
            message: Some(format!("not all that was sent is kept; {first}{more}")),
        }
    }
}

fn early_bytes(early: &[(Request, Content, Held)]) -> usize {
    early.iter().map(|(_, _, held)| held.bytes()).sum()
}

fn no_update(error: &DecodeError) -> Refusal {
    match error {
        DecodeError::TooLarge { .. } => Refusal::invalid(error),
        _ => Refusal::invalid(format!("not a Yjs v1 update: {error}")),
    }
}

/// Inspects an update. Returns the update in a form that every reader accepts, and what had to be
/// removed for that.
fn inspect(
    replica: &MeshDocument,
    update: Bytes,
) -> Result<(Bytes, Inspection, Violations), DecodeError> {
    let error = match replica.inspect(&update) {
        Ok(inspection) => return Ok((update, inspection, Violations::default())),
        Err(error) => error,
    };
    if matches!(error, DecodeError::TooLarge { .. }) {
        return Err(error);
    }
    let fitted = fit_update(&update, replica.limits()).map_err(|_| error)?;
    let mut inspection = replica.inspect(&fitted.update)?;
    inspection.halves += fitted.halves;
    inspection.differs |= fitted.halves > 0;
    Ok((fitted.update.into(), inspection, fitted.removed))
}

/// Merges the update with its repair: in the result for the store, and in `applied` for the
/// readers.
pub(super) fn with_repair(
    update: &[u8],
    applied: &mut Applied,
    repair: &Repair,
) -> Result<Bytes, DecodeError> {
    if let Some(visible) = &applied.visible {
        applied.visible = Some(merge_updates(&[visible, &repair.update])?);
    }
    merge_updates(&[update, &repair.update]).map(Bytes::from)
}

/// Whether the pointer names an attribute that has the name of its element's children. The
/// published Python SDK and CLI write one beside the children of each element that they create from
/// JSON; nothing is lost with it.
fn repeats_children(schema: &MeshSchema, pointer: &str) -> bool {
    let mut parts = pointer.rsplit('/');
    let (Some(name), Some(tag)) = (parts.next(), parts.next()) else {
        return false;
    };
    schema
        .element(tag)
        .and_then(|element| element.child_property())
        .is_some_and(|children| children.name() == name)
}

/// The answer to operations that are here: `empty`, or how their content differs from what was
/// sent.
fn unlike_sent(inspection: &Inspection) -> Content {
    const DELETED: &str =
        "some of the operations are deleted here, so that what they held was not kept or compared";
    const HALVES: &str = "some of the operations are halves of characters, or were typed behind \
                          one, and are kept as they came first; half a character is kept as U+FFFD";
    let (deleted, halves) = (inspection.erased, inspection.halves);
    let mut notice = match (deleted, halves) {
        (0, 0) => return Content::Empty,
        (_, 0) => json!({ "message": DELETED }),
        (0, _) => json!({ "message": HALVES }),
        _ => json!({ "message": format!("{DELETED}; {HALVES}") }),
    };
    for (name, count) in [("deleted", deleted), ("halves", halves)] {
        if count > 0 {
            notice[name] = count.into();
        }
    }
    Content::Json(notice)
}

fn tell_violations(answer: &mut Value, violations: &Violations) {
    let listed = violations
        .iter()
        .map(|one| json!({ "pointer": one.pointer, "expected": one.expected, "found": one.found }));
    answer["violations"] = listed.collect();
    answer["violation_count"] = violations.total().into();
    if answer.get("message").is_none() {
        answer["message"] =
            "the update broke the document's schema; what broke it was removed again".into();
    }
}
