//! Arbitrary edits of a rich text: an error that changes nothing, or a changed text.
#![no_main]

use libfuzzer_sys::fuzz_target;
use meshagent_document::{
    ChildProperty, Edit, ElementType, MeshDocument, MeshSchema, TextPosition,
};
use serde_json::json;

fuzz_target!(|edits: Vec<(u8, u8, u8, String)>| {
    let elements = vec![
        ElementType::new("doc").property(ChildProperty::new("children", ["text"])),
        ElementType::new("text").property(ChildProperty::new("children", Vec::<String>::new())),
    ];
    let schema = MeshSchema::new("doc", elements).expect("schema is valid");
    let mut document = MeshDocument::new(schema, 1);
    let start = json!({"doc": {"children": [{"text": {"$id": "t"}}]}});
    document
        .insert_json(&start, &mut String::new)
        .expect("content is valid");
    for (kind, from, to, text) in edits {
        let id = "t".to_owned();
        let (from, to) = match kind & 1 {
            0 => (
                TextPosition::Scalars(from.into()),
                TextPosition::Scalars(to.into()),
            ),
            _ => (
                TextPosition::Utf16(from.into()),
                TextPosition::Utf16(to.into()),
            ),
        };
        let formats = json!({ text.clone(): kind })
            .as_object()
            .cloned()
            .unwrap_or_default();
        let edit = match kind >> 1 & 3 {
            0 => Edit::DeleteText { id, from, to },
            1 => Edit::FormatText {
                id,
                from,
                to,
                attributes: formats,
            },
            2 => Edit::InsertText {
                id,
                at: from,
                text,
                attributes: None,
            },
            _ => Edit::InsertText {
                id,
                at: from,
                text,
                attributes: Some(formats),
            },
        };
        let before = document.encode_state();
        if document.edit(&[edit], &mut String::new).is_err() {
            assert_eq!(document.encode_state(), before);
        }
    }
    let mut other = MeshDocument::new(document.schema().clone(), 2);
    other
        .apply_update(&document.encode_state())
        .expect("own encoding is valid");
    assert_eq!(other.to_json(true), document.to_json(true));
});
