//! The memory of a document.

use super::MeshDocument;
use super::edit::MOST_OPERATIONS;
use crate::engine::{ITEM_BYTES, NODE_BYTES};
use crate::update::scan::{Content, Scan, Struct};

/// The bytes that the `$id` index takes per element.
const ID_BYTES: usize = 40;

impl MeshDocument {
    /// The approximate memory of the document's structure, in bytes, without the contents. The
    /// contents take about as much as [`Self::encode_state`], unless operations are pending. The
    /// call is cheap for documents of any size.
    pub fn structure_bytes(&self) -> usize {
        self.engine.memory_bytes() + self.element_count() * ID_BYTES
    }

    /// The approximate memory of the operations in an update that are not known here, in bytes.
    pub(super) fn growth_by(&self, scan: &Scan<'_>) -> usize {
        let is_new = |one: &&Struct<'_>| {
            one.id.clock.saturating_add(one.length) > self.engine.clock(one.id.client)
        };
        let bytes = |one: &Struct<'_>| {
            let node = match one.content {
                Content::Type(_) => NODE_BYTES + ID_BYTES,
                _ => 0,
            };
            one.bytes.len() + ITEM_BYTES + node
        };
        scan.structs.iter().filter(is_new).map(bytes).sum()
    }

    /// Whether the client id has enough operations left for any edit. If not, each edit is tried on
    /// a copy first and may be refused; see [`Self::set_client_id`].
    pub fn has_operations_left(&self) -> bool {
        self.operations_left() >= MOST_OPERATIONS
    }
}
