//! Garbage collection at the end of a transaction: deleted content is freed, neighbours are joined.
//!
//! A deleted item keeps its place. Of the content of a deleted node only the existence of its
//! operations is kept. Both are as in Yjs, so that the encoded states are alike.

use super::transaction::Transaction;
use super::{Client, ClientIndex, Content, Engine, ItemIndex, Link, NONE, NodeIndex};

/// The neighbour that the transaction has touched.
#[derive(Clone, Copy)]
enum Side {
    Left,
    Right,
}

impl Engine {
    /// Ends a transaction.
    pub(crate) fn finish(&mut self, transaction: Transaction) {
        let collected = self.collect(&transaction);
        for (client, clock) in collected {
            self.join(client, clock, Side::Right);
            self.join_behind(client, clock);
        }
        // One list for all ranges, since there may be very many.
        let mut starts: Vec<u32> = Vec::new();
        for (client, range) in transaction.deleted {
            let blocks = self.clients[client as usize].blocks.from(range.start);
            let found = blocks.map(|block| block.start);
            starts.extend(found.take_while(|&start| start <= range.end));
            for start in starts.drain(..) {
                let touched = if start == range.start {
                    Side::Right
                } else {
                    Side::Left
                };
                self.join(client, start, touched);
            }
        }
        for client in transaction.grown_clients {
            let Client { blocks, before, .. } = &mut self.clients[client as usize];
            let before = std::mem::replace(before, NONE);
            let starts = blocks.from(before).map(|block| block.start);
            let starts: Vec<u32> = starts.collect();
            for start in starts {
                self.join(client, start, Side::Right);
            }
        }
        for node in transaction.grown {
            self.index_sequence(node);
        }
    }

    /// Frees deleted content; returns the starts of collected runs.
    fn collect(&mut self, transaction: &Transaction) -> Vec<(ClientIndex, u32)> {
        let mut nodes: Vec<NodeIndex> = Vec::new();
        for (client, range) in &transaction.deleted {
            let blocks = self.clients[*client as usize].blocks.from(range.start);
            let blocks = blocks.take_while(|block| block.start < range.end);
            for block in blocks {
                if !block.is_collected() {
                    let item = &mut self.items[block.item as usize];
                    if let Content::Type(node) =
                        std::mem::replace(&mut item.content, Content::Deleted)
                    {
                        nodes.push(node);
                    }
                }
            }
        }
        let mut collected = Vec::new();
        while let Some(index) = nodes.pop() {
            let node = self.node_mut(index);
            node.is_dead = true;
            node.item = NONE;
            node.order = None;
            node.last = NONE;
            let first = std::mem::replace(&mut node.first, NONE);
            let attributes = std::mem::take(&mut node.attributes);
            let lists = attributes.iter().map(|attribute| attribute.first);
            for first in lists.chain([first]) {
                let mut at = first;
                while at != NONE {
                    let item = &self.items[at as usize];
                    if let Content::Type(node) = item.content {
                        nodes.push(node);
                    }
                    let (client, clock, next) = (item.client, item.clock, item.right);
                    self.clients[client as usize].blocks.set(clock, NONE);
                    collected.push((client, clock));
                    self.free_item(at);
                    at = next;
                }
            }
            self.free_nodes.push(index);
        }
        collected
    }

    /// Joins the block at this operation with the one before it, if possible.
    ///
    /// The touched side is checked first: the other one may not be in the cache, and most
    /// neighbours can't be joined.
    fn join(&mut self, client: ClientIndex, clock: u32, touched: Side) {
        let blocks = &self.clients[client as usize].blocks;
        let (Some(left), right) = blocks.find_both(clock) else {
            return;
        };
        match (left.is_collected(), right.is_collected()) {
            (true, true) => {}
            (false, false)
                if self.fits(touched, left.item, right.item)
                    && self.can_join(left.item, right.item) =>
            {
                self.join_items(left.item, right.item);
            }
            _ => return,
        }
        self.clients[client as usize].blocks.join(right.start);
    }

    fn join_behind(&mut self, client: ClientIndex, clock: u32) {
        let next = self.clients[client as usize].blocks.from(clock).nth(1);
        if let Some(next) = next {
            self.join(client, next.start, Side::Left);
        }
    }

    fn fits(&self, touched: Side, left: ItemIndex, right: ItemIndex) -> bool {
        match touched {
            Side::Left => self.item(left).right == right,
            Side::Right => {
                let item = self.item(right);
                let Link { client, clock } = item.origin;
                client == item.client && clock + 1 == item.clock
            }
        }
    }

    fn can_join(&self, left: ItemIndex, right: ItemIndex) -> bool {
        let (one, other) = (self.item(left), self.item(right));
        one.right == right
            && other.origin == one.last()
            && one.right_origin == other.right_origin
            && one.is_deleted() == other.is_deleted()
            && matches!(
                (&one.content, &other.content),
                (Content::Deleted, Content::Deleted) | (Content::Text(_), Content::Text(_))
            )
            && (one.key != NONE || self.order_may_join(left, right))
    }

    fn join_items(&mut self, left: ItemIndex, right: ItemIndex) {
        let item = &mut self.items[right as usize];
        let content = std::mem::replace(&mut item.content, Content::Deleted);
        let (length, next, parent, key) = (item.length(), item.right, item.parent, item.key);
        let item = &mut self.items[left as usize];
        if let (Content::Text(text), Content::Text(more)) = (&mut item.content, content) {
            text.push_str(&more);
        }
        item.set_length(item.length() + length);
        item.right = next;
        if next != NONE {
            self.items[next as usize].left = left;
        }
        let node = &mut self.nodes[parent as usize];
        if key != NONE {
            let at = node.attributes.binary_search_by_key(&key, |one| one.key);
            if let Ok(at) = at
                && node.attributes[at].last == right
            {
                node.attributes[at].last = left;
            }
        } else {
            if node.last == right {
                node.last = left;
            }
            self.order_joined(left);
        }
        self.free_item(right);
    }
}
