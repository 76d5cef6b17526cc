//! Toolkit `sync`: create, describe, and the streamed open with the gate for inbound updates.
//!
//! The gate's order, cheapest first: size, *bytes just sent?*, base64, decode, *already contained?*, grant, size of
//! the document, gap, schema. Published clients send every update back that they receive, and the whole state after
//! opening. These echoes end at the second question if they come back as they were sent, else at the fifth.
//! What breaks the schema is taken out again in the same step, so that nobody ever sees it.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use meshagent_document::{Applied, DecodeError, Repair, UpdateKind, Violation, merge_updates};
use meshagent_protocol::sync::{SyncChunk, SyncCreate, SyncDescribe, SyncOpenStart};
use meshagent_protocol::{Content, Control, ErrorCode};
use meshagent_store::{Contribution, Write};
use serde_json::{Value, json};

use super::batch::Then;
use super::documents::{Deferred, Slot, StreamId, pending_bytes};
use super::opening::{Waiter, operations_of};
use super::{Call, Refusal, Request, Room};
use crate::metrics::UpdateOutcome;

/// Chunks kept that a client sent before it had the state. Beyond it they are refused with 1006.
const EARLY_CHUNKS: usize = 256;

/// How many violations an answer lists.
const LISTED_VIOLATIONS: usize = 100;

/// Where a streamed `open` stands.
#[derive(Debug, Default)]
pub(super) enum SyncCall {
    #[default]
    AwaitingStart,
    Opening {
        early: Vec<(Request, Content)>,
    },
    Open {
        path: String,
        stream: StreamId,
    },
}

impl Room {
    pub(super) fn create(&mut self, request: Request, arguments: &Content) {
        let create = match SyncCreate::parse(arguments) {
            Ok(create) => create,
            Err(error) => return self.refuse(request, Refusal::request(&error)),
        };
        let path = create.path.to_string();
        if let Err(refusal) = self.may_sync(request, &path, true) {
            return self.refuse(request, refusal);
        }
        self.with_document(&path, Waiter::Create { request, create });
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
        self.with_document(&path, Waiter::Describe { request, describe });
    }

    pub(super) fn sync_chunk(&mut self, request: Request, tool_call_id: &str, chunk: &Content) {
        let Some(participant) = self.participants.get_mut(&request.conn) else {
            return;
        };
        let Some(Call::Sync(call)) = participant.calls.get_mut(tool_call_id) else {
            return;
        };
        match call {
            SyncCall::AwaitingStart => self.start_sync(request, tool_call_id, chunk),
            SyncCall::Opening { early } if early.len() < EARLY_CHUNKS => {
                early.push((request, chunk.clone()));
            }
            SyncCall::Opening { .. } => self.refuse(
                request,
                Refusal::new(
                    ErrorCode::InvalidState,
                    "wait for the state chunk before sending more",
                ),
            ),
            SyncCall::Open { path, stream } => {
                let (path, stream) = (path.clone(), *stream);
                self.update_chunk(request, &path, stream, chunk);
            }
        }
    }

    fn start_sync(&mut self, request: Request, tool_call_id: &str, chunk: &Content) {
        let start = match SyncOpenStart::parse(chunk) {
            Ok(start) => start,
            Err(error) => {
                return self.fail_call(
                    Some(request),
                    request.conn,
                    tool_call_id,
                    Refusal::request(&error),
                );
            }
        };
        let path = start.path.to_string();
        if let Err(refusal) = self.may_sync(request, &path, false) {
            return self.fail_call(Some(request), request.conn, tool_call_id, refusal);
        }
        let may_write = self.may_sync(request, &path, true).is_ok();
        let Some(participant) = self.participants.get_mut(&request.conn) else {
            return;
        };
        if let Some(Call::Sync(call)) = participant.calls.get_mut(tool_call_id) {
            *call = SyncCall::Opening { early: Vec::new() };
        }
        let tool_call_id = tool_call_id.to_owned();
        self.with_document(
            &path,
            Waiter::Open {
                request,
                tool_call_id,
                start,
                may_write,
            },
        );
    }

    fn update_chunk(&mut self, request: Request, path: &str, stream: StreamId, chunk: &Content) {
        let max = self.config.limits.max_update_bytes;
        let chunk = match SyncChunk::parse(chunk) {
            Ok(chunk) if chunk.max_decoded_bytes() <= max => chunk,
            Ok(_) => {
                let text = format!("an update may have {max} bytes at most; send smaller ones");
                return self.refuse_update(request, Refusal::invalid(text));
            }
            Err(error) => return self.refuse_update(request, Refusal::request(&error)),
        };
        if let Some(Slot::Open(document)) = self.documents.get(path)
            && document.sent.contains(&chunk.payload)
        {
            // What was sent is on disk, so nothing is waited for.
            self.metrics.echoes_unread.inc();
            self.metrics.count_update(UpdateOutcome::Echo);
            return self.respond(request, Content::Empty);
        }
        let update = match chunk.decode() {
            Ok(update) => Bytes::from(update),
            Err(error) => return self.refuse_update(request, Refusal::invalid(error)),
        };
        if update.is_empty() {
            return self.respond(request, Content::Empty);
        }
        let may_write = self.may_sync(request, path, true);
        let Some(Slot::Open(document)) = self.documents.get_mut(path) else {
            return;
        };
        if document.broken {
            let text = "storage failed and the document is being read again; send the update again";
            return self.refuse_update(request, Refusal::new(ErrorCode::OperationFailed, text));
        }
        let kind = match document.replica.classify(&update) {
            Ok(UpdateKind::Empty | UpdateKind::Contained) => {
                self.metrics.count_update(UpdateOutcome::Echo);
                // What it repeats may itself be on its way to the disk.
                let answer = Deferred::Answer {
                    request,
                    content: Content::Empty,
                };
                return self.defer(path, answer);
            }
            Ok(kind @ (UpdateKind::New | UpdateKind::Gap)) => kind,
            Err(error) => {
                return self.refuse_update(request, no_update(&error));
            }
        };
        if let Err(refusal) = may_write {
            return self.refuse_update(request, refusal);
        }
        self.apply(request, path, stream, kind, update);
    }

    fn apply(
        &mut self,
        request: Request,
        path: &str,
        stream: StreamId,
        kind: UpdateKind,
        update: Bytes,
    ) {
        let Some(Slot::Open(document)) = self.documents.get_mut(path) else {
            return;
        };
        let tool_call_id = match document.streams.get(&stream) {
            Some(stream) => Arc::clone(&stream.tool_call_id),
            None => Arc::default(),
        };
        let max = self.config.limits.max_document_bytes;
        // An update without a group of operations only deletes, which helps.
        if update.first() != Some(&0) && !document.takes(update.len(), max) {
            let text = format!(
                "a document may have {max} bytes at most; delete something, or begin another document"
            );
            return self.refuse_update(request, Refusal::invalid(text));
        }
        let author = self.author(request.conn, &tool_call_id);
        let Some(Slot::Open(document)) = self.documents.get_mut(path) else {
            return;
        };
        let waited = document.replica.has_gap();
        let max_pending = self.config.limits.max_pending_bytes;
        let exceeds = |pending: usize| pending + update.len() > max_pending;
        if kind == UpdateKind::Gap && exceeds(document.pending_bytes) {
            // What has become visible since was not taken off.
            document.pending_bytes = pending_bytes(&document.replica);
        }
        if kind == UpdateKind::Gap && exceeds(document.pending_bytes) {
            let text = format!(
                "more than {max_pending} bytes wait for operations that never came; open the document again and send what it lacks first"
            );
            return self.refuse_update(request, Refusal::new(ErrorCode::Conflict, text));
        }
        let mut applied = match document.replica.apply_update(&update) {
            Ok(applied) => applied,
            Err(error) => {
                return self.refuse_update(request, no_update(&error));
            }
        };
        let (update, violations) = match document.replica.repair() {
            None => (update, Vec::new()),
            Some(repair) => match with_repair(&update, &mut applied, &repair) {
                Ok(update) => (update, repair.violations),
                Err(error) => {
                    // The replica shows what nobody may see.
                    tracing::error!(%error, path, "a repair does not merge with what it repairs");
                    let text = "the document is being read again; try again";
                    let refusal = Refusal::new(ErrorCode::OperationFailed, text);
                    self.break_document(path, &refusal);
                    return self.refuse_update(request, refusal);
                }
            },
        };
        if let Some(error) = &applied.refused {
            tracing::warn!(%error, path, "something that had waited is given up");
        }
        document.head += 1;
        document.bytes += update.len();
        self.largest_document_bytes = self.largest_document_bytes.max(document.bytes);
        if !document.replica.has_gap() {
            document.pending_bytes = 0;
        } else if kind == UpdateKind::Gap {
            document.pending_bytes += update.len();
        }
        let mut answer = if applied.gap {
            self.metrics.count_update(UpdateOutcome::Gap);
            tracing::info!(path, author = %author.participant, "update builds on operations that never came; kept");
            Content::Json(json!({
                "pending": true,
                "message": "the update builds on operations that are missing here; it is kept and applied when they arrive",
                "state_vector": STANDARD.encode(document.replica.state_vector()),
            }))
        } else if violations.is_empty() {
            self.metrics.count_update(UpdateOutcome::Accepted);
            Content::Empty
        } else {
            Content::Json(json!({}))
        };
        if let Content::Json(answer) = &mut answer
            && !violations.is_empty()
        {
            self.metrics.count_update(UpdateOutcome::Repaired);
            tracing::info!(path, author = %author.participant, violations = violations.len(), "update broke the schema; repaired");
            tell_violations(answer, &violations);
        }
        let then = Then::Appended {
            path: path.to_owned(),
            document: document.id,
            version: document.head,
            visible: applied.visible,
            // What waited for this update may be somebody else's, whom the author has not seen; nor has it
            // seen the repair.
            known_to: (!waited && violations.is_empty()).then_some(stream),
            answer: Some((request, answer)),
        };
        let write = Write::Append {
            document: document.id,
            update,
            contributions: vec![Contribution {
                author,
                at: self.now,
                operations: operations_of(applied.operations),
            }],
            at: self.now,
        };
        self.stage(write, then);
    }

    pub(super) fn close_sync(&mut self, request: Request, tool_call_id: &str) {
        self.respond(request, Content::Empty);
        self.end_call(request.conn, tool_call_id, Control::close());
    }

    pub(super) fn refuse_update(&self, request: Request, refusal: Refusal) {
        self.metrics.count_update(UpdateOutcome::Refused);
        self.refuse(request, refusal);
    }

    pub(super) fn may_sync(
        &self,
        request: Request,
        path: &str,
        write: bool,
    ) -> Result<(), Refusal> {
        if path.is_empty() {
            return Err(Refusal::invalid(
                "the empty path is the storage root, never a document",
            ));
        }
        let grant = self
            .participants
            .get(&request.conn)
            .and_then(|participant| participant.scope.sync.as_ref())
            .ok_or_else(|| Refusal::denied("the token has no sync grant"))?;
        match (grant.can_read(path), grant.can_write(path)) {
            (false, _) => Err(Refusal::denied(format!(
                "the token's sync grant does not cover {path:?}"
            ))),
            (true, false) if write => Err(Refusal::denied(format!(
                "the token's sync grant for {path:?} is read-only"
            ))),
            _ => Ok(()),
        }
    }
}

fn no_update(error: &DecodeError) -> Refusal {
    match error {
        DecodeError::TooLarge { .. } => Refusal::invalid(error),
        _ => Refusal::invalid(format!("not a Yjs v1 update: {error}")),
    }
}

/// The update with its repair in it, for the store; and for everybody who sees it.
fn with_repair(
    update: &[u8],
    applied: &mut Applied,
    repair: &Repair,
) -> Result<Bytes, DecodeError> {
    if let Some(visible) = &applied.visible {
        applied.visible = Some(merge_updates(&[visible, &repair.update])?);
    }
    merge_updates(&[update, &repair.update]).map(Bytes::from)
}

fn tell_violations(answer: &mut Value, violations: &[Violation]) {
    let listed = violations
        .iter()
        .take(LISTED_VIOLATIONS)
        .map(|one| json!({ "pointer": one.pointer, "expected": one.expected, "found": one.found }));
    answer["violations"] = listed.collect();
    answer["violation_count"] = violations.len().into();
    if answer.get("message").is_none() {
        answer["message"] =
            "the update broke the document's schema; what broke it was removed again".into();
    }
}
