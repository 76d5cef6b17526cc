//! What a document takes in memory, about, without a walk over it.

use std::mem::size_of;

use super::blocks::Block;
use super::{Attribute, Engine, Item, Node};

/// What the allocator adds to each thing that is kept for itself.
const ALLOCATION_BYTES: usize = 16;

impl Engine {
    /// Bytes of the operations and of the tree, beside the contents themselves.
    pub(crate) fn memory_bytes(&self) -> usize {
        let item = size_of::<Block>() + ALLOCATION_BYTES;
        let items = self.items.capacity() * size_of::<Item>() + self.items.len() * item;
        // A first attribute makes room for four.
        let node = 4 * size_of::<Attribute>() + ALLOCATION_BYTES;
        let nodes = self.nodes.capacity() * size_of::<Node>() + self.nodes.len() * node;
        let clients = self.clients.len() * CLIENT_BYTES;
        items + nodes + clients
    }
}

/// A client, with its first leaf of blocks and its entry in the index.
const CLIENT_BYTES: usize = 160;
