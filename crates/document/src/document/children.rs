//! Children by their place, which the engine finds without a walk over all of them.

use super::MeshDocument;
use crate::engine::NodeIndex;

impl MeshDocument {
    /// How many child nodes, elements and texts, a node has.
    pub(super) fn child_count(&self, node: NodeIndex) -> usize {
        self.engine.child_count(node)
    }

    /// The child node at an index.
    pub(super) fn child_at(&self, node: NodeIndex, index: usize) -> Option<NodeIndex> {
        self.engine.child_at(node, index)
    }

    /// At which index a node is among its siblings.
    pub(super) fn index_in_parent(&self, node: NodeIndex) -> usize {
        self.engine.index_in_parent(node)
    }

    /// How many levels of nodes there are below an element.
    pub(super) fn height(&self, id: &str) -> usize {
        let Some(top) = self.node(id).map(|element| element.index) else {
            return 0;
        };
        let depth = |node| self.engine.node(node).depth as usize;
        let mut deepest = depth(top);
        let mut stack = vec![top];
        while let Some(node) = stack.pop() {
            deepest = deepest.max(depth(node));
            stack.extend(self.engine.children(node));
        }
        deepest - depth(top)
    }

    /// Which of two nodes comes first in the document; a node comes before what is in it.
    pub(super) fn comes_first(&self, one: NodeIndex, other: NodeIndex) -> bool {
        let (mut a, mut b) = (one, other);
        let depth = |node| self.engine.node(node).depth;
        while depth(a) > depth(b) {
            a = self.engine.node(a).parent;
        }
        while depth(b) > depth(a) {
            b = self.engine.node(b).parent;
        }
        if a == b {
            return depth(one) < depth(other);
        }
        while self.engine.node(a).parent != self.engine.node(b).parent {
            a = self.engine.node(a).parent;
            b = self.engine.node(b).parent;
        }
        self.engine.stands_before(a, b)
    }
}
