//! Inference of a schema from a JSON value, for documents that come without one.

use std::collections::{HashMap, HashSet};
use std::fmt;

use serde_json::{Map, Value};
use thiserror::Error;

use super::{
    ChildProperty, ElementProperty, ElementType, ID_ATTRIBUTE, MeshSchema, SchemaLimits, Shown,
    SimpleValue, TEXT_TAG, ValueProperty, capped, kind_of, push_segment, quoted,
};

/// The root tag of a value that has none.
const DEFAULT_ROOT: &str = "document";

impl MeshSchema {
    /// Infers a schema from a JSON value.
    ///
    /// In an object with one key whose value is an object, the key is the root tag; its lists of
    /// one-key objects are children, everything else is an attribute. Any other object holds the
    /// attributes of a root element `document`. The types follow the values.
    ///
    /// # Errors
    /// [`InferError`] for null, and for objects and arrays that fit neither shape.
    pub fn infer(json: &Value) -> Result<Self, InferError> {
        let Value::Object(members) = json else {
            return Err(InferError::at(
                "",
                "an object",
                kind_of(json),
                "write {\"list\": {\"title\": \"Plan\"}}",
            ));
        };
        let mut inference = Inference::default();
        match members.iter().next() {
            Some((tag, Value::Object(content))) if members.len() == 1 => {
                let root = inference.element(tag)?;
                let place = Place {
                    around: None,
                    list: "",
                    index: 0,
                    tag,
                };
                inference.stack.push((place, root, content));
            }
            _ => {
                let root = inference.element(DEFAULT_ROOT)?;
                for (name, value) in members {
                    if name == ID_ATTRIBUTE {
                        return Err(InferError::at(
                            "/$id",
                            "attributes of the root element, whose $id can't be chosen",
                            Shown(value),
                            "leave it out, as in {\"title\": \"Plan\"}",
                        ));
                    }
                    inference.attribute(None, root, name, value)?;
                }
            }
        }
        inference.run()?;
        let root = inference.elements[0].tag.clone();
        Self::new(root, inference.elements)
            .map_err(|error| InferError::other("", error.to_string()))
    }
}

/// The location of an element: the enclosing element, its list, its index there, and its tag.
struct Place<'a> {
    around: Option<usize>,
    list: &'a str,
    index: usize,
    tag: &'a str,
}

#[derive(Default)]
struct Inference<'a> {
    limits: SchemaLimits,
    elements: Vec<ElementType>,
    by_tag: HashMap<&'a str, usize>,
    // Property indices, by type and name.
    by_name: HashMap<(usize, &'a str), usize>,
    // The tags that the list of each type contains.
    allowed: HashSet<(usize, usize)>,
    // The elements read so far, from which the pointers of errors are built.
    places: Vec<Place<'a>>,
    // The elements to be read: location, index of the type, content.
    stack: Vec<(Place<'a>, usize, &'a Map<String, Value>)>,
}

impl<'a> Inference<'a> {
    fn run(&mut self) -> Result<(), InferError> {
        while let Some((place, index, content)) = self.stack.pop() {
            let place = {
                self.places.push(place);
                self.places.len() - 1
            };
            for (name, value) in content {
                if name == ID_ATTRIBUTE {
                    if value.is_string() {
                        continue;
                    }
                    return Err(InferError::at(
                        self.pointer(Some(place), name),
                        "a string",
                        kind_of(value),
                        "leave it out, or write {\"$id\": \"1\"}",
                    ));
                }
                if let Value::Array(items) = value {
                    self.children(place, index, name, items)?;
                } else {
                    self.attribute(Some(place), index, name, value)?;
                }
            }
        }
        Ok(())
    }

    fn element(&mut self, tag: &'a str) -> Result<usize, InferError> {
        if let Some(&known) = self.by_tag.get(tag) {
            return Ok(known);
        }
        let index = self.elements.len();
        let within = self.limits.check_elements(index + 1);
        within
            .and_then(|()| self.limits.check_name("", tag))
            .map_err(|error| InferError::other("", error.message))?;
        self.elements.push(ElementType::new(tag));
        self.by_tag.insert(tag, index);
        Ok(index)
    }

    /// Returns the index of a type's property, which is created if it is new.
    fn property(
        &mut self,
        index: usize,
        name: &'a str,
        make: impl FnOnce() -> ElementProperty,
    ) -> Result<usize, InferError> {
        if let Some(&known) = self.by_name.get(&(index, name)) {
            return Ok(known);
        }
        let properties = &mut self.elements[index].properties;
        let within = self.limits.check_properties("", properties.len() + 1);
        within
            .and_then(|()| self.limits.check_name("", name))
            .map_err(|error| InferError::other("", error.message))?;
        properties.push(make());
        let at = properties.len() - 1;
        self.by_name.insert((index, name), at);
        Ok(at)
    }

    fn attribute(
        &mut self,
        place: Option<usize>,
        index: usize,
        name: &'a str,
        value: &Value,
    ) -> Result<(), InferError> {
        let value_type = match value {
            Value::Bool(_) => SimpleValue::Boolean,
            Value::Number(_) => SimpleValue::Number,
            Value::String(_) => SimpleValue::String,
            Value::Null | Value::Array(_) | Value::Object(_) => {
                return Err(self.no_attribute(place, name, value));
            }
        };
        let made = || ElementProperty::Value(ValueProperty::new(name, value_type));
        let at = self.property(index, name, made)?;
        match &self.elements[index].properties[at] {
            ElementProperty::Value(known) if known.value_type == value_type => Ok(()),
            known => Err(self.other_type(place, index, known, Shown(value))),
        }
    }

    /// The error for a value that can't be an attribute.
    fn no_attribute(&self, place: Option<usize>, name: &str, value: &Value) -> InferError {
        let (key, only) = (quoted(name), "a string, a number or a boolean");
        let (expected, example) = match (value, place) {
            (Value::Null, _) => (only, format!("leave it out, or write {{{key}: \"\"}}")),
            // JSON without a root element has only its own attributes.
            (_, None) => (
                "a string, a number or a boolean, as the JSON has no single root element",
                format!("write {{\"document\": {{{key}: [{{\"item\": {{\"name\": \"tea\"}}}}]}}}}"),
            ),
            (_, Some(_)) => (
                "a string, a number, a boolean or a list of children",
                format!("write {{{key}: [{{\"item\": {{\"name\": \"tea\"}}}}]}}"),
            ),
        };
        InferError::at(self.pointer(place, name), expected, kind_of(value), example)
    }

    /// The error for a property that has another type in an earlier element.
    fn other_type(
        &self,
        place: Option<usize>,
        index: usize,
        known: &ElementProperty,
        found: impl fmt::Display,
    ) -> InferError {
        let (name, tag) = (known.name(), quoted(&self.elements[index].tag));
        let (kind, value) = match known {
            ElementProperty::Child(_) => ("a list of children", "[{\"item\": {}}]"),
            ElementProperty::Value(known) => match known.value_type {
                SimpleValue::Boolean => ("a boolean", "true"),
                SimpleValue::Number => ("a number", "1"),
                _ => ("a string", "\"tea\""),
            },
        };
        InferError::at(
            self.pointer(place, name),
            format_args!("{kind} as in another element {tag}"),
            found,
            format_args!("write {{{}: {value}}} in each of them", quoted(name)),
        )
    }

    fn children(
        &mut self,
        place: usize,
        index: usize,
        name: &'a str,
        items: &'a [Value],
    ) -> Result<(), InferError> {
        let is_list = |property: &&ElementProperty| matches!(property, ElementProperty::Child(_));
        if !self.by_name.contains_key(&(index, name))
            && let Some(other) = self.elements[index].properties.iter().find(is_list)
        {
            let tag = quoted(&self.elements[index].tag);
            return Err(InferError::at(
                self.pointer(Some(place), name),
                format_args!("no second list of children in an element {tag}"),
                format_args!("a list beside {}", quoted(other.name())),
                format_args!(
                    "put all children in one list, as in {{{}: [{{\"item\": {{}}}}]}}",
                    quoted(other.name())
                ),
            ));
        }
        let made = || ElementProperty::Child(ChildProperty::new(name, Vec::<String>::new()));
        let position = self.property(index, name, made)?;
        if let known @ ElementProperty::Value(_) = &self.elements[index].properties[position] {
            return Err(self.other_type(Some(place), index, known, "an array"));
        }
        let holds_text = self.elements[index].tag == TEXT_TAG;
        for (item_index, item) in items.iter().enumerate() {
            let child = item.as_object().filter(|item| item.len() == 1);
            let child = child.and_then(|item| item.iter().next());
            let Some((tag, Value::Object(content))) = child else {
                let mut pointer = self.pointer(Some(place), name);
                push_segment(&mut pointer, &item_index.to_string());
                let found = match (child, item) {
                    (Some((tag, value)), _) => {
                        format!("{} with {}", quoted(tag), kind_of(value))
                    }
                    (None, Value::Object(members)) => {
                        format!("an object with {} keys", members.len())
                    }
                    (None, item) => capped(Shown(item)),
                };
                return Err(InferError::at(
                    pointer,
                    "an element, which is an object with its tag as the only key",
                    found,
                    "write {\"item\": {\"name\": \"tea\"}}",
                ));
            };
            if holds_text && tag == TEXT_TAG && content.contains_key("delta") {
                continue;
            }
            let child_index = self.element(tag)?;
            if let ElementProperty::Child(children) = &mut self.elements[index].properties[position]
                && self.allowed.insert((index, child_index))
            {
                children.tags.push(tag.clone());
            }
            let place = Place {
                around: Some(place),
                list: name,
                index: item_index,
                tag,
            };
            self.stack.push((place, child_index, content));
        }
        Ok(())
    }

    /// The JSON pointer to a property of an element, or of the value itself without an element.
    fn pointer(&self, place: Option<usize>, name: &str) -> String {
        let mut above = Vec::new();
        let mut at = place;
        while let Some(place) = at.map(|at| &self.places[at]) {
            above.push(place);
            at = place.around;
        }
        let mut pointer = String::new();
        for place in above.into_iter().rev() {
            if place.around.is_some() {
                push_segment(&mut pointer, place.list);
                push_segment(&mut pointer, &place.index.to_string());
            }
            push_segment(&mut pointer, place.tag);
        }
        push_segment(&mut pointer, name);
        pointer
    }
}

/// Why no schema can be inferred from a JSON value.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{}: {message}",
    if .pointer.is_empty() { "\"\" (the whole JSON)" } else { .pointer }
)]
#[non_exhaustive]
pub struct InferError {
    /// JSON pointer (RFC 6901) into the value.
    pub pointer: String,
    /// What is expected there, what was found, and the remedy with an example.
    pub message: String,
}

impl InferError {
    fn at(
        pointer: impl fmt::Display,
        expected: impl fmt::Display,
        found: impl fmt::Display,
        remedy: impl fmt::Display,
    ) -> Self {
        Self::other(
            pointer,
            format!("expected {expected}, found {found}; {remedy}, or send a schema"),
        )
    }

    fn other(pointer: impl fmt::Display, message: String) -> Self {
        Self {
            pointer: capped(pointer),
            message,
        }
    }
}
