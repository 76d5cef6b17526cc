//! An upper bound for the size of edits as updates, computed before they are applied, at a cost
//! proportional to the edits.

use std::collections::HashSet;

use serde_json::{Map, Value};

use crate::document::MeshDocument;
use crate::document::edit::{Edit, Target};
use crate::update::writer::{Builder, Place};

/// The maximal growth of a byte of JSON, roughly: each new element gets an `$id`, each value
/// its place.
const GROWTH: usize = 16;

/// The overhead of an edit: its place.
const EDIT_BYTES: usize = 64;

/// The maximal bytes of a deletion: ranges of a client, one for an attribute and one for the root's
/// second copy of it.
const DELETION_BYTES: usize = 2 * RANGE_BYTES;

/// Numbers of at most 5 bytes and a client id of at most 8.
const RANGE_BYTES: usize = 24;

impl MeshDocument {
    /// The maximal bytes of all updates of these edits; `usize::MAX` if unknown.
    pub(super) fn most_bytes(&self, edits: &[Edit]) -> usize {
        let mut bytes = 0_usize;
        // Bytes added to elements that later edits may move, and so copy.
        let mut inside = 0_usize;
        // Texts that get formats here, which later edits may have to write again.
        let mut formatted: HashSet<&str> = HashSet::new();
        for edit in edits {
            let one = match edit {
                Edit::Delete { .. } | Edit::RemoveAttribute { .. } => DELETION_BYTES,
                Edit::Insert {
                    parent, element, ..
                } => {
                    let one = grown(text_bytes(element));
                    inside = inside.saturating_add(if *parent == Target::Root { 0 } else { one });
                    one
                }
                Edit::Move { id, parent, .. } => {
                    // An element created by another edit.
                    let Some(moved) = self.node(id) else {
                        return usize::MAX;
                    };
                    let mut copy = Builder::new(self.client_id, self.engine.clock(self.client_id));
                    let place = Place::Only(self.engine.node_id(moved.index));
                    self.engine.copy(moved.index, place, &mut copy);
                    // Its references may be longer at its new place.
                    let own = copy.finish().len().saturating_mul(2);
                    let one = own.saturating_add(inside).saturating_add(EDIT_BYTES);
                    inside = inside.saturating_add(if *parent == Target::Root { 0 } else { own });
                    one
                }
                Edit::SetAttribute { name, value, .. } => {
                    let one = grown(name.len() + text_bytes(value));
                    inside = inside.saturating_add(one);
                    one
                }
                Edit::DeleteText { id, .. }
                | Edit::InsertText { id, .. }
                | Edit::FormatText { id, .. }
                    if self.plain_text_operations(id).is_none()
                        || formatted.contains(id.as_str()) =>
                {
                    return usize::MAX;
                }
                Edit::DeleteText { id, .. } => {
                    let operations = self.plain_text_operations(id).unwrap_or_default();
                    (operations + edits.len()).saturating_mul(RANGE_BYTES)
                }
                Edit::InsertText {
                    id,
                    text,
                    attributes,
                    ..
                } => {
                    let formats = attributes.as_ref().map_or(0, members_bytes);
                    if attributes
                        .as_ref()
                        .is_some_and(|formats| !formats.is_empty())
                    {
                        formatted.insert(id);
                    }
                    let one = grown(text.len() + formats);
                    inside = inside.saturating_add(one);
                    one
                }
                Edit::FormatText { id, attributes, .. } => {
                    formatted.insert(id);
                    let one = grown(members_bytes(attributes));
                    inside = inside.saturating_add(one);
                    one
                }
                Edit::ApplyDelta { .. } => return usize::MAX,
            };
            bytes = bytes.saturating_add(one);
        }
        bytes
    }
}

impl MeshDocument {
    /// The number of operations in a text without formats; `None` with formats, since an edit then
    /// rewrites marks of any length.
    fn plain_text_operations(&self, id: &str) -> Option<usize> {
        let text = self.text_in(self.node(id)?.index)?;
        self.engine.plain_operations(text)
    }
}

fn grown(bytes: usize) -> usize {
    bytes.saturating_mul(GROWTH).saturating_add(EDIT_BYTES)
}

/// The approximate length of a value as text. Its depth is limited, as it comes from parsed JSON.
fn text_bytes(value: &Value) -> usize {
    match value {
        Value::Array(items) => 2 + items.iter().map(text_bytes).sum::<usize>(),
        Value::Object(members) => members_bytes(members),
        Value::String(text) => 2 + text.len(),
        Value::Bool(_) | Value::Null | Value::Number(_) => 8,
    }
}

fn members_bytes(members: &Map<String, Value>) -> usize {
    let members = members.iter();
    2 + members
        .map(|(name, value)| name.len() + 4 + text_bytes(value))
        .sum::<usize>()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::document::{Edit, MeshDocument, TextPosition};
    use crate::schema::MeshSchema;
    use crate::test;

    /// With formats, an edit writes ended marks again; characters of several authors are deleted
    /// one by one.
    #[test]
    fn bound_covers_edits_of_fragmented_texts() {
        let golden = include_str!("../../../../../testdata/vectors/documents.json");
        let golden: serde_json::Value = serde_json::from_str(golden).unwrap();
        let schema = MeshSchema::from_json(&golden["about"]["schema"]).unwrap();
        let mut document = MeshDocument::new(schema.clone(), 1);
        let json = json!({"doc": {"title": "T", "children": [{"text": {"$id": "t", "children": [{"text": {"delta": [
            {"insert": "größe 漢字 "}]}}]}}]}});
        document.insert_json(&json, &mut || "x".to_owned()).unwrap();
        let id = || "t".to_owned();
        let at = TextPosition::Utf16;
        let format = |value: serde_json::Value| Edit::FormatText {
            id: id(),
            from: at(0),
            to: at(8),
            attributes: json!({"link": value}).as_object().unwrap().clone(),
        };
        let end = Edit::FormatText {
            id: id(),
            from: at(3),
            to: at(4),
            attributes: json!({"link": null}).as_object().unwrap().clone(),
        };
        let insert = Edit::InsertText {
            id: id(),
            at: at(4),
            text: "x".into(),
            attributes: Some(serde_json::Map::new()),
        };
        let long = format("ü".repeat(50_000).into());
        assert!(document.most_bytes(std::slice::from_ref(&long)) < usize::MAX);
        for edits in [
            vec![long.clone(), end.clone()],
            vec![long.clone(), insert.clone()],
        ] {
            assert_eq!(document.most_bytes(&edits), usize::MAX);
        }
        let mut formatted = MeshDocument::new(schema.clone(), 2);
        formatted.apply_update(&document.encode_state()).unwrap();
        formatted.edit(&[long], &mut String::new).unwrap();
        for edit in [end, insert] {
            assert_eq!(formatted.most_bytes(&[edit]), usize::MAX);
        }

        // Two authors who type in turns.
        let mut other = MeshDocument::new(schema, 3);
        other.apply_update(&document.encode_state()).unwrap();
        for number in 0..50 {
            let (one, two) = if number % 2 == 0 {
                (&mut document, &mut other)
            } else {
                (&mut other, &mut document)
            };
            let edit = Edit::InsertText {
                id: id(),
                at: at(number),
                text: "ß".into(),
                attributes: None,
            };
            let update = one.edit(&[edit], &mut String::new).unwrap().unwrap();
            two.apply_update(&update).unwrap();
        }
        let delete = Edit::DeleteText {
            id: id(),
            from: at(0),
            to: at(50),
        };
        let most = document.most_bytes(std::slice::from_ref(&delete));
        let update = document.edit(&[delete], &mut String::new).unwrap();
        assert!(update.unwrap().len() <= most);
    }
}
