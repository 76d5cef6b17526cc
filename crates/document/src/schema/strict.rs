//! The schema as plain JSON Schema (draft 2020-12), within the rules for structured outputs
//! of LLMs.
//!
//! The rules are those of `OpenAI`'s strict mode: every object is closed, every property is
//! required, optional values are nullable, and only a few keywords exist. JSON that fits such a
//! schema is a document's JSON and can be passed to [`MeshSchema::validate`].
//!
//! The size rules also limit nesting to ten levels. That needs no check: elements are definitions
//! of their own, and the deepest one, which holds rich text, has five levels of objects.

use std::collections::HashSet;

use serde_json::{Map, Value, json};
use thiserror::Error;

use super::{ElementProperty, ElementType, MeshSchema, TEXT_TAG, ValueProperty};

/// The maximal number of properties of all objects in a schema.
const MAX_PROPERTIES: usize = 5_000;

/// The maximal number of values of all enumerations.
const MAX_ENUM_VALUES: usize = 1_000;

/// The number of values from which the length of an enumeration's texts is limited.
const FREE_ENUM_VALUES: usize = 250;

/// The maximal number of characters of the texts of a longer enumeration.
const MAX_ENUM_CHARACTERS: usize = 15_000;

/// The maximal number of characters of all names and enumerated values.
const MAX_NAME_CHARACTERS: usize = 120_000;

/// Why a schema does not fit the rules of structured outputs.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("schema has {found} {what}, structured outputs allow {limit}; make it smaller")]
#[non_exhaustive]
pub struct StrictError {
    /// The quantity that exceeds its limit.
    pub what: &'static str,
    /// The limit.
    pub limit: usize,
    /// The quantity in this schema.
    pub found: usize,
}

#[derive(Default)]
struct Size {
    properties: usize,
    enum_values: usize,
    /// The largest sum of characters of one long enumeration.
    enum_characters: usize,
    name_characters: usize,
}

impl MeshSchema {
    /// Returns the schema as plain JSON Schema for structured outputs.
    ///
    /// Rich text has no formatting, since a strict object can't have arbitrary keys.
    ///
    /// # Errors
    /// [`StrictError`] if the schema exceeds the limits of structured outputs.
    pub fn to_json_schema(&self) -> Result<Value, StrictError> {
        let mut size = Size::default();
        let mut definitions = Map::new();
        for element in self.elements() {
            size.name_characters += element.tag.chars().count();
            definitions.insert(element.tag.clone(), whole(element, &mut size));
        }
        let mut schema = Map::new();
        schema.insert(
            "$schema".into(),
            "https://json-schema.org/draft/2020-12/schema".into(),
        );
        if let Value::Object(mut root) = whole(self.root(), &mut size) {
            schema.append(&mut root);
        }
        schema.insert("$defs".into(), definitions.into());
        Size::check("properties", size.properties, MAX_PROPERTIES)?;
        Size::check("enumerated values", size.enum_values, MAX_ENUM_VALUES)?;
        Size::check(
            "characters in an enumeration of more than 250 values",
            size.enum_characters,
            MAX_ENUM_CHARACTERS,
        )?;
        let characters = size.name_characters;
        Size::check(
            "characters in names and values",
            characters,
            MAX_NAME_CHARACTERS,
        )?;
        Ok(Value::Object(schema))
    }
}

impl Size {
    fn check(what: &'static str, found: usize, limit: usize) -> Result<(), StrictError> {
        let error = StrictError { what, limit, found };
        (found <= limit).then_some(()).ok_or(error)
    }

    fn object(&mut self, properties: &Map<String, Value>) -> Value {
        self.properties += properties.len();
        let names: Vec<&String> = properties.keys().collect();
        let characters = names.iter().map(|name| name.chars().count());
        self.name_characters += characters.sum::<usize>();
        json!({
            "type": "object",
            "properties": properties,
            "required": names,
            "additionalProperties": false,
        })
    }
}

/// `{tag: {…}}`.
fn whole(element: &ElementType, size: &mut Size) -> Value {
    let mut properties = Map::new();
    for property in &element.properties {
        let (printed, description) = match property {
            ElementProperty::Value(value) => (simple(value, size), value.description()),
            ElementProperty::Child(children) => {
                let items = if element.tag == TEXT_TAG {
                    rich_text(size)
                } else if children.tags.is_empty() {
                    // The list would always be empty, so it is left out.
                    continue;
                } else {
                    json!({ "anyOf": references(&children.tags) })
                };
                let mut list = json!({ "type": "array", "items": items });
                if element.tag == TEXT_TAG {
                    list["maxItems"] = 1.into();
                }
                (list, children.description())
            }
        };
        let printed = described(printed, description);
        properties.insert(property.name().to_owned(), printed);
    }
    // The list of a text need not be declared.
    if let Some(list) = element.child_property()
        && element.tag == TEXT_TAG
        && !properties.contains_key(list.name())
    {
        let printed = json!({ "type": "array", "items": rich_text(size), "maxItems": 1 });
        properties.insert(list.name().to_owned(), printed);
    }
    let inner = size.object(&properties);
    let outer = size.object(&Map::from_iter([(element.tag.clone(), inner)]));
    described(outer, element.description())
}

fn simple(value: &ValueProperty, size: &mut Size) -> Value {
    let name = value.value_type.name();
    let Some(variants) = &value.variants else {
        let is_never_null = value.required || name == "null";
        return if is_never_null {
            json!({ "type": name })
        } else {
            json!({ "type": [name, "null"] })
        };
    };
    size.enum_values += variants.len();
    let texts = variants.iter().filter_map(Value::as_str);
    let characters = texts.map(|text| text.chars().count()).sum::<usize>();
    size.name_characters += characters;
    if variants.len() > FREE_ENUM_VALUES {
        size.enum_characters = size.enum_characters.max(characters);
    }
    if variants.contains(&Value::Null) && name != "null" {
        json!({ "type": [name, "null"], "enum": variants })
    } else {
        json!({ "type": name, "enum": variants })
    }
}

/// `{"text": {"delta": [{"insert": …}]}}`.
fn rich_text(size: &mut Size) -> Value {
    let run = Map::from_iter([("insert".to_owned(), json!({ "type": "string" }))]);
    let runs = json!({ "type": "array", "items": size.object(&run) });
    let delta = size.object(&Map::from_iter([("delta".to_owned(), runs)]));
    size.object(&Map::from_iter([(TEXT_TAG.to_owned(), delta)]))
}

/// References to the definitions of these tags without duplicates, since alternatives must begin
/// with different keys.
fn references(tags: &[String]) -> Vec<Value> {
    let mut seen = HashSet::with_capacity(tags.len());
    let different = tags.iter().filter(|tag| seen.insert(tag.as_str()));
    different
        .map(|tag| json!({ "$ref": reference(tag) }))
        .collect()
}

/// A JSON pointer as a URI fragment; most characters need no escape.
fn reference(tag: &str) -> String {
    let mut reference = String::from("#/$defs/");
    for byte in tag.bytes() {
        match byte {
            b'~' => reference.push_str("~0"),
            b'/' => reference.push_str("~1"),
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => reference.push(byte.into()),
            _ if b"!$&'()*+,-.:;=?@_".contains(&byte) => reference.push(byte.into()),
            _ => {
                let digit = |value: u8| char::from(b"0123456789ABCDEF"[usize::from(value)]);
                reference.extend(['%', digit(byte >> 4), digit(byte & 15)]);
            }
        }
    }
    reference
}

fn described(mut schema: Value, description: Option<&str>) -> Value {
    if let (Some(description), Value::Object(members)) = (description, &mut schema) {
        members.insert("description".into(), description.into());
    }
    schema
}
