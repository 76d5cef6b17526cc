//! Schema-checked live documents: [`MeshSchema`] and [`MeshDocument`] over a Yjs-compatible CRDT.
//!
//! The crate contains no networking, no file access, no clock, no thread and no random source: client
//! ids and element ids come in as arguments, updates go in and out as bytes. `examples/two_replicas.rs`
//! shows it at work.
//!
//! # Garbage
//! What is deleted leaves a trace: the CRDT has to know that an operation happened to tell an echo from
//! news. Content goes at once, with all that was below a deleted element; runs of deleted operations of
//! one client that stand side by side share one entry of a few bytes, here and in
//! [`MeshDocument::encode_state`]. So a snapshot of the state drops the content and the steps that led
//! to it, but not the number of operations of each client that ever edited. What waits for missing
//! operations is no part of it; [`MeshDocument::encode_pending`] keeps that.

// `use crate::test;` stands in each module of tests, so that `#[test]` is what the target's runner knows.
#[cfg(all(test, not(target_arch = "wasm32")))]
pub(crate) use std::prelude::v1::test;
#[cfg(all(test, target_arch = "wasm32"))]
pub(crate) use wasm_bindgen_test::wasm_bindgen_test as test;

mod document;
mod engine;
mod schema;
mod update;

pub use document::{
    Anchor, Change, Edit, EditError, Element, Event, InsertError, Limits, MeshDocument, Origin,
    PatchError, PatchOutcome, PatchStep, PatternError, Position, Remade, RemakeError, Repair,
    ReplaceError, Target, Text, TextChange, TextPosition, grep_json,
};
pub use schema::{
    ChildProperty, ElementProperty, ElementType, ID_ATTRIBUTE, InferError, MeshSchema, SchemaError,
    SchemaLimits, SimpleValue, StrictError, TEXT_TAG, ValueProperty, Violation, Violations,
};
pub use update::{
    Applied, DecodeError, Fitted, Inspection, UpdateKind, check_state_vector, fit_update,
    merge_updates,
};
