//! The second step of a transaction: operations are linked where Yjs would put them, others
//! are deleted.
//!
//! To find a place among concurrent operations, each of them must be visited. So the steps are
//! counted, and everything is rolled back when none are left.

use std::collections::HashMap;

use super::order::Size;
use super::stage::Staged;
use super::transaction::Transaction;
use super::{
    Attribute, Client, Content, DELETED, Engine, Item, ItemIndex, KeyIndex, Link, NONE, NOWHERE,
    NodeIndex, NodeKind,
};
use crate::update::scan::IdRange;

/// The cost of a step with a hash table entry, in plain steps.
const HASHED_STEPS: usize = 8;

/// More steps than allowed.
#[derive(Debug)]
pub(super) struct OutOfSteps;

fn take_steps(steps: &mut usize, wanted: usize) -> Result<(), OutOfSteps> {
    *steps = steps.checked_sub(wanted).ok_or(OutOfSteps)?;
    Ok(())
}

impl Engine {
    /// Links an item between its neighbours, where Yjs would put it, or fails if that takes more
    /// than `steps`.
    pub(super) fn link_in(
        &mut self,
        staged: &Staged,
        steps: &mut usize,
        transaction: &mut Transaction,
    ) -> Result<(), OutOfSteps> {
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
            left = self.place_among(index, left, right, first, steps)?;
        }
        // Links the item.
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
            // A new key moves those after it; 32 of them cost about one step.
            let attributes = &self.nodes[parent as usize].attributes;
            let behind = |known: &Attribute| known.key > key;
            if left == NONE && right == NONE && attributes.last().is_some_and(behind) {
                take_steps(steps, attributes.len() / 32)?;
            }
            self.set_attribute(index, left == NONE, right == NONE);
            // The last value of a key is current.
            if right != NONE {
                self.delete_item(index, transaction);
            } else if left != NONE {
                self.delete_run(left, transaction);
            }
        }
        if matches!(self.item(index).content, Content::Deleted) || self.is_gone(parent) {
            self.delete_item(index, transaction);
        }
        // If one operation has several values, the last is current as well. It gets an item of its
        // own, so that it is found immediately.
        let item = self.item(index);
        let is_list = matches!(item.content, Content::Values(_) | Content::Json(_));
        if key != NONE && is_list && item.length() > 1 && !item.is_deleted() {
            self.split(index, item.length() - 1);
        }
        Ok(())
    }

    /// Unlinks and frees new items. Older items that were split for them stay split, which has
    /// no effect.
    pub(super) fn unlink(&mut self, transaction: Transaction) {
        let mut items: Vec<ItemIndex> = Vec::new();
        for &client in &transaction.grown_clients {
            let Client { blocks, before, .. } = &self.clients[client as usize];
            let new = blocks.from(*before).filter(|block| block.start >= *before);
            items.extend(
                new.filter(|block| !block.is_collected())
                    .map(|block| block.item),
            );
        }
        // Among the deleted items, only values of keys can be older than the transaction.
        for (client, range) in &transaction.deleted {
            let blocks = self.clients[*client as usize].blocks.from(range.start);
            let blocks = blocks.take_while(|block| block.start < range.end);
            for block in blocks.filter(|block| !block.is_collected()) {
                let item = &mut self.items[block.item as usize];
                if item.key != NONE {
                    item.length &= !DELETED;
                }
            }
        }
        let mut parents = Vec::new();
        for &index in &items {
            let item = self.item(index);
            let (left, right, parent, key) = (item.left, item.right, item.parent, item.key);
            if left == NONE && right == NONE && self.first_of(parent, key) != index {
                continue;
            }
            if left != NONE {
                self.items[left as usize].right = right;
            }
            if right != NONE {
                self.items[right as usize].left = left;
            }
            if key != NONE {
                self.unset_attribute(index, left, right);
                continue;
            }
            let size = self.size(index);
            let item = &self.items[index as usize];
            let is_mark = matches!(item.content, Content::Format(..)) && !item.is_deleted();
            let node = &mut self.nodes[parent as usize];
            node.formats -= u32::from(is_mark);
            node.count -= 1;
            node.size.subtract(size);
            if left == NONE {
                node.first = right;
            }
            if right == NONE {
                node.last = left;
            }
            // Rebuilt after all are unlinked.
            node.order = None;
            if parents.last() != Some(&parent) {
                parents.push(parent);
            }
        }
        self.unstage(items, transaction);
        for parent in parents {
            self.index_sequence(parent);
        }
    }

    fn unset_attribute(&mut self, index: ItemIndex, left: ItemIndex, right: ItemIndex) {
        let Item { parent, key, .. } = self.items[index as usize];
        let attributes = &mut self.nodes[parent as usize].attributes;
        let Ok(at) = attributes.binary_search_by_key(&key, |one| one.key) else {
            return;
        };
        if left == NONE && right == NONE {
            attributes.remove(at);
            return;
        }
        if left == NONE {
            attributes[at].first = right;
        }
        if right == NONE {
            attributes[at].last = left;
        }
    }

    /// Orders concurrent items at one place: the lower client comes first, and items that build on
    /// one of them stay with it.
    fn place_among(
        &self,
        index: ItemIndex,
        left: ItemIndex,
        right: ItemIndex,
        first: ItemIndex,
        steps: &mut usize,
    ) -> Result<ItemIndex, OutOfSteps> {
        let new = self.item(index);
        let client = self.clients[new.client as usize].id;
        let mut left = left;
        let mut other = if left == NONE {
            first
        } else {
            self.item(left).right
        };
        // The start of the search, and the first passed item that conflicts.
        let (start, mut conflict) = (other, other);
        // The passed items with their positions; filled only if an origin must be looked up.
        let mut passed: HashMap<ItemIndex, usize> = HashMap::new();
        while other != NONE && other != right {
            take_steps(steps, 1)?;
            if passed.is_empty()
                && let Some(run) = self.passable_run(other, right, index)
            {
                other = self.item(run.last).right;
                if run.is_before {
                    (left, conflict) = (run.last, other);
                }
                continue;
            }
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
                    take_steps(steps, passed.len().saturating_mul(HASHED_STEPS))?;
                }
                take_steps(steps, HASHED_STEPS)?;
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
        Ok(left)
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

    /// Whether a node or one of its ancestors is deleted.
    fn is_gone(&self, node: NodeIndex) -> bool {
        let node = self.node(node);
        node.is_dead || (node.item != NONE && self.item(node.item).is_deleted())
    }

    /// Deletes a range of known operations.
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
            let (is_cut, parent) = (item.clock < clock || item.end() > end, item.parent);
            if item.clock < clock {
                index = self.split(index, clock - item.clock);
            }
            let item = self.item(index);
            if item.end() > end {
                self.split(index, end - clock);
            }
            if is_cut && transaction.grown.last() != Some(&parent) {
                transaction.grown.push(parent);
            }
            clock = self.item(index).end();
            self.delete_item(index, transaction);
        }
    }

    /// Deletes an item, and the parts split off to its left.
    fn delete_run(&mut self, index: ItemIndex, transaction: &mut Transaction) {
        let mut at = index;
        loop {
            self.delete_item(at, transaction);
            let item = self.item(at);
            let left = item.left;
            if left == NONE || self.item(left).is_deleted() || self.item(left).last() != item.origin
            {
                return;
            }
            at = left;
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

    /// The item that ends with this operation, split if necessary; `hint` may contain it.
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
            let behind = self.split(index, offset);
            return self.item(behind).left;
        }
        index
    }

    /// The item that begins with this operation, split if necessary; `hint` may contain it.
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

    /// Splits an item; returns the part that begins at the offset.
    ///
    /// A long item is first divided into pieces, once: otherwise each split would copy the content
    /// behind it or skip the content before it.
    fn split(&mut self, index: ItemIndex, offset: u32) -> ItemIndex {
        let item = self.item(index);
        if !item.content.is_long(item.length()) {
            return self.cut(index, offset);
        }
        let link = Link {
            client: item.client,
            clock: item.clock + offset,
        };
        self.cut_into_pieces(index);
        let piece = self.block(link).item;
        match link.clock - self.item(piece).clock {
            0 => piece,
            offset => self.cut(piece, offset),
        }
    }

    fn cut(&mut self, index: ItemIndex, offset: u32) -> ItemIndex {
        let item = &mut self.items[index as usize];
        let (content, is_within_pair) = item.content.split(offset, item.length());
        let length = item.length() - offset;
        item.set_length(offset);
        let (key, parent) = (item.key, item.parent);
        let new = self.put_behind(index, length, content);
        if key == NONE {
            let in_text = self.node(parent).kind == NodeKind::Text;
            self.order_split(new, is_within_pair && in_text);
        }
        new
    }

    fn cut_into_pieces(&mut self, index: ItemIndex) {
        let before = self.size(index);
        let item = &mut self.items[index as usize];
        let content = std::mem::replace(&mut item.content, Content::Deleted);
        let mut pieces = content.into_pieces(item.length()).into_iter();
        let Some((length, content)) = pieces.next() else {
            return;
        };
        item.set_length(length);
        item.content = content;
        let key = item.key;
        if key == NONE {
            self.order_resized(index, before, self.size(index));
        }
        let mut last = index;
        for (length, content) in pieces {
            last = self.put_behind(last, length, content);
            if key == NONE {
                self.order_added(last);
            }
        }
    }

    /// Creates the item of operations that were split off another one.
    fn put_behind(&mut self, index: ItemIndex, length: u32, content: Content) -> ItemIndex {
        let item = self.item(index);
        let clock = item.end();
        let half = Item {
            client: item.client,
            clock,
            length: length | (item.length & DELETED),
            left: index,
            right: item.right,
            origin: item.last(),
            right_origin: item.right_origin,
            parent: item.parent,
            key: item.key,
            slot: item.slot,
            content,
        };
        let (client, right, parent, key) = (item.client, item.right, item.parent, item.key);
        let new = self.add_item(half);
        self.items[index as usize].right = new;
        if right != NONE {
            self.items[right as usize].left = new;
        }
        self.clients[client as usize].blocks.split(clock, new);
        if right == NONE {
            if key == NONE {
                self.nodes[parent as usize].last = new;
            } else {
                self.set_attribute(new, false, true);
            }
        }
        new
    }

    pub(super) fn free_item(&mut self, index: ItemIndex) {
        self.items[index as usize].content = Content::Deleted;
        self.free_items.push(index);
    }
}
