//! The user's text as a change of the shown document.

use meshagent_document::{Change, Element, Event, MeshDocument, ReplaceError};
use serde_json::Value;
use uuid::Uuid;

use crate::failure::{self, Failure, REFUSED, USAGE};

/// A change by the user, which is never empty.
pub(super) struct Written {
    pub(super) update: Vec<u8>,
    events: Vec<Event>,
}

impl Written {
    /// Applies the JSON `text` to the shown document; `None` if nothing changes.
    pub(super) fn new(
        shown: &mut MeshDocument,
        path: &str,
        text: &[u8],
    ) -> Result<Option<Self>, Failure> {
        let json: Value = serde_json::from_slice(text).map_err(|error| {
            Failure::new("the edited file is not valid JSON")
                .with_exit_code(USAGE)
                .with_source(error)
        })?;
        shown.watch(true);
        let replaced = shown.replace_json(&json, &mut || Uuid::new_v4().to_string());
        let update = replaced.map_err(|error| match error {
            ReplaceError::Invalid(violations) => {
                failure::of_violations(&format!("the edited document {path:?}"), &violations)
                    .with_hint(failure::INSPECT_HINT)
            }
            error => Failure::new("can't apply the edited file")
                .with_exit_code(REFUSED)
                .with_source(error),
        })?;
        let events = std::iter::from_fn(|| shown.poll_event()).collect();
        Ok(update.map(|update| Self { update, events }))
    }

    /// Whether the document contains the whole change, as `shown` does. Other changes of the
    /// document are ignored.
    pub(super) fn is_in(&self, document: &MeshDocument, shown: &MeshDocument) -> bool {
        self.events.iter().all(|event| {
            let mut changes = event.changes.iter();
            !event.is_after_loss && changes.all(|change| is_in(change, document, shown))
        })
    }
}

fn is_in(change: &Change, document: &MeshDocument, shown: &MeshDocument) -> bool {
    let is_same = |id: Option<&str>, is_same: &dyn Fn(Element<'_>, Element<'_>) -> bool| {
        let pair = element(document, id).zip(element(shown, id));
        pair.is_some_and(|(there, here)| is_same(there, here))
    };
    match change {
        Change::Attribute { id, name, .. } => is_same(id.as_deref(), &|there, here| {
            there.attribute(name) == here.attribute(name)
        }),
        // Deleted elements never reappear.
        Change::Deleted { .. } => true,
        Change::Inserted { id, .. } | Change::Moved { id, .. } => {
            let parent = |element: Element<'_>| element.parent()?.id().map(str::to_owned);
            is_same(id.as_deref(), &|there, here| {
                parent(there) == parent(here) && there.to_json(true) == here.to_json(true)
            })
        }
        Change::Text { id, .. } => is_same(id.as_deref(), &|there, here| {
            there.text().map(|text| text.to_delta()) == here.text().map(|text| text.to_delta())
        }),
        // A kind from a later version of the library.
        _ => false,
    }
}

/// The element with this `$id`; the root if the id is `None`.
fn element<'a>(document: &'a MeshDocument, id: Option<&str>) -> Option<Element<'a>> {
    match id {
        Some(id) => document.node(id),
        None => Some(document.root()),
    }
}

#[cfg(test)]
mod tests {
    use meshagent_document::MeshSchema;
    use serde_json::json;

    use super::*;

    /// A document with a list of entries, which have a text `s`.
    fn list(client_id: u64) -> MeshDocument {
        let schema = MeshSchema::from_json(&json!({
            "$root_tag_ref": "#/$defs/list",
            "$defs": {
                "list": {
                    "type": "object", "additionalProperties": false, "required": ["list"],
                    "properties": { "list": {
                        "type": "object", "additionalProperties": false, "required": ["entries"],
                        "properties": { "entries": {
                            "type": "array", "items": { "anyOf": [{ "$ref": "#/$defs/entry" }] }
                        } }
                    } }
                },
                "entry": {
                    "type": "object", "additionalProperties": false, "required": ["entry"],
                    "properties": { "entry": {
                        "type": "object", "additionalProperties": false, "required": ["s"],
                        "properties": { "s": { "type": ["string", "null"] } }
                    } }
                }
            }
        }));
        MeshDocument::new(schema.unwrap(), client_id)
    }

    fn entries(entries: &[(&str, &str)]) -> Value {
        let entries = entries.iter();
        let entries = entries.map(|(id, s)| json!({ "entry": { "$id": id, "s": s } }));
        json!({ "list": { "entries": entries.collect::<Vec<_>>() } })
    }

    /// Changes `a: 1, b: 2` to `mine`, and the result to `theirs`; whether the first change is
    /// still found then.
    fn is_found(mine: &[(&str, &str)], theirs: &[(&str, &str)]) -> bool {
        let mut document = list(1);
        let mut next_id = || unreachable!("all elements have an id");
        document
            .replace_json(&entries(&[("a", "1"), ("b", "2")]), &mut next_id)
            .unwrap();
        let mut shown = list(2);
        shown.apply_update(&document.encode_state()).unwrap();
        let text = entries(mine).to_string();
        let written = Written::new(&mut shown, "plan", text.as_bytes());
        let written = written.unwrap_or_else(|failure| panic!("{failure}"));
        let written = written.unwrap();
        document.apply_update(&written.update).unwrap();
        assert!(written.is_in(&document, &shown));
        document
            .replace_json(&entries(theirs), &mut next_id)
            .unwrap();
        written.is_in(&document, &shown)
    }

    #[test]
    fn changes_of_other_elements_are_ignored() {
        let mine = [("a", "1"), ("b", "mine"), ("c", "new")];
        assert!(is_found(&mine, &mine));
        assert!(is_found(&mine, &[("d", "4"), ("b", "mine"), ("c", "new")]));
        assert!(!is_found(&mine, &[("a", "1"), ("b", "mine")]));
        assert!(!is_found(&mine, &[("a", "1"), ("b", "2"), ("c", "new")]));
        let parted = [("a", "1"), ("b", "mine"), ("c", "changed")];
        assert!(!is_found(&mine, &parted));
        assert!(is_found(&[("b", "2")], &[("b", "changed")]));
    }
}
