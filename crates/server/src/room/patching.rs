//! The tool `patch`: a JSON Patch that is applied here, as one change of who asked for it, or not at all.
//!
//! What it comes to goes the way of any update: it is staged, committed, and only then answered and shown.
//! An answer that depends on what is not on disk yet, be it a refusal, waits for that as well.

use std::error::Error;

use bytes::Bytes;
use meshagent_document::{DecodeError, EditError, MeshDocument, PatchError, PatchOutcome};
use meshagent_protocol::sync::{SyncPatch, SyncPatched};
use meshagent_protocol::{Content, ErrorCode};
use meshagent_store::{Author, Contribution, Write};
use serde_json::Value;

use super::batch::Then;
use super::documents::{Deferred, Document, Slot};
use super::opening::{Waiter, operations_of};
use super::{Refusal, Request, Room};
use crate::metrics::UpdateOutcome;

/// What an operation's bytes become at most, roughly: each new element gets an `$id`, each value its place.
const GROWTH: usize = 16;

/// A change for the log and the readers: one that published clients can follow.
struct Step {
    update: Bytes,
    visible: Option<Vec<u8>>,
    contribution: Contribution,
}

impl Room {
    pub(super) fn patch(
        &mut self,
        request: Request,
        arguments: &Content,
        on_behalf_of_id: Option<String>,
    ) {
        let patch = match SyncPatch::parse(arguments) {
            Ok(patch) => patch,
            Err(error) => return self.refuse(request, Refusal::request(&error)),
        };
        let path = patch.path.to_string();
        if let Err(refusal) = self.may_sync(request, &path, true) {
            return self.refuse(request, refusal);
        }
        // A plain request has no call that it was noted for.
        let mut author = self.author(request.conn, "");
        author.on_behalf_of = self.behalf_name(on_behalf_of_id);
        let waiter = Waiter::Patch {
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
        path: &str,
        patch: &SyncPatch,
        author: &Author,
    ) {
        let result = self.try_patch(path, patch, author);
        let Some(Slot::Open(document)) = self.documents.get_mut(path) else {
            return;
        };
        let (steps, changed) = match result {
            Ok(done) => done,
            Err(refusal) => {
                if document.broken {
                    return self.refuse_update(request, refusal);
                }
                self.metrics.refused_requests.inc();
                self.metrics.count_update(UpdateOutcome::Refused);
                tracing::debug!(code = refusal.code.number(), text = %refusal.text, "patch refused");
                let content = refusal.into_content();
                return self.defer(path, Deferred::Answer { request, content });
            }
        };
        document.head += steps.len() as u64;
        let (id, mut version) = (document.id, document.head - steps.len() as u64);
        document.bytes += steps.iter().map(|step| step.update.len()).sum::<usize>();
        self.largest_document_bytes = self.largest_document_bytes.max(document.bytes);
        let name = document.version();
        let patched = SyncPatched::new(name, &patch.patch, &changed, patch.dry_run);
        let mut content = Some(patched.to_content());
        if let Some(content) = content.take_if(|_| steps.is_empty()) {
            return self.defer(path, Deferred::Answer { request, content });
        }
        self.metrics.count_update(UpdateOutcome::Accepted);
        let last = version + steps.len() as u64;
        for step in steps {
            version += 1;
            let write = Write::Append {
                document: id,
                update: step.update,
                contributions: vec![step.contribution],
                at: self.now,
            };
            let then = Then::Appended {
                path: path.to_owned(),
                document: id,
                version,
                visible: step.visible,
                // The author's streams don't have it either.
                known_to: None,
                answer: content
                    .take_if(|_| version == last)
                    .map(|content| (request, content)),
            };
            self.stage(write, then);
        }
    }

    /// The steps that a patch comes to, and which of its operations changed something. If it is refused, or only
    /// checked, the replica is as it was.
    fn try_patch(
        &mut self,
        path: &str,
        patch: &SyncPatch,
        author: &Author,
    ) -> Result<(Vec<Step>, Vec<bool>), Refusal> {
        let limits = self.document_limits();
        let max_update = self.config.limits.max_update_bytes;
        let max_document = self.config.limits.max_document_bytes;
        let by_server = self.by_server();
        let client_id = self.ids.client_id();
        let ids = &mut self.ids;
        let mut next_id = || ids.uuid();
        let Some(Slot::Open(document)) = self.documents.get_mut(path) else {
            let text = format!("there is no document at {path:?} any more");
            return Err(Refusal::new(ErrorCode::NotFound, text));
        };
        if let Some(expected) = &patch.if_version {
            let version = document.version();
            if *expected != version {
                return Err(moved_on(&version));
            }
        }
        let operations = Value::Array(patch.patch.clone());
        let contribution = |operations| Contribution {
            author: author.clone(),
            at: by_server.at,
            operations,
        };
        if is_surely_small(document, patch, max_update, max_document) {
            if patch.dry_run {
                let changed = document.replica.check_patch(&operations, &mut next_id);
                return Ok((Vec::new(), changed.map_err(|error| refused(&error))?));
            }
            let client = document.replica.client_id();
            let outcome = document
                .replica
                .apply_patch_in_steps(&operations, &mut next_id)
                .map_err(|error| refused(&error))?;
            let steps = outcome.steps.into_iter().map(|step| Step {
                visible: Some(step.update.clone()),
                contribution: contribution(operations_of([(client, step.operations)])),
                update: step.update.into(),
            });
            return Ok((steps.collect(), outcome.changed));
        }
        // What can't be taken back is tried on a copy first.
        let mut copy =
            MeshDocument::with_limits(document.replica.schema().clone(), client_id, limits);
        copy.apply_update(&document.replica.encode_state())
            .map_err(|error| unreadable(&error))?;
        let PatchOutcome { steps, changed } = copy
            .apply_patch_in_steps(&operations, &mut next_id)
            .map_err(|error| refused(&error))?;
        let bytes: usize = steps.iter().map(|step| step.update.len()).sum();
        if bytes > max_update {
            let text = format!("a patch may come to {max_update} bytes at most; send smaller ones");
            return Err(Refusal::invalid(text));
        }
        let grows = steps.iter().any(|step| !step.operations.is_empty());
        if grows && !document.takes(bytes, max_document) {
            let text = format!(
                "a document may have {max_document} bytes at most; delete something, or begin another document"
            );
            return Err(Refusal::invalid(text));
        }
        if patch.dry_run {
            return Ok((Vec::new(), changed));
        }
        let mut taken = Vec::with_capacity(steps.len());
        for step in steps {
            let applied = match document.replica.apply_update(&step.update) {
                Ok(applied) => applied,
                Err(error) => {
                    // The replica may show a part of the patch.
                    let refusal = unreadable(&error);
                    self.break_document(path, &refusal);
                    return Err(refusal);
                }
            };
            taken.push(Step {
                visible: applied.visible,
                contribution: contribution(operations_of(applied.operations)),
                update: step.update.into(),
            });
        }
        // Somebody's operations may have waited for just this.
        if let Some(repair) = document.replica.repair() {
            taken.push(Step {
                update: repair.update.clone().into(),
                visible: Some(repair.update),
                contribution: by_server,
            });
        }
        Ok((taken, changed))
    }
}

/// Whether what a patch comes to is below all bounds for certain, and nothing waits that it could bring up.
fn is_surely_small(
    document: &mut Document,
    patch: &SyncPatch,
    max_update: usize,
    max_document: usize,
) -> bool {
    let duplicates = |operation: &Value| matches!(operation["op"].as_str(), Some("copy" | "move"));
    if document.replica.has_gap() || patch.patch.iter().any(duplicates) {
        return false;
    }
    let bytes: usize = patch.patch.iter().map(text_bytes).sum();
    let bytes = bytes.saturating_mul(GROWTH);
    bytes <= max_update && document.takes(bytes, max_document)
}

/// About how long a value is as text. What is deep comes from JSON that was bounded.
fn text_bytes(value: &Value) -> usize {
    match value {
        Value::Array(items) => 2 + items.iter().map(text_bytes).sum::<usize>(),
        Value::Object(members) => {
            let members = members.iter();
            2 + members
                .map(|(name, value)| name.len() + 4 + text_bytes(value))
                .sum::<usize>()
        }
        Value::String(text) => 2 + text.len(),
        Value::Bool(_) | Value::Null | Value::Number(_) => 8,
    }
}

fn moved_on(version: &str) -> Refusal {
    let text = format!(
        "the document has moved on, its version is {version:?} now; read it again and make the patch for that"
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

/// The copy is made of what the replica took up, so this is ours to mend.
fn unreadable(error: &DecodeError) -> Refusal {
    tracing::error!(%error, "a patched copy does not fit its document");
    let text = format!("the patch could not be taken up, send it again: {error}");
    Refusal::new(ErrorCode::OperationFailed, text)
}
