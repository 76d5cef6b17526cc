//! Schemas: which elements a document may hold, which attributes they have, which children.
//!
//! A schema is a value: it is built here or read from JSON, it never changes afterwards, and cloning it
//! is cheap. It does not look at documents; that is what [`MeshSchema::validate`] and the document do.

mod builtin;
mod infer;
mod json;
mod limits;
mod strict;
mod validate;
mod violation;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use serde_json::Value;
use thiserror::Error;

use limits::ByName;

pub use infer::InferError;
pub use limits::SchemaLimits;
pub use strict::StrictError;
pub(crate) use validate::kind_of;
use violation::Names;
pub use violation::{Violation, Violations};
pub(crate) use violation::{push_segment, quoted};

/// The tag of elements that hold rich text instead of child elements.
pub const TEXT_TAG: &str = "text";

/// The attribute that carries an element's identity; no schema declares it.
pub const ID_ATTRIBUTE: &str = "$id";

/// The schema of a document: a root element and all element types that may appear below it.
#[derive(Clone, Debug, PartialEq)]
pub struct MeshSchema {
    inner: Arc<Inner>,
}

#[derive(Debug, PartialEq)]
struct Inner {
    // Invariant: both are indices into `elements`, and every tag is a key of `by_tag`.
    root: usize,
    by_tag: HashMap<String, usize>,
    elements: Vec<ElementType>,
}

impl MeshSchema {
    /// A schema of these element types, one of which is the root.
    ///
    /// # Errors
    /// [`SchemaError`] with the first thing that is wrong: an unknown root or child tag, a tag or
    /// property that appears twice, a second child property.
    pub fn new(
        root_tag_name: impl Into<String>,
        mut elements: Vec<ElementType>,
    ) -> Result<Self, SchemaError> {
        let root_tag_name = root_tag_name.into();
        let mut by_tag = HashMap::with_capacity(elements.len());
        for (index, element) in elements.iter().enumerate() {
            element.check()?;
            if by_tag.insert(element.tag.clone(), index).is_some() {
                return Err(SchemaError::at(
                    element.pointer(),
                    format!(
                        "tag {} is defined twice; keep one definition",
                        quoted(&element.tag)
                    ),
                ));
            }
        }
        let Some(&root) = by_tag.get(&root_tag_name) else {
            return Err(SchemaError::at(
                "/$root_tag_ref",
                format!(
                    "root tag {} is not defined; add it to the elements",
                    quoted(&root_tag_name)
                ),
            ));
        };
        for element in &elements {
            let Some(children) = element.child_property() else {
                continue;
            };
            let dangling = children
                .tags
                .iter()
                .position(|tag| !by_tag.contains_key(tag));
            if let Some(position) = dangling {
                let list = if children.ordered {
                    "prefixItems"
                } else {
                    "items/anyOf"
                };
                let property = element.property_pointer(&children.name);
                return Err(SchemaError::at(
                    format!("{property}/{list}/{position}/$ref"),
                    format!(
                        "child tag {} is not defined; add it to the elements",
                        quoted(&children.tags[position])
                    ),
                ));
            }
        }
        for element in &mut elements {
            element.index();
        }
        Ok(Self {
            inner: Arc::new(Inner {
                root,
                by_tag,
                elements,
            }),
        })
    }

    /// The root element's type.
    pub fn root(&self) -> &ElementType {
        &self.inner.elements[self.inner.root]
    }

    /// The type of elements with this tag.
    pub fn element(&self, tag: &str) -> Option<&ElementType> {
        let index = *self.inner.by_tag.get(tag)?;
        Some(&self.inner.elements[index])
    }

    /// All element types, in the order in which they were defined.
    pub fn elements(&self) -> &[ElementType] {
        &self.inner.elements
    }
}

/// One kind of element: its tag, its attributes and which children it may have.
#[derive(Clone, Debug, PartialEq)]
pub struct ElementType {
    tag: String,
    description: Option<String>,
    properties: Vec<ElementProperty>,
    by_name: ByName,
    // Where the list of children is among the properties, once they are indexed.
    list: Option<usize>,
}

impl ElementType {
    /// An element type without properties.
    pub fn new(tag: impl Into<String>) -> Self {
        Self {
            tag: tag.into(),
            description: None,
            properties: Vec::new(),
            by_name: ByName::default(),
            list: None,
        }
    }

    /// The same type with a description.
    #[must_use]
    pub fn describe(mut self, description: impl Into<String>) -> Self {
        self.description = Some(description.into());
        self
    }

    /// The same type with one more property.
    #[must_use]
    pub fn property(mut self, property: impl Into<ElementProperty>) -> Self {
        self.properties.push(property.into());
        self.by_name = ByName::default();
        self.list = None;
        self
    }

    /// The tag.
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// The description.
    pub fn description(&self) -> Option<&str> {
        self.description.as_deref()
    }

    /// The properties, in the order in which they were defined.
    pub fn properties(&self) -> &[ElementProperty] {
        &self.properties
    }

    /// The attribute with this name.
    pub fn value_property(&self, name: &str) -> Option<&ValueProperty> {
        let found = self
            .by_name
            .find(&self.properties, name, ElementProperty::name);
        found.and_then(|property| match property {
            ElementProperty::Value(value) => Some(value),
            ElementProperty::Child(_) => None,
        })
    }

    /// Which of the properties has this name.
    pub(crate) fn place_of(&self, name: &str) -> Option<usize> {
        self.by_name
            .place_of(&self.properties, name, ElementProperty::name)
    }

    /// The property that holds the children.
    pub fn child_property(&self) -> Option<&ChildProperty> {
        let mut properties = match self.list {
            Some(at) => &self.properties[at..],
            None => &self.properties,
        }
        .iter();
        properties.find_map(|property| match property {
            ElementProperty::Child(children) => Some(children),
            ElementProperty::Value(_) => None,
        })
    }

    /// Indexes what it holds, which stays as it is from now on.
    fn index(&mut self) {
        let is_list = |property: &ElementProperty| matches!(property, ElementProperty::Child(_));
        self.list = self.properties.iter().position(is_list);
        // Without one there is nothing to look for.
        self.list.get_or_insert(self.properties.len());
        self.by_name = ByName::new(&self.properties, ElementProperty::name);
        for property in &mut self.properties {
            if let ElementProperty::Child(children) = property {
                children.by_tag = ByName::new(&children.tags, String::as_str);
            }
        }
    }

    fn check(&self) -> Result<(), SchemaError> {
        let mut names = HashSet::with_capacity(self.properties.len());
        let mut has_children = false;
        for property in &self.properties {
            let name = property.name();
            if name == ID_ATTRIBUTE {
                return Err(SchemaError::at(
                    self.property_pointer(name),
                    "every element has \"$id\" already; choose another name".to_owned(),
                ));
            }
            if !names.insert(name) {
                return Err(SchemaError::at(
                    self.property_pointer(name),
                    format!(
                        "property {} is defined twice; keep one definition",
                        quoted(name)
                    ),
                ));
            }
            let is_child = matches!(property, ElementProperty::Child(_));
            if is_child && has_children {
                return Err(SchemaError::at(
                    self.property_pointer(name),
                    "a second child property; an element has one list of children".to_owned(),
                ));
            }
            has_children |= is_child;
        }
        Ok(())
    }

    fn pointer(&self) -> String {
        let mut pointer = String::from("/$defs");
        push_segment(&mut pointer, &self.tag);
        pointer
    }

    fn property_pointer(&self, name: &str) -> String {
        let mut pointer = self.pointer();
        pointer.push_str("/properties");
        push_segment(&mut pointer, &self.tag);
        pointer.push_str("/properties");
        push_segment(&mut pointer, name);
        pointer
    }
}

/// A property of an element type: an attribute or the list of children.
#[derive(Clone, Debug, PartialEq)]
pub enum ElementProperty {
    /// The list of children.
    Child(ChildProperty),
    /// An attribute.
    Value(ValueProperty),
}

impl ElementProperty {
    /// The property's name.
    pub fn name(&self) -> &str {
        match self {
            Self::Child(children) => &children.name,
            Self::Value(value) => &value.name,
        }
    }
}

impl From<ChildProperty> for ElementProperty {
    fn from(children: ChildProperty) -> Self {
        Self::Child(children)
    }
}

impl From<ValueProperty> for ElementProperty {
    fn from(value: ValueProperty) -> Self {
        Self::Value(value)
    }
}

/// The list of children: its name in JSON and the tags that may appear in it.
#[derive(Clone, Debug, PartialEq)]
pub struct ChildProperty {
    name: String,
    tags: Vec<String>,
    description: Option<String>,
    ordered: bool,
    by_tag: ByName,
}

impl ChildProperty {
    /// A list of children with these tags.
    pub fn new<T: Into<String>>(
        name: impl Into<String>,
        tags: impl IntoIterator<Item = T>,
    ) -> Self {
        Self {
            name: name.into(),
            tags: tags.into_iter().map(Into::into).collect(),
            description: None,
            ordered: false,
            by_tag: ByName::default(),
        }
    }

    /// The same list with a description.
    #[must_use]
    pub fn describe(mut self, description: impl Into<String>) -> Self {
        self.description = Some(description.into());
        self
    }

    /// The same list, meant to hold one child of each tag in this order.
    ///
    /// As in the SDKs the order is advice to whoever writes the document: children in another order
    /// are no violation, since concurrent edits can bring them about.
    #[must_use]
    pub fn ordered(mut self) -> Self {
        self.ordered = true;
        self
    }

    /// The name of the list in JSON.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The tags that may appear.
    pub fn tags(&self) -> &[String] {
        &self.tags
    }

    /// The description.
    pub fn description(&self) -> Option<&str> {
        self.description.as_deref()
    }

    /// Whether the order of the tags is meant.
    pub fn is_ordered(&self) -> bool {
        self.ordered
    }

    /// Whether children with this tag may appear.
    pub fn allows(&self, tag: &str) -> bool {
        self.by_tag.find(&self.tags, tag, String::as_str).is_some()
    }

    /// What it may hold, for people.
    pub(crate) fn expectation(&self) -> impl fmt::Display {
        TagsOf(self)
    }
}

struct TagsOf<'a>(&'a ChildProperty);

impl fmt::Display for TagsOf<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.tags.is_empty() {
            return formatter.write_str("no children");
        }
        write!(
            formatter,
            "one of the tags {}",
            Names(&self.0.tags, String::as_str)
        )
    }
}

/// An attribute: its name and the values that it may have.
#[derive(Clone, Debug, PartialEq)]
pub struct ValueProperty {
    name: String,
    value_type: SimpleValue,
    description: Option<String>,
    variants: Option<Vec<Value>>,
    required: bool,
}

impl ValueProperty {
    /// An attribute that may be null or missing.
    pub fn new(name: impl Into<String>, value_type: SimpleValue) -> Self {
        Self {
            name: name.into(),
            value_type,
            description: None,
            variants: None,
            required: false,
        }
    }

    /// The same attribute with a description.
    #[must_use]
    pub fn describe(mut self, description: impl Into<String>) -> Self {
        self.description = Some(description.into());
        self
    }

    /// The same attribute, limited to these values (`enum` in JSON).
    #[must_use]
    pub fn one_of<V: Into<Value>>(mut self, values: impl IntoIterator<Item = V>) -> Self {
        self.variants = Some(values.into_iter().map(Into::into).collect());
        self
    }

    /// The same attribute, never null. It may be missing: elements are built up step by step.
    #[must_use]
    pub fn required(mut self) -> Self {
        self.required = true;
        self
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The type of its values.
    pub fn value_type(&self) -> SimpleValue {
        self.value_type
    }

    /// The description.
    pub fn description(&self) -> Option<&str> {
        self.description.as_deref()
    }

    /// The values that it is limited to, if it is.
    pub fn variants(&self) -> Option<&[Value]> {
        self.variants.as_deref()
    }

    /// Whether null is refused.
    pub fn is_required(&self) -> bool {
        self.required
    }

    /// Whether the attribute may have this value.
    pub fn allows(&self, value: &Value) -> bool {
        if let Some(variants) = &self.variants {
            return variants.iter().any(|variant| is_same(variant, value));
        }
        match value {
            Value::Null => !self.required || self.value_type == SimpleValue::Null,
            Value::Bool(_) => self.value_type == SimpleValue::Boolean,
            Value::Number(_) => self.value_type == SimpleValue::Number,
            Value::String(_) => self.value_type == SimpleValue::String,
            Value::Array(_) | Value::Object(_) => false,
        }
    }

    /// What it may hold, for people.
    pub(crate) fn expectation(&self) -> impl fmt::Display {
        ValuesOf(self)
    }
}

struct ValuesOf<'a>(&'a ValueProperty);

impl fmt::Display for ValuesOf<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ValueProperty {
            variants,
            value_type,
            required,
            ..
        } = self.0;
        if let Some(variants) = variants {
            formatter.write_str("one of ")?;
            for (index, variant) in variants.iter().enumerate() {
                let before = if index > 0 { ", " } else { "" };
                write!(formatter, "{before}{variant}")?;
            }
            return Ok(());
        }
        formatter.write_str(value_type.name())?;
        if *required || *value_type == SimpleValue::Null {
            return Ok(());
        }
        formatter.write_str(" or null")
    }
}

/// Whether two values are equal; a number is, whether it is written as 1 or as 1.0, as the SDKs do.
fn is_same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(x), Value::Number(y)) => a == b || x.as_f64() == y.as_f64(),
        _ => a == b,
    }
}

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

impl SimpleValue {
    /// Its name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Boolean => "boolean",
            Self::Null => "null",
            Self::Number => "number",
            Self::String => "string",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        match name {
            "boolean" => Some(Self::Boolean),
            "null" => Some(Self::Null),
            "number" => Some(Self::Number),
            "string" => Some(Self::String),
            _ => None,
        }
    }
}

/// Why a schema is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{pointer}: {message}")]
#[non_exhaustive]
pub struct SchemaError {
    /// JSON pointer (RFC 6901) into the schema's JSON form.
    pub pointer: String,
    /// What is wrong there and what to do about it.
    pub message: String,
}

impl SchemaError {
    fn at(pointer: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            pointer: pointer.into(),
            message: message.into(),
        }
    }
}

#[cfg(test)]
mod tests;
