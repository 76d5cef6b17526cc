//! Edits of a document whose updates are collected.

use std::ops::Deref;

use meshagent_document::{
    Edit, EditError, MeshDocument, PatchError, Position, ReplaceError, Target,
};
use serde_json::Value;
use uuid::Uuid;

/// What a closure given to [`LiveDocument::edit`](crate::LiveDocument::edit) edits: the document to read, and the ways
/// to change it. New elements get random `$id`s.
#[derive(Debug)]
pub struct Editor<'a> {
    document: &'a mut MeshDocument,
    updates: Vec<Vec<u8>>,
}

impl Deref for Editor<'_> {
    type Target = MeshDocument;

    fn deref(&self) -> &MeshDocument {
        self.document
    }
}

impl<'a> Editor<'a> {
    pub(crate) fn new(document: &'a mut MeshDocument) -> Self {
        Self {
            document,
            updates: Vec::new(),
        }
    }

    pub(crate) fn into_updates(self) -> Vec<Vec<u8>> {
        self.updates
    }

    /// Applies edits as one transaction. Returns whether there was anything to do.
    ///
    /// # Errors
    ///
    /// [`EditError`] of the first edit that is refused; the document is as it was.
    pub fn apply(&mut self, edits: &[Edit]) -> Result<bool, EditError> {
        let update = self.document.edit(edits, &mut new_id)?;
        Ok(self.collect(update))
    }

    /// Appends a child element, `{tag: {attributes…}}`; its `$id`.
    ///
    /// # Errors
    ///
    /// As [`apply`](Self::apply).
    pub fn append_child(&mut self, parent: Target, element: Value) -> Result<String, EditError> {
        self.insert_child(parent, Position::Last, element)
    }

    /// Inserts a child element, `{tag: {attributes…}}`; its `$id`.
    ///
    /// # Errors
    ///
    /// As [`apply`](Self::apply).
    pub fn insert_child(
        &mut self,
        parent: Target,
        position: Position,
        mut element: Value,
    ) -> Result<String, EditError> {
        let id = element_id(&mut element);
        self.apply(&[Edit::Insert {
            parent,
            position,
            element,
        }])?;
        Ok(id)
    }

    /// Gives an attribute a value. Returns whether it is another one.
    ///
    /// # Errors
    ///
    /// As [`apply`](Self::apply).
    pub fn set_attribute(
        &mut self,
        target: Target,
        name: &str,
        value: impl Into<Value>,
    ) -> Result<bool, EditError> {
        let update = self.document.set_attribute(target, name, value.into())?;
        Ok(self.collect(update))
    }

    /// Deletes an element and all below it.
    ///
    /// # Errors
    ///
    /// As [`apply`](Self::apply).
    pub fn delete(&mut self, id: &str) -> Result<bool, EditError> {
        let update = self.document.delete(id)?;
        Ok(self.collect(update))
    }

    /// Applies a JSON Patch to the document's JSON form, all of it or nothing.
    ///
    /// # Errors
    ///
    /// [`PatchError`] with the operation that failed; the document is as it was.
    pub fn apply_patch(&mut self, patch: &Value) -> Result<bool, PatchError> {
        let update = self.document.apply_patch(patch, &mut new_id)?;
        Ok(self.collect(update))
    }

    /// Makes the document equal to this JSON, `{root tag: {…}}`, by the smallest change.
    ///
    /// # Errors
    ///
    /// [`ReplaceError`]; the document is as it was.
    pub fn replace_json(&mut self, json: &Value) -> Result<bool, ReplaceError> {
        let update = self.document.replace_json(json, &mut new_id)?;
        Ok(self.collect(update))
    }

    /// Starts, or stops, to remember edits for [`undo`](Self::undo); those within `window` milliseconds are undone
    /// together.
    pub fn remember_edits(&mut self, on: bool, window: u64) {
        self.document.remember_edits(on, window);
    }

    /// Takes the last remembered edit of this replica back. Returns whether there was one.
    pub fn undo(&mut self) -> bool {
        let update = self.document.undo();
        self.collect(update)
    }

    /// Does again what was undone last. Returns whether there was anything.
    pub fn redo(&mut self) -> bool {
        let update = self.document.redo();
        self.collect(update)
    }

    fn collect(&mut self, update: Option<Vec<u8>>) -> bool {
        let is_some = update.is_some();
        self.updates.extend(update);
        is_some
    }
}

fn new_id() -> String {
    Uuid::new_v4().to_string()
}

/// The `$id` that a new element has, or gets.
fn element_id(element: &mut Value) -> String {
    let attributes = element
        .as_object_mut()
        .and_then(|element| element.values_mut().next())
        .and_then(Value::as_object_mut);
    let Some(attributes) = attributes else {
        // The document will say what is wrong with it.
        return String::new();
    };
    let id = attributes
        .entry(meshagent_document::ID_ATTRIBUTE)
        .or_insert_with(|| new_id().into());
    id.as_str().unwrap_or_default().to_owned()
}
