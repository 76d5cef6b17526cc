//! `meshagent room sync create` without a schema, and with rich text.

use std::fs;

use serde_json::{Value, json};

use crate::room::{Home, json as parsed, refused};

#[test]
fn create_names_the_root_element_that_was_added() {
    let home = Home::new();
    let created = |path: &str, json: &str| home.done(&["sync", "create", path, "--json", json]);
    assert_eq!(
        created("flat", r#"{"a": 1}"#),
        "Created document at flat, with the JSON as the attributes of a root element \"document\"\n"
    );
    assert_eq!(home.get("flat"), r#"{"document": {"a": 1}}"#);
    assert_eq!(
        created("two", r#"{"a": 1, "b": "x"}"#),
        "Created document at two, with the JSON as the attributes of a root element \"document\"\n"
    );
    assert_eq!(
        created("own", r#"{"list": {"a": 1}}"#),
        "Created document at own\n"
    );
}

#[test]
fn violations_found_by_the_server_are_printed_one_per_line() {
    let home = Home::new();
    let wrong = r#"{"thread": {"colour": "red; /blue", "name": 7, "properties": [{"x": {}}]}}"#;
    let ran = home.run(&["sync", "create", "talk.thread", "--json", wrong]);
    refused(
        &ran,
        1,
        &["the JSON violates the schema in 3 places:\n  /thread/"],
    );
    let lines: Vec<&str> = ran.stderr.lines().collect();
    assert_eq!(lines.len(), 5, "{}", ran.stderr);
    for (line, pointer) in lines[1..4]
        .iter()
        .zip(["/colour: ", "/name: ", "/properties/0: "])
    {
        assert!(
            line.starts_with(&format!("  /thread{pointer}expected ")),
            "{}",
            ran.stderr
        );
    }
}

#[test]
fn inference_errors_say_where_what_was_expected() {
    let home = Home::new();
    for (json, expected) in [
        (
            r#"{"plan": {"steps": ["pack"]}}"#,
            r#": /plan/steps/0: expected an element, which is an object with its tag as the only key, found "pack"; write {"item": {"name": "tea"}}, or send a schema"#,
        ),
        (
            r#"{"plan": {"due": null}}"#,
            r#": /plan/due: expected a string, a number or a boolean, found null; leave it out, or write {"due": ""}, or send a schema"#,
        ),
        (
            r#"{"tags": ["a"]}"#,
            r#": /tags: expected a string, a number or a boolean, as the JSON has no single root element, found an array; write {"document": {"tags": [{"item": {"name": "tea"}}]}}, or send a schema"#,
        ),
    ] {
        let ran = home.run(&["sync", "create", "plan", "--json", json]);
        refused(&ran, 1, &[expected]);
        assert_eq!(
            ran.stderr
                .lines()
                .next()
                .unwrap()
                .matches("send a schema")
                .count(),
            1
        );
    }
}

/// A type for rich text that declares no list has the list `children`.
#[test]
fn bare_text_round_trips() {
    let home = Home::new();
    let schema = json!({
        "$root_tag_ref": "#/$defs/doc",
        "$defs": {
            "doc": { "properties": { "doc": { "properties": { "parts": {
                "type": "array", "items": { "anyOf": [{ "$ref": "#/$defs/text" }] } } } } } },
            "text": { "properties": { "text": { "properties": {} } } } }
    });
    fs::write(home.path().join("bare.json"), schema.to_string()).unwrap();
    let of = |text: &str| -> Value {
        let delta = json!([{ "insert": text, "attributes": {} }]);
        json!({ "doc": { "parts": [{ "text": { "children": [{ "text": { "delta": delta } }] } }] } })
    };
    let tea = of("tea").to_string();
    home.done(&[
        "sync",
        "create",
        "plan",
        "--schema",
        "bare.json",
        "--json",
        &tea,
    ]);
    assert_eq!(parsed(&home.get("plan")), of("tea"));
    let export = [
        "sync",
        "export",
        "plan",
        "--output",
        "plan.json",
        "--schema-output",
        "plan.schema",
    ];
    home.done(&export);
    let again = [
        "sync",
        "create",
        "again",
        "--json-file",
        "plan.json",
        "--schema",
        "plan.schema",
    ];
    home.done(&again);
    assert_eq!(parsed(&home.get("again")), of("tea"));
    let patch = json!([{ "op": "replace", "path": "/doc/parts/0/text/children",
        "value": [{ "text": { "delta": [{ "insert": "green tea" }] } }] }]);
    home.done(&["sync", "update", "again", "--patch", &patch.to_string()]);
    assert_eq!(parsed(&home.get("again")), of("green tea"));
    let found = parsed(&home.done(&["sync", "grep", "again", "green"]));
    assert_eq!(found[0], of("green tea")["doc"]["parts"][0]);
}
