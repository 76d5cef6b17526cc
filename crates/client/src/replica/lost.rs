//! Lost edits: the content of edits that are given up.

use std::collections::HashSet;
use std::ops::RangeInclusive;

use meshagent_document::{Change, MeshDocument, TextChange};
use serde_json::{Map, Value, json};

use super::queue::{Part, Unsaved};
use crate::accepted::accepted;

/// An edit that the server will never have. It may be several edits that can't be separated: merged
/// ones beyond 256 KiB, or ones that were merged in a journal before a restart.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct LostEdit {
    /// The number of edits; 0 if the update only repeated operations that the server had lost.
    pub edits: u64,
    /// The v1 update, which was refused or depends on a refused one.
    pub update: Vec<u8>,
    /// The changes, as far as they can be determined. There is one JSON object for each:
    ///
    /// - `inserted`: the element, with its `parent` (an `$id`, or null for the root) and `index`
    /// - `deleted`: the element's `$id`, with its `tag`
    /// - `moved`: the element's `$id`, with its new `parent`
    /// - `attribute`: the name, with `element` (an `$id`, or null for the root), `old` and `new`
    ///   values, which are null if there is none
    /// - `text`: the `$id` of the text, with the `inserted` and `deleted` characters
    pub changes: Vec<Value>,
    /// The numbers of the edits, and their marks in the document.
    pub(crate) numbers: RangeInclusive<u64>,
    pub(super) marks: RangeInclusive<u64>,
}

impl LostEdit {
    pub(super) fn new(part: Part, changes: Vec<Value>) -> Self {
        Self {
            edits: part.count.into(),
            update: part.update,
            changes,
            numbers: part.first..=part.number,
            marks: part.mark..=part.number,
        }
    }

    /// Operations that the server has lost and does not accept again.
    pub(super) fn of_fill(one: Unsaved) -> Self {
        Self {
            edits: 0,
            numbers: one.number..=one.number,
            marks: one.number..=one.number,
            changes: Vec::new(),
            update: one.update,
        }
    }

    /// The approximate memory in bytes: the changes repeat the update's content as JSON.
    pub(crate) fn bytes(&self) -> usize {
        let changes = if self.changes.is_empty() { 1 } else { 3 };
        size_of::<Self>() + changes * self.update.len()
    }

    #[cfg(test)]
    pub(crate) fn sample(number: u64, bytes: usize) -> Self {
        let part = Unsaved::new(number, number, vec![0; bytes], super::queue::Kind::Edit);
        Self::unread(part)
    }

    /// An edit whose changes are no longer known.
    pub(super) fn unread(one: Unsaved) -> Self {
        Self {
            edits: one.count.into(),
            numbers: one.first..=one.number,
            marks: one.mark..=one.number,
            changes: Vec::new(),
            update: one.update,
        }
    }
}

/// The server's document, from which a replica starts over.
pub(crate) struct Fresh {
    pub(crate) document: MeshDocument,
    /// The same again, to find what lost edits changed. Made from the other one if it is missing.
    pub(crate) witness: Option<MeshDocument>,
}

/// A replica that applies edits a second time, to find what they change.
pub(super) struct Witness {
    seen: Option<MeshDocument>,
}

impl Witness {
    /// Starts with the server's content; does nothing if there are no edits.
    pub(super) fn new(made: Option<MeshDocument>, document: &MeshDocument, is_idle: bool) -> Self {
        let seen = || {
            let schema = document.schema().clone();
            let mut seen = MeshDocument::with_limits(schema, document.client_id(), accepted());
            seen.apply_update(&document.encode_state()).ok()?;
            Some(seen)
        };
        Self {
            seen: if is_idle { None } else { made.or_else(seen) },
        }
    }

    pub(super) fn apply(&mut self, update: &[u8]) {
        if let Some(seen) = &mut self.seen {
            // An update that can't be applied shows no changes.
            let _taken = seen.apply_update(update);
        }
    }

    /// Applies an update. Returns its changes.
    pub(super) fn changes(&mut self, update: &[u8]) -> Vec<Value> {
        let Some(seen) = &mut self.seen else {
            return Vec::new();
        };
        seen.watch(true);
        let _taken = seen.apply_update(update);
        let mut events = Vec::new();
        while let Some(event) = seen.poll_event() {
            events.extend(event.changes);
        }
        seen.watch(false);
        let inserted: HashSet<&str> = events
            .iter()
            .filter_map(|change| match change {
                Change::Inserted { id, .. } => id.as_deref(),
                _ => None,
            })
            .collect();
        let is_within = |id: Option<&str>| id.is_some_and(|id| inserted.contains(id));
        let told = events.iter().filter_map(|change| match change {
            // An inserted element is reported together with its content.
            Change::Inserted { parent, .. } if is_within(parent.as_deref()) => None,
            Change::Attribute { id, .. } | Change::Text { id, .. } if is_within(id.as_deref()) => {
                None
            }
            change => tell(seen, change),
        });
        told.collect()
    }
}

fn tell(document: &MeshDocument, change: &Change) -> Option<Value> {
    Some(match change {
        Change::Attribute { id, name, old, new } => json!({
            "attribute": &**name,
            "element": id.as_deref(),
            "old": old,
            "new": new,
        }),
        Change::Deleted { id, tag, .. } => json!({ "deleted": id.as_deref(), "tag": &**tag }),
        Change::Inserted { id, parent, .. } => {
            let element = document.node(id.as_deref()?)?;
            json!({
                "inserted": element.to_json(true),
                "parent": parent.as_deref(),
                "index": element.index_in_parent(),
            })
        }
        Change::Moved { id, to, .. } => json!({ "moved": id.as_deref(), "parent": to.as_deref() }),
        Change::Text { id, changes } => {
            let mut told = Map::new();
            told.insert("text".to_owned(), id.as_deref().into());
            let mut add = |name: &str, more: &str| {
                let text = told.entry(name).or_insert_with(|| "".into());
                if let Value::String(text) = text {
                    text.push_str(more);
                }
            };
            for change in changes {
                match change {
                    TextChange::Deleted { text, .. } => add("deleted", text),
                    TextChange::Inserted { text, .. } => add("inserted", text),
                    _ => {}
                }
            }
            told.into()
        }
        _ => return None,
    })
}
