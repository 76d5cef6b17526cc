//! The approximate memory of a document, without a walk over it.

use std::mem::size_of;

use super::blocks::Block;
use super::{Attribute, Client, Engine, Item, ItemIndex, Node};
use crate::update::scan::IdRange;

/// The allocator's overhead for each allocation.
const ALLOCATION_BYTES: usize = 16;

impl Engine {
    /// The bytes of the operations and the tree, without the contents.
    pub(crate) fn memory_bytes(&self) -> usize {
        let items = self.items.capacity() * size_of::<Item>() + self.items.len() * BLOCK_BYTES;
        let nodes = self.nodes.capacity() * size_of::<Node>() + self.nodes.len() * TYPE_BYTES;
        let clients = self.clients.len() * CLIENT_BYTES;
        items + nodes + clients
    }

    /// The number of runs that the deletion of a range of operations adds: each of its ends may
    /// split one, and the first split of a long one divides it into pieces. `last` is the long run
    /// that was counted last.
    pub(crate) fn splits(&self, range: IdRange, last: &mut ItemIndex) -> usize {
        let Some(&client) = self.client_index.get(&range.client) else {
            return 0;
        };
        let Client { clock, blocks, .. } = &self.clients[client as usize];
        let mut splits = 0;
        for at in [range.start, range.end] {
            if at >= *clock || range.start >= range.end {
                continue;
            }
            let block = blocks.find(at);
            if block.start == at || block.is_collected() {
                continue;
            }
            let item = self.item(block.item);
            if item.is_deleted() {
                continue;
            }
            splits += 1;
            if *last != block.item {
                let pieces = item.content.pieces(item.length());
                splits += pieces;
                if pieces > 0 {
                    *last = block.item;
                }
            }
        }
        splits
    }
}

/// A run of operations, without its content.
pub(crate) const ITEM_BYTES: usize = size_of::<Item>() + BLOCK_BYTES;

/// What a run adds that is an element or another type.
pub(crate) const NODE_BYTES: usize = size_of::<Node>() + TYPE_BYTES;

const BLOCK_BYTES: usize = size_of::<Block>() + ALLOCATION_BYTES;

/// The first attribute allocates space for four.
const TYPE_BYTES: usize = 4 * size_of::<Attribute>() + ALLOCATION_BYTES;

/// A client, with its first leaf of blocks and its entry in the index.
const CLIENT_BYTES: usize = 160;
