//! The live document: an element tree in a CRDT, with an index by `$id`.
//!
//! The engine holds operations, order and values. Beside it stands what it knows nothing of: the
//! schema, who has which `$id`, what waits for missing operations, what was changed and by whom. All
//! of it is kept up at a cost that follows the update and not the document.

mod anchor;
mod apply;
mod children;
mod compact;
mod delta;
mod draft;
mod edit;
mod event;
mod grep;
mod ids;
mod insert;
mod json;
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

pub use anchor::Anchor;
pub use edit::{Edit, EditError, Position, Target, TextPosition};
pub use event::{Change, Event, Origin, TextChange};
pub use grep::{PatternError, grep_json};
pub use insert::InsertError;
pub use limits::Limits;
pub use patch::{PatchError, PatchOutcome, PatchStep};
pub use read::{Element, Text};
pub use remake::{Remade, RemakeError};
pub use replace::ReplaceError;
pub use violation::Repair;

/// A live document with its schema.
///
/// Updates of other replicas come in by [`Self::apply_update`]; what is visible goes out by
/// [`Self::encode_state`] and [`Self::encode_diff`]. What builds on operations that have not arrived
/// waits inside, invisible, until they do.
pub struct MeshDocument {
    schema: MeshSchema,
    client_id: u64,
    is_client_id_shared: bool,
    // Whether an edit needed more operations than its client id has left.
    is_exhausted: bool,
    limits: Limits,
    engine: Engine,
    pending: Pending,
    ids: Ids,
    // What changed since it was last known to fit the schema.
    suspects: Vec<NodeIndex>,
    // How often others have changed the document.
    epoch: u64,
    undo: Option<undo::History>,
    // Marks edits, so that some of them can be removed from the undo history.
    mark: u64,
    waypoint: Option<Waypoint>,
    watch: Option<Watch>,
}

impl MeshDocument {
    /// An empty document; `client_id` marks what is edited here and must be unique among replicas. It
    /// is cut to 53 bits, as far as JavaScript counts; keep it within 32 bits if Python programs read the
    /// document by pycrdt, which cuts it there.
    pub fn new(schema: MeshSchema, client_id: u64) -> Self {
        Self::with_limits(schema, client_id, Limits::default())
    }

    /// A copy of the document as it is now, for readers on another thread: the same content, without
    /// the undo history and without the events that wait to be polled.
    ///
    /// It takes time and memory in proportion to the document, some 600 bytes for each element.
    ///
    /// ```
    /// # use meshagent_document::{MeshDocument, MeshSchema, Target};
    /// # use serde_json::json;
    /// let schema = MeshSchema::builtin("document").ok_or("there is one")?;
    /// let mut document = MeshDocument::new(schema, 1);
    /// let before = document.snapshot();
    /// document.append_child(Target::Root, json!({ "body": { "text": "茶" } }))?;
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

    /// A number that grows with each change of the content. The same number of the same document means the same
    /// content.
    pub fn revision(&self) -> u64 {
        self.engine.revision()
    }

    /// The same with other bounds.
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

    /// The schema.
    pub fn schema(&self) -> &MeshSchema {
        &self.schema
    }

    /// What marks operations that are made here.
    pub fn client_id(&self) -> u64 {
        self.client_id
    }

    /// Marks what is edited from now on with another client id; see [`Self::new`].
    pub fn set_client_id(&mut self, client_id: u64) {
        self.client_id = client_id & ((1 << 53) - 1);
        self.is_client_id_shared = false;
    }

    /// Whether operations of this client are here, or wait, or something that waits builds on them.
    pub fn knows_client(&self, client_id: u64) -> bool {
        self.engine.clock(client_id) > 0 || self.pending.knows(client_id)
    }

    /// Whether somebody else writes with this document's client id: an update brought operations under it that were
    /// not made here, deleted such, or built on them. Choose another id then, before the next edit; see
    /// [`Self::set_client_id`].
    pub fn is_client_id_shared(&self) -> bool {
        self.is_client_id_shared
    }

    /// The bounds.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Sets other bounds for what comes from now on; what is there already stays.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Whether something waits for operations that are missing.
    pub fn has_gap(&self) -> bool {
        !self.pending.is_empty()
    }

    /// How many elements there are below the root.
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
