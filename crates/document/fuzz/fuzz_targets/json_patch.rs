//! Arbitrary JSON as a patch: an error that changes nothing, or a document that satisfies
//! its schema.
#![no_main]

use libfuzzer_sys::fuzz_target;
use meshagent_document::{MeshDocument, MeshSchema};
use serde_json::{Value, json};

fuzz_target!(|bytes: &[u8]| {
    let Ok(patch) = serde_json::from_slice::<Value>(bytes) else {
        return;
    };
    let schema = MeshSchema::builtin("document").expect("schema is built in");
    let mut document = MeshDocument::new(schema, 1);
    let mut serial = 0;
    let mut next_id = || {
        serial += 1;
        serial.to_string()
    };
    let start = json!({"document": {"content": [
        {"heading": {"text": "h"}}, {"body": {"text": "b"}}, {"file": {"name": "f"}},
    ]}});
    document
        .insert_json(&start, &mut next_id)
        .expect("content is valid");
    let before = document.encode_state();
    if document.apply_patch(&patch, &mut next_id).is_err() {
        assert_eq!(document.encode_state(), before);
    }
    assert!(document.violations().is_empty());
});
