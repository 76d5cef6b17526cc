//! Arbitrary bytes as updates: an error, or a document that can be read, repaired and encoded.
#![no_main]

use libfuzzer_sys::fuzz_target;
use meshagent_document::{DecodeError, MeshDocument, MeshSchema};

fuzz_target!(|bytes: &[u8]| {
    let schema = MeshSchema::builtin("thread").expect("schema is built in");
    let mut document = MeshDocument::new(schema.clone(), 1);
    for update in updates(bytes) {
        let classified = document.classify(update);
        if document.apply_update(update).is_ok() {
            // A stored state may have more operations without content than a single update from
            // a peer.
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
        .expect("own encoding is valid");
    assert_eq!(other.state_vector(), document.state_vector());
});

/// The updates in the bytes, each with a length prefix of two bytes; the last one extends to
/// the end.
fn updates(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = bytes.split_first_chunk()?;
        let length = usize::from(u16::from_le_bytes(*length)).min(rest.len());
        let (update, rest) = rest.split_at(length);
        bytes = rest;
        Some(update)
    })
}
