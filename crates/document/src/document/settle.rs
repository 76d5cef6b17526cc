//! Bookkeeping after each transaction: the `$id` index, dead nodes, and nodes to check against
//! the schema.

use super::MeshDocument;
use crate::engine::{Content, ID_KEY, NodeIndex, NodeKind, Transaction};

impl MeshDocument {
    /// Updates the index, and records the changes for events.
    pub(super) fn settle(&mut self, transaction: &Transaction) {
        for &node in &transaction.made {
            if matches!(self.engine.node(node).kind, NodeKind::Element(_)) {
                self.ids.count_up();
            }
        }
        let died = self.mark_descendants_dead(&transaction.dead);
        self.record_changes(transaction, &died);
        let mut suspects = Vec::new();
        let mut renamed = Vec::new();
        for index in self.engine.deleted(transaction) {
            let item = self.engine.item(index);
            if item.key == ID_KEY && !self.engine.node(item.parent).is_dead {
                renamed.push(item.parent);
                suspects.push(item.parent);
            }
        }
        for added in self.engine.added(transaction) {
            let item = self.engine.item(added.item);
            let is_mixed = || self.engine.node(item.parent).is_mixed;
            match item.content {
                _ if item.key == ID_KEY => {
                    renamed.push(item.parent);
                    suspects.push(item.parent);
                }
                _ if !item.is_in_sequence() => suspects.push(item.parent),
                Content::Type(node) => suspects.extend([node, item.parent]),
                _ if is_mixed() => suspects.push(item.parent),
                _ => {}
            }
        }
        for &node in &suspects {
            self.suspect(node);
        }
        // All nodes release their old `$id`s before any takes a new one, since two may have
        // swapped them.
        renamed.retain(|&node| {
            let node = self.engine.node(node);
            !node.is_dead && matches!(node.kind, NodeKind::Element(_))
        });
        for &node in &renamed {
            self.ids.remove(&mut self.engine, node);
        }
        self.ids.reserve(renamed.len(), &self.engine);
        for node in renamed {
            let other = self.ids.file(&mut self.engine, node);
            if let Some(other) = other {
                self.suspect(node);
                self.suspect(other);
            }
        }
    }

    /// Marks all descendants of deleted nodes as dead; returns the topmost ones.
    fn mark_descendants_dead(&mut self, dead: &[NodeIndex]) -> Vec<NodeIndex> {
        let mut stack = Vec::new();
        for &top in dead {
            stack.push(top);
            while let Some(index) = stack.pop() {
                let node = self.engine.node_mut(index);
                if std::mem::replace(&mut node.is_dead, true) {
                    continue;
                }
                if matches!(node.kind, NodeKind::Element(_)) {
                    self.ids.count_down();
                    self.ids.remove(&mut self.engine, index);
                }
                let below = self.engine.contents(index);
                stack.extend(below.filter_map(|item| self.engine.made(item)));
            }
        }
        let mut tops = dead.to_vec();
        tops.retain(|&top| {
            let parent = self.engine.node(top).parent;
            !self.engine.node(parent).is_dead
        });
        tops
    }
}
