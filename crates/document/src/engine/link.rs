//! The second step: operations are linked in where Yjs would put them, and others are deleted.

use std::collections::HashMap;

use super::order::Size;
use super::stage::Staged;
use super::transaction::Transaction;
use super::{
    Attribute, Content, DELETED, Engine, Item, ItemIndex, KeyIndex, Link, NONE, NOWHERE, NodeIndex,
};
use crate::update::scan::IdRange;

impl Engine {
    /// Puts an item between its neighbours, where Yjs would.
    pub(super) fn link_in(&mut self, staged: &Staged, transaction: &mut Transaction) {
        let index = staged.item;
        let Item {
            parent,
            key,
            origin,
            right_origin,
            ..
        } = self.items[index as usize];
        let mut left = self.clean_end(staged.left, origin);
        let mut right = self.clean_start(staged.right, right_origin);
        let first = self.first_of(parent, key);
        let is_conflict = if left == NONE {
            right == NONE || self.item(right).left != NONE
        } else {
            self.item(left).right != right
        };
        if is_conflict {
            left = self.place_among(index, left, right, first);
        }
        // Linked in.
        right = if left == NONE {
            first
        } else {
            self.item(left).right
        };
        let item = &mut self.items[index as usize];
        item.left = left;
        item.right = right;
        if left != NONE {
            self.items[left as usize].right = index;
        }
        if right != NONE {
            self.items[right as usize].left = index;
        }
        if key == NONE {
            let node = &mut self.nodes[parent as usize];
            if left == NONE {
                node.first = index;
            }
            if right == NONE {
                node.last = index;
            }
            if matches!(self.items[index as usize].content, Content::Format(..)) {
                node.formats += 1;
            }
            self.order_added(index);
            if transaction.grown.last() != Some(&parent) {
                transaction.grown.push(parent);
            }
        } else {
            self.set_attribute(index, left == NONE, right == NONE);
            // Of all values of a key the last one is valid.
            if right != NONE {
                self.delete_item(index, transaction);
            } else if left != NONE {
                self.delete_item(left, transaction);
            }
        }
        if matches!(self.item(index).content, Content::Deleted) || self.is_gone(parent) {
            self.delete_item(index, transaction);
        }
    }

    /// Of items that were made at the same place at the same time, the lower client comes first; what
    /// builds on one of them stays with it.
    fn place_among(
        &self,
        index: ItemIndex,
        left: ItemIndex,
        right: ItemIndex,
        first: ItemIndex,
    ) -> ItemIndex {
        let new = self.item(index);
        let client = self.clients[new.client as usize].id;
        let mut left = left;
        let mut other = if left == NONE {
            first
        } else {
            self.item(left).right
        };
        // Where the scan began, and from where on what was passed conflicts.
        let (start, mut conflict) = (other, other);
        // What was passed, and how many before each; only if somebody's origin has to be looked for.
        let mut passed: HashMap<ItemIndex, usize> = HashMap::new();
        while other != NONE && other != right {
            let one = self.item(other);
            if one.origin == new.origin {
                if self.clients[one.client as usize].id < client {
                    left = other;
                    conflict = one.right;
                } else if one.right_origin == new.right_origin {
                    break;
                }
            } else if one.origin != NOWHERE {
                if passed.is_empty() {
                    let before = self.items(start).take_while(|&before| before != other);
                    passed.extend(before.zip(0..));
                }
                passed.insert(other, passed.len());
                let origin = self.block(one.origin).item;
                let Some(place) = passed.get(&origin) else {
                    break;
                };
                let from = passed.get(&conflict);
                if from.is_none_or(|from| place < from) {
                    left = other;
                    conflict = one.right;
                }
            } else {
                break;
            }
            if !passed.is_empty() && !passed.contains_key(&other) {
                passed.insert(other, passed.len());
            }
            other = one.right;
        }
        left
    }

    fn first_of(&self, parent: NodeIndex, key: KeyIndex) -> ItemIndex {
        if key == NONE {
            return self.node(parent).first;
        }
        self.attribute(parent, key)
            .map_or(NONE, |found| found.first)
    }

    fn set_attribute(&mut self, index: ItemIndex, is_first: bool, is_last: bool) {
        let Item { parent, key, .. } = self.items[index as usize];
        let attributes = &mut self.nodes[parent as usize].attributes;
        match attributes.binary_search_by_key(&key, |one| one.key) {
            Ok(at) => {
                if is_first {
                    attributes[at].first = index;
                }
                if is_last {
                    attributes[at].last = index;
                }
            }
            Err(at) => attributes.insert(
                at,
                Attribute {
                    key,
                    first: index,
                    last: index,
                },
            ),
        }
    }

    /// Whether a node is deleted, or goes with one that is.
    fn is_gone(&self, node: NodeIndex) -> bool {
        let node = self.node(node);
        node.is_dead || (node.item != NONE && self.item(node.item).is_deleted())
    }

    /// Deletes all of a range of known operations.
    pub(super) fn delete_range(&mut self, range: IdRange, transaction: &mut Transaction) {
        let Some(&client) = self.client_index.get(&range.client) else {
            return;
        };
        let end = range.end.min(self.clients[client as usize].clock);
        let mut clock = range.start;
        while clock < end {
            let block = self.block(Link { client, clock });
            if block.is_collected() {
                let known = &self.clients[client as usize];
                let next = known.blocks.from(clock).nth(1);
                clock = next.map_or(end, |next| next.start);
                continue;
            }
            let item = self.item(block.item);
            if item.is_deleted() {
                clock = item.end();
                continue;
            }
            let mut index = block.item;
            if item.clock < clock {
                index = self.split(index, clock - item.clock);
            }
            let item = self.item(index);
            if item.end() > end {
                self.split(index, end - clock);
            }
            clock = self.item(index).end();
            self.delete_item(index, transaction);
        }
    }

    fn delete_item(&mut self, index: ItemIndex, transaction: &mut Transaction) {
        let before = self.size(index);
        let item = &mut self.items[index as usize];
        if item.is_deleted() {
            return;
        }
        item.mark_deleted();
        let range = item.clock..item.end();
        match transaction.deleted.last_mut() {
            Some((client, last)) if *client == item.client && last.end == range.start => {
                last.end = range.end;
            }
            Some((client, last)) if *client == item.client && last.start == range.end => {
                last.start = range.start;
            }
            _ => transaction.deleted.push((item.client, range)),
        }
        match item.content {
            Content::Type(node) => transaction.dead.push(node),
            Content::Format(..) if item.key == NONE => {
                let parent = item.parent;
                self.nodes[parent as usize].formats -= 1;
            }
            _ => {}
        }
        if self.item(index).key == NONE {
            self.order_resized(index, before, Size::default());
        }
    }

    /// The item that ends with this operation, cut if need be; `hint` may hold it.
    fn clean_end(&mut self, hint: ItemIndex, link: Link) -> ItemIndex {
        if link == NOWHERE {
            return NONE;
        }
        if hint != NONE && self.item(hint).last() == link {
            return hint;
        }
        let index = self.block(link).item;
        if index != NONE && self.item(index).last() != link {
            let offset = link.clock + 1 - self.item(index).clock;
            self.split(index, offset);
        }
        index
    }

    /// The item that begins with this operation, cut if need be; `hint` may hold it.
    fn clean_start(&mut self, hint: ItemIndex, link: Link) -> ItemIndex {
        if link == NOWHERE {
            return NONE;
        }
        if hint != NONE {
            let item = self.item(hint);
            if item.client == link.client && item.clock == link.clock {
                return hint;
            }
        }
        let index = self.block(link).item;
        if index == NONE || self.item(index).clock == link.clock {
            return index;
        }
        let offset = link.clock - self.item(index).clock;
        self.split(index, offset)
    }

    /// Cuts an item; the second half.
    fn split(&mut self, index: ItemIndex, offset: u32) -> ItemIndex {
        let pairs = self.size(index).pairs;
        let item = &mut self.items[index as usize];
        let content = item.content.split(offset, item.length());
        let clock = item.clock + offset;
        let origin = Link {
            client: item.client,
            clock: clock - 1,
        };
        let half = Item {
            client: item.client,
            clock,
            length: (item.length() - offset) | (item.length & DELETED),
            left: index,
            right: item.right,
            origin,
            right_origin: item.right_origin,
            parent: item.parent,
            key: item.key,
            slot: item.slot,
            content,
        };
        item.set_length(offset);
        let (client, right, parent, key) = (item.client, item.right, item.parent, item.key);
        let new = self.add_item(half);
        self.items[index as usize].right = new;
        if right != NONE {
            self.items[right as usize].left = new;
        }
        self.clients[client as usize].blocks.split(clock, new);
        if key == NONE {
            if right == NONE {
                self.nodes[parent as usize].last = new;
            }
            let lost_pair = self.size(index).pairs + self.size(new).pairs < pairs;
            self.order_split(new, lost_pair);
        } else if right == NONE {
            self.set_attribute(new, false, true);
        }
        new
    }

    pub(super) fn free_item(&mut self, index: ItemIndex) {
        self.items[index as usize].content = Content::Deleted;
        self.free_items.push(index);
    }
}
