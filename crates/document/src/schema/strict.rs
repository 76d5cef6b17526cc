//! The schema as plain JSON Schema (draft 2020-12), within the rules for structured outputs of LLMs.
//!
//! The rules are those that `OpenAI` publishes for its strict mode: every object is closed, every property
//! is required, what may be missing is null, and only few keywords exist. What comes back for such a
//! schema is a document's JSON, as [`MeshSchema::validate`] takes it.

use serde_json::{Map, Value, json};
use thiserror::Error;

use super::{ElementProperty, ElementType, MeshSchema, TEXT_TAG, ValueProperty};

/// How many properties all objects of a schema may have together.
const MAX_PROPERTIES: usize = 5_000;

/// How many values all enumerations may have together.
const MAX_ENUM_VALUES: usize = 1_000;

/// How many characters all names and enumerated values may have together.
const MAX_NAME_CHARACTERS: usize = 120_000;

/// Why a schema does not fit the rules of structured outputs.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("structured outputs allow {limit} {what}, and this schema has {found}; make it smaller")]
#[non_exhaustive]
pub struct StrictError {
    /// What there is too much of.
    pub what: &'static str,
    /// How many there may be.
    pub limit: usize,
    /// How many there are.
    pub found: usize,
}

#[derive(Default)]
struct Size {
    properties: usize,
    enum_values: usize,
    name_characters: usize,
}

impl MeshSchema {
    /// The schema as plain JSON Schema for structured outputs.
    ///
    /// Rich text comes without formatting, since a strict object can't have arbitrary keys.
    ///
    /// # Errors
    /// [`StrictError`] if the schema exceeds what structured outputs allow.
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
                    // There is nothing that could be in the list, so it is left out.
                    continue;
                } else {
                    let tags = children.tags.iter();
                    let references = tags.map(|tag| json!({ "$ref": reference(tag) }));
                    json!({ "anyOf": references.collect::<Vec<Value>>() })
                };
                (
                    json!({ "type": "array", "items": items }),
                    children.description(),
                )
            }
        };
        let printed = described(printed, description);
        properties.insert(property.name().to_owned(), printed);
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
    size.name_characters += texts.map(|text| text.chars().count()).sum::<usize>();
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

fn reference(tag: &str) -> String {
    format!("#/$defs/{}", tag.replace('~', "~0").replace('/', "~1"))
}

fn described(mut schema: Value, description: Option<&str>) -> Value {
    if let (Some(description), Value::Object(members)) = (description, &mut schema) {
        members.insert("description".into(), description.into());
    }
    schema
}
