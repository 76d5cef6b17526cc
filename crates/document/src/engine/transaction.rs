//! Operations are taken up: first all of them get their places, or none (`stage`); then they are linked in
//! (`link`), which cannot fail. What came of it can be asked for until it is collected (`collect`).

use std::ops::Range;

use super::blocks::Block;
use super::order::Size;
use super::{Client, ClientIndex, Content, Engine, ItemIndex, NONE, NOWHERE, NodeIndex, NodeKind};
use crate::update::DecodeError;
use crate::update::scan::{self, Id, IdRange, Struct};

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
    pub(super) roots: Vec<NodeIndex>,
    /// The structs that came with more than that they were collected, and are collected here.
    pub(crate) stranded: Vec<Id>,
    /// How many operations of these could have no place wherever they came.
    pub(crate) misplaced: u64,
    // How many clients and names there were before.
    pub(super) known_clients: usize,
    pub(super) known_names: usize,
}

/// An item of a transaction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Added {
    pub(crate) item: ItemIndex,
    /// The part of it that the transaction brought.
    pub(crate) from: u32,
}

impl Engine {
    /// Takes up structs, each of which begins where its client stands, or overlaps what is known of it,
    /// and whose dependencies are known or come before it; then deletes ranges of known operations.
    ///
    /// What it did is in `transaction`; [`Self::finish`] ends it.
    ///
    /// # Errors
    /// If a struct can't have a place and that is to be refused, if more is made than may be, or if finding the places
    /// takes more than `steps`; nothing has changed. Else `steps` is what is left.
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
                        what: "the number of steps that finding places among concurrent operations takes",
                        limit: limit.all_steps,
                    });
                }
            }
        }
        // From the end on: what is cut off is then what is small.
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
            // Not its size before and now: to count its characters again for each one that is typed takes long.
            let more = Size {
                units: one.length,
                pairs: one.length - characters,
            };
            self.order_resized(index, Size::default(), more);
        }
        true
    }
}

/// How much more may come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit {
    pub(crate) depth: u32,
    pub(crate) nodes: usize,
    pub(crate) new_nodes: usize,
    /// Told to who asks for more steps.
    pub(crate) all_steps: usize,
    /// Whether what can't have a place is refused rather than collected.
    pub(crate) refuses_misplaced: bool,
}
