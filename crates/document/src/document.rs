//! The live document: an element tree in a CRDT, with an index by `$id`.

use serde_json::Value;
use thiserror::Error;

use crate::schema::{MeshSchema, Violation};
use crate::update::{Applied, DecodeError, UpdateKind};

/// A live document with its schema.
#[derive(Debug)]
pub struct MeshDocument {
    schema: MeshSchema,
}

/// A read-only handle of one element.
#[derive(Clone, Copy, Debug)]
pub struct Element<'a> {
    document: &'a MeshDocument,
}

impl Element<'_> {
    /// The document that the element is in.
    pub fn document(&self) -> &MeshDocument {
        self.document
    }
}

/// Why JSON was not inserted.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum InsertError {
    /// The schema forbids it; all violations are listed.
    #[error("the schema does not allow this: {}", crate::document::list(.0))]
    Invalid(Vec<Violation>),
    /// The document already has content.
    #[error("the document already has content; edit it instead")]
    NotEmpty,
}

fn list(violations: &[Violation]) -> String {
    violations
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}

impl MeshDocument {
    /// An empty document; `client_id` marks what is edited here and must be unique among replicas.
    pub fn new(schema: MeshSchema, client_id: u64) -> Self {
        let _ = client_id;
        Self { schema }
    }

    /// The schema.
    pub fn schema(&self) -> &MeshSchema {
        &self.schema
    }

    /// Fills an empty document with JSON (`{root tag: {…}}`); element ids come from `next_id`.
    ///
    /// # Errors
    /// [`InsertError`]; the document is as it was.
    pub fn insert_json(
        &mut self,
        json: &Value,
        next_id: &mut dyn FnMut() -> String,
    ) -> Result<(), InsertError> {
        let _ = (json, next_id);
        unimplemented!()
    }

    /// What an update is to this document, which stays as it is.
    ///
    /// # Errors
    /// [`DecodeError`] if it is malformed.
    pub fn classify(&self, update: &[u8]) -> Result<UpdateKind, DecodeError> {
        let _ = update;
        unimplemented!()
    }

    /// Applies an update.
    ///
    /// # Errors
    /// [`DecodeError`] if it is malformed; the document is as it was.
    pub fn apply_update(&mut self, update: &[u8]) -> Result<Applied, DecodeError> {
        let _ = update;
        unimplemented!()
    }

    /// Whether something waits for operations that are missing.
    pub fn has_gap(&self) -> bool {
        unimplemented!()
    }

    /// The state vector (v1) of what is visible.
    pub fn state_vector(&self) -> Vec<u8> {
        unimplemented!()
    }

    /// All that is visible, as one v1 update.
    pub fn encode_state(&self) -> Vec<u8> {
        unimplemented!()
    }

    /// What waits for missing operations, as one v1 update; `None` if nothing does.
    pub fn encode_pending(&self) -> Option<Vec<u8>> {
        unimplemented!()
    }

    /// What a replica with this state vector lacks, as one v1 update.
    ///
    /// # Errors
    /// [`DecodeError`] if the vector is malformed.
    pub fn encode_diff(&self, state_vector: &[u8]) -> Result<Vec<u8>, DecodeError> {
        let _ = state_vector;
        unimplemented!()
    }

    /// The document as JSON, with or without `$id`s.
    pub fn to_json(&self, include_ids: bool) -> Value {
        let _ = include_ids;
        unimplemented!()
    }

    /// How many elements there are below the root.
    pub fn element_count(&self) -> usize {
        unimplemented!()
    }

    /// The element with this `$id`.
    pub fn node(&self, id: &str) -> Option<Element<'_>> {
        let _ = id;
        unimplemented!()
    }
}
