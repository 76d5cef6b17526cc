//! Schemas against the golden vectors, and their errors.

// Checks against another implementation of JSON Schema, which does not build for browsers.
#[cfg(not(target_arch = "wasm32"))]
mod json_schema;

use serde_json::{Value, json};

use super::{ChildProperty, ElementProperty, ElementType, MeshSchema, SimpleValue, ValueProperty};
use crate::test;

fn vectors() -> Value {
    let json = include_str!("../../../../testdata/vectors/schemas.json");
    serde_json::from_str(json).unwrap()
}

#[test]
fn json_matches_python_sdk() {
    let vectors = vectors();
    for (name, printed) in vectors["python"].as_object().unwrap() {
        let schema = MeshSchema::from_json(printed).unwrap();
        assert_eq!(schema.to_json().to_string(), printed.to_string(), "{name}");
        // The npm SDK prints the same schema in another order.
        let npm = MeshSchema::from_json(&vectors["npm_round_trip"][name]).unwrap();
        assert_eq!(npm, schema, "{name}");
    }
}

#[test]
fn built_schema_prints_like_parsed_one() {
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
fn builtin_schemas_use_published_names() {
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
fn schema_error_has_pointer() {
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
        "/$defs/body/properties/body/properties/more: second child property",
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
fn validate_lists_violations_in_document_order() {
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
fn infer_accepts_samples() {
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
    check(json!({"a": {"one": [], "two": []}}), Err("/a/two"));
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
fn inference_says_what_it_expected_and_found() {
    for (json, expected) in [
        (
            json!([]),
            r#""" (the whole JSON): expected an object, found an array; write {"list": {"title": "Plan"}}, or send a schema"#,
        ),
        (
            json!({"key": null}),
            r#"/key: expected a string, a number or a boolean, found null; leave it out, or write {"key": ""}, or send a schema"#,
        ),
        (
            json!({"title": "x", "tags": ["a"]}),
            r#"/tags: expected a string, a number or a boolean, as the JSON has no single root element, found an array; write {"document": {"tags": [{"item": {"name": "tea"}}]}}, or send a schema"#,
        ),
        (
            json!({"$id": "1", "title": "x"}),
            r#"/$id: expected attributes of the root element, whose $id can't be chosen, found "1"; leave it out, as in {"title": "Plan"}, or send a schema"#,
        ),
        (
            json!({"plan": {"steps": [{"step": {"$id": 1}}]}}),
            r#"/plan/steps/0/step/$id: expected a string, found a number; leave it out, or write {"$id": "1"}, or send a schema"#,
        ),
        (
            json!({"plan": {"author": {"name": "Ana"}}}),
            r#"/plan/author: expected a string, a number, a boolean or a list of children, found an object; write {"author": [{"item": {"name": "tea"}}]}, or send a schema"#,
        ),
        (
            json!({"plan": {"steps": ["pack"]}}),
            r#"/plan/steps/0: expected an element, which is an object with its tag as the only key, found "pack"; write {"item": {"name": "tea"}}, or send a schema"#,
        ),
        (
            json!({"plan": {"steps": [{"step": {}}, {"what": "pack", "done": true}]}}),
            r#"/plan/steps/1: expected an element, which is an object with its tag as the only key, found an object with 2 keys; write {"item": {"name": "tea"}}, or send a schema"#,
        ),
        (
            json!({"plan": {"steps": [{"step": "pack"}]}}),
            r#"/plan/steps/0: expected an element, which is an object with its tag as the only key, found "step" with a string; write {"item": {"name": "tea"}}, or send a schema"#,
        ),
        (
            json!({"plan": {"steps": [{"step": {"n": "1"}}, {"step": {"n": 1}}]}}),
            r#"/plan/steps/0/step/n: expected a number as in another element "step", found "1"; write {"n": 1} in each of them, or send a schema"#,
        ),
        (
            json!({"plan": {"steps": [{"step": {"n": []}}, {"step": {"n": 1}}]}}),
            r#"/plan/steps/0/step/n: expected a number as in another element "step", found an array; write {"n": 1} in each of them, or send a schema"#,
        ),
        (
            json!({"plan": {"steps": [{"step": {"n": true}}, {"step": {"n": []}}]}}),
            r#"/plan/steps/0/step/n: expected a list of children as in another element "step", found true; write {"n": [{"item": {}}]} in each of them, or send a schema"#,
        ),
        (
            json!({"plan": {"steps": [], "people": []}}),
            r#"/plan/people: expected no second list of children in an element "plan", found a list beside "steps"; put all children in one list, as in {"steps": [{"item": {}}]}, or send a schema"#,
        ),
    ] {
        let error = MeshSchema::infer(&json).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
}

/// A schema whose type for rich text declares no list.
fn with_bare_text(attributes: &Value) -> MeshSchema {
    MeshSchema::from_json(&json!({
        "$root_tag_ref": "#/$defs/doc",
        "$defs": {
            "doc": { "properties": { "doc": { "properties": { "parts": {
                "type": "array", "items": { "anyOf": [{ "$ref": "#/$defs/text" }] } } } } } },
            "text": { "properties": { "text": { "properties": attributes } } } }
    }))
    .unwrap()
}

#[test]
fn text_without_a_list_of_its_own_has_the_list_children() {
    let schema = with_bare_text(&json!({}));
    let of = |text: Value| json!({ "doc": { "parts": [{ "text": text }] } });
    let delta = json!([{ "text": { "delta": [{ "insert": "tea" }] } }]);
    assert_eq!(schema.validate(&of(json!({ "children": delta }))), []);
    assert_eq!(schema.validate(&of(json!({}))), []);
    let violations = schema.validate(&of(json!({ "children": [{ "doc": {} }] })));
    assert_eq!(
        violations.to_string(),
        r#"/doc/parts/0/text/children/0: expected one child, {"text": {"delta": […]}}, found "doc""#
    );
    let violations = schema.validate(&of(json!({ "parts": delta })));
    assert_eq!(
        violations.to_string(),
        r#"/doc/parts/0/text/parts: expected a property of "text" (children), found "parts""#
    );
    // The schema itself is printed as it was given.
    let printed = schema.to_json();
    assert_eq!(
        printed["$defs"]["text"]["properties"]["text"]["properties"],
        json!({})
    );
    assert_eq!(MeshSchema::from_json(&printed).as_ref(), Ok(&schema));
    let strict = schema.to_json_schema().unwrap();
    let list = &strict["$defs"]["text"]["properties"]["text"]["properties"]["children"];
    assert_eq!(list["maxItems"], 1);

    // An attribute of that name stays one.
    let schema = with_bare_text(&json!({ "children": { "type": "string" } }));
    assert_eq!(schema.validate(&of(json!({ "children": "three" }))), []);
    assert!(
        !schema
            .validate(&of(json!({ "children": delta })))
            .is_empty()
    );
}

#[test]
fn to_json_schema_is_strict() {
    /// Checks every rule that applies to the schema alone.
    fn check(schema: &Value, pointer: &str) {
        const KEYWORDS: [&str; 11] = [
            "$defs",
            "$ref",
            "$schema",
            "additionalProperties",
            "anyOf",
            "description",
            "enum",
            "items",
            "maxItems",
            "properties",
            "required",
        ];
        let Value::Object(members) = schema else {
            panic!("{pointer}: not a schema");
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
}

#[test]
fn to_json_schema_checks_limits() {
    fn schema(elements: Vec<ElementType>) -> MeshSchema {
        MeshSchema::new("a", elements).unwrap()
    }
    fn with(properties: impl IntoIterator<Item = ValueProperty>) -> Vec<ElementType> {
        let element = ElementType::new("a");
        vec![properties.into_iter().fold(element, ElementType::property)]
    }
    let texts = |count: usize, length: usize| -> Vec<String> {
        (0..count)
            .map(|number| format!("{number:0length$}"))
            .collect()
    };
    let choice = |count, length| {
        let property = ValueProperty::new("x", SimpleValue::String);
        property.one_of(texts(count, length))
    };
    let strings = |names: Vec<String>| {
        let names = names.into_iter();
        names.map(|name| ValueProperty::new(name, SimpleValue::String))
    };
    // The root is printed twice: as the schema itself and as a definition.
    let others = (0..4).map(|number| {
        let element = ElementType::new(format!("b{number}"));
        strings(texts(1_000, 4)).fold(element, ElementType::property)
    });
    let numbers = ValueProperty::new("x", SimpleValue::Number).one_of(0..501);
    for (elements, message) in [
        (with(strings(texts(2_499, 4))), None),
        (
            with(strings(texts(2_500, 4))),
            Some("schema has 5002 properties, structured outputs allow 5000"),
        ),
        (
            with(strings(texts(500, 4)))
                .into_iter()
                .chain(others)
                .collect(),
            Some("schema has 5006 properties, structured outputs allow 5000"),
        ),
        (with([choice(500, 5)]), None),
        (
            with([numbers]),
            Some("schema has 1002 enumerated values, structured outputs allow 1000"),
        ),
        (with([choice(250, 100)]), None),
        (with([choice(251, 59)]), None),
        (
            with([choice(251, 60)]),
            Some(
                "schema has 15060 characters in an enumeration of more than 250 values, \
                 structured outputs allow 15000",
            ),
        ),
        (with(strings(texts(2_000, 29))), None),
        (
            with(strings(texts(2_000, 30))),
            Some(
                "schema has 120003 characters in names and values, structured outputs allow 120000",
            ),
        ),
    ] {
        let found = schema(elements).to_json_schema();
        let found = found.err().map(|error| error.to_string());
        let expected = message.map(|message| format!("{message}; make it smaller"));
        assert_eq!(found, expected);
    }
}

#[test]
fn to_json_schema_stays_within_nesting_limit() {
    fn levels(schema: &Value) -> usize {
        let properties = schema.get("properties").and_then(Value::as_object);
        let below = properties.into_iter().flat_map(serde_json::Map::values);
        let below = below.chain(schema.get("items"));
        let is_object = usize::from(schema["type"] == "object");
        is_object + below.map(levels).max().unwrap_or(0)
    }
    for (name, json) in vectors()["python"].as_object().unwrap() {
        let strict = MeshSchema::from_json(json)
            .unwrap()
            .to_json_schema()
            .unwrap();
        let definitions = strict["$defs"].as_object().unwrap().values();
        let deepest = definitions.chain([&strict]).map(levels).max();
        assert!(deepest <= Some(5), "{name}: {deepest:?}");
    }
}

#[test]
fn enum_numbers_compare_by_value() {
    let property = ValueProperty::new("n", SimpleValue::Number).one_of([1, 2]);
    assert!(property.allows(&json!(1)));
    assert!(property.allows(&json!(1.0)));
    assert!(!property.allows(&json!(1.5)));
    assert!(!property.allows(&json!("1")));
}
