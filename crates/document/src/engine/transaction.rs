//! Operations are taken up: first all of them get their places, or none; then they are linked in.

use std::collections::HashMap;
use std::ops::Range;

use super::blocks::Block;
use super::{
    Attribute, Client, ClientIndex, Content, DELETED, Engine, Item, ItemIndex, KeyIndex, Link,
    NONE, NOWHERE, NodeIndex, NodeKind,
};
use crate::update::DecodeError;
use crate::update::reader::Reader;
use crate::update::scan::{self, Id, IdRange, Parent, Struct, TypeKind};

/// What is done so far, from the first operation taken up until all is collected.
#[derive(Debug, Default)]
pub(crate) struct Transaction {
    // The clients that grew.
    pub(super) grown_clients: Vec<ClientIndex>,
    // In the order of deletion; not what is below a deleted node.
    pub(super) deleted: Vec<(ClientIndex, Range<u32>)>,
    /// The nodes that were deleted themselves.
    pub(crate) dead: Vec<NodeIndex>,
    /// The nodes that were made.
    pub(crate) made: Vec<NodeIndex>,
    // Sequences that grew.
    pub(super) grown: Vec<NodeIndex>,
    // Root types that are new.
    roots: Vec<NodeIndex>,
}

/// An item of a transaction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Added {
    pub(crate) item: ItemIndex,
    /// The part of it that the transaction brought.
    pub(crate) from: u32,
}

/// A struct that got its place but is not linked in yet.
struct Staged {
    item: ItemIndex,
    left: ItemIndex,
    right: ItemIndex,
}

impl Engine {
    /// Takes up structs, each of which begins where its client stands, or overlaps what is known of it,
    /// and whose dependencies are known or come before it; then deletes ranges of known operations.
    ///
    /// What it did is in `transaction`; [`Self::finish`] ends it.
    ///
    /// # Errors
    /// If a struct has no place it could go to; nothing has changed.
    pub(crate) fn apply(
        &mut self,
        structs: &[&Struct<'_>],
        deletes: &[IdRange],
        limit: Limit,
        transaction: &mut Transaction,
    ) -> Result<(), DecodeError> {
        let is_typed =
            structs.len() == 1 && deletes.is_empty() && self.extend(structs[0], transaction);
        if !is_typed {
            let staged = self.stage(structs, limit, transaction)?;
            for one in staged {
                self.link_in(&one, transaction);
            }
        }
        // From the end on: what is cut off is then what is small, so that many deletions in one long text
        // don't copy it many times.
        let mut deletes = deletes.to_vec();
        deletes.sort_unstable_by_key(|range| (range.client, range.start));
        for range in deletes.into_iter().rev() {
            self.delete_range(range, transaction);
        }
        Ok(())
    }

    /// What the transaction brought that is still there in some form, in the order of clients and clocks.
    pub(crate) fn added<'a>(
        &'a self,
        transaction: &'a Transaction,
    ) -> impl Iterator<Item = Added> + 'a {
        transaction.grown_clients.iter().flat_map(|&client| {
            let Client { blocks, before, .. } = &self.clients[client as usize];
            let items = blocks.from(*before).filter(|block| !block.is_collected());
            items.map(|block| Added {
                item: block.item,
                from: before.saturating_sub(block.start),
            })
        })
    }

    /// The items that the transaction deleted and that are older than it.
    pub(crate) fn deleted<'a>(
        &'a self,
        transaction: &'a Transaction,
    ) -> impl Iterator<Item = ItemIndex> + 'a {
        let deleted = transaction.deleted.iter().rev();
        deleted.flat_map(move |(client, range)| {
            let Client { blocks, before, .. } = &self.clients[*client as usize];
            let end = range.end.min(*before);
            let blocks = blocks.from(range.start);
            let blocks = blocks.take_while(move |block| block.start < end);
            let items = blocks.filter(|block| !block.is_collected());
            items.map(|block| block.item)
        })
    }

    /// A character that follows the last one that its author typed.
    fn extend(&mut self, one: &Struct<'_>, transaction: &mut Transaction) -> bool {
        let (scan::Content::Text(text), Some(origin)) = (one.content, one.origin) else {
            return false;
        };
        let Some(&client) = self.client_index.get(&one.id.client) else {
            return false;
        };
        let Client { clock, blocks, .. } = &self.clients[client as usize];
        let clock = *clock;
        if origin.client != one.id.client || one.id.clock != clock || origin.clock + 1 != clock {
            return false;
        }
        let Some(Block { item: index, .. }) = blocks.last().filter(|last| !last.is_collected())
        else {
            return false;
        };
        let right_origin = match one.right_origin {
            None => NOWHERE,
            Some(id) => match self.link(id) {
                Some(link) => link,
                None => return false,
            },
        };
        let item = self.item(index);
        let stands_before = match item.right {
            NONE => right_origin == NOWHERE,
            right => {
                let right = self.item(right);
                right_origin.client == right.client && right_origin.clock == right.clock
            }
        };
        let is_in_sequence = item.key == NONE && !item.is_deleted();
        if !is_in_sequence || item.right_origin != right_origin || !stands_before {
            return false;
        }
        let before = self.size(index);
        let item = &mut self.items[index as usize];
        let Content::Text(content) = &mut item.content else {
            return false;
        };
        content.push_str(text);
        item.length += one.length;
        self.grow(client, transaction);
        self.clients[client as usize].clock += one.length;
        let mut now = before;
        if before.units > 0 {
            let characters = if text.len() == one.length as usize {
                one.length
            } else {
                super::index(text.chars().count())
            };
            now.units += one.length;
            now.pairs += one.length - characters;
            self.order_resized(index, before, now);
        }
        true
    }

    fn stage(
        &mut self,
        structs: &[&Struct<'_>],
        limit: Limit,
        transaction: &mut Transaction,
    ) -> Result<Vec<Staged>, DecodeError> {
        let (clients, names) = (self.clients.len(), self.names.len());
        let mut staged = Vec::with_capacity(structs.len());
        let free = self.free_items.len();
        self.items.reserve(structs.len().saturating_sub(free));
        for one in structs {
            match self.stage_one(one, limit, transaction) {
                Ok(one) => staged.extend(one),
                Err(error) => {
                    self.unstage(staged, std::mem::take(transaction));
                    for client in self.clients.drain(clients..) {
                        self.client_index.remove(&client.id);
                    }
                    for name in self.names.drain(names..) {
                        self.name_index.remove(&name);
                    }
                    return Err(error);
                }
            }
        }
        Ok(staged)
    }

    fn unstage(&mut self, staged: Vec<Staged>, transaction: Transaction) {
        for client in transaction.grown_clients {
            let client = &mut self.clients[client as usize];
            client.blocks.truncate(client.before);
            client.clock = client.before;
            client.before = NONE;
        }
        for Staged { item, .. } in staged {
            self.free_item(item);
        }
        self.roots
            .retain(|_, node| !transaction.roots.contains(node));
        self.free_nodes.extend(transaction.made);
        self.free_nodes.extend(transaction.roots);
    }

    /// Notes that a client is about to grow.
    fn grow(&mut self, client: ClientIndex, transaction: &mut Transaction) {
        let known = &mut self.clients[client as usize];
        if known.before == NONE {
            known.before = known.clock;
            transaction.grown_clients.push(client);
        }
    }

    /// Finds the place of a struct; `None` if it was collected.
    fn stage_one(
        &mut self,
        one: &Struct<'_>,
        limit: Limit,
        transaction: &mut Transaction,
    ) -> Result<Option<Staged>, DecodeError> {
        let client = self.client(one.id.client);
        let clock = self.clients[client as usize].clock;
        let offset = clock - one.id.clock;
        let (mut left, mut right) = (NONE, NONE);
        let (mut origin, mut right_origin) = (NOWHERE, NOWHERE);
        let mut is_collected = one.content == scan::Content::Collected;
        if !is_collected {
            let before = Id {
                client: one.id.client,
                clock: clock.wrapping_sub(1),
            };
            let before = if offset > 0 { Some(before) } else { one.origin };
            for (id, link, item) in [
                (before, &mut origin, &mut left),
                (one.right_origin, &mut right_origin, &mut right),
            ] {
                if let Some(found) = id.and_then(|id| self.link(id)) {
                    *link = found;
                    *item = self.block(found).item;
                    // What stood beside it is gone with its parent.
                    is_collected |= *item == NONE;
                }
            }
        }
        let place = if is_collected {
            None
        } else {
            self.resolve(one, left, right, transaction)?
        };
        let content = match place {
            None => None,
            Some((parent, key)) => {
                Some(self.content(one, offset, parent, key, limit, transaction)?)
            }
        };
        self.grow(client, transaction);
        let item = match (place, content) {
            (Some((parent, key)), Some(content)) => {
                let made = match content {
                    Content::Type(node) => node,
                    _ => NONE,
                };
                let item = self.add_item(Item {
                    client,
                    clock,
                    length: one.end() - clock,
                    left: NONE,
                    right: NONE,
                    origin,
                    right_origin,
                    parent,
                    key,
                    slot: 0,
                    content,
                });
                if made != NONE {
                    self.node_mut(made).item = item;
                }
                item
            }
            _ => NONE,
        };
        let known = &mut self.clients[client as usize];
        // A block that was there before stays as it was, lest this is taken back.
        let joins = item == NONE && clock > known.before && {
            let last = known.blocks.last();
            last.is_some_and(Block::is_collected)
        };
        if !joins {
            known.blocks.push(Block { start: clock, item });
        }
        known.clock = one.end();
        Ok((item != NONE).then_some(Staged { item, left, right }))
    }

    /// The parent and the key of a struct between these neighbours; `None` if they are gone.
    fn resolve(
        &mut self,
        one: &Struct<'_>,
        left: ItemIndex,
        right: ItemIndex,
        transaction: &mut Transaction,
    ) -> Result<Option<(NodeIndex, KeyIndex)>, DecodeError> {
        let place = |engine: &Self, item: ItemIndex| {
            let item = engine.item(item);
            (item.parent, item.key)
        };
        if left != NONE || right != NONE {
            if left != NONE && right != NONE && place(self, left) != place(self, right) {
                return Err(misplaced("two neighbours with different parents"));
            }
            let beside = if left == NONE { right } else { left };
            return Ok(Some(place(self, beside)));
        }
        let parent = match one.parent {
            Parent::Copied => return Ok(None),
            Parent::Root(name) => {
                let is_new = !self.roots.contains_key(name);
                let root = self.root(name);
                if is_new {
                    transaction.roots.push(root);
                }
                root
            }
            Parent::Item(id) => {
                let Some(link) = self.link(id) else {
                    return Ok(None);
                };
                let block = self.block(link);
                if block.is_collected() {
                    return Ok(None);
                }
                let parent = self.item(block.item);
                match parent.content {
                    Content::Type(node) => node,
                    // Deleted, or known to be deleted by who sent it.
                    Content::Deleted => return Ok(None),
                    _ if parent.is_deleted() => return Ok(None),
                    _ => return Err(misplaced("a parent that can't have children")),
                }
            }
        };
        let key = one.key.map_or(NONE, |key| self.key(key));
        Ok(Some((parent, key)))
    }

    fn content(
        &mut self,
        one: &Struct<'_>,
        offset: u32,
        parent: NodeIndex,
        key: KeyIndex,
        limit: Limit,
        transaction: &mut Transaction,
    ) -> Result<Content, DecodeError> {
        let behind_count = || {
            let mut reader = Reader::new(one.content_bytes);
            // The count, which the length tells.
            let counted = reader.unsigned();
            debug_assert!(counted.is_ok());
            reader.rest()
        };
        let mut content = match one.content {
            scan::Content::Collected | scan::Content::Deleted => Content::Deleted,
            scan::Content::Format => {
                if key != NONE {
                    return Err(misplaced("formatting as an attribute"));
                }
                let mut reader = Reader::new(one.content_bytes);
                let (name, value) = (reader.string()?, reader.string()?);
                Content::Format(self.key(name), value.into())
            }
            scan::Content::Json => Content::Json(behind_count().into()),
            scan::Content::Text(text) => Content::Text(text.to_owned()),
            scan::Content::Values => Content::Values(behind_count().into()),
            scan::Content::Whole => Content::Whole(one.bytes[0] & 0x0f, one.content_bytes.into()),
            scan::Content::Type(kind) => {
                let kind = match kind {
                    TypeKind::Element(tag) => NodeKind::Element(self.key(tag)),
                    TypeKind::Other(number) => NodeKind::Foreign(number),
                    TypeKind::Text => NodeKind::Text,
                };
                let depth = self.node(parent).depth + 1;
                if depth > limit.depth {
                    return Err(DecodeError::TooLarge {
                        what: "the depth of elements",
                        limit: limit.depth as usize,
                    });
                }
                if transaction.made.len() >= limit.new_nodes {
                    return Err(DecodeError::TooLarge {
                        what: "the number of elements",
                        limit: limit.nodes,
                    });
                }
                let node = self.add_node(kind, parent, key, depth);
                transaction.made.push(node);
                Content::Type(node)
            }
        };
        if offset > 0 {
            content = content.split(offset, one.length);
        }
        let in_text = self.node(parent).kind == NodeKind::Text;
        let is_at_home = match &content {
            Content::Deleted => true,
            Content::Type(node) => !matches!(self.node(*node).kind, NodeKind::Foreign(_)),
            Content::Format(..) | Content::Text(_) => in_text,
            Content::Json(_) | Content::Values(_) | Content::Whole(..) => false,
        };
        if key == NONE && !is_at_home {
            self.node_mut(parent).is_mixed = true;
        }
        Ok(content)
    }

    /// Puts an item between its neighbours, where Yjs would.
    fn link_in(&mut self, staged: &Staged, transaction: &mut Transaction) {
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
    fn delete_range(&mut self, range: IdRange, transaction: &mut Transaction) {
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
            self.order_resized(index, before, super::order::Size::default());
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

/// How much more may come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit {
    pub(crate) depth: u32,
    pub(crate) nodes: usize,
    pub(crate) new_nodes: usize,
}

fn misplaced(reason: &'static str) -> DecodeError {
    DecodeError::Malformed { offset: 0, reason }
}
