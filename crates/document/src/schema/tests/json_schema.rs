//! The schema for structured outputs, read by another implementation of JSON Schema.

use crate::test;
use jsonschema::draft202012;
use serde_json::{Map, Value, json};

use super::vectors;
use crate::MeshDocument;
use crate::schema::{
    ChildProperty, ElementProperty, ElementType, MeshSchema, SimpleValue, TEXT_TAG, ValueProperty,
};

/// All test schemas, by name.
fn schemas() -> Vec<(String, MeshSchema)> {
    let mut schemas = vec![("awkward".to_owned(), awkward())];
    for extension in ["document", "gallery", "presentation", "thread", "threadl"] {
        let schema = MeshSchema::builtin(extension).unwrap();
        schemas.push((extension.to_owned(), schema));
    }
    for (name, json) in vectors()["python"].as_object().unwrap() {
        schemas.push((
            format!("vector {name}"),
            MeshSchema::from_json(json).unwrap(),
        ));
    }
    schemas
}

/// Tags with a special meaning in a pointer or a URI, and every kind of property.
fn awkward() -> MeshSchema {
    const TAGS: [&str; 8] = ["a b", "50%41", "ä/~#", "\"?", "", "[{^|}]", "leaf", "text"];
    let mut elements = vec![
        ElementType::new("leaf").property(ChildProperty::new("children", Vec::<String>::new())),
        ElementType::new("text")
            .describe("rich text")
            .property(ChildProperty::new("runs", Vec::<String>::new())),
    ];
    for tag in &TAGS[..6] {
        let element = ElementType::new(*tag)
            .property(ValueProperty::new("s", SimpleValue::String).describe("a text"))
            .property(ValueProperty::new("n", SimpleValue::Number).required())
            .property(ValueProperty::new("b", SimpleValue::Boolean))
            .property(ValueProperty::new("nothing", SimpleValue::Null))
            .property(ValueProperty::new("one", SimpleValue::String).one_of(["x", "y"]))
            .property(ValueProperty::new("two", SimpleValue::Number).one_of([1, 2]))
            .property(
                ValueProperty::new("three", SimpleValue::String).one_of([Value::Null, "x".into()]),
            )
            // One tag twice.
            .property(ChildProperty::new(
                "children",
                TAGS.iter().chain(&TAGS[..1]).copied(),
            ));
        elements.push(element);
    }
    MeshSchema::new("a b", elements).unwrap()
}

#[test]
fn to_json_schema_is_valid_json_schema() {
    for (name, schema) in schemas() {
        let strict = schema.to_json_schema().unwrap();
        if let Err(error) = draft202012::meta::validate(&strict) {
            panic!("{name}: {error} at {}", error.instance_path());
        }
        // All references resolve, too.
        draft202012::new(&strict).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

#[test]
fn json_schema_and_mesh_schema_agree() {
    const SEEDS: u64 = 300;
    for (name, schema) in schemas() {
        let validator = draft202012::new(&schema.to_json_schema().unwrap()).unwrap();
        let (mut accepted, mut refused) = (0, 0);
        for seed in 0..SEEDS {
            let mut author = Author::new(&schema, seed);
            let json = author.element(schema.root(), 0);
            let violations = schema.validate(&json);
            assert_eq!(
                validator.is_valid(&json),
                violations.is_empty(),
                "{name}, seed {seed}: {json}: {violations:?}"
            );
            if violations.is_empty() {
                accepted += 1;
                let mut serial = 0;
                let mut next_id = || {
                    serial += 1;
                    serial.to_string()
                };
                let mut document = MeshDocument::new(schema.clone(), 1);
                let inserted = document.insert_json(&json, &mut next_id);
                assert!(
                    inserted.is_ok(),
                    "{name}, seed {seed}: {inserted:?}: {json}"
                );
            } else {
                refused += 1;
            }
        }
        assert!(
            accepted > 20 && refused > 20,
            "{name}: {accepted}, {refused}"
        );
    }
}

/// Writes documents that have all properties, and sometimes an error.
struct Author<'a> {
    schema: &'a MeshSchema,
    state: u64,
}

impl<'a> Author<'a> {
    fn new(schema: &'a MeshSchema, seed: u64) -> Self {
        let state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        Self { schema, state }
    }

    fn below(&mut self, limit: usize) -> usize {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        usize::try_from(self.state >> 11).unwrap() % limit
    }

    fn errs(&mut self) -> bool {
        self.below(50) == 0
    }

    fn element(&mut self, element: &ElementType, depth: usize) -> Value {
        let mut content = Map::new();
        for property in element.properties() {
            let value = match property {
                ElementProperty::Value(property) => self.value(property),
                ElementProperty::Child(_) if element.tag() == TEXT_TAG => self.rich_text(),
                // A list that is always empty is left out.
                ElementProperty::Child(children) if children.tags().is_empty() => continue,
                ElementProperty::Child(children) => self.children(children, depth),
            };
            content.insert(property.name().to_owned(), value);
        }
        if self.errs() {
            content.insert("unknown".into(), json!(1));
        }
        let content = if self.errs() {
            self.anything()
        } else {
            content.into()
        };
        let tag = if self.errs() {
            "unknown"
        } else {
            element.tag()
        };
        let mut whole = json!({ tag: content });
        // The attributes of a childless root may stand alone, which is another form.
        if depth > 0 && self.errs() {
            whole["second"] = json!({});
        }
        whole
    }

    fn children(&mut self, children: &ChildProperty, depth: usize) -> Value {
        if self.errs() {
            return json!("children");
        }
        let count = if depth > 3 { 0 } else { self.below(4) };
        let mut list = Vec::new();
        for _ in 0..count {
            let tag = &children.tags()[self.below(children.tags().len())];
            let child = self.schema.element(tag).unwrap();
            list.push(self.element(child, depth + 1));
        }
        if self.errs() {
            let elements = self.schema.elements();
            let any = &elements[self.below(elements.len())];
            list.push(self.element(any, depth + 1));
        }
        list.into()
    }

    fn rich_text(&mut self) -> Value {
        let mut runs = Vec::new();
        for _ in 0..self.below(3) {
            runs.push(match self.below(50) {
                0 => json!({}),
                1 => json!("text"),
                2 => json!({"insert": 1}),
                _ => json!({"insert": "text"}),
            });
        }
        let one = match self.below(50) {
            0 => json!({"text": {}}),
            1 => json!({"text": {"delta": "text"}}),
            2 => json!({"other": {"delta": runs}}),
            _ => json!({"text": {"delta": runs}}),
        };
        let count = if self.errs() { 2 } else { self.below(2) };
        vec![one; count].into()
    }

    fn value(&mut self, property: &ValueProperty) -> Value {
        if self.below(25) == 0 {
            return self.anything();
        }
        if let Some(variants) = property.variants() {
            return variants[self.below(variants.len())].clone();
        }
        let is_null = !property.is_required() && self.below(3) == 0;
        match property.value_type() {
            _ if is_null => Value::Null,
            SimpleValue::Boolean => true.into(),
            SimpleValue::Null => Value::Null,
            SimpleValue::Number => [json!(1), json!(-2.5), json!(1e300)][self.below(3)].clone(),
            SimpleValue::String => ["", "x", "ä 😀"][self.below(3)].into(),
        }
    }

    /// Not an object: it could be taken for an element without properties.
    fn anything(&mut self) -> Value {
        let values = json!([null, true, 1, 1.0, 7.5, "x", "other", [], [1]]);
        values[self.below(9)].clone()
    }
}
