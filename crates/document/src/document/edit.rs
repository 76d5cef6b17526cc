//! Edits as data: checked against the schema, then applied as one transaction.

use std::iter::Peekable;

use serde_json::{Map, Value};
use thiserror::Error;

use super::MeshDocument;
use super::draft::Draft;
use super::event::Origin;
use super::insert::{Parent, build_children};
use super::limits::Limits;
use super::patch::PatchStep;
use crate::engine::{
    ItemIndex, NodeIndex, ROOT, ROOT_ATTRIBUTES, ROOT_ATTRIBUTES_NODE, ROOT_NODE, TextChanges,
};
use crate::schema::{Violations, quoted};
use crate::update::scan::{Id, IdRange};
use crate::update::writer::{self, Builder, Place};

/// One edit. A list of edits is applied as one transaction.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Edit {
    /// Changes a rich text by a delta, with lengths in UTF-16 units. A `retain` with `attributes`
    /// formats the text.
    ///
    /// ```json
    /// [{"retain": 3}, {"insert": "text", "attributes": {…}}, {"delete": 2}]
    /// ```
    ApplyDelta {
        /// The `$id` of the `text` element.
        id: String,
        /// The array of delta operations.
        delta: Value,
    },
    /// Deletes an element and its descendants.
    Delete {
        /// The `$id` of the element.
        id: String,
    },
    /// Deletes a range of a rich text.
    DeleteText {
        /// The `$id` of the `text` element.
        id: String,
        /// The start of the range.
        from: TextPosition,
        /// The end of the range, exclusive.
        to: TextPosition,
    },
    /// Formats a range of a rich text; a null value removes a format.
    FormatText {
        /// The `$id` of the `text` element.
        id: String,
        /// The start of the range.
        from: TextPosition,
        /// The end of the range, exclusive.
        to: TextPosition,
        /// The formats to set or remove.
        attributes: Map<String, Value>,
    },
    /// Inserts an element with its descendants, `{tag: {…}}`.
    Insert {
        /// The parent of the new element.
        parent: Target,
        /// The position among the parent's children.
        position: Position,
        /// The element in JSON form.
        element: Value,
    },
    /// Inserts into a rich text.
    InsertText {
        /// The `$id` of the `text` element.
        id: String,
        /// The position in the text.
        at: TextPosition,
        /// The inserted characters.
        text: String,
        /// The formats of the inserted text; `None` inherits those of the text before it.
        attributes: Option<Map<String, Value>>,
    },
    /// Moves an element: a deletion and an insertion that keeps all `$id`s, in one update.
    ///
    /// Concurrent edits inside the element, made without knowledge of the move, are lost, since
    /// they apply to the deleted copy. Two concurrent moves result in two elements with the same
    /// `$id`s, of which [`MeshDocument::repair`] keeps the first.
    Move {
        /// The `$id` of the element.
        id: String,
        /// The new parent.
        parent: Target,
        /// The position among the new parent's children.
        position: Position,
    },
    /// Removes an attribute.
    RemoveAttribute {
        /// The element that has the attribute.
        target: Target,
        /// The name of the attribute.
        name: String,
    },
    /// Sets an attribute.
    SetAttribute {
        /// The element that has the attribute.
        target: Target,
        /// The name of the attribute.
        name: String,
        /// The new value.
        value: Value,
    },
}

/// The element that an edit applies to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// The element with this `$id`.
    Id(String),
    /// The root element.
    Root,
}

/// A position among the children of an element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Position {
    /// After the child with this `$id`.
    After(String),
    /// Before the child with this `$id`.
    Before(String),
    /// Before all children.
    First,
    /// After this many children.
    Index(usize),
    /// After all children.
    Last,
}

/// A position in a text, in one of two units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextPosition {
    /// Unicode scalar values, the characters of Rust and Python.
    Scalars(usize),
    /// UTF-16 units, as counted by JavaScript and Yjs.
    Utf16(usize),
}

/// The end of a client's operations: clocks have 31 bits.
const LAST_CLOCK: u32 = (1 << 31) - 1;

/// An upper bound for the operations of one call, since each takes bytes of memory.
pub(super) const MOST_OPERATIONS: u32 = 1 << 30;

/// Why an edit was rejected. The document does not change.
#[derive(Clone, Debug, PartialEq, Error)]
#[non_exhaustive]
pub enum EditError {
    /// An element with this `$id` already exists.
    #[error("$id {} already exists; choose another one, or edit that element", quoted(.0))]
    Duplicate(String),
    /// The client id has no operations left for the edit; see [`MeshDocument::set_client_id`].
    #[error("client id {0} has too few operations left for this edit; choose another client id")]
    ClientExhausted(u64),
    /// The document, or a part of it, would exceed a limit.
    #[error("too large: {what} is limited to {limit}")]
    TooLarge {
        /// The quantity that is limited.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// The delta is malformed, or reaches beyond the text.
    #[error("operation {index} of the delta is malformed: {reason}")]
    Delta {
        /// The index of the delta's operation, from 0.
        index: usize,
        /// The defect.
        reason: &'static str,
    },
    /// The schema does not allow the edit.
    #[error("the schema does not allow this: {0}")]
    Invalid(Violations),
    /// No element has this `$id`.
    #[error("no element has $id {}; it may have been deleted", quoted(.0))]
    NotFound(String),
    /// The element holds no rich text.
    #[error(
        "element {} is not a text element; edit its attributes or children instead",
        quoted(.0)
    )]
    NotText(String),
    /// The position is beyond the list or text, or inside a character.
    #[error("invalid position {position}: expected 0 to {length}, not inside a character")]
    Position {
        /// The position in the edit's unit.
        position: usize,
        /// The length of the list or text.
        length: usize,
    },
    /// An element can't be moved into itself.
    #[error("element {} can't be moved into itself", quoted(.0))]
    Cycle(String),
}

impl MeshDocument {
    /// Applies edits as one transaction. Returns its v1 update; `None` if nothing changed. New
    /// elements without an `$id` get one from `next_id`.
    ///
    /// # Errors
    /// [`EditError`] of the first rejected edit; the document does not change.
    ///
    /// ```
    /// # use meshagent_document::{Edit, MeshDocument, MeshSchema, Target};
    /// # use serde_json::json;
    /// let schema = MeshSchema::builtin("document").ok_or("no such schema")?;
    /// let mut document = MeshDocument::new(schema, 1);
    /// let mut id = || "body-1".to_owned();
    /// document.append_child(Target::Root, json!({ "body": { "text": "tea" } }), &mut id)?;
    ///
    /// let edits = [
    ///     Edit::SetAttribute {
    ///         target: Target::Id("body-1".into()),
    ///         name: "text".into(),
    ///         value: json!("茶"),
    ///     },
    ///     Edit::Delete { id: "body-2".into() },
    /// ];
    /// let error = document.edit(&edits, &mut String::new).unwrap_err();
    /// assert_eq!(
    ///     error.to_string(),
    ///     r#"no element has $id "body-2"; it may have been deleted"#
    /// );
    /// let update = document.edit(&edits[..1], &mut String::new)?;
    /// assert!(update.is_some());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn edit(
        &mut self,
        edits: &[Edit],
        next_id: &mut dyn FnMut() -> String,
    ) -> Result<Option<Vec<u8>>, EditError> {
        let update = self.edit_quietly(edits, next_id)?;
        self.close_edit();
        self.close_event(Origin::Local);
        Ok(update)
    }

    /// Applies edits without closing the event or the undo group.
    pub(super) fn edit_quietly(
        &mut self,
        edits: &[Edit],
        next_id: &mut dyn FnMut() -> String,
    ) -> Result<Option<Vec<u8>>, EditError> {
        let edits = Draft::new(self).check(edits, next_id)?;
        self.check_clock(&edits)?;
        Ok(self.apply_edits(edits))
    }

    /// Checks that the client id has enough operations left for checked edits.
    pub(super) fn check_clock(&self, edits: &[Edit]) -> Result<(), EditError> {
        if self.has_operations_left() || edits.is_empty() {
            return Ok(());
        }
        // The number of operations is known only after the edit is made, so it is made on a copy.
        let schema = self.schema.clone();
        let mut copy = Self::with_limits(schema, self.client_id, Limits::NONE);
        let is_read = copy.apply_update(&self.encode_state()).is_ok();
        debug_assert!(is_read, "an encoded state is valid");
        copy.apply_edits_in_steps(edits.to_vec());
        if copy.is_exhausted {
            return Err(EditError::ClientExhausted(self.client_id));
        }
        Ok(())
    }

    /// The number of operations that the client id has left.
    pub(super) fn operations_left(&self) -> u32 {
        LAST_CLOCK - self.engine.clock(self.client_id)
    }

    /// Appends a child element. Returns the v1 update.
    ///
    /// # Errors
    /// See [`Self::edit`].
    pub fn append_child(
        &mut self,
        parent: Target,
        element: Value,
        next_id: &mut dyn FnMut() -> String,
    ) -> Result<Option<Vec<u8>>, EditError> {
        let position = Position::Last;
        let edit = Edit::Insert {
            parent,
            position,
            element,
        };
        self.edit(&[edit], next_id)
    }

    /// Sets an attribute. Returns the v1 update; `None` if nothing changed.
    ///
    /// # Errors
    /// See [`Self::edit`].
    pub fn set_attribute(
        &mut self,
        target: Target,
        name: &str,
        value: Value,
    ) -> Result<Option<Vec<u8>>, EditError> {
        let name = name.to_owned();
        let edit = Edit::SetAttribute {
            target,
            name,
            value,
        };
        self.edit(&[edit], &mut String::new)
    }

    /// Deletes an element and its descendants. Returns the v1 update.
    ///
    /// # Errors
    /// See [`Self::edit`].
    pub fn delete(&mut self, id: &str) -> Result<Option<Vec<u8>>, EditError> {
        let edit = Edit::Delete { id: id.to_owned() };
        self.edit(&[edit], &mut String::new)
    }

    /// Applies checked edits.
    fn apply_edits(&mut self, edits: Vec<Edit>) -> Option<Vec<u8>> {
        let mut steps = self.apply_edits_in_steps(edits);
        match steps.len() {
            0 => None,
            1 => steps.pop().map(|step| step.update),
            _ => {
                let updates: Vec<&[u8]> = steps.iter().map(|step| &*step.update).collect();
                crate::merge_updates(&updates).ok()
            }
        }
    }

    /// Applies checked edits, and returns an update for each that changed something. Successive
    /// deletions of adjacent siblings are one deletion, at one place.
    pub(super) fn apply_edits_in_steps(&mut self, edits: Vec<Edit>) -> Vec<PatchStep> {
        let mut steps = Vec::new();
        let mut edits = edits.into_iter().peekable();
        while let Some(edit) = edits.next() {
            let start = self.engine.clock(self.client_id);
            // Inverses are recorded one by one.
            let update = match &edit {
                Edit::Delete { id } if self.undo.is_none() => self.delete_run(id, &mut edits),
                _ => self.apply_recorded(edit),
            };
            let operations = start.into()..self.engine.clock(self.client_id).into();
            steps.extend(update.map(|update| PatchStep { update, operations }));
        }
        steps
    }

    /// Applies an edit, and records its inverse if it changed something.
    fn apply_recorded(&mut self, edit: Edit) -> Option<Vec<u8>> {
        let noted = self.noted();
        self.note_inverse(&edit);
        let update = self.apply_edit(edit);
        if update.is_none() {
            self.forget_noted(noted);
        }
        self.end_inverse();
        update
    }

    /// Deletes an element, and its next siblings as far as the following edits delete them.
    fn delete_run(
        &mut self,
        id: &str,
        edits: &mut Peekable<impl Iterator<Item = Edit>>,
    ) -> Option<Vec<u8>> {
        let first = self.node(id)?.index;
        let parent = self.engine.node(first).parent;
        let mut ranges = vec![self.range_of(first)];
        let mut index = self.index_in_parent(first);
        while let Some(Edit::Delete { id }) = edits.peek()
            && let Some(next) = self.node(id).map(|element| element.index)
            && self.engine.node(next).parent == parent
            && self.index_in_parent(next) == index + 1
        {
            ranges.push(self.range_of(next));
            index += 1;
            edits.next();
        }
        self.delete_ranges(&ranges)
    }

    fn apply_edit(&mut self, edit: Edit) -> Option<Vec<u8>> {
        match edit {
            Edit::Delete { id } => self.delete_node(self.node(&id)?.index),
            Edit::Insert {
                parent,
                position,
                element,
            } => self.insert_node(self.index_of(&parent)?, &position, &element),
            Edit::Move {
                id,
                parent,
                position,
            } => {
                let index = self.node(&id)?.index;
                self.move_node(index, self.index_of(&parent)?, &position)
            }
            Edit::RemoveAttribute { target, name } => {
                self.change_attribute(self.index_of(&target)?, &name, None)
            }
            Edit::SetAttribute {
                target,
                name,
                value,
            } => self.change_attribute(self.index_of(&target)?, &name, Some(&value)),
            Edit::InsertText {
                id,
                at,
                text,
                attributes,
            } => {
                let at = self.text_offset(&id, at)?;
                self.edit_text(&id, |content| {
                    content.insert(at, &text, attributes.as_ref());
                })
            }
            Edit::DeleteText { id, from, to } => {
                let (from, to) = (self.text_offset(&id, from)?, self.text_offset(&id, to)?);
                self.edit_text(&id, |content| content.delete(from, to))
            }
            Edit::FormatText {
                id,
                from,
                to,
                attributes,
            } => {
                let (from, to) = (self.text_offset(&id, from)?, self.text_offset(&id, to)?);
                if from == to {
                    return None;
                }
                self.edit_text(&id, |content| content.format(from, to, &attributes))
            }
            // The draft has translated it into other edits.
            Edit::ApplyDelta { .. } => None,
        }
    }

    pub(super) fn index_of(&self, target: &Target) -> Option<NodeIndex> {
        match target {
            Target::Id(id) => Some(self.node(id)?.index),
            Target::Root => Some(ROOT_NODE),
        }
    }

    pub(super) fn delete_node(&mut self, index: NodeIndex) -> Option<Vec<u8>> {
        let range = self.range_of(index);
        self.delete_ranges(&[range])
    }

    /// The operation that created a node.
    fn range_of(&self, index: NodeIndex) -> IdRange {
        let Id { client, clock } = self.engine.node_id(index);
        IdRange {
            client,
            start: clock,
            end: clock + 1,
        }
    }

    pub(super) fn delete_ranges(&mut self, ranges: &[IdRange]) -> Option<Vec<u8>> {
        if ranges.is_empty() {
            return None;
        }
        let update = writer::update(Vec::new(), ranges.to_vec(), |_| 0).ok()?;
        self.integrate(&[], ranges, &mut 0).ok()?;
        Some(update)
    }

    fn insert_node(
        &mut self,
        parent: NodeIndex,
        position: &Position,
        element: &Value,
    ) -> Option<Vec<u8>> {
        let clock = self.engine.clock(self.client_id);
        let mut builder = Builder::new(self.client_id, clock);
        let first = self.child_place(parent, position);
        let around = match parent {
            ROOT_NODE => Parent::Root,
            parent => Parent::Item(self.engine.node_id(parent)),
        };
        let elements = std::slice::from_ref(element);
        build_children(
            &mut builder,
            &self.schema,
            around,
            Some(first),
            elements,
            &mut String::new,
        );
        let update = builder.finish();
        self.integrate_own(&update).ok()?;
        Some(update)
    }

    /// Deletes a node, and writes its content again elsewhere.
    fn move_node(
        &mut self,
        index: NodeIndex,
        parent: NodeIndex,
        position: &Position,
    ) -> Option<Vec<u8>> {
        // The anchor may be the node itself: a deleted sibling still marks a position.
        let position = match position {
            Position::Index(at) => {
                let is_before =
                    self.engine.node(index).parent == parent && self.index_in_parent(index) < *at;
                &Position::Index(at + usize::from(is_before))
            }
            other => other,
        };
        let clock = self.engine.clock(self.client_id);
        let mut builder = Builder::new(self.client_id, clock);
        let first = self.child_place(parent, position);
        self.engine.copy(index, first, &mut builder);
        let mut deletes = vec![self.range_of(index)];
        let update = builder.finish_with(&mut deletes);
        self.integrate_own(&update).ok()?;
        Some(update)
    }

    fn child_place(&self, parent: NodeIndex, position: &Position) -> Place<'static> {
        match self.neighbours(parent, position) {
            (None, None) if parent == ROOT_NODE => Place::OnlyInRoot(ROOT),
            (None, None) => Place::Only(self.engine.node_id(parent)),
            (left, right) => Place::Between(
                left.map(|item| self.engine.last_id(item)),
                right.map(|item| self.engine.item_id(item)),
            ),
        }
    }

    /// The neighbours of a new child, deleted ones included. They are found without a search and
    /// give the same order.
    fn neighbours(
        &self,
        parent: NodeIndex,
        position: &Position,
    ) -> (Option<ItemIndex>, Option<ItemIndex>) {
        let (first, last) = self.engine.ends(parent);
        let beside = |node: Option<NodeIndex>| {
            let node = node.filter(|&node| self.engine.node(node).parent == parent)?;
            let (left, right) = self.engine.neighbours(node)?;
            Some((left, self.engine.item_of(node), right))
        };
        let of = |id: &str| self.node(id).map(|element| element.index);
        let found = match position {
            Position::After(id) => beside(of(id)).map(|(_, item, right)| (Some(item), right)),
            Position::Before(id) => beside(of(id)).map(|(left, item, _)| (left, Some(item))),
            Position::First | Position::Index(0) => Some((None, first)),
            Position::Index(index) => beside(self.engine.child_at(parent, index - 1))
                .map(|(_, item, right)| (Some(item), right)),
            Position::Last => None,
        };
        found.unwrap_or((last, None))
    }

    /// Sets or removes an attribute. A root attribute written by an npm client is on the tree's own
    /// root; those written here are on a second root type.
    fn change_attribute(
        &mut self,
        index: NodeIndex,
        name: &str,
        value: Option<&Value>,
    ) -> Option<Vec<u8>> {
        let Some(value) = value else {
            let ranges = self.value_ranges(index, name);
            return self.delete_ranges(&ranges);
        };
        let key = self.engine.find_key(name);
        let is_here = |node| key.is_some_and(|key| self.engine.value(node, key).is_some());
        let (node, root) = match index {
            ROOT_NODE if is_here(ROOT_NODE) => (ROOT_NODE, ROOT),
            ROOT_NODE => (ROOT_ATTRIBUTES_NODE, ROOT_ATTRIBUTES),
            other => (other, ""),
        };
        let last = key.and_then(|key| self.engine.last_on_key(node, key));
        let place = match last {
            Some(last) => Place::Between(Some(last), None),
            None if index == ROOT_NODE => Place::RootKey(root, name),
            None => Place::Key(self.engine.node_id(node), name),
        };
        let clock = self.engine.clock(self.client_id);
        let mut builder = Builder::new(self.client_id, clock);
        builder.attribute(place, value);
        let update = builder.finish();
        self.integrate_own(&update).ok()?;
        Some(update)
    }

    /// The operations that hold an attribute's value; for the root they may be in two places.
    pub(super) fn value_ranges(&self, index: NodeIndex, name: &str) -> Vec<IdRange> {
        let Some(key) = self.engine.find_key(name) else {
            return Vec::new();
        };
        let beside = (index == ROOT_NODE).then_some(ROOT_ATTRIBUTES_NODE);
        let nodes = [index].into_iter().chain(beside);
        let items = nodes.filter_map(|node| self.engine.value_item(node, key));
        items.map(|item| self.engine.item_range(item)).collect()
    }

    fn edit_text(&mut self, id: &str, edit: impl FnOnce(&mut TextChanges<'_>)) -> Option<Vec<u8>> {
        let text = self.text_in(self.node(id)?.index)?;
        let waypoint = self.waypoint.take();
        let mut changes = TextChanges::new(&self.engine, text, self.client_id, waypoint);
        edit(&mut changes);
        let (builder, mut deletes, waypoint) = changes.finish();
        let update = builder.finish_with(&mut deletes);
        if update == [0, 0] {
            return None;
        }
        self.integrate_own(&update).ok()?;
        self.waypoint = waypoint.and_then(|waypoint| waypoint.integrated(&self.engine));
        Some(update)
    }

    /// A position in UTF-16 units, as the engine counts.
    pub(super) fn text_offset(&self, id: &str, position: TextPosition) -> Option<u32> {
        let units = match position {
            TextPosition::Utf16(units) => units,
            TextPosition::Scalars(scalars) => {
                let text = self.text_in(self.node(id)?.index)?;
                let scalars = u32::try_from(scalars).ok()?;
                return self.engine.units_before_scalar(text, scalars);
            }
        };
        u32::try_from(units).ok()
    }
}
