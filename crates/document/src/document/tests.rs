//! Documents at their boundary: bytes and JSON in, bytes and JSON out.

mod blanks;
mod clients;
mod compact;
mod convergence;
mod edits;
mod gaps;
mod halves;
mod hostile;
mod lacking;
mod lists;
mod memory;
mod misfits;
mod patches;
mod remake;
mod search;
mod traces;
mod undo;
mod vectors;
mod violations;

use serde_json::{Value, json};

use super::{InsertError, MeshDocument};
use crate::schema::MeshSchema;
use crate::test;

fn golden() -> Value {
    let json = include_str!("../../../../testdata/vectors/documents.json");
    serde_json::from_str(json).unwrap()
}

/// The schema of the golden documents: `doc` of `item` and `text`.
fn schema() -> MeshSchema {
    MeshSchema::from_json(&golden()["about"]["schema"]).unwrap()
}

fn document(client_id: u64) -> MeshDocument {
    MeshDocument::new(schema(), client_id)
}

/// Decodes hexadecimal digits.
fn bytes(hex: &str) -> Vec<u8> {
    let pairs = (0..hex.len()).step_by(2);
    pairs
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
        .collect()
}

fn counter() -> impl FnMut() -> String {
    let mut next = 0;
    move || {
        next += 1;
        format!("id-{next}")
    }
}

#[test]
fn json_round_trips() {
    let json = json!({"doc": {"title": "T", "children": [
        {"item": {"s": "a", "n": 1.5, "b": true, "children": [{"item": {"n": -7, "children": []}}]}},
        {"text": {"lang": "en", "children": [{"text": {"delta": [
            {"insert": "plain ", "attributes": {}},
            {"insert": "bold", "attributes": {"bold": true}},
            {"insert": " 😀", "attributes": {}},
        ]}}]}},
        {"item": {"s": null, "n": 3_000_000_000_i64, "children": []}},
    ]}});
    let mut document = document(1);
    document.insert_json(&json, &mut counter()).unwrap();
    assert_eq!(document.to_json(false), json);
    assert_eq!(document.element_count(), 4);
    assert_eq!(
        document.node("id-2").unwrap().attribute("n"),
        Some((-7).into())
    );
    assert_eq!(
        document.node("id-2").unwrap().parent().unwrap().id(),
        Some("id-1")
    );
    assert_eq!(
        document.node("id-3").unwrap().text().unwrap().to_plain(),
        "plain bold 😀"
    );
    assert_eq!(document.root().attribute("title"), Some("T".into()));
    assert!(document.node("id-5").is_none());

    // Another replica has the same content.
    let mut other = self::document(2);
    let applied = other.apply_update(&document.encode_state()).unwrap();
    assert_eq!(applied.visible, Some(document.encode_state()));
    assert_eq!(other.to_json(true), document.to_json(true));
    assert_eq!(other.state_vector(), document.state_vector());

    // JSON with `$id`s restores an equal document.
    let mut again = self::document(3);
    again
        .insert_json(&document.to_json(true), &mut counter())
        .unwrap();
    assert_eq!(again.to_json(true), document.to_json(true));
    let error = again.insert_json(&json, &mut counter());
    assert!(matches!(error, Err(InsertError::NotEmpty)));
}

/// Its type declares no list, so the list is `children`.
#[test]
fn bare_text_round_trips() {
    let schema = MeshSchema::from_json(&json!({
        "$root_tag_ref": "#/$defs/doc",
        "$defs": {
            "doc": { "properties": { "doc": { "properties": { "parts": {
                "type": "array", "items": { "anyOf": [{ "$ref": "#/$defs/text" }] } } } } } },
            "text": { "properties": { "text": { "properties": {
                "lang": { "type": "string" } } } } } }
    }));
    let schema = schema.unwrap();
    let of = |delta: Value| {
        json!({ "doc": { "parts": [
            { "text": { "lang": "en", "children": [{ "text": { "delta": delta } }] } }] } })
    };
    let json = of(json!([
        { "insert": "a ", "attributes": {} },
        { "insert": "cup", "attributes": { "bold": true } },
    ]));
    let mut document = MeshDocument::new(schema.clone(), 1);
    document.insert_json(&json, &mut counter()).unwrap();
    assert_eq!(document.to_json(false), json);
    assert!(document.to_json_within(false, 40, usize::MAX).is_none());
    let mut other = MeshDocument::new(schema, 2);
    other.apply_update(&document.encode_state()).unwrap();
    assert_eq!(other.to_json(false), json);

    let written = json!([{ "text": { "delta": [{ "insert": "tea" }] } }]);
    let patch = json!([
        { "op": "test", "path": "/doc/parts/0/text/children/0/text/delta/0/insert", "value": "a " },
        { "op": "replace", "path": "/doc/parts/0/text/children", "value": written },
    ]);
    document.apply_patch(&patch, &mut counter()).unwrap();
    assert_eq!(
        document.to_json(false),
        of(json!([{ "insert": "tea", "attributes": {} }]))
    );
    let changed = of(json!([{ "insert": "green tea", "attributes": {} }]));
    document.replace_json(&changed, &mut counter()).unwrap();
    assert_eq!(document.to_json(false), changed);
    // The element stays, only its text changes.
    assert_eq!(
        document.node("id-1").unwrap().text().unwrap().to_plain(),
        "green tea"
    );
    let empty = json!({ "doc": { "parts": [{ "text": { "lang": "en" } }] } });
    document.replace_json(&empty, &mut counter()).unwrap();
    assert_eq!(document.to_json(false), of(json!([])));
}

#[test]
fn invalid_json_changes_nothing() {
    let mut document = document(1);
    let json = json!({"doc": {"title": 1, "children": [{"li": {}}]}});
    let Err(InsertError::Invalid(violations)) = document.insert_json(&json, &mut counter()) else {
        panic!("accepted");
    };
    assert_eq!(violations.len(), 2);
    assert_eq!(document.state_vector(), [0]);
    assert_eq!(document.to_json(false), json!({"doc": {"children": []}}));
}

#[test]
fn inferred_schema_accepts_flat_form() {
    let json = json!({"key": "value"});
    let mut document = MeshDocument::new(MeshSchema::infer(&json).unwrap(), 1);
    document.insert_json(&json, &mut counter()).unwrap();
    assert_eq!(
        document.to_json(false),
        json!({"document": {"key": "value"}})
    );
}

#[test]
fn documents_are_send_and_sync() {
    fn check<T: Send>(_: &T) {}
    check(&document(1));
}
