//! Finds elements by `$id`, and counts them.

use std::collections::HashMap;
use std::sync::Arc;

use super::history::NodeIndex;

#[derive(Debug, Default)]
pub(super) struct Ids {
    nodes: HashMap<Arc<str>, Claim>,
    live: usize,
}

/// Who carries an `$id`. Concurrent edits can give the same one to several.
#[derive(Debug)]
enum Claim {
    One(NodeIndex),
    // Invariant: at least two.
    Many(Vec<NodeIndex>),
}

impl Ids {
    /// How many elements are alive, with or without an `$id`.
    pub(super) fn live(&self) -> usize {
        self.live
    }

    pub(super) fn count_up(&mut self) {
        self.live += 1;
    }

    pub(super) fn count_down(&mut self) {
        self.live = self.live.saturating_sub(1);
    }

    pub(super) fn get(&self, id: &str) -> &[NodeIndex] {
        match self.nodes.get(id) {
            None => &[],
            Some(Claim::One(node)) => std::slice::from_ref(node),
            Some(Claim::Many(nodes)) => nodes,
        }
    }

    pub(super) fn insert(&mut self, id: &str, node: NodeIndex) -> Arc<str> {
        if let Some((id, _)) = self.nodes.get_key_value(id) {
            let id = Arc::clone(id);
            if let Some(claim) = self.nodes.get_mut(&id) {
                match claim {
                    Claim::One(other) => *claim = Claim::Many(vec![*other, node]),
                    Claim::Many(nodes) => nodes.push(node),
                }
            }
            return id;
        }
        let id: Arc<str> = id.into();
        self.nodes.insert(Arc::clone(&id), Claim::One(node));
        id
    }

    pub(super) fn remove(&mut self, id: &str, node: NodeIndex) {
        let Some(claim) = self.nodes.get_mut(id) else {
            return;
        };
        match claim {
            Claim::One(_) => {
                self.nodes.remove(id);
            }
            Claim::Many(nodes) => {
                nodes.retain(|&other| other != node);
                if let &mut [last] = &mut nodes[..] {
                    *claim = Claim::One(last);
                }
            }
        }
    }
}
