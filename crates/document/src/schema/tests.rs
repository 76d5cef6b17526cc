//! Schemas against the golden vectors, and what is refused.

use serde_json::{Value, json};

use super::{ChildProperty, ElementProperty, ElementType, MeshSchema, SimpleValue, ValueProperty};
use crate::test;

fn vectors() -> Value {
    let json = include_str!("../../../../testdata/vectors/schemas.json");
    serde_json::from_str(json).unwrap()
}

#[test]
fn prints_what_the_python_sdk_prints() {
    let vectors = vectors();
    for (name, printed) in vectors["python"].as_object().unwrap() {
        let schema = MeshSchema::from_json(printed).unwrap();
        assert_eq!(schema.to_json().to_string(), printed.to_string(), "{name}");
        // The npm SDK prints the same in another order.
        let npm = MeshSchema::from_json(&vectors["npm_round_trip"][name]).unwrap();
        assert_eq!(npm, schema, "{name}");
    }
}

#[test]
fn a_schema_built_here_prints_alike() {
    let schema = MeshSchema::new(
        "html",
        vec![
            ElementType::new("html").property(ChildProperty::new("children", ["body"])),
            ElementType::new("body").property(ChildProperty::new("children", ["p"])),
            ElementType::new("p").property(ValueProperty::new("class", SimpleValue::String)),
        ],
    )
    .unwrap();
    assert_eq!(
        schema.to_json().to_string(),
        vectors()["python"]["html"].to_string()
    );
}

#[test]
fn built_in_schemas_have_the_published_names() {
    let vectors = vectors();
    for (extension, name) in [
        ("document", "document"),
        ("thread", "thread"),
        ("threadl", "thread_list"),
    ] {
        let published = MeshSchema::from_json(&vectors["python"][name]).unwrap();
        let ours = MeshSchema::builtin(extension).unwrap();
        assert_eq!(
            without_descriptions(&ours),
            without_descriptions(&published),
            "{name}"
        );
    }
    for extension in ["gallery", "presentation"] {
        assert!(MeshSchema::builtin(extension).is_some(), "{extension}");
    }
    assert!(MeshSchema::builtin("txt").is_none());
}

fn without_descriptions(schema: &MeshSchema) -> Vec<ElementType> {
    let mut elements = schema.elements().to_vec();
    for element in &mut elements {
        element.description = None;
        for property in &mut element.properties {
            match property {
                ElementProperty::Child(children) => children.description = None,
                ElementProperty::Value(value) => value.description = None,
            }
        }
    }
    elements
}

#[test]
fn a_wrong_schema_says_where() {
    let check = |change: fn(&mut Value), expected: &str| {
        let mut json = vectors()["python"]["html"].clone();
        change(&mut json);
        let error = MeshSchema::from_json(&json).unwrap_err();
        assert!(error.to_string().starts_with(expected), "{error}");
    };
    check(
        |json| json["$root_tag_ref"] = "#/$defs/x".into(),
        "/$root_tag_ref: root tag \"x\"",
    );
    check(
        |json| json["$root_tag_ref"] = 1.into(),
        "/$root_tag_ref: expected a reference",
    );
    check(
        |json| json["$defs"]["body"] = Value::Null,
        "/$defs/body: expected an object",
    );
    check(
        |json| {
            json["$defs"].as_object_mut().unwrap().shift_remove("p");
        },
        "/$defs/body/properties/body/properties/children/items/anyOf/0/$ref: child tag \"p\"",
    );
    check(
        |json| json["$defs"]["p"]["properties"]["p"]["properties"]["class"]["type"] = "date".into(),
        "/$defs/p/properties/p/properties/class/type: value type \"date\"",
    );
    check(
        |json| {
            let body = &mut json["$defs"]["body"]["properties"]["body"]["properties"];
            body["more"] = body["children"].clone();
        },
        "/$defs/body/properties/body/properties/more: a second child property",
    );

    let twice = ElementType::new("a")
        .property(ValueProperty::new("x", SimpleValue::Number))
        .property(ValueProperty::new("x", SimpleValue::String));
    let error = MeshSchema::new("a", vec![twice]).unwrap_err();
    assert_eq!(error.pointer, "/$defs/a/properties/a/properties/x");
    let tags = vec![ElementType::new("a"), ElementType::new("a")];
    assert_eq!(MeshSchema::new("a", tags).unwrap_err().pointer, "/$defs/a");
}

#[test]
fn lists_all_violations_in_document_order() {
    let schema = MeshSchema::from_json(&vectors()["python"]["rich_text"]).unwrap();
    let check = |json: Value, expected: &[&str]| {
        let violations = schema.validate(&json);
        let pointers: Vec<&str> = violations.iter().map(|one| one.pointer.as_str()).collect();
        assert_eq!(pointers, expected, "{violations:?}");
    };
    check(json!({"doc": {}}), &[]);
    check(json!({"doc": {"title": null, "children": []}}), &[]);
    check(
        json!({"doc": {"children": [
            {"item": {"s": "a", "n": 1, "b": true, "$id": "1", "children": [{"item": {}}]}},
            {"text": {"children": [{"text": {"delta": [{"insert": "x", "attributes": {}}]}}]}},
        ]}}),
        &[],
    );
    check(
        json!({"doc": {"title": 1, "nope": 1, "children": [
            {"item": {"n": "x", "children": [{"li": {}}, 3]}},
            {"item": {"$id": "1"}}, {"item": {"$id": "1"}},
            {"text": {"children": [{"item": {}}]}},
            {"a": {}, "b": {}},
        ]}}),
        &[
            "/doc/title",
            "/doc/nope",
            "/doc/children/4",
            "/doc/children/0/item/n",
            "/doc/children/0/item/children/0",
            "/doc/children/0/item/children/1",
            "/doc/children/2/item/$id",
            "/doc/children/3/text/children/0",
        ],
    );
    check(json!({"key": "value"}), &[""]);
    check(json!([]), &[""]);
    check(json!({"doc": 1}), &["/doc"]);
    let message = schema.validate(&json!({"doc": {"title": 1}}))[0].to_string();
    assert_eq!(message, "/doc/title: expected string or null, found 1");
}

#[test]
fn infers_what_the_samples_need() {
    let check = |json: Value, expected: Result<Value, &str>| {
        let found = MeshSchema::infer(&json).map(|schema| schema.to_json()["$defs"].clone());
        match expected {
            Ok(expected) => {
                assert_eq!(found, Ok(expected));
                assert_eq!(MeshSchema::infer(&json).unwrap().validate(&json), []);
            }
            Err(pointer) => assert_eq!(found.unwrap_err().pointer, pointer),
        }
    };
    let attribute = |tag: &str, name: &str, kind: &str| {
        json!({tag: {"type": "object", "additionalProperties": false, "required": [tag], "properties":
            {tag: {"type": "object", "additionalProperties": false, "required": [name], "properties":
                {name: {"type": [kind, "null"]}}}}}})
    };
    check(
        json!({"key": "value"}),
        Ok(attribute("document", "key", "string")),
    );
    check(
        json!({"note": {"n": 1.5}}),
        Ok(attribute("note", "n", "number")),
    );
    check(
        json!({"document": true}),
        Ok(attribute("document", "document", "boolean")),
    );
    check(json!({"key": null}), Err("/key"));
    check(json!({"key": [1]}), Err("/key"));
    check(json!({"a": 1, "b": {}}), Err("/b"));
    check(
        json!({"a": {"kids": [{"b": {"x": 1}}, {"b": {"x": "1"}}]}}),
        Err("/a/kids/0/b/x"),
    );
    check(
        json!({"a": {"kids": [{"b": {}, "c": {}}]}}),
        Err("/a/kids/0"),
    );
    check(json!({"a": {"one": [], "two": []}}), Err(""));
    check(json!([]), Err(""));

    let nested = json!({"a": {"t": "x", "kids": [
        {"b": {"n": 1}}, {"a": {}}, {"text": {"children": [{"text": {"delta": [{"insert": "x"}]}}]}},
    ]}});
    let schema = MeshSchema::infer(&nested).unwrap();
    assert_eq!(
        schema.root().child_property().unwrap().tags(),
        ["b", "a", "text"]
    );
    assert_eq!(schema.validate(&nested), []);
}

#[test]
fn structured_outputs_get_a_strict_schema() {
    /// Every rule that can be read off the schema itself.
    fn check(schema: &Value, pointer: &str) {
        const KEYWORDS: [&str; 10] = [
            "$defs",
            "$ref",
            "$schema",
            "additionalProperties",
            "anyOf",
            "description",
            "enum",
            "items",
            "properties",
            "required",
        ];
        let Value::Object(members) = schema else {
            panic!("{pointer} is no schema");
        };
        for (keyword, value) in members {
            let pointer = format!("{pointer}/{keyword}");
            assert!(
                keyword == "type" || KEYWORDS.contains(&keyword.as_str()),
                "{pointer}"
            );
            match (keyword.as_str(), value) {
                ("properties" | "$defs", Value::Object(named)) => {
                    named
                        .iter()
                        .for_each(|(name, one)| check(one, &format!("{pointer}/{name}")));
                }
                ("anyOf", Value::Array(list)) => {
                    assert!(!list.is_empty(), "{pointer}");
                    for one in list {
                        check(one, &pointer);
                    }
                }
                ("items", item) => check(item, &pointer),
                _ => {}
            }
        }
        if members.get("type") == Some(&"object".into()) {
            assert_eq!(members["additionalProperties"], false, "{pointer}");
            let names = members["properties"].as_object().unwrap().keys();
            let names: Vec<Value> = names.map(|name| name.as_str().into()).collect();
            assert_eq!(members["required"], Value::from(names), "{pointer}");
        }
    }
    for (name, json) in vectors()["python"].as_object().unwrap() {
        let schema = MeshSchema::from_json(json).unwrap();
        let strict = schema.to_json_schema().unwrap();
        check(&strict, name);
        assert_eq!(strict["type"], "object");
        assert!(strict.get("anyOf").is_none());
    }
    let values = (0..1_001).map(|number| number.to_string());
    let many = ValueProperty::new("x", SimpleValue::String).one_of(values);
    let schema = MeshSchema::new("a", vec![ElementType::new("a").property(many)]).unwrap();
    assert_eq!(
        schema.to_json_schema().unwrap_err().what,
        "enumerated values"
    );
}
