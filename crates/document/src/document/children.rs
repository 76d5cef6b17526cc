//! Children by index, found by the engine without a walk over all of them.

use super::MeshDocument;
use crate::engine::NodeIndex;

impl MeshDocument {
    /// The number of child nodes, elements and texts, of a node.
    pub(super) fn child_count(&self, node: NodeIndex) -> usize {
        self.engine.child_count(node)
    }

    /// The child node at an index.
    pub(super) fn child_at(&self, node: NodeIndex, index: usize) -> Option<NodeIndex> {
        self.engine.child_at(node, index)
    }

    /// The index of a node among its siblings.
    pub(super) fn index_in_parent(&self, node: NodeIndex) -> usize {
        self.engine.index_in_parent(node)
    }

    /// The number of levels of nodes below an element.
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

    /// Compares two nodes by document order; an ancestor comes before its descendants.
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
