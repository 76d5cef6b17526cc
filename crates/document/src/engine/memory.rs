//! The approximate memory of a document, without a walk over it.

use std::mem::size_of;

use super::blocks::Block;
use super::{Attribute, Engine, Item, Node};

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
