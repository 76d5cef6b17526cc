//! The editor that an edit closure receives. It collects the updates of its edits.

use std::ops::Deref;
use std::time::Duration;

use meshagent_document::{
    Edit, EditError, MeshDocument, PatchError, Position, ReplaceError, Target,
};
use serde_json::Value;
use uuid::Uuid;

/// The argument of a closure given to [`LiveDocument::edit`](crate::LiveDocument::edit): reads the
/// document, and changes it. New elements get random `$id`s.
#[derive(Debug)]
pub struct Editor<'a> {
    document: &'a mut MeshDocument,
    first: u64,
    /// Milliseconds on the replica's clock.
    now: u64,
    updates: Vec<Vec<u8>>,
}

impl Deref for Editor<'_> {
    type Target = MeshDocument;

    fn deref(&self) -> &MeshDocument {
        self.document
    }
}

impl<'a> Editor<'a> {
    /// Numbers the edits from `first` on.
    pub(crate) fn new(document: &'a mut MeshDocument, first: u64, now: Duration) -> Self {
        document.mark_edits(first);
        let now = millis(now);
        document.set_time(now);
        Self {
            document,
            first,
            now,
            updates: Vec::new(),
        }
    }

    pub(crate) fn into_updates(self) -> Vec<Vec<u8>> {
        self.updates
    }

    /// Applies edits as one transaction. Returns whether anything changed.
    ///
    /// # Errors
    ///
    /// [`EditError`] of the first invalid edit; the document does not change.
    ///
    /// ```
    /// # use meshagent_document::Edit;
    /// # use meshagent_document::Position;
    /// # use meshagent_document::Target;
    /// # use serde_json::json;
    /// # meshagent_testing::in_room(async |room| {
    /// # let document = room.sync().open("notes.document").await?;
    /// let edits = ["tea", "milk"].map(|text| Edit::Insert {
    ///     parent: Target::Root,
    ///     position: Position::Last,
    ///     element: json!({ "body": { "text": text } }),
    /// });
    /// assert!(document.edit(|d| d.apply(&edits))??);
    /// assert_eq!(document.read(|d| d.root().child_count()), 2);
    /// # Ok(())
    /// # });
    /// ```
    pub fn apply(&mut self, edits: &[Edit]) -> Result<bool, EditError> {
        let update = self.document.edit(edits, &mut new_id)?;
        Ok(self.collect(update))
    }

    /// Appends a child element, `{tag: {attributes…}}`. Returns its `$id`.
    ///
    /// # Errors
    ///
    /// As [`apply`](Self::apply).
    ///
    /// ```
    /// # use meshagent_document::Target;
    /// # use serde_json::json;
    /// # meshagent_testing::in_room(async |room| {
    /// # let document = room.sync().open("notes.document").await?;
    /// let tea = json!({ "body": { "text": "tea" } });
    /// let id = document.edit(|d| d.append_child(Target::Root, tea))??;
    /// assert!(document.read(|d| d.node(&id).is_some()));
    /// # Ok(())
    /// # });
    /// ```
    pub fn append_child(&mut self, parent: Target, element: Value) -> Result<String, EditError> {
        self.insert_child(parent, Position::Last, element)
    }

    /// Inserts a child element, `{tag: {attributes…}}`. Returns its `$id`.
    ///
    /// # Errors
    ///
    /// As [`apply`](Self::apply).
    ///
    /// ```
    /// # use meshagent_document::Position;
    /// # use meshagent_document::Target;
    /// # use serde_json::json;
    /// # meshagent_testing::in_room(async |room| {
    /// # let document = room.sync().open("notes.document").await?;
    /// # let tea = json!({ "body": { "text": "tea" } });
    /// # let tea = document.edit(|d| d.append_child(Target::Root, tea))??;
    /// let milk = json!({ "body": { "text": "milk" } });
    /// document.edit(|d| d.insert_child(Target::Root, Position::Before(tea), milk))??;
    /// assert_eq!(document.to_json()["document"]["content"][0]["body"]["text"], "milk");
    /// # Ok(())
    /// # });
    /// ```
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

    /// Sets an attribute. A value equal to the current one is written again, so that it competes
    /// with concurrent writes. Returns whether anything was written.
    ///
    /// # Errors
    ///
    /// As [`apply`](Self::apply).
    ///
    /// ```
    /// # use meshagent_document::Target;
    /// # use serde_json::json;
    /// # meshagent_testing::in_room(async |room| {
    /// # let document = room.sync().open("notes.document").await?;
    /// # let tea = json!({ "body": { "text": "tea" } });
    /// # let tea = document.edit(|d| d.append_child(Target::Root, tea))??;
    /// document.edit(|d| d.set_attribute(Target::Id(tea), "text", "green tea"))??;
    /// assert_eq!(document.to_json()["document"]["content"][0]["body"]["text"], "green tea");
    /// # Ok(())
    /// # });
    /// ```
    pub fn set_attribute(
        &mut self,
        target: Target,
        name: &str,
        value: impl Into<Value>,
    ) -> Result<bool, EditError> {
        let update = self.document.set_attribute(target, name, value.into())?;
        Ok(self.collect(update))
    }

    /// Deletes an element and its descendants. Returns whether anything changed.
    ///
    /// # Errors
    ///
    /// As [`apply`](Self::apply).
    ///
    /// ```
    /// # use meshagent_document::Target;
    /// # use serde_json::json;
    /// # meshagent_testing::in_room(async |room| {
    /// # let document = room.sync().open("notes.document").await?;
    /// # let tea = json!({ "body": { "text": "tea" } });
    /// # let tea = document.edit(|d| d.append_child(Target::Root, tea))??;
    /// document.edit(|d| d.delete(&tea))??;
    /// assert_eq!(document.to_json(), json!({ "document": { "content": [] } }));
    /// # Ok(())
    /// # });
    /// ```
    pub fn delete(&mut self, id: &str) -> Result<bool, EditError> {
        let update = self.document.delete(id)?;
        Ok(self.collect(update))
    }

    /// Applies a JSON Patch to the document's JSON form, in one transaction. Returns whether
    /// anything changed.
    ///
    /// # Errors
    ///
    /// [`PatchError`] with the operation that failed; the document does not change.
    ///
    /// ```
    /// # use serde_json::json;
    /// # meshagent_testing::in_room(async |room| {
    /// # let document = room.sync().open("notes.document").await?;
    /// let tea = json!({ "body": { "text": "tea" } });
    /// let patch = json!([{ "op": "add", "path": "/document/content/-", "value": tea }]);
    /// assert!(document.edit(|d| d.apply_patch(&patch))??);
    /// // All of it or nothing.
    /// let patch = json!([
    ///     { "op": "remove", "path": "/document/content/0" },
    ///     { "op": "remove", "path": "/document/content/7" },
    /// ]);
    /// assert!(document.edit(|d| d.apply_patch(&patch))?.is_err());
    /// assert_eq!(document.to_json(), json!({ "document": { "content": [tea] } }));
    /// # Ok(())
    /// # });
    /// ```
    pub fn apply_patch(&mut self, patch: &Value) -> Result<bool, PatchError> {
        let update = self.document.apply_patch(patch, &mut new_id)?;
        Ok(self.collect(update))
    }

    /// Makes the document equal to this JSON, `{root tag: {…}}`, by the smallest change. Returns
    /// whether anything changed.
    ///
    /// # Errors
    ///
    /// [`ReplaceError`]; the document does not change.
    ///
    /// ```
    /// # use serde_json::json;
    /// # meshagent_testing::in_room(async |room| {
    /// # let document = room.sync().open("notes.document").await?;
    /// let wanted = json!({ "document": { "content": [{ "body": { "text": "tea" } }] } });
    /// assert!(document.edit(|d| d.replace_json(&wanted))??);
    /// assert_eq!(document.to_json(), wanted);
    /// # Ok(())
    /// # });
    /// ```
    pub fn replace_json(&mut self, json: &Value) -> Result<bool, ReplaceError> {
        let update = self.document.replace_json(json, &mut new_id)?;
        Ok(self.collect(update))
    }

    /// Starts recording edits for [`undo`](Self::undo). An edit joins the group of the edit before
    /// it if it follows within `window`, counted in whole milliseconds; a group is undone together.
    /// With [`Duration::ZERO`], each transaction is a group.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use meshagent_document::Target;
    /// # use serde_json::json;
    /// # meshagent_testing::in_room(async |room| {
    /// # let document = room.sync().open("notes.document").await?;
    /// document.edit(|d| d.remember_edits(Duration::from_millis(500)))?;
    /// # let tea = json!({ "body": { "text": "tea" } });
    /// document.edit(|d| d.append_child(Target::Root, tea))??;
    /// assert!(document.edit(|d| d.undo())?);
    /// # Ok(())
    /// # });
    /// ```
    pub fn remember_edits(&mut self, window: Duration) {
        self.document.remember_edits(true, millis(window));
        self.document.set_time(self.now);
    }

    /// Stops recording edits, and drops the recorded ones.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use meshagent_document::Target;
    /// # use serde_json::json;
    /// # meshagent_testing::in_room(async |room| {
    /// # let document = room.sync().open("notes.document").await?;
    /// document.edit(|d| d.remember_edits(Duration::ZERO))?;
    /// # let tea = json!({ "body": { "text": "tea" } });
    /// document.edit(|d| d.append_child(Target::Root, tea))??;
    /// document.edit(|d| d.forget_edits())?;
    /// assert!(!document.edit(|d| d.undo())?);
    /// # Ok(())
    /// # });
    /// ```
    pub fn forget_edits(&mut self) {
        self.document.remember_edits(false, 0);
    }

    /// Undoes the last group of recorded edits of this replica. Returns whether there was one.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use meshagent_document::Target;
    /// # use serde_json::json;
    /// # meshagent_testing::in_room(async |room| {
    /// # let document = room.sync().open("notes.document").await?;
    /// document.edit(|d| d.remember_edits(Duration::ZERO))?;
    /// # let tea = json!({ "body": { "text": "tea" } });
    /// document.edit(|d| d.append_child(Target::Root, tea))??;
    /// assert!(document.edit(|d| d.undo())?);
    /// assert_eq!(document.to_json(), json!({ "document": { "content": [] } }));
    /// assert!(!document.edit(|d| d.undo())?);
    /// # Ok(())
    /// # });
    /// ```
    pub fn undo(&mut self) -> bool {
        let update = self.document.undo();
        self.collect(update)
    }

    /// Redoes the last undo. Returns whether there was one.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use meshagent_document::Target;
    /// # use serde_json::json;
    /// # meshagent_testing::in_room(async |room| {
    /// # let document = room.sync().open("notes.document").await?;
    /// document.edit(|d| d.remember_edits(Duration::ZERO))?;
    /// # let tea = json!({ "body": { "text": "tea" } });
    /// document.edit(|d| d.append_child(Target::Root, tea))??;
    /// assert!(document.edit(|d| d.undo() && d.redo())?);
    /// assert_eq!(document.read(|d| d.root().child_count()), 1);
    /// # Ok(())
    /// # });
    /// ```
    pub fn redo(&mut self) -> bool {
        let update = self.document.redo();
        self.collect(update)
    }

    fn collect(&mut self, update: Option<Vec<u8>>) -> bool {
        let is_some = update.is_some();
        self.updates.extend(update);
        // Each edit has its own mark, so that a refused one can be removed from the undo history.
        let made = self.updates.len() as u64;
        self.document.mark_edits(self.first + made);
        is_some
    }
}

/// Whole milliseconds; at most `u64::MAX` of them.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn new_id() -> String {
    Uuid::new_v4().to_string()
}

/// The `$id` of a new element. A random one is added if it has none.
fn element_id(element: &mut Value) -> String {
    let attributes = element
        .as_object_mut()
        .and_then(|element| element.values_mut().next())
        .and_then(Value::as_object_mut);
    let Some(attributes) = attributes else {
        // The document reports what is wrong with the element.
        return String::new();
    };
    let id = attributes
        .entry(meshagent_document::ID_ATTRIBUTE)
        .or_insert_with(|| new_id().into());
    id.as_str().unwrap_or_default().to_owned()
}
