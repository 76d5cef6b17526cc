//! Schema-checked live documents: [`MeshSchema`] and [`MeshDocument`] over a Yjs-compatible CRDT.
//!
//! The crate contains no networking, no file access, no clock, no thread and no random source: client
//! ids and element ids come in as arguments, updates go in and out as bytes.

mod document;
mod schema;
mod update;

pub use document::{
    Change, Edit, EditError, Element, Event, InsertError, MeshDocument, Origin, PatchError,
    PatternError, Position, Repair, ReplaceError, Target, Text, TextPosition,
};
pub use schema::{
    ChildProperty, ElementProperty, ElementType, ID_ATTRIBUTE, InferError, MeshSchema, SchemaError,
    SimpleValue, StrictError, TEXT_TAG, ValueProperty, Violation,
};
pub use update::{Applied, DecodeError, UpdateKind, merge_updates};
