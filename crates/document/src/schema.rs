//! Schemas: the elements that a document may contain, with their attributes and children.
//!
//! A schema is an immutable value, built in code or parsed from JSON, and cheap to clone. Documents
//! are checked by [`MeshSchema::validate`] and by the document itself.

mod builtin;
mod infer;
mod json;
mod limits;
mod strict;
mod validate;
mod violation;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, LazyLock};

use serde_json::Value;
use thiserror::Error;

use limits::ByName;

pub use infer::InferError;
pub use limits::SchemaLimits;
pub use strict::StrictError;
pub(crate) use validate::{Shown, kind_of};
use violation::Names;
pub use violation::{Violation, Violations};
pub(crate) use violation::{capped, push_segment, quoted};

/// The tag of elements that hold rich text instead of child elements.
pub const TEXT_TAG: &str = "text";

/// The list of a type for rich text that declares none: it gives the text a JSON form.
static TEXT_LIST: LazyLock<ChildProperty> =
    LazyLock::new(|| ChildProperty::new("children", Vec::<String>::new()));

/// The attribute that holds an element's identity; schemas do not declare it.
pub const ID_ATTRIBUTE: &str = "$id";

/// The schema of a document: a root element and all element types that may appear below it.
///
/// A clone shares the definition.
#[derive(Clone, Debug, PartialEq)]
pub struct MeshSchema {
    inner: Arc<Inner>,
}

#[derive(Debug, PartialEq)]
struct Inner {
    // Invariant: both are indices into `elements`, and `by_tag` contains every tag.
    root: usize,
    by_tag: HashMap<String, usize>,
    elements: Vec<ElementType>,
}

impl MeshSchema {
    /// Creates a schema from element types, one of which is the root.
    ///
    /// # Errors
    /// [`SchemaError`] for the first defect: an unknown root or child tag, a duplicate tag or
    /// property, a second child property, or a property named `$id`.
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
        for (index, element) in elements.iter_mut().enumerate() {
            element.index(index == root);
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

    /// The element type with this tag.
    pub fn element(&self, tag: &str) -> Option<&ElementType> {
        let index = *self.inner.by_tag.get(tag)?;
        Some(&self.inner.elements[index])
    }

    /// All element types, in order of definition.
    pub fn elements(&self) -> &[ElementType] {
        &self.inner.elements
    }
}

/// An element type: its tag, its attributes, and the children that it may have.
#[derive(Clone, Debug, PartialEq)]
pub struct ElementType {
    tag: String,
    description: Option<String>,
    properties: Vec<ElementProperty>,
    by_name: ByName,
    // Index of the child property in `properties`, set by `index`.
    list: Option<usize>,
    // Whether `TEXT_LIST` stands for a child property that is not declared, set by `index`.
    has_text_list: bool,
}

impl ElementType {
    /// Creates an element type without properties.
    pub fn new(tag: impl Into<String>) -> Self {
        Self {
            tag: tag.into(),
            description: None,
            properties: Vec::new(),
            by_name: ByName::default(),
            list: None,
            has_text_list: false,
        }
    }

    /// Adds a description.
    #[must_use]
    pub fn describe(mut self, description: impl Into<String>) -> Self {
        self.description = Some(description.into());
        self
    }

    /// Adds a property.
    #[must_use]
    pub fn property(mut self, property: impl Into<ElementProperty>) -> Self {
        self.properties.push(property.into());
        self.by_name = ByName::default();
        self.list = None;
        self.has_text_list = false;
        self
    }

    /// The tag of the elements.
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// The description, for example for an LLM.
    pub fn description(&self) -> Option<&str> {
        self.description.as_deref()
    }

    /// The properties, in order of definition.
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

    /// The index of the property with this name.
    pub(crate) fn place_of(&self, name: &str) -> Option<usize> {
        self.by_name
            .place_of(&self.properties, name, ElementProperty::name)
    }

    /// The property that holds the children, or the rich text. In a schema, a type for rich text
    /// that declares none has the list `children`, unless that is an attribute of it; the root
    /// never holds text.
    pub fn child_property(&self) -> Option<&ChildProperty> {
        let mut properties = match self.list {
            Some(at) => &self.properties[at..],
            None => &self.properties,
        }
        .iter();
        let declared = properties.find_map(|property| match property {
            ElementProperty::Child(children) => Some(children),
            ElementProperty::Value(_) => None,
        });
        declared.or_else(|| self.has_text_list.then_some(&*TEXT_LIST))
    }

    /// Builds the indices of a finished type.
    fn index(&mut self, is_root: bool) {
        let is_list = |property: &ElementProperty| matches!(property, ElementProperty::Child(_));
        self.list = self.properties.iter().position(is_list);
        // Without a child property, the search range is empty.
        self.list.get_or_insert(self.properties.len());
        self.by_name = ByName::new(&self.properties, ElementProperty::name);
        let declares_list = self.properties.iter().any(is_list);
        let is_taken = self.value_property(TEXT_LIST.name()).is_some();
        self.has_text_list = self.tag == TEXT_TAG && !is_root && !declares_list && !is_taken;
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
                    "the name \"$id\" is reserved; choose another name".to_owned(),
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
                    "second child property; an element type can have only one".to_owned(),
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

/// A property of an element type: an attribute or the child list.
#[derive(Clone, Debug, PartialEq)]
pub enum ElementProperty {
    /// The child list.
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

/// The child list: its name in JSON and the tags that it may contain.
#[derive(Clone, Debug, PartialEq)]
pub struct ChildProperty {
    name: String,
    tags: Vec<String>,
    description: Option<String>,
    ordered: bool,
    by_tag: ByName,
}

impl ChildProperty {
    /// Creates a child list for these tags.
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

    /// Adds a description.
    #[must_use]
    pub fn describe(mut self, description: impl Into<String>) -> Self {
        self.description = Some(description.into());
        self
    }

    /// Declares that the list should hold one child of each tag, in this order.
    ///
    /// As in the SDKs, the order is advice to writers: another order is not a violation, since
    /// concurrent edits can produce one.
    #[must_use]
    pub fn ordered(mut self) -> Self {
        self.ordered = true;
        self
    }

    /// The name of the list in JSON.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The permitted tags.
    pub fn tags(&self) -> &[String] {
        &self.tags
    }

    /// The description, for example for an LLM.
    pub fn description(&self) -> Option<&str> {
        self.description.as_deref()
    }

    /// Whether the order of the tags is significant; see [`Self::ordered`].
    pub fn is_ordered(&self) -> bool {
        self.ordered
    }

    /// Whether the list may contain children with this tag.
    pub fn allows(&self, tag: &str) -> bool {
        self.by_tag.find(&self.tags, tag, String::as_str).is_some()
    }

    /// The permitted children, as text for messages.
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
    /// Creates an attribute that may be null or missing.
    pub fn new(name: impl Into<String>, value_type: SimpleValue) -> Self {
        Self {
            name: name.into(),
            value_type,
            description: None,
            variants: None,
            required: false,
        }
    }

    /// Adds a description.
    #[must_use]
    pub fn describe(mut self, description: impl Into<String>) -> Self {
        self.description = Some(description.into());
        self
    }

    /// Restricts the attribute to these values (`enum` in JSON).
    #[must_use]
    pub fn one_of<V: Into<Value>>(mut self, values: impl IntoIterator<Item = V>) -> Self {
        self.variants = Some(values.into_iter().map(Into::into).collect());
        self
    }

    /// Forbids null. The attribute may still be missing, since elements are built step by step.
    #[must_use]
    pub fn required(mut self) -> Self {
        self.required = true;
        self
    }

    /// The name of the attribute.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The type of its values.
    pub fn value_type(&self) -> SimpleValue {
        self.value_type
    }

    /// The description, for example for an LLM.
    pub fn description(&self) -> Option<&str> {
        self.description.as_deref()
    }

    /// The permitted values, if the attribute has an enumeration.
    pub fn variants(&self) -> Option<&[Value]> {
        self.variants.as_deref()
    }

    /// Whether null is forbidden.
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

    /// The permitted values, as text for messages.
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

/// Whether two values are equal. As in the SDKs, `1` and `1.0` are the same number.
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
    /// Only `null`.
    Null,
    /// An integer or a floating-point number.
    Number,
    /// Unformatted text.
    String,
}

impl SimpleValue {
    /// The type's name in JSON.
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

/// A defect in a schema: where it is and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{pointer}: {message}")]
#[non_exhaustive]
pub struct SchemaError {
    /// JSON pointer (RFC 6901) into the schema's JSON form.
    pub pointer: String,
    /// The defect and its remedy.
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
