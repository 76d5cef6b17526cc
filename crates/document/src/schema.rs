//! Schemas: which elements a document may hold, which attributes they have, which children.

use std::sync::Arc;

use serde_json::Value;
use thiserror::Error;

/// The schema of a document: a root element and all element types that may appear below it.
#[derive(Clone, Debug, PartialEq)]
pub struct MeshSchema {
    inner: Arc<Inner>,
}

#[derive(Debug, PartialEq)]
struct Inner {
    root: usize,
    elements: Vec<ElementType>,
}

/// One kind of element: its tag, its attributes and which children it may have.
#[derive(Clone, Debug, PartialEq)]
pub struct ElementType {
    tag: String,
}

/// A property of an element type: an attribute or the list of children.
#[derive(Clone, Debug, PartialEq)]
pub enum ElementProperty {
    /// An attribute.
    Value(ValueProperty),
    /// The children.
    Child(ChildProperty),
}

/// An attribute with a simple value.
#[derive(Clone, Debug, PartialEq)]
pub struct ValueProperty {}

/// The list of children.
#[derive(Clone, Debug, PartialEq)]
pub struct ChildProperty {}

/// The type of an attribute's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SimpleValue {
    /// `true` or `false`.
    Boolean,
    /// `null` and nothing else.
    Null,
    /// A number.
    Number,
    /// Text.
    String,
}

/// A place that the schema forbids.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{pointer}: expected {expected}, found {found}")]
pub struct Violation {
    /// JSON pointer (RFC 6901) to the place.
    pub pointer: String,
    /// What the schema allows there.
    pub expected: String,
    /// What is there.
    pub found: String,
}

/// Why a schema is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{pointer}: {message}")]
#[non_exhaustive]
pub struct SchemaError {
    /// JSON pointer (RFC 6901) into the schema's JSON form.
    pub pointer: String,
    /// What is wrong there.
    pub message: String,
}

/// Why no schema can be inferred from a JSON value.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{pointer}: {message}")]
#[non_exhaustive]
pub struct InferError {
    /// JSON pointer (RFC 6901) into the value.
    pub pointer: String,
    /// What is wrong there.
    pub message: String,
}

impl MeshSchema {
    /// A schema of these element types, one of which is the root.
    ///
    /// # Errors
    /// [`SchemaError`] with the first thing that is wrong.
    pub fn new(
        root_tag_name: impl Into<String>,
        elements: Vec<ElementType>,
    ) -> Result<Self, SchemaError> {
        let _ = (root_tag_name.into(), elements);
        unimplemented!()
    }

    /// Reads the JSON form that the SDKs print.
    ///
    /// # Errors
    /// [`SchemaError`] with the first thing that is wrong.
    pub fn from_json(json: &Value) -> Result<Self, SchemaError> {
        let _ = json;
        unimplemented!()
    }

    /// Prints the JSON form, as the Python SDK does.
    pub fn to_json(&self) -> Value {
        unimplemented!()
    }

    /// The root element's type.
    pub fn root(&self) -> &ElementType {
        &self.inner.elements[self.inner.root]
    }

    /// The type of elements with this tag.
    pub fn element(&self, tag: &str) -> Option<&ElementType> {
        let _ = tag;
        unimplemented!()
    }

    /// The schema that a JSON value suggests.
    ///
    /// # Errors
    /// [`InferError`] if the value has no such shape.
    pub fn infer(json: &Value) -> Result<Self, InferError> {
        let _ = json;
        unimplemented!()
    }

    /// The schema of documents with this file extension (without the dot).
    pub fn builtin(extension: &str) -> Option<Self> {
        let _ = extension;
        unimplemented!()
    }

    /// All places where a document's JSON breaks the schema.
    pub fn validate(&self, json: &Value) -> Vec<Violation> {
        let _ = json;
        unimplemented!()
    }
}
