//! The list of a folder's threads: an open document to which each imported thread is added.

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

/// The list of threads, with the changes that others make to it meanwhile.
pub(crate) struct ThreadIndex {
    document: MeshDocument,
    stream: SyncStream,
    /// The elements by the path that they name, of the first with that path.
    ids: HashMap<String, String>,
    /// Lines that were added here and are not sent yet.
    unsent: Vec<Edit>,
    /// Other changes that are not sent yet.
    changes: Vec<Edit>,
}

/// Why the list can't be kept up to date any more.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum IndexError {
    /// An edit of it was refused.
    #[error("it can't be changed")]
    Edit(#[from] EditError),
    /// What the server sent is no update.
    #[error("it can't be read")]
    Read(#[from] DecodeError),
    /// A call to the server failed.
    #[error("it can't be read or written")]
    Call(#[from] CallError),
    /// Its stream ended.
    #[error("it was closed")]
    Closed(#[source] Option<StreamEnd>),
}

impl ThreadIndex {
    /// Opens the list, or makes it.
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
        // The list may have been made with a schema of its own; ours says what may be added.
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

    /// Waits until somebody else has changed the list. Cancel safe.
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

    /// Adds a thread at the end, or changes what the list says of it.
    pub(crate) fn put(&mut self, listing: Listing) {
        let attributes = [
            ("name", listing.name),
            ("path", listing.path.clone()),
            ("created_at", listing.created_at),
            ("modified_at", listing.modified_at),
        ];
        if let Some(id) = self.ids.get(&listing.path) {
            // What is said already is no change, in particular for lines that are not sent yet.
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

    /// How many lines are not sent yet.
    pub(crate) fn unsent(&self) -> usize {
        self.unsent.len() + self.changes.len()
    }

    /// Sends what is not sent yet, and waits until it is stored.
    pub(crate) async fn flush(&mut self) -> Result<(), IndexError> {
        let lines = std::mem::take(&mut self.unsent);
        if !lines.is_empty() {
            self.send(&lines).await?;
        }
        // Each by itself: published readers lose count when one update deletes in two places, and a new value
        // deletes the old one.
        for change in std::mem::take(&mut self.changes) {
            let is_there = match &change {
                Edit::SetAttribute {
                    target: Target::Id(id),
                    ..
                } => self.document.node(id).is_some(),
                _ => true,
            };
            // Somebody else may have deleted the line.
            if is_there {
                self.send(&[change]).await?;
            }
        }
        Ok(())
    }

    /// Closes the list; what was flushed is stored.
    pub(crate) async fn close(self) {
        // However it ends, there is nothing left to lose.
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
        // Lines that wait to be sent are as good as there.
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
