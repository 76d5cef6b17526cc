//! The patches of a client. Each sets an attribute that belongs to this client to the patch's
//! number, so that the attribute shows which patches were applied.

use meshagent_protocol::{Content, DocPath, SyncPatch, SyncPatched};
use serde_json::json;

use super::answers::{DENIED, INVALID};
use super::{Client, Context};
use crate::simulation::board;
use crate::simulation::random::Random;
use crate::simulation::roaming::is_roaming;
use crate::simulation::session::{Condition, Sealing};

/// The wire code of `Conflict`.
const CONFLICT: i64 = 1005;

/// The patches that a client sends to one document, one after the other.
#[derive(Debug, Default)]
pub(super) struct Patches {
    /// The number of the last patch.
    number: u64,
    /// Whether the last patch has no answer yet.
    pub(super) is_waiting: bool,
    /// Whether the answer to a patch was lost, so that it may still be applied.
    pub(super) is_unsure: bool,
    /// The last patch that was applied.
    applied: u64,
    /// The version of the document that it made.
    version: Option<String>,
}

impl Patches {
    /// Chooses the condition of the next patch.
    fn condition(&self, random: &mut Random) -> Condition {
        match random.below(8) {
            0 => Condition::DryRun,
            1 => Condition::WrongVersion,
            2 if self.version.is_some() => Condition::SameVersion,
            3..5 if self.applied > 0 && !self.is_unsure => Condition::SameSeal,
            _ => Condition::Nothing,
        }
    }
}

impl Client {
    /// Sends the next patch, unless the previous one has no answer yet.
    pub(super) fn patch(&mut self, path: &str, context: &mut Context<'_>) {
        let (Some(session), Ok(doc_path)) = (&mut self.session, DocPath::parse(path)) else {
            return;
        };
        let may_write = self.kind.may_write() && !self.is_read_only;
        let patches = self.patches.entry(path.to_owned()).or_default();
        if patches.is_waiting {
            return;
        }
        let condition = patches.condition(&mut self.random);
        patches.number += 1;
        patches.is_waiting = true;
        let place = format!("/board/{}", board::seal_name(self.number));
        let mut operations = vec![json!({"op": "add", "path": place, "value": patches.number})];
        if condition == Condition::SameSeal {
            let test = json!({"op": "test", "path": place, "value": patches.applied});
            operations.insert(0, test);
        }
        let mut patch = SyncPatch::new(doc_path, operations);
        patch.dry_run = condition == Condition::DryRun;
        patch.if_version = match condition {
            Condition::SameVersion => patches.version.clone(),
            Condition::WrongVersion => Some("of another document".to_owned()),
            _ => None,
        };
        let may_be_applied = !matches!(condition, Condition::DryRun | Condition::WrongVersion);
        if may_be_applied && may_write && !is_roaming(path) {
            let place = (self.room.clone(), path.to_owned());
            context
                .record
                .seal_sent(&place, self.number, patches.number);
        }
        let sealing = Sealing {
            path: path.to_owned(),
            number: patches.number,
            condition,
        };
        session.patch(&patch, sealing);
    }

    /// Handles the answer to a patch.
    pub(super) fn patch_answered(
        &mut self,
        sealing: &Sealing,
        content: &Content,
        context: &mut Context<'_>,
    ) -> Result<(), String> {
        let may_write = self.may_write();
        let wrong = |what: &str| {
            let name = &self.name;
            Err(format!("{name}: {sealing:?} {what}: {content:?}"))
        };
        let Some(patches) = self.patches.get_mut(&sealing.path) else {
            return Ok(());
        };
        patches.is_waiting = false;
        let is_roaming = is_roaming(&sealing.path);
        let place = (self.room.clone(), sealing.path.clone());
        let (number, condition) = (sealing.number, sealing.condition);
        if let Content::Error { code, text, .. } = content {
            let code = code.unwrap_or_default();
            // The store refused it, as a planned fault.
            let is_planned = text.contains("is too large, expected at most");
            context
                .totals
                .add(&format!("patches refused with {code}"), 1);
            let is_expected = match code {
                DENIED => !may_write,
                CONFLICT => {
                    is_planned
                        || matches!(condition, Condition::SameVersion | Condition::WrongVersion)
                }
                INVALID => context.may_be_full,
                _ => true,
            };
            if !is_expected && !is_roaming {
                return wrong("was refused");
            }
            if !is_roaming {
                context
                    .record
                    .seal_answered(&place, self.number, number, false);
            }
            return Ok(());
        }
        if !may_write {
            return wrong("was not denied");
        }
        let Ok(answer) = SyncPatched::parse(content) else {
            return wrong("has an invalid answer");
        };
        // A document that was moved here may have that number already.
        let is_applied = is_roaming || answer.operations.last().is_some_and(|one| one.changed);
        let is_dry = condition == Condition::DryRun;
        if !is_applied || answer.dry_run != is_dry || condition == Condition::WrongVersion {
            return wrong("has an unexpected answer");
        }
        if is_dry {
            context.totals.add("patches checked", 1);
            return Ok(());
        }
        context.totals.add("patches applied", 1);
        if !is_roaming {
            patches.applied = number;
            patches.version = Some(answer.version);
            context
                .record
                .seal_answered(&place, self.number, number, true);
        }
        Ok(())
    }
}
