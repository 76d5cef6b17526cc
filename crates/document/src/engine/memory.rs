//! The approximate memory of a document, without a walk over it.

use std::mem::size_of;

use super::blocks::Block;
use super::{Attribute, Engine, Item, Node};

/// The allocator's overhead for each allocation.
const ALLOCATION_BYTES: usize = 16;

impl Engine {
    /// The bytes of the operations and the tree, without the contents.
    pub(crate) fn memory_bytes(&self) -> usize {
        let item = size_of::<Block>() + ALLOCATION_BYTES;
        let items = self.items.capacity() * size_of::<Item>() + self.items.len() * item;
        // The first attribute allocates space for four.
        let node = 4 * size_of::<Attribute>() + ALLOCATION_BYTES;
        let nodes = self.nodes.capacity() * size_of::<Node>() + self.nodes.len() * node;
        let clients = self.clients.len() * CLIENT_BYTES;
        items + nodes + clients
    }
}

/// A client, with its first leaf of blocks and its entry in the index.
const CLIENT_BYTES: usize = 160;
