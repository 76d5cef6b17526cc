//! The first step of a transaction: every operation of an update gets its place, or the update is
//! rejected as a whole.
//!
//! Operations without a place are collected: those that depend on collected ones, and those that no
//! editor makes, such as a child of an attribute. This does not depend on which operations came in
//! the same update, so merged updates have the same effect as single ones.

use super::blocks::Block;
use super::transaction::{Limit, Transaction};
use super::{
    ClientIndex, Content, Engine, Item, ItemIndex, KeyIndex, NONE, NOWHERE, NodeIndex, NodeKind,
};
use crate::update::DecodeError;
use crate::update::reader::Reader;
use crate::update::scan::{self, Id, Parent, Struct, TypeKind};

/// A struct that has a place but is not linked yet.
pub(super) struct Staged {
    pub(super) item: ItemIndex,
    pub(super) left: ItemIndex,
    pub(super) right: ItemIndex,
}

impl Engine {
    pub(super) fn stage(
        &mut self,
        structs: &[&Struct<'_>],
        limit: Limit,
        transaction: &mut Transaction,
    ) -> Result<Vec<Staged>, DecodeError> {
        transaction.known_clients = self.clients.len();
        transaction.known_names = self.names.len();
        let mut staged = Vec::with_capacity(structs.len());
        let free = self.free_items.len();
        self.items.reserve(structs.len().saturating_sub(free));
        let makes = |one: &&&Struct<'_>| matches!(one.content, scan::Content::Type(_));
        let made = structs.iter().filter(makes).count().min(limit.new_nodes);
        self.nodes
            .reserve(made.saturating_sub(self.free_nodes.len()));
        for one in structs {
            match self.stage_one(one, limit, transaction) {
                Ok(one) => staged.extend(one),
                Err(error) => {
                    let staged = staged.iter().map(|one: &Staged| one.item);
                    self.unstage(staged, std::mem::take(transaction));
                    return Err(error);
                }
            }
        }
        Ok(staged)
    }

    /// Removes these operations, and everything else that the transaction created for them.
    pub(super) fn unstage(
        &mut self,
        staged: impl IntoIterator<Item = ItemIndex>,
        transaction: Transaction,
    ) {
        for client in transaction.grown_clients {
            let client = &mut self.clients[client as usize];
            client.blocks.truncate(client.before);
            client.clock = client.before;
            client.before = NONE;
        }
        for item in staged {
            self.free_item(item);
        }
        self.roots
            .retain(|_, node| !transaction.roots.contains(node));
        self.free_nodes.extend(transaction.made);
        self.free_nodes.extend(transaction.roots);
        for client in self.clients.drain(transaction.known_clients..) {
            self.client_index.remove(&client.id);
        }
        for name in self.names.drain(transaction.known_names..) {
            self.name_index.remove(&name);
        }
    }

    /// Records a client's clock before its first new operation.
    pub(super) fn grow(&mut self, client: ClientIndex, transaction: &mut Transaction) {
        let known = &mut self.clients[client as usize];
        if known.before == NONE {
            known.before = known.clock;
            transaction.grown_clients.push(client);
        }
    }

    /// Determines the place of a struct; `None` if it is collected.
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
                    // The neighbour was collected with its parent.
                    is_collected |= *item == NONE;
                }
            }
        }
        let place = if is_collected {
            None
        } else {
            match self.resolve(one, left, right, transaction) {
                Ok(place) => place,
                Err(Misplaced(reason)) if limit.refuses_misplaced => {
                    return Err(DecodeError::Malformed { offset: 0, reason });
                }
                Err(Misplaced(_)) => {
                    transaction.misplaced += u64::from(one.end() - clock);
                    None
                }
            }
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
        // A block from before the transaction stays unchanged, for a rollback.
        let joins = item == NONE && clock > known.before && {
            let last = known.blocks.last();
            last.is_some_and(Block::is_collected)
        };
        if !joins {
            known.blocks.push(Block { start: clock, item });
        }
        known.clock = one.end();
        if item == NONE && one.content != scan::Content::Collected {
            transaction.placeless.push(one.id);
        }
        Ok((item != NONE).then_some(Staged { item, left, right }))
    }

    /// The parent and key of a struct between these neighbours; `None` if they were collected.
    ///
    /// Yjs takes the left neighbour's parent if the two have different ones. Here such a struct has
    /// no place: the other parent may already be collected, and then Yjs has no place either.
    fn resolve(
        &mut self,
        one: &Struct<'_>,
        left: ItemIndex,
        right: ItemIndex,
        transaction: &mut Transaction,
    ) -> Result<Option<(NodeIndex, KeyIndex)>, Misplaced> {
        let is_format = one.content == scan::Content::Format;
        let place = |engine: &Self, item: ItemIndex| {
            let item = engine.item(item);
            (item.parent, item.key)
        };
        if left != NONE || right != NONE {
            if left != NONE && right != NONE && place(self, left) != place(self, right) {
                return Err(Misplaced("neighbours with different parents"));
            }
            let beside = if left == NONE { right } else { left };
            let (parent, key) = place(self, beside);
            if is_format && key != NONE {
                return Err(FORMAT_AS_ATTRIBUTE);
            }
            return Ok(Some((parent, key)));
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
                    // Deleted here, or received as deleted.
                    Content::Deleted => return Ok(None),
                    _ if parent.is_deleted() => return Ok(None),
                    _ => return Err(Misplaced("parent can't have children")),
                }
            }
        };
        if is_format && one.key.is_some() {
            return Err(FORMAT_AS_ATTRIBUTE);
        }
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
            // Skips the count, which equals the length.
            let counted = reader.unsigned();
            debug_assert!(counted.is_ok());
            reader.rest()
        };
        let mut content = match one.content {
            scan::Content::Collected | scan::Content::Deleted => Content::Deleted,
            scan::Content::Format => {
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
            content = content.split(offset, one.length).0;
        }
        let in_text = self.node(parent).kind == NodeKind::Text;
        let is_at_home = match &content {
            Content::Deleted => true,
            Content::Type(node) => !matches!(self.node(*node).kind, NodeKind::Foreign(_)),
            Content::Format(..) | Content::Text(_) => in_text,
            Content::Json(_) | Content::Values(_) | Content::Whole(..) => false,
        };
        self.has_lists |= key == NONE && matches!(content, Content::Json(_) | Content::Values(_));
        if key == NONE && !is_at_home {
            self.node_mut(parent).is_mixed = true;
        }
        Ok(content)
    }
}

/// Why an operation can't have a place. Editors don't produce such operations.
struct Misplaced(&'static str);

const FORMAT_AS_ATTRIBUTE: Misplaced = Misplaced("formatting as an attribute");
