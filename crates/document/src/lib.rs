//! Schema-checked live documents: [`MeshSchema`] and [`MeshDocument`] over a Yjs-compatible CRDT.
//!
//! The crate contains no networking, no file access, no clock, no thread and no random source:
//! client ids and element ids are arguments, updates are bytes.
//!
//! # Schema and document
//! A schema defines the element types of a document: their attributes and the children that they
//! may have. A document is a tree of elements. Each element below the root has an `$id`, by which
//! edits and events refer to it. A `text` element holds rich text.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use meshagent_document::{
//!     ChildProperty, ElementType, MeshDocument, MeshSchema, SimpleValue, Target, ValueProperty,
//! };
//! use serde_json::json;
//!
//! let plan = ElementType::new("plan")
//!     .property(ValueProperty::new("title", SimpleValue::String))
//!     .property(ChildProperty::new("steps", ["step"]));
//! let step = ElementType::new("step")
//!     .property(ValueProperty::new("text", SimpleValue::String))
//!     .property(ValueProperty::new("done", SimpleValue::Boolean));
//! let schema = MeshSchema::new("plan", vec![plan, step])?;
//!
//! // Client ids must be unique among replicas, `$id`s within a document.
//! let mut document = MeshDocument::new(schema, 1);
//! let mut number = 0;
//! let mut next_id = || {
//!     number += 1;
//!     format!("step-{number}")
//! };
//! document.append_child(Target::Root, json!({"step": {"text": "pack"}}), &mut next_id)?;
//! assert_eq!(
//!     document.to_json(true),
//!     json!({"plan": {"steps": [{"step": {"$id": "step-1", "text": "pack"}}]}})
//! );
//!
//! // An edit that the schema does not allow is an error, and changes nothing.
//! let refused = document.set_attribute(Target::Id("step-1".into()), "done", json!("maybe"));
//! assert_eq!(
//!     refused.unwrap_err().to_string(),
//!     "the schema does not allow this: /done: expected boolean or null, found \"maybe\""
//! );
//! # Ok(())
//! # }
//! ```
//!
//! # Edits
//! [`MeshDocument::edit`] applies a list of [`Edit`]s as one transaction: all of them, or none. Two
//! other methods compute the edits: [`MeshDocument::apply_patch`] takes a JSON Patch, and
//! [`MeshDocument::replace_json`] the whole new state. Each returns a Yjs v1 update for other
//! replicas, or `None` if nothing changed.
//!
//! # Updates and events
//! Replicas that apply the same updates, in any order and any number of times, have the same state.
//! An update that arrives before its dependencies is pending until they arrive. A replica that was
//! offline sends its state vector, and gets what it lacks. Events report what an update changed.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # use meshagent_document::{Change, Edit, MeshDocument, MeshSchema, Origin, Target};
//! # use serde_json::json;
//! let schema = MeshSchema::infer(&json!({"plan": {"title": "", "done": false}}))?;
//! let mut ours = MeshDocument::new(schema.clone(), 1);
//! let mut theirs = MeshDocument::new(schema, 2);
//! theirs.watch(true);
//!
//! // Concurrent edits: an attribute here, another one there.
//! let from_us = ours.set_attribute(Target::Root, "title", json!("Move house"))?;
//! let from_them = theirs.set_attribute(Target::Root, "done", json!(true))?;
//! ours.apply_update(&from_them.unwrap())?;
//! theirs.apply_update(&from_us.unwrap())?;
//! assert_eq!(ours.to_json(true), theirs.to_json(true));
//!
//! let event = theirs.poll_event().unwrap();
//! assert_eq!(event.origin, Origin::Local);
//! let event = theirs.poll_event().unwrap();
//! assert_eq!(event.origin, Origin::Remote);
//! let Change::Attribute { name, new, .. } = &event.changes[0] else {
//!     panic!("expected a change of an attribute");
//! };
//! assert_eq!((&**name, new), ("title", &Some(json!("Move house"))));
//!
//! // After a time offline: the state vector goes out, the difference comes back.
//! ours.set_attribute(Target::Root, "title", json!("Move to the sea"))?;
//! let difference = ours.encode_diff(&theirs.state_vector())?;
//! theirs.apply_update(&difference)?;
//! assert_eq!(ours.to_json(true), theirs.to_json(true));
//! # Ok(())
//! # }
//! ```
//!
//! # Undo
//! Undo takes back edits of this replica only; concurrent changes of others stay.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # use meshagent_document::{MeshDocument, MeshSchema, Target};
//! # use serde_json::json;
//! # let schema = MeshSchema::infer(&json!({"plan": {"title": ""}}))?;
//! let mut document = MeshDocument::new(schema, 1);
//! document.remember_edits(true, 0);
//! document.set_attribute(Target::Root, "title", json!("Move house"))?;
//! let update = document.undo().expect("there is an edit to undo");
//! assert_eq!(document.to_json(true), json!({"plan": {}}));
//! assert!(document.can_redo() && !update.is_empty());
//! # Ok(())
//! # }
//! ```
//!
//! # Violations
//! Two valid edits can merge into a state that violates the schema, and foreign programs may write
//! anything. [`MeshDocument::violations`] lists such content, [`MeshDocument::repair`] removes it.
//!
//! # Garbage
//! Deleted operations leave a trace, since the CRDT must recognise an echo of them. Their
//! content is freed immediately, with all descendants of a deleted element. Adjacent deleted
//! operations of one client share one entry of a few bytes, in memory and in
//! [`MeshDocument::encode_state`]. So a snapshot of the state drops deleted content and
//! intermediate states, but not the number of operations of each client that ever edited.
//! Pending operations are not part of it; see [`MeshDocument::encode_pending`].

// Each test module has `use crate::test;`, so that `#[test]` is the attribute of the target's
// test runner.
#[cfg(all(test, not(target_arch = "wasm32")))]
pub(crate) use std::prelude::v1::test;
#[cfg(all(test, target_arch = "wasm32"))]
pub(crate) use wasm_bindgen_test::wasm_bindgen_test as test;

mod document;
mod engine;
mod schema;
mod update;

pub use document::{
    Anchor, Change, Edit, EditError, Element, Event, InsertError, JsonSize, Limits, MeshDocument,
    Origin, PatchBound, PatchError, PatchOutcome, PatchPlan, PatchStep, PatternError, Position,
    Remade, RemakeError, Repair, ReplaceError, Target, Text, TextChange, TextPosition, grep_json,
};
pub use schema::{
    ChildProperty, ElementProperty, ElementType, ID_ATTRIBUTE, InferError, MeshSchema, SchemaError,
    SchemaLimits, SimpleValue, StrictError, TEXT_TAG, ValueProperty, Violation, Violations,
};
pub use update::{
    Applied, DecodeError, Fitted, Inspection, UpdateKind, check_state_vector, fit_update,
    merge_updates,
};
