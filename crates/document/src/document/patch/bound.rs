//! Upper bounds for the size of edits as updates and in memory. They are computed before the edits
//! are applied, at a cost proportional to the edits.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::PatchBound;
use crate::document::MeshDocument;
use crate::document::edit::{Edit, Target};
use crate::document::memory::ID_BYTES;
use crate::engine::{ITEM_BYTES, NODE_BYTES};
use crate::update::scan::Scan;
use crate::update::writer::{Builder, Place};

/// The maximal growth of a byte of JSON, roughly: each new element gets an `$id`, each value
/// its place.
const GROWTH: usize = 16;

/// The overhead of an edit: its place.
const EDIT_BYTES: usize = 64;

/// The maximal bytes of a deletion: ranges of a client, one for an attribute and one for the root's
/// second copy of it.
const DELETION_BYTES: usize = 2 * RANGE_BYTES;

/// The length of an `$id` that an element gets, with space for a longer one.
const ID_LENGTH: usize = 64;

/// Numbers of at most 5 bytes and a client id of at most 8.
const RANGE_BYTES: usize = 24;

impl PatchBound {
    const UNKNOWN: Self = Self {
        bytes: usize::MAX,
        added: usize::MAX,
        splits: 0,
    };
}

/// The bytes of an update, and the memory of what it adds.
#[derive(Clone, Copy, Default)]
struct Taken {
    bytes: usize,
    added: usize,
}

impl Taken {
    fn and(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_add(other.bytes),
            added: self.added.saturating_add(other.added),
        }
    }
}

impl MeshDocument {
    /// What all updates of these edits take at most.
    pub(super) fn bound_of(&self, edits: &[Edit]) -> PatchBound {
        let mut taken = Taken::default();
        let mut splits = 0_usize;
        // What is added to elements that later edits may move, and so copy.
        let mut inside = Taken::default();
        // Texts that get formats here, which later edits may have to write again.
        let mut formatted: HashSet<&str> = HashSet::new();
        for edit in edits {
            let one = match edit {
                Edit::Delete { .. } | Edit::RemoveAttribute { .. } => Taken {
                    bytes: DELETION_BYTES,
                    added: 0,
                },
                Edit::Insert {
                    parent, element, ..
                } => {
                    let one = Taken {
                        bytes: grown(text_bytes(element)),
                        added: memory_of(element),
                    };
                    if *parent != Target::Root {
                        inside = inside.and(one);
                    }
                    one
                }
                Edit::Move { id, parent, .. } => {
                    // An element created by another edit.
                    let Some(moved) = self.node(id) else {
                        return PatchBound::UNKNOWN;
                    };
                    let mut copy = Builder::new(self.client_id, self.engine.clock(self.client_id));
                    let place = Place::Only(self.engine.node_id(moved.index));
                    self.engine.copy(moved.index, place, &mut copy);
                    let copy = copy.finish();
                    let growth = Scan::read(&copy).map(|scan| self.growth_by(&scan));
                    // Its references may be longer at its new place.
                    let own = Taken {
                        bytes: copy.len().saturating_mul(2),
                        added: growth.unwrap_or(usize::MAX),
                    };
                    if *parent != Target::Root {
                        inside = inside.and(own);
                    }
                    own.and(inside).and(Taken {
                        bytes: EDIT_BYTES,
                        added: 0,
                    })
                }
                Edit::SetAttribute { name, value, .. } => {
                    let bytes = name.len() + text_bytes(value);
                    let one = Taken {
                        bytes: grown(bytes),
                        added: ITEM_BYTES + bytes,
                    };
                    inside = inside.and(one);
                    one
                }
                Edit::DeleteText { id, .. }
                | Edit::InsertText { id, .. }
                | Edit::FormatText { id, .. }
                    if self.plain_text_operations(id).is_none()
                        || formatted.contains(id.as_str()) =>
                {
                    return PatchBound::UNKNOWN;
                }
                Edit::DeleteText { id, .. } => {
                    let operations = self.plain_text_operations(id).unwrap_or_default();
                    splits = splits.saturating_add(2 * ITEM_BYTES);
                    Taken {
                        bytes: (operations + edits.len()).saturating_mul(RANGE_BYTES),
                        added: 0,
                    }
                }
                Edit::InsertText {
                    id,
                    text,
                    attributes,
                    ..
                } => {
                    let formats = attributes.as_ref().filter(|formats| !formats.is_empty());
                    if formats.is_some() {
                        formatted.insert(id);
                    }
                    let bytes = text.len() + attributes.as_ref().map_or(0, members_bytes);
                    let marks = formats.map_or(0, marks_memory);
                    let one = Taken {
                        bytes: grown(bytes),
                        added: 2 * ITEM_BYTES + text.len() + marks,
                    };
                    inside = inside.and(one);
                    one
                }
                Edit::FormatText { id, attributes, .. } => {
                    formatted.insert(id);
                    let one = Taken {
                        bytes: grown(members_bytes(attributes)),
                        added: 2 * ITEM_BYTES + marks_memory(attributes),
                    };
                    inside = inside.and(one);
                    one
                }
                Edit::ApplyDelta { .. } => return PatchBound::UNKNOWN,
            };
            taken = taken.and(one);
        }
        PatchBound {
            bytes: taken.bytes,
            added: taken.added,
            splits,
        }
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

/// The approximate maximum of memory that a value takes in the document. Each object below a name
/// may be an element with an `$id`, and with a text.
fn memory_of(value: &Value) -> usize {
    let element = 2 * (NODE_BYTES + ITEM_BYTES) + ID_BYTES + ITEM_BYTES + ID_LENGTH;
    match value {
        Value::Array(items) => items.iter().map(memory_of).sum(),
        Value::Object(members) => {
            let members = members.iter();
            let memory = members.map(|(name, value)| {
                let own = if value.is_object() {
                    element
                } else {
                    ITEM_BYTES
                };
                own + name.len() + memory_of(value)
            });
            memory.sum()
        }
        other => text_bytes(other),
    }
}

/// The approximate memory of the marks at both ends of a formatted text.
fn marks_memory(formats: &Map<String, Value>) -> usize {
    2 * (formats.len() * ITEM_BYTES + members_bytes(formats))
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
        assert!(document.bound_of(std::slice::from_ref(&long)).bytes < usize::MAX);
        for edits in [
            vec![long.clone(), end.clone()],
            vec![long.clone(), insert.clone()],
        ] {
            assert_eq!(document.bound_of(&edits).bytes, usize::MAX);
        }
        let mut formatted = MeshDocument::new(schema.clone(), 2);
        formatted.apply_update(&document.encode_state()).unwrap();
        formatted.edit(&[long], &mut String::new).unwrap();
        for edit in [end, insert] {
            assert_eq!(formatted.bound_of(&[edit]).bytes, usize::MAX);
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
        let most = document.bound_of(std::slice::from_ref(&delete)).bytes;
        let update = document.edit(&[delete], &mut String::new).unwrap();
        assert!(update.unwrap().len() <= most);
    }
}
