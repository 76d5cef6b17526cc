//! What changed, one list per transaction, for whoever asks by [`MeshDocument::poll_event`].

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use serde_json::Value;

use super::MeshDocument;
use super::history::{KeyIndex, NodeIndex, NodeKind, Owner, ROOT_ATTRIBUTES_NODE, ROOT_NODE};
use crate::schema::ID_ATTRIBUTE;
use crate::update::scan::{IdRange, Struct};

/// The changes of one transaction.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Event {
    /// Who made them.
    pub origin: Origin,
    /// Parents before their children.
    pub changes: Vec<Change>,
}

/// Who made a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// An edit of this document.
    Local,
    /// An update of another replica.
    Remote,
    /// Undo or redo of an edit of this document.
    Undo,
}

/// One change. Elements are named by `$id`, the root by `None`; [`MeshDocument::path`] leads to them.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Change {
    /// An attribute has another value.
    Attribute {
        /// The element.
        id: Option<Arc<str>>,
        /// The attribute's name.
        name: Arc<str>,
        /// The value before; `None` if there was none.
        old: Option<Value>,
        /// The value now; `None` if there is none.
        new: Option<Value>,
    },
    /// An element, and all below it, is gone.
    Deleted {
        /// The element.
        id: Option<Arc<str>>,
        /// Its tag.
        tag: Arc<str>,
        /// The element around it.
        parent: Option<Arc<str>>,
    },
    /// There is a new element.
    Inserted {
        /// The element.
        id: Option<Arc<str>>,
        /// Its tag.
        tag: Arc<str>,
        /// The element around it.
        parent: Option<Arc<str>>,
    },
    /// An element was deleted and inserted again elsewhere, with the same `$id`.
    Moved {
        /// The element.
        id: Option<Arc<str>>,
        /// Its tag.
        tag: Arc<str>,
        /// The element around it before.
        from: Option<Arc<str>>,
        /// The element around it now.
        to: Option<Arc<str>>,
    },
    /// Rich text, or its formatting, is another.
    Text {
        /// The `text` element that holds it.
        id: Option<Arc<str>>,
        /// The characters that were inserted, in the order of their operations.
        inserted: String,
        /// How many UTF-16 units and formatting marks were deleted.
        deleted: usize,
    },
}

/// Events that wait to be polled, and the changes of the transaction that is under way.
#[derive(Debug, Default)]
pub(super) struct Watch {
    queue: VecDeque<Event>,
    open: Vec<Change>,
}

/// What stood there before a change.
#[derive(Debug, Default)]
pub(super) struct Before {
    attributes: BTreeMap<(NodeIndex, KeyIndex), Option<Value>>,
    texts: BTreeMap<NodeIndex, (String, usize)>,
}

impl Before {
    /// Takes over how much text was changed.
    pub(super) fn count(&mut self, other: &Self) {
        self.texts.clone_from(&other.texts);
    }
}

impl MeshDocument {
    /// Starts, or stops, to keep events. While they are kept, poll them: the queue has no bound.
    pub fn watch(&mut self, on: bool) {
        self.watch = on.then(|| self.watch.take().unwrap_or_default());
    }

    /// The next event, if there is one.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.watch.as_mut()?.queue.pop_front()
    }

    /// The `$id`s from below the root down to the element with this `$id`.
    pub fn path(&self, id: &str) -> Option<Vec<Arc<str>>> {
        let mut index = self.node(id)?.index;
        let mut path = Vec::new();
        while index != ROOT_NODE {
            let node = self.history.node(index);
            path.extend(node.element_id.clone());
            index = node.parent;
        }
        path.reverse();
        Some(path)
    }

    /// Looks at what a change will touch, while it is still there.
    pub(super) fn look_before(
        &self,
        structs: &[Struct<'_>],
        owners: &[Owner],
        deletes: &[IdRange],
    ) -> Before {
        let mut before = Before::default();
        if self.watch.is_none() {
            return before;
        }
        for (one, &owner) in structs.iter().zip(owners) {
            match owner {
                Owner::Key(node, key) => self.look_at(&mut before, node, key),
                Owner::Within(node) => {
                    let text = before.texts.entry(node).or_default();
                    if let crate::update::scan::Content::Text(inserted) = one.content {
                        text.0.push_str(inserted);
                    }
                }
                Owner::Foreign(_) | Owner::Made(_) | Owner::Nothing => {}
            }
        }
        for &range in deletes {
            for part in self.history.not_deleted(range) {
                for (part, owner) in self.history.owners(part) {
                    match owner {
                        Owner::Key(node, key) => self.look_at(&mut before, node, key),
                        Owner::Within(node) => {
                            let text = before.texts.entry(node).or_default();
                            text.1 += (part.end - part.start) as usize;
                        }
                        Owner::Foreign(_) | Owner::Made(_) | Owner::Nothing => {}
                    }
                }
            }
        }
        before
    }

    pub(super) fn look_at(&self, before: &mut Before, node: NodeIndex, key: KeyIndex) {
        let attribute = before.attributes.entry((node, key));
        attribute.or_insert_with(|| self.value_of(node, key));
    }

    /// Tells what has changed, before the dead are buried.
    pub(super) fn look_after(
        &mut self,
        before: Before,
        made: &std::ops::Range<NodeIndex>,
        died: &BTreeSet<NodeIndex>,
    ) {
        if self.watch.is_none() {
            return;
        }
        let mut changes = Vec::new();
        for &index in died {
            let node = self.history.node(index);
            let NodeKind::Element(tag) = node.kind else {
                continue;
            };
            // What goes with its parent is not told by itself.
            if !made.contains(&index) && !died.contains(&node.parent) {
                changes.push(Change::Deleted {
                    id: node.element_id.clone(),
                    tag: Arc::clone(self.history.name(tag)),
                    parent: self.id_of(node.parent),
                });
            }
        }
        for index in made.clone() {
            let node = self.history.node(index);
            let NodeKind::Element(tag) = node.kind else {
                continue;
            };
            if died.contains(&index) {
                continue;
            }
            let parent = match node.parent {
                around if made.contains(&around) => self.read_id(around),
                around => self.id_of(around),
            };
            changes.push(Change::Inserted {
                id: self.read_id(index),
                tag: Arc::clone(self.history.name(tag)),
                parent,
            });
        }
        for ((node, key), old) in before.attributes {
            let name = Arc::clone(self.history.name(key));
            if made.contains(&node) || died.contains(&node) || &*name == ID_ATTRIBUTE {
                continue;
            }
            let new = self.value_of(node, key);
            if old != new {
                let id = self.id_of(node);
                changes.push(Change::Attribute { id, name, old, new });
            }
        }
        for (node, (inserted, deleted)) in before.texts {
            let text = self.history.node(node);
            if text.kind == NodeKind::Text && !made.contains(&node) && !died.contains(&node) {
                let id = self.id_of(text.parent);
                changes.push(Change::Text {
                    id,
                    inserted,
                    deleted,
                });
            }
        }
        if let Some(watch) = &mut self.watch {
            watch.open.append(&mut changes);
        }
    }

    /// Makes one event of all changes since the last one.
    pub(super) fn close_event(&mut self, origin: Origin) {
        if let Some(watch) = &mut self.watch
            && !watch.open.is_empty()
        {
            let changes = with_moves(std::mem::take(&mut watch.open));
            watch.queue.push_back(Event { origin, changes });
        }
    }

    fn id_of(&self, node: NodeIndex) -> Option<Arc<str>> {
        self.history.node(node).element_id.clone()
    }

    fn value_of(&self, node: NodeIndex, key: KeyIndex) -> Option<Value> {
        let is_root = node == ROOT_NODE || node == ROOT_ATTRIBUTES_NODE;
        let index = if is_root { ROOT_NODE } else { node };
        let element = super::Element {
            document: self,
            index,
        };
        element.attribute(self.history.name(key))
    }
}

/// Makes one change of a deletion and an insertion of the same element.
fn with_moves(changes: Vec<Change>) -> Vec<Change> {
    let mut deleted: HashMap<Arc<str>, usize> = HashMap::new();
    let mut told: Vec<Option<Change>> = Vec::with_capacity(changes.len());
    for change in changes {
        let change = match change {
            Change::Deleted {
                id: Some(id),
                tag,
                parent,
            } => {
                deleted.insert(Arc::clone(&id), told.len());
                let id = Some(id);
                Change::Deleted { id, tag, parent }
            }
            Change::Inserted {
                id: Some(id),
                tag,
                parent: to,
            } => {
                let before = deleted.remove(&id).and_then(|at| told[at].take());
                let id = Some(id);
                match before {
                    Some(Change::Deleted { parent: from, .. }) => {
                        Change::Moved { id, tag, from, to }
                    }
                    _ => Change::Inserted {
                        id,
                        tag,
                        parent: to,
                    },
                }
            }
            other => other,
        };
        told.push(Some(change));
    }
    told.into_iter().flatten().collect()
}
