//! Consistency check of the engine's redundant data, for tests.

use std::collections::HashSet;

use super::order::Size;
use super::{Content, Engine, NONE, ROOT_NODE};

impl Engine {
    /// Panics with the first inconsistency.
    pub(crate) fn check(&self) {
        let mut reached = HashSet::new();
        let mut nodes = vec![ROOT_NODE];
        nodes.extend(self.roots.values().filter(|&&root| root != ROOT_NODE));
        while let Some(index) = nodes.pop() {
            let node = self.node(index);
            assert!(!node.is_dead, "node {index} is dead but reachable");
            let (mut previous, mut count, mut formats) = (NONE, 0, 0);
            let mut size = Size::default();
            for at in self.items(node.first) {
                let item = self.item(at);
                assert!(reached.insert(at), "item {at} is reachable twice");
                assert_eq!(item.left, previous, "left of item {at}");
                assert_eq!(
                    (item.parent, item.key),
                    (index, NONE),
                    "parent of item {at}"
                );
                if node.order.is_some() && at == node.first {
                    assert_eq!(self.position(at), size);
                }
                size.add(self.size(at));
                count += 1;
                let is_mark = matches!(item.content, Content::Format(..)) && !item.is_deleted();
                formats += u32::from(is_mark);
                nodes.extend(self.made(at));
                previous = at;
            }
            assert_eq!(node.last, previous, "last of node {index}");
            assert_eq!(
                (node.count, node.size),
                (count, size),
                "size of node {index}"
            );
            assert_eq!(node.formats, formats, "formats of node {index}");
            let mut position = Size::default();
            for at in self.items(node.first) {
                assert_eq!(self.position(at), position, "position of item {at}");
                if self.size(at).units > 0 {
                    assert_eq!(self.locate(index, position.units), Some((at, position)));
                }
                position.add(self.size(at));
            }
            for attribute in &node.attributes {
                let mut previous = NONE;
                for at in self.items(attribute.first) {
                    let item = self.item(at);
                    assert!(reached.insert(at), "item {at} is reachable twice");
                    assert_eq!(item.left, previous, "left of item {at}");
                    assert_eq!((item.parent, item.key), (index, attribute.key));
                    let is_cut = item.right != NONE && self.item(item.right).origin == item.last();
                    assert!(
                        item.is_deleted() || item.right == NONE || is_cut,
                        "two values of one key"
                    );
                    nodes.extend(self.made(at));
                    previous = at;
                }
                assert_eq!(attribute.last, previous, "last of a key of node {index}");
            }
        }
        let mut held = 0;
        for (number, client) in self.clients.iter().enumerate() {
            assert_eq!(client.before, NONE, "a transaction is under way");
            let mut clock = 0;
            for block in client.blocks.from(0) {
                if !block.is_collected() {
                    let item = self.item(block.item);
                    assert!(
                        reached.contains(&block.item),
                        "item {} is unreachable",
                        block.item
                    );
                    assert_eq!((item.client as usize, item.clock), (number, block.start));
                    assert_eq!(block.start, clock.max(block.start));
                    held += 1;
                    clock = item.end();
                }
            }
            assert!(clock <= client.clock);
        }
        assert_eq!(held, reached.len(), "reachable items without a block");
        assert_eq!(held + self.free_items.len(), self.items.len());
    }
}
