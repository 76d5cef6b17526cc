//! Edits as data: checked against the schema first, then applied as one transaction.

use serde_json::{Map, Value};
use thiserror::Error;
use yrs::types::Attrs;
use yrs::{
    Any, BranchID, Map as _, MapRef, Text as _, Xml, XmlElementRef, XmlFragment, XmlTextRef,
};

use super::MeshDocument;
use super::draft::Draft;
use super::event::{Before, Origin};
use super::history::{NodeIndex, ROOT, ROOT_ATTRIBUTES, ROOT_NODE};
use super::insert::{Parent, build_children};
use super::read::engine_id;
use crate::schema::Violation;
use crate::update::scan::{Id, IdRange, Scan};
use crate::update::writer::{self, Builder, Place};

/// One edit. A list of them is one transaction.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Edit {
    /// Deletes an element and all below it.
    Delete {
        /// The element.
        id: String,
    },
    /// Deletes a part of a rich text.
    DeleteText {
        /// The `text` element.
        id: String,
        /// Where the part begins.
        from: TextPosition,
        /// Where it ends.
        to: TextPosition,
    },
    /// Formats a part of a rich text; a null value takes a format away.
    FormatText {
        /// The `text` element.
        id: String,
        /// Where the part begins.
        from: TextPosition,
        /// Where it ends.
        to: TextPosition,
        /// The formats.
        attributes: Map<String, Value>,
    },
    /// Inserts an element with all below it, `{tag: {…}}`.
    Insert {
        /// The element around it.
        parent: Target,
        /// Where among its children.
        position: Position,
        /// The element in JSON form.
        element: Value,
    },
    /// Inserts into a rich text.
    InsertText {
        /// The `text` element.
        id: String,
        /// Where.
        at: TextPosition,
        /// What.
        text: String,
        /// The formats that it has; `None`: those of the text before it.
        attributes: Option<Map<String, Value>>,
    },
    /// Moves an element: a delete and an insert that keeps all `$id`s. What others edit inside it at
    /// the same time is lost with the element that they edit, which is the deleted one.
    Move {
        /// The element.
        id: String,
        /// The element around it from now on.
        parent: Target,
        /// Where among its children.
        position: Position,
    },
    /// Takes an attribute away.
    RemoveAttribute {
        /// The element.
        target: Target,
        /// The attribute.
        name: String,
    },
    /// Gives an attribute a value.
    SetAttribute {
        /// The element.
        target: Target,
        /// The attribute.
        name: String,
        /// The value.
        value: Value,
    },
}

/// An element to edit.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// The element with this `$id`.
    Id(String),
    /// The root element.
    Root,
}

/// A place among the children of an element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Position {
    /// Behind the child with this `$id`.
    After(String),
    /// In front of the child with this `$id`.
    Before(String),
    /// In front of all children.
    First,
    /// Behind this many children.
    Index(usize),
    /// Behind all children.
    Last,
}

/// A place in a text, with the unit in which it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextPosition {
    /// Unicode scalar values, as Rust's and Python's characters are.
    Scalars(usize),
    /// UTF-16 units, as JavaScript and Yjs count.
    Utf16(usize),
}

/// Why an edit was refused. The document is as it was.
#[derive(Clone, Debug, PartialEq, Error)]
#[non_exhaustive]
pub enum EditError {
    /// There is an element with this `$id` already.
    #[error("an element with $id {0:?} exists already; choose another one, or edit that one")]
    Duplicate(String),
    /// The schema forbids it.
    #[error("the schema does not allow this: {}", super::insert::list(.0))]
    Invalid(Vec<Violation>),
    /// There is no such element.
    #[error("no element has $id {0:?}; it may have been deleted")]
    NotFound(String),
    /// The element holds no rich text.
    #[error("element {0:?} is no text element; edit its attributes or children instead")]
    NotText(String),
    /// The place is outside of the list or text, or inside of a character.
    #[error("position {position} is no place between 0 and {length}")]
    Position {
        /// The place.
        position: usize,
        /// How long the list or text is.
        length: usize,
    },
    /// An element can't be moved into itself.
    #[error("element {0:?} can't be moved into itself")]
    Cycle(String),
}

impl MeshDocument {
    /// Applies edits as one transaction; its v1 update, `None` if there was nothing to do. New
    /// elements without an `$id` get one from `next_id`.
    ///
    /// # Errors
    /// [`EditError`] of the first edit that is refused; the document is as it was.
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

    /// Edits without an end to the event or the group to undo.
    pub(super) fn edit_quietly(
        &mut self,
        edits: &[Edit],
        next_id: &mut dyn FnMut() -> String,
    ) -> Result<Option<Vec<u8>>, EditError> {
        let edits = Draft::new(self).check(edits, next_id)?;
        Ok(self.apply_edits(edits))
    }

    /// Appends a child element to an element.
    ///
    /// # Errors
    /// As [`Self::edit`].
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

    /// Gives an attribute a value.
    ///
    /// # Errors
    /// As [`Self::edit`].
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

    /// Deletes an element and all below it.
    ///
    /// # Errors
    /// As [`Self::edit`].
    pub fn delete(&mut self, id: &str) -> Result<Option<Vec<u8>>, EditError> {
        let edit = Edit::Delete { id: id.to_owned() };
        self.edit(&[edit], &mut String::new)
    }

    /// Applies edits that were checked.
    fn apply_edits(&mut self, edits: Vec<Edit>) -> Option<Vec<u8>> {
        let mut updates = Vec::with_capacity(edits.len());
        for edit in edits {
            self.note_inverse(&edit);
            updates.extend(self.apply_edit(edit));
            self.end_inverse();
        }
        match updates.len() {
            0 => None,
            1 => updates.pop(),
            _ => {
                let updates: Vec<&[u8]> = updates.iter().map(Vec::as_slice).collect();
                crate::merge_updates(&updates).ok()
            }
        }
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
                let element = self.node(&id)?;
                let (index, json) = (element.index, element.to_json(true));
                // The place is looked up first: it may be beside the element itself.
                let (left, right) =
                    self.neighbours(self.index_of(&parent)?, &position, Some(index));
                let parent = self.index_of(&parent)?;
                let deleted = self.delete_node(index)?;
                let inserted = self.insert_between(parent, left, right, &json)?;
                crate::merge_updates(&[&deleted, &inserted]).ok()
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
                self.edit_text(&id, |content, transaction| match &attributes {
                    None => content.insert(transaction, at, &text),
                    Some(attributes) => {
                        content.insert_with_attributes(transaction, at, &text, attrs(attributes));
                    }
                })
            }
            Edit::DeleteText { id, from, to } => {
                let (from, to) = (self.text_offset(&id, from)?, self.text_offset(&id, to)?);
                if from == to {
                    return None;
                }
                self.edit_text(&id, |content, transaction| {
                    content.remove_range(transaction, from, to - from);
                })
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
                self.edit_text(&id, |content, transaction| {
                    content.format(transaction, from, to - from, attrs(&attributes));
                })
            }
        }
    }

    pub(super) fn index_of(&self, target: &Target) -> Option<NodeIndex> {
        match target {
            Target::Id(id) => Some(self.node(id)?.index),
            Target::Root => Some(ROOT_NODE),
        }
    }

    pub(super) fn delete_node(&mut self, index: NodeIndex) -> Option<Vec<u8>> {
        let Id { client, clock } = self.history.node(index).id;
        let range = IdRange {
            client,
            start: clock,
            end: clock + 1,
        };
        let update = writer::update(Vec::new(), vec![range], |_| 0).ok()?;
        self.integrate(&[], &[range], &update).ok()?;
        Some(update)
    }

    fn insert_node(
        &mut self,
        parent: NodeIndex,
        position: &Position,
        element: &Value,
    ) -> Option<Vec<u8>> {
        let (left, right) = self.neighbours(parent, position, None);
        self.insert_between(parent, left, right, element)
    }

    fn insert_between(
        &mut self,
        parent: NodeIndex,
        left: Option<NodeIndex>,
        right: Option<NodeIndex>,
        element: &Value,
    ) -> Option<Vec<u8>> {
        let id_of = |node: NodeIndex| self.history.node(node).id;
        let clock = self.history.clock(self.client_id);
        let mut builder = Builder::new(self.client_id, clock);
        let first = match (left, right) {
            (None, None) if parent == ROOT_NODE => Place::OnlyInRoot(ROOT),
            (None, None) => Place::Only(id_of(parent)),
            (left, right) => Place::Between(left.map(id_of), right.map(id_of)),
        };
        let around = parent;
        let parent = match parent {
            ROOT_NODE => Parent::Root,
            parent => Parent::Item(id_of(parent)),
        };
        let elements = std::slice::from_ref(element);
        let schema = self.schema.clone();
        build_children(
            &mut builder,
            &schema,
            parent,
            Some(first),
            elements,
            &mut String::new,
        );
        let update = builder.finish();
        let scan = Scan::read(&update).ok()?;
        self.integrate(&scan.structs, &[], &update).ok()?;
        if right.is_none() {
            let made = scan
                .structs
                .first()
                .and_then(|first| self.history.made_by(first.id));
            self.history.node_mut(around).last_child = made;
        }
        Some(update)
    }

    /// The children between which a position is, without the one that is on its way.
    fn neighbours(
        &self,
        parent: NodeIndex,
        position: &Position,
        moving: Option<NodeIndex>,
    ) -> (Option<NodeIndex>, Option<NodeIndex>) {
        let transaction = yrs::Transact::transact(&self.doc);
        if let Some(found) = self.neighbours_by_sight(&transaction, parent, position, moving) {
            return found;
        }
        let mut children = self.child_nodes(&transaction, parent);
        children.retain(|&child| Some(child) != moving);
        let find = |id: &str| {
            let index = self.node(id)?.index;
            children.iter().position(|&child| child == index)
        };
        let at = match position {
            Position::After(id) => find(id).map_or(children.len(), |at| at + 1),
            Position::Before(id) => find(id).unwrap_or(0),
            Position::First => 0,
            Position::Index(index) => (*index).min(children.len()),
            Position::Last => children.len(),
        };
        let left = at.checked_sub(1).map(|at| children[at]);
        (left, children.get(at).copied())
    }

    /// The same without a look at all children, where that can be.
    fn neighbours_by_sight(
        &self,
        transaction: &yrs::Transaction<'_>,
        parent: NodeIndex,
        position: &Position,
        moving: Option<NodeIndex>,
    ) -> Option<(Option<NodeIndex>, Option<NodeIndex>)> {
        if moving.is_some() || self.history.node(parent).is_mixed {
            return None;
        }
        match position {
            Position::After(id) => {
                let left = self.node(id)?.index;
                let right = self.next_sibling(transaction, left);
                (self.history.node(left).parent == parent).then_some((Some(left), right))
            }
            Position::First => {
                let branch = self.branch(transaction, parent)?;
                let first = branch.first_child();
                let first = first.and_then(|first| self.node_of(&first.as_ptr()));
                Some((None, first))
            }
            Position::Last => {
                // The one that was last when a child was last appended here.
                let last = self.history.node(parent).last_child?;
                let is_last = !self.history.node(last).is_dead
                    && self.next_sibling(transaction, last).is_none();
                is_last.then_some((Some(last), None))
            }
            Position::Before(_) | Position::Index(_) => None,
        }
    }

    fn next_sibling(
        &self,
        transaction: &yrs::Transaction<'_>,
        index: NodeIndex,
    ) -> Option<NodeIndex> {
        let branch = self.branch(transaction, index)?;
        let mut siblings = branch.siblings(transaction);
        siblings
            .next()
            .and_then(|next| self.node_of(&next.as_ptr()))
    }

    /// Sets or removes. A root attribute that an npm client wrote is on the tree's own root; what is
    /// written here stands beside it.
    fn change_attribute(
        &mut self,
        index: NodeIndex,
        name: &str,
        value: Option<&Value>,
    ) -> Option<Vec<u8>> {
        let element = super::Element {
            document: self,
            index,
        };
        if value.is_none() && element.attribute(name).is_none() {
            return None;
        }
        let mut before = Before::default();
        let key = self.history.key(name);
        if self.watch.is_some() {
            self.look_at(&mut before, index, key);
        }
        let id = (index != ROOT_NODE).then(|| engine_id(self.history.node(index).id));
        let update = self.edit_directly(before, |transaction| {
            let branch = match id {
                Some(id) => BranchID::get_nested(transaction, &id),
                None => BranchID::get_root(transaction, ROOT),
            };
            let Some(branch) = branch.map(XmlElementRef::from) else {
                return;
            };
            let is_here = id.is_some() || branch.get_attribute(transaction, name).is_some();
            let beside = match id {
                Some(_) => None,
                None => BranchID::get_root(transaction, ROOT_ATTRIBUTES).map(MapRef::from),
            };
            match (value, beside) {
                (Some(value), Some(beside)) if !is_here => {
                    beside.insert(transaction, name, any(value));
                }
                (Some(value), _) => {
                    branch.insert_attribute(transaction, name, any(value));
                }
                (None, beside) => {
                    branch.remove_attribute(transaction, &name);
                    if let Some(beside) = beside {
                        beside.remove(transaction, name);
                    }
                }
            }
        });
        Some(update)
    }

    fn edit_text(
        &mut self,
        id: &str,
        edit: impl FnOnce(XmlTextRef, &mut yrs::TransactionMut<'_>),
    ) -> Option<Vec<u8>> {
        let text = self.node(id)?.text()?.engine_id();
        let update = self.edit_directly(Before::default(), |transaction| {
            if let Some(branch) = BranchID::get_nested(transaction, &text) {
                edit(XmlTextRef::from(branch), transaction);
            }
        });
        (update != [0, 0]).then_some(update)
    }

    /// A place in UTF-16 units, as the engine counts.
    pub(super) fn text_offset(&self, id: &str, position: TextPosition) -> Option<u32> {
        let units = match position {
            TextPosition::Utf16(units) => units,
            TextPosition::Scalars(scalars) => {
                let text = self.node(id)?.text()?.to_plain();
                text.chars().take(scalars).map(char::len_utf16).sum()
            }
        };
        u32::try_from(units).ok()
    }
}

fn attrs(attributes: &Map<String, Value>) -> Attrs {
    let attributes = attributes.iter();
    attributes
        .map(|(name, value)| (name.as_str().into(), any(value)))
        .collect()
}

/// A JSON value as the engine holds it.
fn any(value: &Value) -> Any {
    match value {
        Value::Null => Any::Null,
        Value::Bool(value) => Any::Bool(*value),
        Value::Number(number) => match number.as_i64() {
            Some(integer) if integer.unsigned_abs() < 1 << 53 => Any::from(integer),
            _ => Any::from(number.as_f64().unwrap_or_default()),
        },
        Value::String(text) => Any::from(text.as_str()),
        Value::Array(items) => Any::from(items.iter().map(any).collect::<Vec<Any>>()),
        Value::Object(members) => {
            let members = members.iter();
            let members = members.map(|(key, value)| (key.clone(), any(value)));
            Any::from(members.collect::<std::collections::HashMap<String, Any>>())
        }
    }
}
