//! The tool `patch`: a JSON Patch that the room applies as one change of its author, or not at all.
//!
//! Its steps take the path of any update: they are staged, committed, and only then answered and
//! shown. An answer that depends on a version which is not on disk yet waits for that version, even
//! a refusal.

use std::error::Error;
use std::sync::Arc;

use bytes::Bytes;
use meshagent_document::{
    Applied, DecodeError, EditError, Limits, MeshDocument, PatchError, PatchOutcome, merge_updates,
};
use meshagent_ledger::Kind;
use meshagent_protocol::sync::{SyncPatch, SyncPatched};
use meshagent_protocol::{Content, ErrorCode};
use meshagent_store::{Author, Contribution, DocumentId};
use serde_json::Value;

use super::batch::{Then, add, append};
use super::memory::{share_of, too_large};
use super::opening::{Waiter, operations_of};
use super::sync::with_repair;
use super::{Conn, Refusal, Request, Room};
use crate::metrics::UpdateOutcome;

/// The memory of a patch's plan, as a multiple of the patch.
const PLAN_MEMORY: usize = 2;
/// The memory of a patch that is tried on a copy, without the copy: its edits, its updates and what
/// they bring.
const TRIED_MEMORY: usize = 4;

/// One change for the log and the readers, in a form that published clients can follow.
struct Step {
    update: Bytes,
    visible: Option<Vec<u8>>,
    contribution: Contribution,
}

impl Room {
    pub(super) fn patch(
        &mut self,
        request: Request,
        arguments: Content,
        on_behalf_of_id: Option<String>,
    ) {
        let patch = match SyncPatch::from_content(arguments) {
            Ok(patch) => patch,
            Err(error) => return self.refuse(request, Refusal::request(&error)),
        };
        let path = patch.path.to_string();
        if let Err(refusal) = self.may_sync(request, &path, true) {
            return self.refuse(request, refusal);
        }
        // A plain request has no call for which this was recorded.
        let mut author = self.author(request.conn, "");
        author.on_behalf_of = self.behalf_name(on_behalf_of_id);
        let held = self.take_held();
        let waiter = Waiter::Patch {
            held,
            request,
            patch,
            author,
        };
        self.with_document(&path, waiter);
    }

    /// Applies a patch to an open document that is not broken.
    pub(super) fn apply_patch(
        &mut self,
        request: Request,
        id: DocumentId,
        mut patch: SyncPatch,
        author: &Author,
    ) {
        self.renew_client_id(id);
        // Not copied: a patch may be large.
        let operations = Value::Array(std::mem::take(&mut patch.patch));
        let result = self.try_patch(request.conn, id, &patch, &operations, author);
        let operations = operations.as_array().map_or(&[][..], Vec::as_slice);
        let Some(document) = self.documents.get_mut(id) else {
            return;
        };
        let (steps, changed) = match result {
            Ok(done) => done,
            Err(refusal) => {
                if document.is_broken() {
                    return self.refuse_update(request, refusal);
                }
                self.metrics.refused_requests.inc();
                self.metrics.count_update(UpdateOutcome::Refused);
                tracing::debug!(code = refusal.code.number(), text = %refusal.text, "patch refused");
                let content = refusal.into_content();
                return self.answer_later(id, request, content);
            }
        };
        let first = document.head + 1;
        document.head += steps.len() as u64;
        let last = document.head;
        document.bytes += steps.iter().map(|step| step.update.len()).sum::<usize>();
        document.count_memory(share_of(&self.participants, request.conn));
        self.largest_document_bytes = self.largest_document_bytes.max(document.bytes);
        let name = document.version();
        let patched = SyncPatched::new(name, operations, &changed, patch.dry_run);
        let mut content = Some(patched.to_content());
        if let Some(content) = content.take_if(|_| steps.is_empty()) {
            return self.answer_later(id, request, content);
        }
        let update = match merge_steps(&steps) {
            Ok(update) => update,
            Err(error) => {
                let refusal = unreadable(&error);
                self.break_document(id, first, &refusal);
                return self.refuse_update(request, refusal);
            }
        };
        self.metrics.count_update(UpdateOutcome::Accepted);
        let (mut thens, mut contributions) = (Vec::with_capacity(steps.len()), Vec::new());
        for (version, step) in (first..).zip(steps) {
            add(&mut contributions, step.contribution);
            thens.push(Then::Appended {
                document: id,
                version,
                visible: step.visible,
                // The author's streams don't have the change either.
                known_to: None,
                sender: None,
                answer: content
                    .take_if(|_| version == last)
                    .map(|content| (request, content)),
            });
        }
        let write = append(id, update, contributions, self.now);
        self.stage_all(write, thens);
    }

    /// Gives the document another client id for the room's patches when the present one has few
    /// operations left, or when pending operations wait for the next ones. So a patch releases
    /// nothing that is pending.
    fn renew_client_id(&mut self, id: DocumentId) {
        let Some(document) = self.documents.get_mut(id) else {
            return;
        };
        let replica = &mut document.replica;
        while !replica.has_operations_left() || replica.is_client_id_awaited() {
            let client = self.ids.client_id();
            if !replica.knows_client(client) {
                replica.set_client_id(client);
            }
        }
    }

    /// Returns the steps of a patch, and for each of its operations whether it changed something.
    /// If the patch is refused or only checked, the replica is unchanged.
    fn try_patch(
        &mut self,
        conn: Conn,
        id: DocumentId,
        patch: &SyncPatch,
        operations: &Value,
        author: &Author,
    ) -> Result<(Vec<Step>, Vec<bool>), Refusal> {
        let limits = self.document_limits();
        let max_update = self.config.limits.max_update_bytes;
        let max_document = self.config.limits.max_document_bytes;
        let by_server = self.by_server();
        let account = self.participants.get(&conn);
        let account = account.map(|participant| Arc::clone(&participant.account));
        let patch_bytes = self.held.bytes();
        let planning = account.as_ref().map(|account| {
            account.charge_anyway(Kind::Work, patch_bytes.saturating_mul(PLAN_MEMORY))
        });
        let ids = &mut self.ids;
        let mut next_id = || ids.uuid();
        let Some(document) = self.documents.get_mut(id) else {
            let text = "the document is gone";
            return Err(Refusal::new(ErrorCode::NotFound, text));
        };
        if let Some(expected) = &patch.if_version {
            let version = document.version();
            if *expected != version {
                return Err(moved_on(&version));
            }
        }
        let contribution = |operations| Contribution {
            author: author.clone(),
            at: by_server.at,
            operations,
        };
        let plan = document.replica.plan_patch(operations, &mut next_id);
        let plan = plan.map_err(|error| refused(&error))?;
        let bound = plan.bound();
        let left = match bound.added {
            0 => usize::MAX,
            _ => max_document.saturating_sub(document.bytes),
        };
        // Its size is certainly below all bounds but the share, which refuses it by its estimate.
        if bound.bytes <= max_update.min(left) {
            let memory = bound.added.saturating_add(bound.splits);
            if memory > 0 {
                self.may_take(conn, id, memory, bound.added == 0)?;
            }
            let Some(document) = self.documents.get_mut(id).filter(|_| !patch.dry_run) else {
                return Ok((Vec::new(), plan.changed().to_vec()));
            };
            let client = document.replica.client_id();
            let PatchOutcome { steps, changed } = document.replica.apply_plan(plan);
            let steps = steps.into_iter().map(|step| Step {
                visible: Some(step.update.clone()),
                contribution: contribution(operations_of([(client, step.operations)])),
                update: step.update.into(),
            });
            return Ok((steps.collect(), changed));
        }
        let participant = share_of(&self.participants, conn);
        if let Some(refusal) = document.tried(participant, bound.bytes) {
            return Err(refusal);
        }
        // A change that can't be undone is tried on a copy first. The plan makes space for it.
        drop((plan, planning));
        let copied = document.memory().saturating_add(document.bytes);
        let copied = copied.saturating_add(patch_bytes.saturating_mul(TRIED_MEMORY));
        let copying = account.map(|account| account.try_work(copied));
        if let Some(None) = copying {
            let text = "other documents are being copied or described; try again";
            return Err(Refusal::new(ErrorCode::OperationFailed, text));
        }
        self.metrics.state_encodings.inc();
        let client_id = document.replica.client_id();
        let schema = document.replica.schema().clone();
        let mut copy = MeshDocument::with_limits(schema, client_id, Limits::NONE);
        copy.apply_update(&document.replica.encode_state())
            .map_err(|error| unreadable(&error))?;
        copy.set_limits(limits);
        let structure = copy.structure_bytes();
        let PatchOutcome { steps, changed } = copy
            .apply_patch_in_steps(operations, &mut next_id)
            .map_err(|error| refused(&error))?;
        let bytes: usize = steps.iter().map(|step| step.update.len()).sum();
        let grows = steps.iter().any(|step| !step.operations.is_empty());
        let fits = if bytes > max_update {
            let text = format!("a patch may come to {max_update} bytes at most; send smaller ones");
            Err(Refusal::invalid(text))
        } else if grows && !document.takes(bytes, max_document, self.now, &self.metrics) {
            Err(too_large(max_document))
        } else if grows {
            let structure = copy.structure_bytes().saturating_sub(structure);
            self.may_take(conn, id, bytes.saturating_add(structure), false)
        } else {
            Ok(())
        };
        if let Err(refusal) = fits {
            let participant = share_of(&self.participants, conn);
            if let Some(document) = self.documents.get_mut(id) {
                document.note_tried(participant, bound.bytes, &refusal);
            }
            return Err(refusal);
        }
        let Some(document) = self.documents.get_mut(id).filter(|_| !patch.dry_run) else {
            return Ok((Vec::new(), changed));
        };
        let mut taken = Vec::with_capacity(steps.len());
        for step in steps {
            match take_step(&mut document.replica, &step.update) {
                Ok((applied, update)) => taken.push(Step {
                    visible: applied.visible,
                    contribution: contribution(operations_of(applied.operations)),
                    update,
                }),
                Err(error) => {
                    // The replica may contain a part of the patch.
                    let refusal = unreadable(&error);
                    let from = document.head + 1;
                    self.break_document(id, from, &refusal);
                    return Err(refusal);
                }
            }
        }
        Ok((taken, changed))
    }
}

/// Merges all steps into one update, which the store accepts or refuses as a whole.
fn merge_steps(steps: &[Step]) -> Result<Bytes, DecodeError> {
    if let [step] = steps {
        return Ok(step.update.clone());
    }
    let updates: Vec<&[u8]> = steps.iter().map(|step| &step.update[..]).collect();
    merge_updates(&updates).map(Bytes::from)
}

/// Applies a step of a patch. Pending operations may have waited for it; what the schema forbids of
/// them is removed in the same update.
fn take_step(replica: &mut MeshDocument, update: &[u8]) -> Result<(Applied, Bytes), DecodeError> {
    let mut applied = replica.apply_update(update)?;
    let update = match replica.repair() {
        Some(repair) => with_repair(update, &mut applied, &repair)?,
        None => Bytes::copy_from_slice(update),
    };
    Ok((applied, update))
}

fn moved_on(version: &str) -> Refusal {
    let text = format!(
        "the document has moved on, its version is {version:?} now; read it again and make the \
         patch for that"
    );
    Refusal::new(ErrorCode::Conflict, text)
}

fn refused(error: &PatchError) -> Refusal {
    let code = match error {
        PatchError::TestFailed { .. } => ErrorCode::Conflict,
        _ => ErrorCode::InvalidRequest,
    };
    let text = match (error, error.source()) {
        (PatchError::Edit(cause @ EditError::TooLarge { .. }), _) => cause.to_string(),
        (_, Some(cause)) => format!("{error}: {cause}"),
        (_, None) => error.to_string(),
    };
    Refusal::new(code, text)
}

/// The copy has what the replica accepted, so this is a bug of ours.
fn unreadable(error: &DecodeError) -> Refusal {
    tracing::error!(%error, "a patched copy does not fit its document");
    let text = format!("the patch could not be taken up, send it again: {error}");
    Refusal::new(ErrorCode::OperationFailed, text)
}
