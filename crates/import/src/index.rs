//! The list of the threads in a folder: an open document to which each imported thread is added.

use std::collections::HashMap;

use meshagent_client::{CallError, Connection, StreamEnd, SyncStream};
use meshagent_document::{
    DecodeError, Edit, EditError, MeshDocument, MeshSchema, Position, Target,
};
use meshagent_protocol::{DocPath, StreamError, SyncOpenStart};
use serde_json::{Value, json};
use thiserror::Error;

use crate::thread::Listing;
use crate::{new_client_id, new_id};

/// The list of threads, including concurrent changes of others.
pub(crate) struct ThreadIndex {
    document: MeshDocument,
    stream: SyncStream,
    /// The id of the first element with each path.
    ids: HashMap<String, String>,
    /// Unsent insertions of entries.
    unsent: Vec<Edit>,
    /// Unsent changes of existing entries.
    changes: Vec<Edit>,
}

/// The error for a list that can't be updated.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum IndexError {
    /// An edit of the list was refused.
    #[error("the edit was refused")]
    Edit(#[from] EditError),
    /// The server sent an invalid update.
    #[error("the server sent an invalid update")]
    Read(#[from] DecodeError),
    /// A call to the server failed.
    #[error("the call failed")]
    Call(#[from] CallError),
    /// The stream of the list ended.
    #[error("the list was closed")]
    Closed(#[source] Option<StreamEnd>),
}

impl ThreadIndex {
    /// Opens the list; creates it if it does not exist.
    pub(crate) async fn open(
        room: &Connection,
        path: DocPath,
        schema: MeshSchema,
    ) -> Result<Self, IndexError> {
        let start = SyncOpenStart {
            schema: Some(schema.to_json()),
            merge: true,
            ..SyncOpenStart::new(path)
        };
        let stream = room.sync().open(&start).await?;
        // The list may have another schema; the built-in one determines what is added.
        let mut document = MeshDocument::new(schema, new_client_id());
        if !stream.state().is_empty() {
            document.apply_update(stream.state())?;
        }
        let mut index = Self {
            document,
            stream,
            ids: HashMap::new(),
            unsent: Vec::new(),
            changes: Vec::new(),
        };
        index.read_ids();
        Ok(index)
    }

    /// Waits for the next change by another participant. Cancel safe.
    pub(crate) async fn changed(&mut self) -> Result<(), IndexError> {
        match self.stream.recv().await {
            Ok(Some(update)) => {
                self.document.apply_update(&update)?;
                self.read_ids();
                Ok(())
            }
            Ok(None) => Err(IndexError::Closed(None)),
            Err(StreamEnd::Disconnected) => Err(CallError::Disconnected.into()),
            Err(StreamEnd::Refused(StreamError { code, text, .. })) => {
                Err(CallError::Refused { code, text }.into())
            }
            Err(end) => Err(IndexError::Closed(Some(end))),
        }
    }

    pub(crate) fn contains(&self, path: &str) -> bool {
        self.ids.contains_key(path)
    }

    /// Appends an entry for a thread, or updates the existing one.
    pub(crate) fn put(&mut self, listing: Listing) {
        let attributes = [
            ("name", listing.name),
            ("path", listing.path.clone()),
            ("created_at", listing.created_at),
            ("modified_at", listing.modified_at),
        ];
        if let Some(id) = self.ids.get(&listing.path) {
            // Equal values are skipped; unsent entries would otherwise be changed twice.
            let element = self.document.node(id);
            for (name, value) in attributes {
                let value = Value::from(value);
                if element.is_some_and(|element| element.attribute(name).as_ref() == Some(&value)) {
                    continue;
                }
                self.changes.push(Edit::SetAttribute {
                    target: Target::Id(id.clone()),
                    name: name.to_owned(),
                    value,
                });
            }
            return;
        }
        let id = new_id();
        let mut element = json!({ "$id": id });
        for (name, value) in attributes {
            element[name] = value.into();
        }
        self.unsent.push(Edit::Insert {
            parent: Target::Root,
            position: Position::Last,
            element: json!({ "thread": element }),
        });
        self.ids.insert(listing.path, id);
    }

    /// The number of unsent edits.
    pub(crate) fn unsent(&self) -> usize {
        self.unsent.len() + self.changes.len()
    }

    /// Sends all unsent edits, and waits until they are stored.
    pub(crate) async fn flush(&mut self) -> Result<(), IndexError> {
        let lines = std::mem::take(&mut self.unsent);
        if !lines.is_empty() {
            self.send(&lines).await?;
        }
        // One update each: a new value deletes the old one, and published readers fail if one
        // update deletes in two places.
        for change in std::mem::take(&mut self.changes) {
            let is_there = match &change {
                Edit::SetAttribute {
                    target: Target::Id(id),
                    ..
                } => self.document.node(id).is_some(),
                _ => true,
            };
            // Another participant may have deleted the entry.
            if is_there {
                self.send(&[change]).await?;
            }
        }
        Ok(())
    }

    /// Closes the list. Flushed edits are stored already.
    pub(crate) async fn close(self) {
        // Errors are ignored: no data is lost.
        let _ended = self.stream.close().await;
    }

    async fn send(&mut self, edits: &[Edit]) -> Result<(), IndexError> {
        let update = self.document.edit(edits, &mut new_id)?;
        if let Some(update) = update {
            self.stream.send(&update).await?;
        }
        Ok(())
    }

    fn read_ids(&mut self) {
        self.ids.clear();
        for element in self.document.root().children() {
            let Some(Value::String(path)) = element.attribute("path") else {
                continue;
            };
            if let Some(id) = element.id() {
                self.ids.entry(path).or_insert_with(|| id.to_owned());
            }
        }
        // Unsent entries count as well.
        for edit in &self.unsent {
            let Edit::Insert { element, .. } = edit else {
                continue;
            };
            let line = &element["thread"];
            if let (Some(path), Some(id)) = (line["path"].as_str(), line["$id"].as_str()) {
                self.ids
                    .entry(path.to_owned())
                    .or_insert_with(|| id.to_owned());
            }
        }
    }
}
