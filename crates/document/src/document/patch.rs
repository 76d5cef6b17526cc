//! JSON Patch (RFC 6902) with JSON pointers (RFC 6901), applied as the smallest change, at a cost
//! proportional to the change.

mod bound;
mod check;
pub(super) mod overlay;
pub(super) mod pieces;

use std::ops::Range;

use serde_json::{Map, Value};
use thiserror::Error;

use self::overlay::{Node, preview};
use super::MeshDocument;
use super::draft::Draft;
use super::edit::{Edit, EditError};
use super::event::Origin;
use crate::schema::{ID_ATTRIBUTE, Violations, quoted};

/// The maximal nesting of JSON. A document's JSON nests less; deeper values could overflow a small
/// stack when they are walked or dropped.
const MAX_LEVELS: usize = 960;

/// The maximal bytes that one patch copies, since a few copies of copies could fill the memory.
const MAX_COPIED_BYTES: usize = 64 << 20;

/// The maximal number of values that one patch adds, copies and moves; each of them is visited.
const MAX_VALUES: usize = 1 << 24;

/// Why a patch was not applied. The document does not change.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PatchError {
    /// The edits that the patch amounts to were rejected.
    #[error("the patch can't be applied")]
    Edit(#[from] EditError),
    /// The schema does not allow the patched document.
    #[error("the schema does not allow the patched document: {0}")]
    Invalid(Violations),
    /// The patch or one of its operations is malformed.
    #[error("operation {index} is malformed: {reason}")]
    Malformed {
        /// The index of the operation, from 0.
        index: usize,
        /// The defect.
        reason: &'static str,
    },
    /// A pointer's target does not exist.
    #[error("operation {index}: {} does not exist in the document", quoted(.pointer))]
    NotFound {
        /// The index of the operation, from 0.
        index: usize,
        /// The pointer.
        pointer: String,
    },
    /// A `test` operation found another value.
    #[error(
        "operation {index}: test failed at {}: expected {expected}, found {found}",
        quoted(.pointer)
    )]
    TestFailed {
        /// The index of the operation, from 0.
        index: usize,
        /// The pointer.
        pointer: String,
        /// The value in the operation as JSON, shortened around the first difference.
        expected: String,
        /// The value in the document, in the same form.
        found: String,
    },
}

/// The effect of a patch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PatchOutcome {
    /// The changes in order, which together are the patch; empty if nothing changed.
    ///
    /// Send these updates one by one, not merged: the published SDKs update their views by deltas
    /// and lose count if one update deletes at two places.
    pub steps: Vec<PatchStep>,
    /// For each operation, whether it changed something. If the patch as a whole changes nothing,
    /// all are false.
    pub changed: Vec<bool>,
}

/// A patch that was checked, see [`MeshDocument::plan_patch`].
#[derive(Clone, Debug)]
pub struct PatchPlan {
    edits: Vec<Edit>,
    changed: Vec<bool>,
    bound: PatchBound,
}

impl PatchPlan {
    /// What the patch takes at most.
    pub fn bound(&self) -> PatchBound {
        self.bound
    }

    /// For each operation, whether it would change something.
    pub fn changed(&self) -> &[bool] {
        &self.changed
    }
}

/// What a patch takes at most, each [`usize::MAX`] if it is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PatchBound {
    /// The bytes of its updates.
    pub bytes: usize,
    /// The approximate memory of what it adds, in bytes; 0 if it only deletes.
    pub added: usize,
    /// The approximate memory, in bytes, that its deletions take because they split texts.
    pub splits: usize,
}

/// One change of a patch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PatchStep {
    /// The v1 update.
    pub update: Vec<u8>,
    /// The clocks of its operations, made with this document's client id; empty if it only deletes.
    pub operations: Range<u64>,
}

impl MeshDocument {
    /// Applies a JSON Patch to the document's JSON form, as one transaction. Returns its v1 update;
    /// `None` if nothing changed.
    ///
    /// Pointers refer to [`MeshDocument::to_json`]. Elements that the patch does not touch keep
    /// their `$id`s and concurrent edits; moved elements keep their `$id`s. Only changes are
    /// checked against the schema.
    ///
    /// # Errors
    /// [`PatchError`] with the operation that failed; the document does not change.
    ///
    /// ```
    /// # use meshagent_document::{MeshDocument, MeshSchema};
    /// # use serde_json::json;
    /// let schema = MeshSchema::infer(&json!({"list": {"title": ""}}))?;
    /// let mut document = MeshDocument::new(schema, 1);
    /// let patch = json!([{"op": "add", "path": "/list/title", "value": "Saturday"}]);
    /// document.apply_patch(&patch, &mut String::new)?;
    /// assert_eq!(document.to_json(true), json!({"list": {"title": "Saturday"}}));
    ///
    /// let patch = json!([{"op": "test", "path": "/list/title", "value": "x"}]);
    /// assert_eq!(
    ///     document.apply_patch(&patch, &mut String::new).unwrap_err().to_string(),
    ///     r#"operation 0: test failed at "/list/title": expected "x", found "Saturday""#
    /// );
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn apply_patch(
        &mut self,
        patch: &Value,
        next_id: &mut dyn FnMut() -> String,
    ) -> Result<Option<Vec<u8>>, PatchError> {
        let (edits, _) = self.resolve_patch(patch, next_id)?;
        Ok(self.edit(&edits, next_id)?)
    }

    /// Like [`Self::apply_patch`], with the result of each operation and each change as an update
    /// of its own.
    ///
    /// # Errors
    /// See [`Self::apply_patch`].
    pub fn apply_patch_in_steps(
        &mut self,
        patch: &Value,
        next_id: &mut dyn FnMut() -> String,
    ) -> Result<PatchOutcome, PatchError> {
        let (edits, changed) = self.check_patch_edits(patch, next_id)?;
        Ok(self.apply_patch_edits(edits, changed))
    }

    /// Checks a patch, and bounds what it would take. The bound follows from what the patch adds
    /// and moves, independent of the size of the document. [`Self::apply_plan`] applies it.
    ///
    /// # Errors
    /// See [`Self::apply_patch`].
    pub fn plan_patch(
        &self,
        patch: &Value,
        next_id: &mut dyn FnMut() -> String,
    ) -> Result<PatchPlan, PatchError> {
        let (edits, changed) = self.check_patch_edits(patch, next_id)?;
        let bound = self.bound_of(&edits);
        Ok(PatchPlan {
            edits,
            changed,
            bound,
        })
    }

    /// Applies a checked patch to the document for which it was checked, which must not have
    /// changed since.
    pub fn apply_plan(&mut self, plan: PatchPlan) -> PatchOutcome {
        self.apply_patch_edits(plan.edits, plan.changed)
    }

    /// Checks whether [`Self::apply_patch_in_steps`] would succeed. Returns which operations would
    /// change something.
    ///
    /// # Errors
    /// See [`Self::apply_patch`].
    pub fn check_patch(
        &self,
        patch: &Value,
        next_id: &mut dyn FnMut() -> String,
    ) -> Result<Vec<bool>, PatchError> {
        let (_, changed) = self.check_patch_edits(patch, next_id)?;
        Ok(changed)
    }

    /// The checked edits of a patch, and which of its operations change something.
    fn check_patch_edits(
        &self,
        patch: &Value,
        next_id: &mut dyn FnMut() -> String,
    ) -> Result<(Vec<Edit>, Vec<bool>), PatchError> {
        let (edits, mut changed) = self.resolve_patch(patch, next_id)?;
        let edits = Draft::new(self).check(&edits, next_id)?;
        self.check_clock(&edits)?;
        if edits.is_empty() {
            changed.fill(false);
        }
        Ok((edits, changed))
    }

    fn apply_patch_edits(&mut self, edits: Vec<Edit>, mut changed: Vec<bool>) -> PatchOutcome {
        let steps = self.apply_edits_in_steps(edits);
        self.close_edit();
        self.close_event(Origin::Local);
        if steps.is_empty() {
            changed.fill(false);
        }
        PatchOutcome { steps, changed }
    }

    /// The edits of a patch, and which of its operations change something.
    fn resolve_patch(
        &self,
        patch: &Value,
        next_id: &mut dyn FnMut() -> String,
    ) -> Result<(Vec<Edit>, Vec<bool>), PatchError> {
        let Value::Array(operations) = patch else {
            let reason = "expected an array of operations";
            return Err(PatchError::Malformed { index: 0, reason });
        };
        let mut patched = Patched {
            document: self,
            json: Node::document(self),
            copied: 0,
            room: MAX_VALUES,
        };
        let mut changed = Vec::with_capacity(operations.len());
        for (index, operation) in operations.iter().enumerate() {
            let applied = patched.apply(operation);
            changed.push(applied.map_err(|failure| failure.at(index))?);
        }
        let mut json = patched.json;
        json.settle(self);
        let edits = match &json {
            // The whole document is replaced.
            Node::Value(json) => self.difference(json, next_id),
            json => match check::check(self, json) {
                Ok(content) => self.difference_to(content, next_id),
                Err(violations) => Err(violations),
            },
        };
        Ok((edits.map_err(PatchError::Invalid)?, changed))
    }
}

enum Failure {
    Malformed(&'static str),
    NotFound(String),
    TestFailed {
        pointer: String,
        expected: String,
        found: String,
    },
}

impl Failure {
    fn at(self, index: usize) -> PatchError {
        match self {
            Self::Malformed(reason) => PatchError::Malformed { index, reason },
            Self::NotFound(pointer) => PatchError::NotFound { index, pointer },
            Self::TestFailed {
                pointer,
                expected,
                found,
            } => PatchError::TestFailed {
                index,
                pointer,
                expected,
                found,
            },
        }
    }
}

/// The document after the operations so far.
struct Patched<'a> {
    document: &'a MeshDocument,
    json: Node,
    copied: usize,
    /// The number of values that may still be visited.
    room: usize,
}

impl Patched<'_> {
    /// Applies an operation. Returns whether it changed something.
    fn apply(&mut self, operation: &Value) -> Result<bool, Failure> {
        let member = |name: &str, reason| {
            let member = operation.get(name).and_then(Value::as_str);
            member.ok_or(Failure::Malformed(reason))
        };
        let value = || {
            let value = operation.get("value");
            value.ok_or(Failure::Malformed("\"value\" is missing"))
        };
        let path = member("path", "\"path\" is missing")?;
        match member("op", "\"op\" is missing")? {
            "add" => {
                let (given, value) = (value()?, self.given(path, value()?)?);
                let is_there = !has_ids(given) && self.has_member(path, given)?;
                self.add(path, value)?;
                Ok(!is_there)
            }
            "copy" => {
                let from = member("from", "\"from\" is missing")?;
                let document = self.document;
                let mut copy = self.get_mut(from)?.to_value(document);
                strip_ids(&mut copy);
                self.copied = self.copied.saturating_add(size(&copy));
                if self.copied > MAX_COPIED_BYTES {
                    let reason = "the patch copies more than 64 MiB; split it";
                    return Err(Failure::Malformed(reason));
                }
                let copy = Node::Value(copy);
                self.make_room(path, &copy)?;
                self.add(path, copy)?;
                Ok(true)
            }
            "move" => {
                let from = member("from", "\"from\" is missing")?;
                let below = path.strip_prefix(from);
                if below.is_some_and(|below| below.starts_with('/')) {
                    return Err(Failure::Malformed("a value can't be moved into itself"));
                }
                let moved = self.remove(from)?;
                self.make_room(path, &moved)?;
                self.add(path, moved)?;
                Ok(path != from)
            }
            "remove" => self.remove(path).map(|_| true),
            "replace" => {
                let (given, value) = (value()?, self.given(path, value()?)?);
                let document = self.document;
                let found = self.get_mut(path)?;
                let is_there = !has_ids(given) && found.equals(document, given);
                *found = value;
                Ok(!is_there)
            }
            "test" => {
                let document = self.document;
                let found = self.get_mut(path)?;
                let expected = value()?;
                if found.equals(document, expected) {
                    return Ok(false);
                }
                let (found, expected) = preview::differing(document, found, expected);
                Err(Failure::TestFailed {
                    pointer: path.to_owned(),
                    expected,
                    found,
                })
            }
            _ => Err(Failure::Malformed(
                "\"op\" must be add, copy, move, remove, replace or test",
            )),
        }
    }

    /// A value of the patch for this location, within the limits.
    fn given(&mut self, pointer: &str, value: &Value) -> Result<Node, Failure> {
        let levels = MAX_LEVELS.saturating_sub(tokens(pointer)?.len());
        if !fits(value, levels, &mut self.room) {
            return Err(self.too_much());
        }
        Ok(Node::Value(value.clone()))
    }

    /// Fails if a value would nest too deeply at this location.
    fn make_room(&mut self, pointer: &str, value: &Node) -> Result<(), Failure> {
        let levels = MAX_LEVELS.saturating_sub(tokens(pointer)?.len());
        if !value.fits(self.document, levels, &mut self.room) {
            return Err(self.too_much());
        }
        Ok(())
    }

    fn too_much(&self) -> Failure {
        Failure::Malformed(match self.room {
            0 => "the patch adds and moves more than 16,777,216 values; split it",
            _ => "the value would be more than 960 levels deep",
        })
    }

    fn add(&mut self, pointer: &str, value: Node) -> Result<(), Failure> {
        let missing = || Failure::NotFound(pointer.to_owned());
        let mut tokens = tokens(pointer)?;
        let Some(last) = tokens.pop() else {
            self.json = value;
            return Ok(());
        };
        let parent = self.json.get_mut(self.document, &tokens);
        let parent = parent.ok_or_else(missing)?;
        { parent.add(self.document, &last, value) }.ok_or_else(missing)
    }

    /// Whether an object has a member at this location, with this value.
    fn has_member(&mut self, pointer: &str, value: &Value) -> Result<bool, Failure> {
        let mut tokens = tokens(pointer)?;
        let Some(last) = tokens.pop() else {
            return Ok(false);
        };
        let document = self.document;
        let parent = self.json.get_mut(document, &tokens);
        let member = parent.and_then(|parent| parent.member(document, &last));
        Ok(member.is_some_and(|member| member.equals(document, value)))
    }

    fn remove(&mut self, pointer: &str) -> Result<Node, Failure> {
        let missing = || Failure::NotFound(pointer.to_owned());
        let mut tokens = tokens(pointer)?;
        let Some(last) = tokens.pop() else {
            return Ok(std::mem::replace(&mut self.json, Node::Value(Value::Null)));
        };
        let parent = self.json.get_mut(self.document, &tokens);
        let parent = parent.ok_or_else(missing)?;
        { parent.remove(self.document, &last) }.ok_or_else(missing)
    }

    fn get_mut(&mut self, pointer: &str) -> Result<&mut Node, Failure> {
        let found = self.json.get_mut(self.document, &tokens(pointer)?);
        found.ok_or_else(|| Failure::NotFound(pointer.to_owned()))
    }
}

/// The reference tokens of a pointer.
fn tokens(pointer: &str) -> Result<Vec<String>, Failure> {
    if pointer.is_empty() {
        return Ok(Vec::new());
    }
    let Some(rest) = pointer.strip_prefix('/') else {
        return Err(Failure::Malformed(
            "a pointer must be empty or begin with \"/\"",
        ));
    };
    // In RFC 6901 a `~` is always one of the two escapes.
    let is_escaped = |part: &str| part.starts_with(['0', '1']);
    if !rest.split('~').skip(1).all(is_escaped) {
        return Err(Failure::Malformed(
            "in a pointer, \"~\" must be followed by \"0\" or \"1\"",
        ));
    }
    let tokens = rest.split('/').take(MAX_LEVELS + 1);
    let tokens = tokens.map(|token| token.replace("~1", "/").replace("~0", "~"));
    let tokens: Vec<String> = tokens.collect();
    if tokens.len() > MAX_LEVELS {
        return Err(Failure::Malformed("a pointer has more than 960 levels"));
    }
    Ok(tokens)
}

fn index(token: &str) -> Option<usize> {
    let is_plain = token == "0" || !token.starts_with(['0', '+']);
    token.parse().ok().filter(|_| is_plain)
}

/// Whether a value has too many levels.
pub(super) fn is_too_deep(value: &Value) -> bool {
    !fits(value, MAX_LEVELS, &mut { usize::MAX })
}

/// Whether a value has at most this many levels, and no more values than `room`; without recursion.
fn fits(value: &Value, levels: usize, room: &mut usize) -> bool {
    let mut stack = vec![(value, levels)];
    while let Some((value, levels)) = stack.pop() {
        let (Some(below), Some(rest)) = (levels.checked_sub(1), room.checked_sub(1)) else {
            return false;
        };
        *room = rest;
        match value {
            Value::Array(items) => stack.extend(items.iter().map(|item| (item, below))),
            Value::Object(members) => {
                stack.extend(members.values().map(|member| (member, below)));
            }
            Value::Bool(_) | Value::Null | Value::Number(_) | Value::String(_) => {}
        }
    }
    true
}

/// Removes all `$id`s; recursive, within the limit on depth.
pub(super) fn strip_ids(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.shift_remove(ID_ATTRIBUTE);
            members.values_mut().for_each(strip_ids);
        }
        Value::Array(items) => items.iter_mut().for_each(strip_ids),
        _ => {}
    }
}

/// Whether the value contains an `$id`; recursive, within the limit on depth.
fn has_ids(value: &Value) -> bool {
    match value {
        Value::Object(members) => {
            members.contains_key(ID_ATTRIBUTE) || members.values().any(has_ids)
        }
        Value::Array(items) => items.iter().any(has_ids),
        _ => false,
    }
}

/// The approximate memory of a value, in bytes.
fn size(value: &Value) -> usize {
    let below: usize = match value {
        Value::Array(items) => items.iter().map(size).sum(),
        Value::Object(members) => {
            let members = members.iter();
            members.map(|(name, value)| name.len() + size(value)).sum()
        }
        Value::String(text) => text.len(),
        Value::Bool(_) | Value::Null | Value::Number(_) => 0,
    };
    below + size_of::<Value>()
}

/// Whether two values are equal apart from the `$id`s of elements. Numbers compare by value, as in
/// RFC 6902.
pub(super) fn is_equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| is_equal(a, b))
        }
        (Value::Object(a), Value::Object(b)) => are_equal(a, b),
        _ => a == b,
    }
}

/// Like [`is_equal`], for the members of two objects.
pub(super) fn are_equal(a: &Map<String, Value>, b: &Map<String, Value>) -> bool {
    let ids = usize::from(a.contains_key(ID_ATTRIBUTE));
    let other_ids = usize::from(b.contains_key(ID_ATTRIBUTE));
    a.len() - ids == b.len() - other_ids
        && a.iter()
            .all(|(key, a)| key == ID_ATTRIBUTE || b.get(key).is_some_and(|b| is_equal(a, b)))
}
