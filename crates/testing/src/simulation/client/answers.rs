//! The handling of answers to requests.

use meshagent_protocol::Content;
use serde_json::Value;

use super::impersonation::IMPERSONATIONS;
use super::{Client, ClientKind, Context};
use crate::simulation::record::{self, Place};
use crate::simulation::roaming::is_roaming;
use crate::simulation::session::{Purpose, Request};

/// The wire code of `PermissionDenied`.
pub(super) const DENIED: i64 = 1001;

/// The wire code of `InvalidRequest`.
pub(super) const INVALID: i64 = 1002;

/// The time in microseconds for which a deletion's answer waits, at least, while the deleted
/// content can still be read.
const PATIENCE: u64 = 2_000_000;

impl Client {
    /// Handles the answer to a request.
    pub(super) fn answered(
        &mut self,
        request: Request,
        content: &Content,
        context: &mut Context<'_>,
    ) -> Result<(), String> {
        let code = match content {
            Content::Error { code, .. } => Some(code.unwrap_or_default()),
            _ => None,
        };
        match request {
            Request::Call | Request::Close => Ok(()),
            Request::Relocate {
                number,
                is_deletion,
                sent,
            } => {
                let is_held = context
                    .log_held
                    .is_some_and(|since| since <= sent && context.now < since + PATIENCE);
                if is_held && is_deletion && code.is_none() {
                    let name = &self.name;
                    return Err(format!(
                        "{name}: content reported as deleted can still be read"
                    ));
                }
                let kind = if code.is_some() {
                    "moves and deletions refused"
                } else {
                    "moves and deletions"
                };
                context.totals.add(kind, 1);
                let roamers = &mut context.record.roamers;
                roamers.answered(number, context.now, code.is_some());
                Ok(())
            }
            Request::Patch(sealing) => self.patch_answered(&sealing, content, context),
            Request::Invoke { path } => {
                if code.is_some()
                    && let Some(document) = self.documents.get_mut(&path)
                {
                    context.totals.add("opens refused", 1);
                    if let Some(stream) = document.stream.take() {
                        document.stream_ended(&stream);
                    }
                }
                Ok(())
            }
            Request::Start { path } => self.started(&path, content, context),
            Request::Update {
                path,
                update,
                purpose,
                number,
                call,
                sent,
                identity,
            } => {
                let place = (self.room.clone(), path.clone());
                if code.is_none()
                    && purpose != Purpose::Echo
                    && let Some(identity) = &identity
                {
                    let roamers = &mut context.record.roamers;
                    roamers.promise(identity, &path, &update, sent)?;
                }
                let stream = self
                    .documents
                    .get(&path)
                    .and_then(|one| one.stream.as_ref());
                if is_roaming(&path) && stream.is_none_or(|stream| stream.call != call) {
                    // Its document is no longer at the path. Another one is open by now, or the
                    // same one was opened again.
                    context.totals.add("answers after a document had gone", 1);
                    return Ok(());
                }
                match code {
                    Some(code) => self.update_refused(&place, &update, purpose, code, context)?,
                    None => self.update_acknowledged(&place, &update, purpose, content, context)?,
                }
                if self.kind == ClientKind::Ours && purpose == Purpose::Edit {
                    self.answer_ours(&path, &call, number, content)?;
                }
                self.send_next(&path);
                Ok(())
            }
        }
    }

    /// Handles the refusal of an update.
    fn update_refused(
        &mut self,
        place: &Place,
        update: &[u8],
        purpose: Purpose,
        code: i64,
        context: &mut Context<'_>,
    ) -> Result<(), String> {
        context
            .totals
            .add(&format!("updates refused with {code}"), 1);
        let is_denied = code == DENIED;
        if is_denied && (self.may_write() || purpose == Purpose::Echo) {
            return Err(format!("{}: {purpose:?} was denied", self.name));
        }
        if code == INVALID && purpose == Purpose::Edit && self.kind.loses_nothing() {
            // Possible for a full document, for a call that the server has ended, or for a parent
            // that another program created as something else under our client id.
            let is_impersonated = context.totals.count(IMPERSONATIONS) > 0;
            if !context.may_be_full && !is_roaming(&place.1) && !is_impersonated {
                return Err(format!("{}: an edit was refused as invalid", self.name));
            }
            if self.kind == ClientKind::Careful
                && let Some(document) = self.documents.get_mut(&place.1)
            {
                document.is_diverged = true;
                document.kept.retain(|kept| kept.update != update);
            }
            return Ok(());
        }
        // Such a client resends nothing, so the refused content can't be stored in another way.
        let is_final = (is_denied && self.kind != ClientKind::Ours) || self.kind == ClientKind::Npm;
        if is_final && purpose == Purpose::Edit && !is_roaming(&place.1) {
            context.record.refuse(place, update);
        }
        let Some(document) = self.documents.get_mut(&place.1) else {
            return Ok(());
        };
        if purpose == Purpose::Edit {
            document.is_diverged |= !self.kind.loses_nothing();
            for kept in &mut document.kept {
                kept.is_sent &= kept.update != update;
            }
        }
        self.close_after_refusal(&place.1);
        Ok(())
    }

    /// Handles the acknowledgement of an update.
    fn update_acknowledged(
        &mut self,
        place: &Place,
        update: &[u8],
        purpose: Purpose,
        content: &Content,
        context: &mut Context<'_>,
    ) -> Result<(), String> {
        if purpose == Purpose::Echo {
            return match content {
                Content::Empty => Ok(()),
                // Another client has deleted the content in the meantime.
                Content::Json(notice) if notice.get("deleted").is_some() => Ok(()),
                other => Err(format!(
                    "{}: an echo was answered with {other:?}",
                    self.name
                )),
            };
        }
        context.totals.add("updates acknowledged", 1);
        if purpose == Purpose::Garbage && record::is_fitted(update) {
            context.totals.add("updates made fit for all readers", 1);
            let is_reported =
                matches!(content, Content::Json(answer) if answer.get("violation_count").is_some());
            if !is_reported {
                return Err(format!(
                    "{}: the answer does not report that a part of the update is dropped: {content:?}",
                    self.name
                ));
            }
        }
        // Our client keeps an edit that is pending on the server, and may replace it by what it
        // sends later.
        let is_kept = self.kind == ClientKind::Ours
            && matches!(content, Content::Json(answer) if answer.get("pending").is_some());
        // An acknowledged update of a read-only client can only contain what is already there.
        if !is_roaming(&place.1) && !is_kept {
            context.record.promise(place, update)?;
        }
        let Some(document) = self.documents.get_mut(&place.1) else {
            return Ok(());
        };
        // Acknowledged garbage was a valid update, which this replica lacks.
        document.is_diverged |= purpose == Purpose::Garbage;
        if let Some(at) = document.kept.iter().position(|kept| kept.update == update) {
            document.kept.remove(at);
        }
        let Content::Json(answer) = content else {
            return Ok(());
        };
        if answer.get("violation_count").is_some() {
            context.totals.add("repairs reported", 1);
        }
        if answer.get("pending") == Some(&Value::Bool(true)) {
            context.totals.add("gaps reported", 1);
            if self.kind == ClientKind::Careful {
                return self.fill_gap(&place.1, answer, context);
            }
        }
        Ok(())
    }

    /// Handles the answer to a start chunk.
    fn started(
        &mut self,
        path: &str,
        content: &Content,
        context: &mut Context<'_>,
    ) -> Result<(), String> {
        let Some(document) = self.documents.get_mut(path) else {
            return Ok(());
        };
        if let Content::Error { .. } = content {
            context.totals.add("opens refused", 1);
            if let Some(stream) = document.stream.take() {
                document.stream_ended(&stream);
            }
            return Ok(());
        }
        let Some(stream) = &mut document.stream else {
            return Ok(());
        };
        stream.answer = Some(content.clone());
        let call = stream.call.clone();
        for chunk in std::mem::take(&mut stream.early) {
            self.chunk_received(&call, &chunk, context)?;
        }
        Ok(())
    }
}
