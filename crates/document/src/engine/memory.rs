//! The approximate memory of a document, without a walk over it.

use std::mem::size_of;

use super::blocks::Block;
use super::{Attribute, Client, Engine, Item, ItemIndex, Node};
use crate::update::scan::Id;

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

    /// The number of runs that a split before a known operation adds; the first split of a long run
    /// divides it into pieces. `last` is the long run that was counted last. A deletion does not
    /// split what is deleted.
    pub(crate) fn splits(&self, at: Id, is_deletion: bool, last: &mut ItemIndex) -> usize {
        let Some(&client) = self.client_index.get(&at.client) else {
            return 0;
        };
        let Client { clock, blocks, .. } = &self.clients[client as usize];
        if at.clock >= *clock {
            return 0;
        }
        let block = blocks.find(at.clock);
        if block.start == at.clock || block.is_collected() {
            return 0;
        }
        let item = self.item(block.item);
        if is_deletion && item.is_deleted() {
            return 0;
        }
        if *last == block.item {
            return 1;
        }
        let pieces = item.content.pieces(item.length());
        if pieces > 0 {
            *last = block.item;
        }
        1 + pieces
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
