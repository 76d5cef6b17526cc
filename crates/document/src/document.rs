//! The live document: an element tree in a CRDT, with an index by `$id`.
//!
//! The engine holds operations, order and values. This module adds the schema, the index of `$id`s,
//! the updates that wait for missing operations, the events, and the undo history. The cost of
//! keeping them current is proportional to the update, not to the document.

mod anchor;
mod apply;
mod children;
mod compact;
mod delta;
mod draft;
mod edit;
mod event;
mod extent;
mod grep;
mod ids;
mod insert;
mod json;
mod lacking;
mod limits;
mod measure;
mod memory;
mod patch;
mod pending;
mod ranges;
mod read;
mod remake;
mod replace;
mod settle;
mod undo;
mod violation;

use std::fmt;

use self::event::Watch;
use self::ids::Ids;
use self::pending::Pending;
use crate::engine::{Engine, NodeIndex, Waypoint};
use crate::schema::MeshSchema;

pub use crate::engine::JsonSize;
pub use anchor::Anchor;
pub use edit::{Edit, EditError, Position, Target, TextPosition};
pub use event::{Change, Event, Origin, TextChange};
pub use grep::{PatternError, grep_json};
pub use insert::InsertError;
pub use limits::Limits;
pub use patch::{PatchBound, PatchError, PatchOutcome, PatchPlan, PatchStep};
pub use read::{Element, Text};
pub use remake::{Remade, RemakeError};
pub use replace::ReplaceError;
pub use violation::Repair;

/// A live document with its schema.
///
/// Updates of other replicas come in through [`Self::apply_update`]; [`Self::encode_state`] and
/// [`Self::encode_diff`] return the visible state as updates. Operations that build on missing
/// operations are held back, invisible, until the missing ones arrive.
pub struct MeshDocument {
    schema: MeshSchema,
    client_id: u64,
    is_client_id_shared: bool,
    // An edit needed more operations than its client id has left.
    is_exhausted: bool,
    limits: Limits,
    engine: Engine,
    pending: Pending,
    ids: Ids,
    // Nodes changed since the last check against the schema.
    suspects: Vec<NodeIndex>,
    // Counts the changes made by other clients.
    epoch: u64,
    undo: Option<undo::History>,
    // Marks edits, so that some of them can be removed from the undo history.
    mark: u64,
    waypoint: Option<Waypoint>,
    watch: Option<Watch>,
}

impl MeshDocument {
    /// Creates an empty document. `client_id` identifies the operations made here and must be
    /// unique among replicas.
    ///
    /// The id is truncated to 53 bits, the range of JavaScript's exact integers. Keep it within 32
    /// bits if Python programs read the document with pycrdt, which truncates ids to 32 bits.
    pub fn new(schema: MeshSchema, client_id: u64) -> Self {
        Self::with_limits(schema, client_id, Limits::default())
    }

    /// Returns a copy of the current document for readers on another thread: the same content,
    /// without the undo history and without unpolled events.
    ///
    /// The copy takes time and memory proportional to the document: about 600 bytes per element.
    ///
    /// ```
    /// # use meshagent_document::{MeshDocument, MeshSchema, Target};
    /// # use serde_json::json;
    /// let schema = MeshSchema::builtin("document").ok_or("no such schema")?;
    /// let mut document = MeshDocument::new(schema, 1);
    /// let before = document.snapshot();
    /// let mut next_id = || "body-1".to_owned();
    /// document.append_child(Target::Root, json!({ "body": { "text": "茶" } }), &mut next_id)?;
    /// assert_eq!(before.to_json(false), json!({ "document": { "content": [] } }));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn snapshot(&self) -> Self {
        Self {
            schema: self.schema.clone(),
            engine: self.engine.clone(),
            pending: self.pending.clone(),
            ids: self.ids.clone(),
            suspects: self.suspects.clone(),
            undo: None,
            waypoint: None,
            watch: None,
            ..*self
        }
    }

    /// Returns a number that grows with each change of the content. For one document, equal numbers
    /// mean equal content.
    pub fn revision(&self) -> u64 {
        self.engine.revision()
    }

    /// Like [`Self::new`], with other limits.
    pub fn with_limits(schema: MeshSchema, client_id: u64, limits: Limits) -> Self {
        Self {
            schema,
            client_id: client_id & ((1 << 53) - 1),
            is_client_id_shared: false,
            is_exhausted: false,
            limits,
            engine: Engine::new(),
            pending: Pending::default(),
            ids: Ids::default(),
            suspects: Vec::new(),
            epoch: 0,
            undo: None,
            mark: 0,
            waypoint: None,
            watch: None,
        }
    }

    /// The schema that edits are checked against.
    pub fn schema(&self) -> &MeshSchema {
        &self.schema
    }

    /// The client id of operations made here.
    pub fn client_id(&self) -> u64 {
        self.client_id
    }

    /// Sets the client id of later edits; see [`Self::new`].
    pub fn set_client_id(&mut self, client_id: u64) {
        self.client_id = client_id & ((1 << 53) - 1);
        self.is_client_id_shared = false;
    }

    /// Whether the document holds or references operations of this client, pending ones included.
    pub fn knows_client(&self, client_id: u64) -> bool {
        self.engine.clock(client_id) > 0 || self.pending.knows(client_id)
    }

    /// Whether another replica writes with this document's client id.
    ///
    /// This is so if an update contained, deleted, or built on operations with this id that were
    /// not made here. Choose another id with [`Self::set_client_id`] before the next edit.
    pub fn is_client_id_shared(&self) -> bool {
        self.is_client_id_shared
    }

    /// The limits that updates and edits must keep.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Sets the limits for later updates and edits; existing content stays.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Whether pending operations wait for some with this document's client id, which the next edit
    /// may make.
    pub fn is_client_id_awaited(&self) -> bool {
        self.pending.knows(self.client_id)
    }

    /// Whether some operations wait for missing ones.
    pub fn has_gap(&self) -> bool {
        !self.pending.is_empty()
    }

    /// The number of elements below the root.
    pub fn element_count(&self) -> usize {
        self.ids.live()
    }
}

impl fmt::Debug for MeshDocument {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("MeshDocument")
            .field("client_id", &self.client_id)
            .field("elements", &self.element_count())
            .field("has_gap", &self.has_gap())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
