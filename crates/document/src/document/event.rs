//! Events: the changes of each transaction, returned by [`MeshDocument::poll_event`].

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use serde_json::Value;

use super::MeshDocument;
use super::anchor::Anchor;
use super::ids::id_of;
use crate::engine::{
    Content, KeyIndex, NodeIndex, NodeKind, ROOT_ATTRIBUTES_NODE, ROOT_NODE, Transaction,
};
use crate::schema::ID_ATTRIBUTE;

/// The maximal number of unpolled changes.
const MAX_WAITING: usize = 1 << 16;

/// The changes of one transaction.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Event {
    /// The origin of the changes.
    pub origin: Origin,
    /// Parents come before their children.
    pub changes: Vec<Change>,
    /// Whether earlier events were dropped, so that the whole document must be read again.
    pub is_after_loss: bool,
}

/// The origin of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// An edit of this document.
    Local,
    /// An update of another replica.
    Remote,
    /// Undo or redo of an edit of this document.
    Undo,
}

/// One change. Elements are identified by `$id`, the root by `None`; [`MeshDocument::path`]
/// locates them.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Change {
    /// The value of an attribute changed.
    Attribute {
        /// The element.
        id: Option<Arc<str>>,
        /// The attribute's name.
        name: Arc<str>,
        /// The value before; `None` if the attribute was missing.
        old: Option<Value>,
        /// The value now; `None` if the attribute is missing.
        new: Option<Value>,
    },
    /// An element and its descendants were deleted.
    Deleted {
        /// The element.
        id: Option<Arc<str>>,
        /// The element's tag.
        tag: Arc<str>,
        /// The element's former parent.
        parent: Option<Arc<str>>,
    },
    /// An element was inserted.
    Inserted {
        /// The element.
        id: Option<Arc<str>>,
        /// The element's tag.
        tag: Arc<str>,
        /// The element's parent.
        parent: Option<Arc<str>>,
    },
    /// An element was deleted and inserted again elsewhere, with the same `$id`.
    Moved {
        /// The element.
        id: Option<Arc<str>>,
        /// The element's tag.
        tag: Arc<str>,
        /// The former parent.
        from: Option<Arc<str>>,
        /// The new parent.
        to: Option<Arc<str>>,
    },
    /// Rich text or its formatting changed.
    Text {
        /// The `text` element that holds it.
        id: Option<Arc<str>>,
        /// The changes, in order.
        changes: Vec<TextChange>,
    },
}

/// A change of a rich text. [`MeshDocument::position`] returns its current position.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TextChange {
    /// Characters were deleted.
    Deleted {
        /// The position where they were.
        at: Anchor,
        /// The deleted characters.
        text: String,
    },
    /// A format begins or ends here that did not before, or the reverse.
    Formatted {
        /// The position of the formatting mark.
        at: Anchor,
    },
    /// Characters were inserted.
    Inserted {
        /// The position before the first of them.
        at: Anchor,
        /// The inserted characters.
        text: String,
    },
}

/// Unpolled events, and the changes of the current transaction.
#[derive(Debug, Default)]
pub(super) struct Watch {
    queue: VecDeque<Event>,
    open: Vec<Change>,
    // The number of changes in the queue.
    waiting: usize,
}

impl MeshDocument {
    /// Starts or stops recording events. Poll them regularly: beyond 65,536 unpolled changes the
    /// oldest are dropped, which [`Event::is_after_loss`] reports.
    pub fn watch(&mut self, on: bool) {
        self.watch = on.then(|| self.watch.take().unwrap_or_default());
    }

    /// Returns the next event, if any.
    pub fn poll_event(&mut self) -> Option<Event> {
        let watch = self.watch.as_mut()?;
        let event = watch.queue.pop_front()?;
        watch.waiting -= event.changes.len();
        Some(event)
    }

    /// Returns the `$id`s on the path from below the root to the element with this `$id`.
    pub fn path(&self, id: &str) -> Option<Vec<Arc<str>>> {
        let mut index = self.node(id)?.index;
        let mut path = Vec::new();
        while index != ROOT_NODE {
            path.extend(id_of(&self.engine, index).map(Arc::from));
            index = self.engine.node(index).parent;
        }
        path.reverse();
        Some(path)
    }

    /// Records the changes of a transaction, while deleted content can still be read. `died`
    /// contains the deleted nodes, without their descendants.
    pub(super) fn record_changes(&mut self, transaction: &Transaction, died: &[NodeIndex]) {
        if self.watch.is_none() {
            return;
        }
        let mut changes = Vec::new();
        for &index in died {
            let node = self.engine.node(index);
            if let NodeKind::Element(tag) = node.kind
                && !self.engine.is_new(index)
            {
                changes.push(Change::Deleted {
                    id: self.engine.last_text(index, ID_ATTRIBUTE).map(Arc::from),
                    tag: Arc::clone(self.engine.name(tag)),
                    parent: self.id_of(node.parent),
                });
            }
        }
        for &index in &transaction.made {
            let node = self.engine.node(index);
            if let NodeKind::Element(tag) = node.kind
                && !node.is_dead
            {
                changes.push(Change::Inserted {
                    id: self.id_of(index),
                    tag: Arc::clone(self.engine.name(tag)),
                    parent: self.id_of(node.parent),
                });
            }
        }
        self.record_values(transaction, &mut changes);
        self.record_texts(transaction, &mut changes);
        if let Some(watch) = &mut self.watch {
            watch.open.append(&mut changes);
        }
    }

    fn record_values(&self, transaction: &Transaction, changes: &mut Vec<Change>) {
        let is_recorded = |node: NodeIndex| {
            let known = self.engine.node(node);
            !known.is_dead && !self.engine.is_new(node)
        };
        // The previous values; `None` if not known yet.
        let mut touched: BTreeMap<(NodeIndex, KeyIndex), Option<Value>> = BTreeMap::new();
        for index in self.engine.deleted(transaction) {
            let item = self.engine.item(index);
            if !item.is_in_sequence() && is_recorded(item.parent) {
                touched.insert((item.parent, item.key), item.content.value());
            }
        }
        for added in self.engine.added(transaction) {
            let item = self.engine.item(added.item);
            if !item.is_in_sequence() && is_recorded(item.parent) {
                let old = || {
                    let value = self.engine.value_item(item.parent, item.key);
                    let value = value.filter(|&value| !self.engine.is_new_item(value));
                    value.and_then(|value| self.engine.item(value).content.value())
                };
                touched.entry((item.parent, item.key)).or_insert_with(old);
            }
        }
        for ((node, key), old) in touched {
            let name = Arc::clone(self.engine.name(key));
            let value = |node| self.engine.value(node, key).and_then(Content::value);
            if &*name == ID_ATTRIBUTE {
                continue;
            }
            // The root's attributes are in two places, of which the first takes precedence.
            let (old, new) = match node {
                ROOT_ATTRIBUTES_NODE if value(ROOT_NODE).is_some() => continue,
                ROOT_NODE => {
                    let beside = value(ROOT_ATTRIBUTES_NODE);
                    (old.or_else(|| beside.clone()), value(node).or(beside))
                }
                _ => (old, value(node)),
            };
            if old != new {
                let id = self.id_of(node);
                changes.push(Change::Attribute { id, name, old, new });
            }
        }
    }

    fn record_texts(&self, transaction: &Transaction, changes: &mut Vec<Change>) {
        let mut texts: Vec<(NodeIndex, Vec<TextChange>)> = Vec::new();
        let mut report = |node: NodeIndex, change: TextChange| match texts.last_mut() {
            Some((last, changes)) if *last == node => changes.push(change),
            _ => match texts.iter_mut().find(|(known, _)| *known == node) {
                Some((_, changes)) => changes.push(change),
                None => texts.push((node, vec![change])),
            },
        };
        let is_recorded = |node: NodeIndex| {
            let known = self.engine.node(node);
            known.kind == NodeKind::Text && !known.is_dead && !self.engine.is_new(node)
        };
        for index in self.engine.deleted(transaction) {
            let item = self.engine.item(index);
            if item.is_in_sequence() && is_recorded(item.parent) {
                let at = Anchor::before(self.engine.item_id(index));
                match &item.content {
                    Content::Text(text) => {
                        let text = text.clone();
                        report(item.parent, TextChange::Deleted { at, text });
                    }
                    Content::Format(..) => report(item.parent, TextChange::Formatted { at }),
                    _ => {}
                }
            }
        }
        for added in self.engine.added(transaction) {
            let item = self.engine.item(added.item);
            if item.is_in_sequence() && !item.is_deleted() && is_recorded(item.parent) {
                let mut id = self.engine.item_id(added.item);
                id.clock += added.from;
                let at = Anchor::before(id);
                match &item.content {
                    Content::Text(text) => {
                        let (byte, _) = crate::engine::byte_of(text, item.length(), added.from);
                        let text = text[byte..].to_owned();
                        report(item.parent, TextChange::Inserted { at, text });
                    }
                    Content::Format(..) => report(item.parent, TextChange::Formatted { at }),
                    _ => {}
                }
            }
        }
        for (node, text_changes) in texts {
            let id = self.id_of(self.engine.node(node).parent);
            changes.push(Change::Text {
                id,
                changes: text_changes,
            });
        }
    }

    /// Combines all changes since the last event into one event.
    pub(super) fn close_event(&mut self, origin: Origin) {
        let Some(watch) = &mut self.watch else {
            return;
        };
        if watch.open.is_empty() {
            return;
        }
        let changes = with_moves(std::mem::take(&mut watch.open));
        let mut has_lost = false;
        while watch.waiting + changes.len() > MAX_WAITING
            && let Some(lost) = watch.queue.pop_front()
        {
            watch.waiting -= lost.changes.len();
            has_lost = true;
            if let Some(next) = watch.queue.front_mut() {
                next.is_after_loss = true;
            }
        }
        let is_after_loss = has_lost && watch.queue.is_empty();
        watch.waiting += changes.len();
        watch.queue.push_back(Event {
            origin,
            changes,
            is_after_loss,
        });
    }

    fn id_of(&self, node: NodeIndex) -> Option<Arc<str>> {
        if node == ROOT_NODE || node == ROOT_ATTRIBUTES_NODE {
            return None;
        }
        id_of(&self.engine, node).map(Arc::from)
    }
}

/// Combines a deletion and an insertion of the same element into a move.
fn with_moves(changes: Vec<Change>) -> Vec<Change> {
    let is_deletion = |change: &Change| matches!(change, Change::Deleted { .. });
    if !changes.iter().any(is_deletion) {
        return changes;
    }
    let mut deleted: HashMap<Arc<str>, usize> = HashMap::new();
    let mut result: Vec<Option<Change>> = Vec::with_capacity(changes.len());
    for change in changes {
        let change = match change {
            Change::Deleted {
                id: Some(id),
                tag,
                parent,
            } => {
                deleted.insert(Arc::clone(&id), result.len());
                let id = Some(id);
                Change::Deleted { id, tag, parent }
            }
            Change::Inserted {
                id: Some(id),
                tag,
                parent: to,
            } => {
                let before = deleted.remove(&id).and_then(|at| result[at].take());
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
        result.push(Some(change));
    }
    result.into_iter().flatten().collect()
}
