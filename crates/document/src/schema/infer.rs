//! The schema that a JSON value suggests, for documents that come without one.

use serde_json::{Map, Value};
use thiserror::Error;

use super::{
    ChildProperty, ElementProperty, ElementType, ID_ATTRIBUTE, MeshSchema, SimpleValue, TEXT_TAG,
    ValueProperty, push_segment,
};

/// The root tag of a value that does not bring its own.
const DEFAULT_ROOT: &str = "document";

impl MeshSchema {
    /// The schema that a JSON value suggests.
    ///
    /// An object with one key whose value is an object names the root tag; its lists of one-key objects
    /// are children, all else are attributes. Any other object holds the attributes of a root element
    /// `document`. Types follow the values.
    ///
    /// # Errors
    /// [`InferError`] for null, and for objects and arrays that fit neither shape.
    pub fn infer(json: &Value) -> Result<Self, InferError> {
        let Value::Object(members) = json else {
            return Err(InferError::at(
                "",
                "expected an object, {\"tag\": {…}} or a plain list of attributes",
            ));
        };
        let mut inference = Inference::default();
        match members.iter().next() {
            Some((tag, Value::Object(content))) if members.len() == 1 => {
                inference.elements.push(ElementType::new(tag));
                let mut pointer = String::new();
                push_segment(&mut pointer, tag);
                inference.stack.push((pointer, 0, content));
            }
            _ => {
                inference.elements.push(ElementType::new(DEFAULT_ROOT));
                for (name, value) in members {
                    let mut pointer = String::new();
                    push_segment(&mut pointer, name);
                    inference.attribute(&pointer, 0, name, value)?;
                }
            }
        }
        inference.run()?;
        let root = inference.elements[0].tag.clone();
        Self::new(root, inference.elements).map_err(|error| InferError::at("", error.to_string()))
    }
}

#[derive(Default)]
struct Inference<'a> {
    elements: Vec<ElementType>,
    // Elements that are still to be read: pointer, index of the type, content.
    stack: Vec<(String, usize, &'a Map<String, Value>)>,
}

impl<'a> Inference<'a> {
    fn run(&mut self) -> Result<(), InferError> {
        while let Some((pointer, index, content)) = self.stack.pop() {
            for (name, value) in content {
                let mut pointer = pointer.clone();
                push_segment(&mut pointer, name);
                if let Value::Array(items) = value {
                    self.children(&pointer, index, name, items)?;
                } else if name != ID_ATTRIBUTE {
                    self.attribute(&pointer, index, name, value)?;
                }
            }
        }
        Ok(())
    }

    fn attribute(
        &mut self,
        pointer: &str,
        index: usize,
        name: &str,
        value: &Value,
    ) -> Result<(), InferError> {
        let value_type = match value {
            Value::Bool(_) => SimpleValue::Boolean,
            Value::Number(_) => SimpleValue::Number,
            Value::String(_) => SimpleValue::String,
            Value::Null => {
                return Err(InferError::at(
                    pointer,
                    "null has no type; leave it out or send a schema",
                ));
            }
            Value::Array(_) | Value::Object(_) => {
                return Err(InferError::at(
                    pointer,
                    "neither a simple value nor a list of one-key objects; send a schema",
                ));
            }
        };
        let element = &mut self.elements[index];
        match element
            .properties
            .iter()
            .find(|property| property.name() == name)
        {
            None => {
                let property = ValueProperty::new(name, value_type);
                element.properties.push(ElementProperty::Value(property));
                Ok(())
            }
            Some(ElementProperty::Value(known)) if known.value_type == value_type => Ok(()),
            Some(_) => Err(InferError::at(
                pointer,
                "the same property has another type elsewhere; send a schema",
            )),
        }
    }

    fn children(
        &mut self,
        pointer: &str,
        index: usize,
        name: &str,
        items: &'a [Value],
    ) -> Result<(), InferError> {
        let element = &mut self.elements[index];
        let position = element
            .properties
            .iter()
            .position(|property| property.name() == name);
        let position = position.unwrap_or_else(|| {
            let property = ChildProperty::new(name, Vec::<String>::new());
            element.properties.push(ElementProperty::Child(property));
            element.properties.len() - 1
        });
        let holds_text = element.tag == TEXT_TAG;
        for (item_index, item) in items.iter().enumerate() {
            let child = item.as_object().filter(|item| item.len() == 1);
            let child = child.and_then(|item| item.iter().next());
            let Some((tag, Value::Object(content))) = child else {
                return Err(InferError::at(
                    format!("{pointer}/{item_index}"),
                    "expected an object with one key, {\"tag\": {…}}",
                ));
            };
            if holds_text && tag == TEXT_TAG && content.contains_key("delta") {
                continue;
            }
            let known = self.elements.iter().position(|element| element.tag == *tag);
            let child_index = known.unwrap_or_else(|| {
                self.elements.push(ElementType::new(tag));
                self.elements.len() - 1
            });
            match &mut self.elements[index].properties[position] {
                ElementProperty::Child(children) if !children.allows(tag) => {
                    children.tags.push(tag.clone());
                }
                ElementProperty::Child(_) => {}
                ElementProperty::Value(_) => {
                    return Err(InferError::at(
                        pointer,
                        "the same property has another type elsewhere; send a schema",
                    ));
                }
            }
            let mut pointer = format!("{pointer}/{item_index}");
            push_segment(&mut pointer, tag);
            self.stack.push((pointer, child_index, content));
        }
        Ok(())
    }
}

/// Why no schema can be inferred from a JSON value.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{pointer}: {message}")]
#[non_exhaustive]
pub struct InferError {
    /// JSON pointer (RFC 6901) into the value.
    pub pointer: String,
    /// What is wrong there and what to do about it.
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
