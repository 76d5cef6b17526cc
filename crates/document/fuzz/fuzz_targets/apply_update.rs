//! Any bytes as updates: an error or a document that can be read, repaired and passed on.
#![no_main]

use libfuzzer_sys::fuzz_target;
use meshagent_document::{DecodeError, MeshDocument, MeshSchema};

fuzz_target!(|bytes: &[u8]| {
    let schema = MeshSchema::builtin("thread").expect("it is built in");
    let mut document = MeshDocument::new(schema.clone(), 1);
    for update in updates(bytes) {
        let classified = document.classify(update);
        if document.apply_update(update).is_ok() {
            // A stored state may have more without content than one update that is sent.
            let is_malformed = matches!(classified, Err(DecodeError::Malformed { .. }));
            assert!(!is_malformed, "{classified:?}");
        }
    }
    document.to_json(true);
    document.repair();
    assert!(document.violations().is_empty());
    let mut other = MeshDocument::new(schema, 2);
    other
        .apply_update(&document.encode_state())
        .expect("what is written can be read");
    assert_eq!(other.state_vector(), document.state_vector());
});

/// The updates in the bytes, each behind its length in two bytes; the last one ends where they end.
fn updates(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = bytes.split_first_chunk()?;
        let length = usize::from(u16::from_le_bytes(*length)).min(rest.len());
        let (update, rest) = rest.split_at(length);
        bytes = rest;
        Some(update)
    })
}
