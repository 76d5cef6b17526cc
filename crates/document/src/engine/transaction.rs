//! Transactions: all operations get their places, or none (`stage`); then they are linked (`link`),
//! which fails only if the steps run out. The changes can be queried until the transaction ends
//! with the garbage collection (`collect`).

use std::ops::Range;

use super::blocks::Block;
use super::order::Size;
use super::{Client, ClientIndex, Content, Engine, ItemIndex, NONE, NOWHERE, NodeIndex, NodeKind};
use crate::update::DecodeError;
use crate::update::scan::{self, Id, IdRange, Struct};

/// The changes so far, from the first operation to the garbage collection.
#[derive(Debug, Default)]
pub(crate) struct Transaction {
    // Clients with new operations.
    pub(super) grown_clients: Vec<ClientIndex>,
    // In order of deletion; descendants of deleted nodes are not listed.
    pub(super) deleted: Vec<(ClientIndex, Range<u32>)>,
    /// Nodes that were deleted themselves.
    pub(crate) dead: Vec<NodeIndex>,
    /// Nodes that were created.
    pub(crate) made: Vec<NodeIndex>,
    // Sequences with new items.
    pub(super) grown: Vec<NodeIndex>,
    // New root types.
    pub(super) roots: Vec<NodeIndex>,
    /// Structs that came with content or a place and are collected here.
    pub(crate) placeless: Vec<Id>,
    /// The number of their operations that could not have a place in any order of updates.
    pub(crate) misplaced: u64,
    // The numbers of clients and names before the transaction.
    pub(super) known_clients: usize,
    pub(super) known_names: usize,
}

/// An item of a transaction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Added {
    pub(crate) item: ItemIndex,
    /// The clock offset of the part that the transaction added.
    pub(crate) from: u32,
}

impl Engine {
    /// Applies structs, then deletes ranges of known operations. Each struct begins at its client's
    /// clock or overlaps known operations, and its dependencies are known or come before it.
    ///
    /// The changes are in `transaction`; [`Self::finish`] ends it.
    ///
    /// # Errors
    /// If a struct can't have a place and that is an error, if a limit is exceeded, or if finding
    /// the places takes more than `steps`; then nothing has changed. Otherwise `steps` is reduced
    /// to the remainder.
    pub(crate) fn apply(
        &mut self,
        structs: &[&Struct<'_>],
        deletes: &[IdRange],
        limit: Limit,
        steps: &mut usize,
        transaction: &mut Transaction,
    ) -> Result<(), DecodeError> {
        self.revision += 1;
        let is_typed =
            structs.len() == 1 && deletes.is_empty() && self.extend(structs[0], transaction);
        if !is_typed {
            let staged = self.stage(structs, limit, transaction)?;
            for one in staged {
                if self.link_in(&one, steps, transaction).is_err() {
                    self.unlink(std::mem::take(transaction));
                    return Err(DecodeError::TooLarge {
                        what: "the number of steps for ordering concurrent operations",
                        limit: limit.all_steps,
                    });
                }
            }
        }
        // From the end, so that each split copies little.
        let mut deletes = deletes.to_vec();
        deletes.sort_unstable_by_key(|range| (range.client, range.start));
        for range in deletes.into_iter().rev() {
            self.delete_range(range, transaction);
        }
        Ok(())
    }

    /// The transaction's items that are not collected, by client and clock.
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

    /// Fast path: extends an author's last item by the next typed character.
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
        let parent = item.parent;
        let item = &mut self.items[index as usize];
        let Content::Text(content) = &mut item.content else {
            return false;
        };
        content.push_str(text);
        item.length += one.length;
        self.grow(client, transaction);
        self.clients[client as usize].clock += one.length;
        if self.node(parent).kind == NodeKind::Text {
            let characters = if text.len() == one.length as usize {
                one.length
            } else {
                super::index(text.chars().count())
            };
            // Adds only the new characters' size, since counting the whole item for each typed
            // character is slow.
            let more = Size {
                units: one.length,
                pairs: one.length - characters,
            };
            self.order_resized(index, Size::default(), more);
        }
        true
    }
}

/// The limits for a transaction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit {
    pub(crate) depth: u32,
    pub(crate) nodes: usize,
    pub(crate) new_nodes: usize,
    /// The limit on steps that an error reports.
    pub(crate) all_steps: usize,
    /// Whether operations without a place are an error rather than collected.
    pub(crate) refuses_misplaced: bool,
}
