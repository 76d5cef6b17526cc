//! Inference of a schema from a JSON value, for documents that come without one.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};
use thiserror::Error;

use super::{
    ChildProperty, ElementProperty, ElementType, ID_ATTRIBUTE, MeshSchema, SchemaLimits,
    SimpleValue, TEXT_TAG, ValueProperty, push_segment,
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
                "expected {\"tag\": {…}} or an object of attributes",
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
                    inference.attribute(None, root, name, value)?;
                }
            }
        }
        inference.run()?;
        let root = inference.elements[0].tag.clone();
        Self::new(root, inference.elements).map_err(|error| InferError::at("", error.to_string()))
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
                if let Value::Array(items) = value {
                    self.children(place, index, name, items)?;
                } else if name != ID_ATTRIBUTE {
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
            .map_err(|error| InferError::at("", error.message))?;
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
            .map_err(|error| InferError::at("", error.message))?;
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
            Value::Null => {
                return Err(InferError::at(
                    self.pointer(place, name),
                    "null has no type; leave it out or send a schema",
                ));
            }
            Value::Array(_) | Value::Object(_) => {
                // JSON without a root element has only its own attributes.
                let expected = if place.is_none() {
                    "expected a simple value, as the JSON has no single root element; write \
                     {\"tag\": {…}}, or send a schema"
                } else {
                    "expected a simple value or a list of one-key objects; send a schema"
                };
                return Err(InferError::at(self.pointer(place, name), expected));
            }
        };
        let made = || ElementProperty::Value(ValueProperty::new(name, value_type));
        let at = self.property(index, name, made)?;
        match &self.elements[index].properties[at] {
            ElementProperty::Value(known) if known.value_type == value_type => Ok(()),
            _ => Err(InferError::at(
                self.pointer(place, name),
                "the property has different types in different elements; send a schema",
            )),
        }
    }

    fn children(
        &mut self,
        place: usize,
        index: usize,
        name: &'a str,
        items: &'a [Value],
    ) -> Result<(), InferError> {
        let made = || ElementProperty::Child(ChildProperty::new(name, Vec::<String>::new()));
        let position = self.property(index, name, made)?;
        let holds_text = self.elements[index].tag == TEXT_TAG;
        for (item_index, item) in items.iter().enumerate() {
            let child = item.as_object().filter(|item| item.len() == 1);
            let child = child.and_then(|item| item.iter().next());
            let Some((tag, Value::Object(content))) = child else {
                let mut pointer = self.pointer(Some(place), name);
                push_segment(&mut pointer, &item_index.to_string());
                return Err(InferError::at(
                    pointer,
                    "expected an object with one key, {\"tag\": {…}}",
                ));
            };
            if holds_text && tag == TEXT_TAG && content.contains_key("delta") {
                continue;
            }
            let child_index = self.element(tag)?;
            match &mut self.elements[index].properties[position] {
                ElementProperty::Child(children) => {
                    if self.allowed.insert((index, child_index)) {
                        children.tags.push(tag.clone());
                    }
                }
                ElementProperty::Value(_) => {
                    return Err(InferError::at(
                        self.pointer(Some(place), name),
                        "the property has different types in different elements; send a schema",
                    ));
                }
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
#[error("{pointer}: {message}")]
#[non_exhaustive]
pub struct InferError {
    /// JSON pointer (RFC 6901) into the value.
    pub pointer: String,
    /// The defect and its remedy.
    pub message: String,
}

impl InferError {
    fn at(pointer: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            pointer: pointer.into(),
            message: message.into(),
        }
    }
}
