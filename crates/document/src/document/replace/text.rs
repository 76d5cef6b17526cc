//! The difference of two rich texts.

use std::rc::Rc;

use serde_json::{Map, Value};

use crate::document::edit::{Edit, TextPosition};
use crate::schema::TEXT_TAG;

/// A character and its formats.
type Character = (char, Rc<Map<String, Value>>);

/// The characters in the child list of a rich text element.
pub(super) fn characters(children: &[Value]) -> Vec<Character> {
    let delta = children
        .first()
        .and_then(|child| child.get(TEXT_TAG)?.get("delta")?.as_array());
    let mut characters = Vec::new();
    for run in delta.into_iter().flatten() {
        let text = run
            .get("insert")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let attributes = run.get("attributes").and_then(Value::as_object);
        let mut attributes = attributes.cloned().unwrap_or_default();
        attributes.retain(|_, value| !value.is_null());
        let attributes = Rc::new(attributes);
        characters.extend(
            text.chars()
                .map(|character| (character, Rc::clone(&attributes))),
        );
    }
    characters
}

/// The edits that change the rich text element with this `$id`.
pub(super) fn difference(id: &str, old: &[Character], new: &[Character]) -> Vec<Edit> {
    let id = || id.to_owned();
    let same_text = old.iter().map(|one| one.0).eq(new.iter().map(|one| one.0));
    let prefix = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let rest = old[prefix..].iter().rev().zip(new[prefix..].iter().rev());
    let suffix = rest.take_while(|(a, b)| a == b).count();
    let (old_end, new_end) = (old.len() - suffix, new.len() - suffix);
    let mut edits = Vec::new();
    if same_text {
        let mut start = prefix;
        while start < old_end {
            let alike = |at: &usize| old[*at].1 == old[start].1 && new[*at].1 == new[start].1;
            let length = (start..old_end).take_while(alike).count();
            let (before, after) = (&old[start].1, &new[start].1);
            let mut attributes = Map::clone(after);
            attributes.retain(|name, value| before.get(name) != Some(value));
            let gone = before.keys().filter(|name| !after.contains_key(*name));
            attributes.extend(gone.map(|name| (name.clone(), Value::Null)));
            if !attributes.is_empty() {
                edits.push(Edit::FormatText {
                    id: id(),
                    from: TextPosition::Scalars(start),
                    to: TextPosition::Scalars(start + length),
                    attributes,
                });
            }
            start += length;
        }
        return edits;
    }
    if old_end > prefix {
        edits.push(Edit::DeleteText {
            id: id(),
            from: TextPosition::Scalars(prefix),
            to: TextPosition::Scalars(old_end),
        });
    }
    let mut start = prefix;
    for run in new[prefix..new_end].chunk_by(|a, b| a.1 == b.1) {
        edits.push(Edit::InsertText {
            id: id(),
            at: TextPosition::Scalars(start),
            text: run.iter().map(|one| one.0).collect(),
            attributes: Some(Map::clone(&run[0].1)),
        });
        start += run.len();
    }
    edits
}
