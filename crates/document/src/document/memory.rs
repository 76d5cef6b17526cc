//! The memory of a document.

use super::MeshDocument;

/// The bytes that the `$id` index takes per element.
const ID_BYTES: usize = 40;

impl MeshDocument {
    /// The approximate memory of the document's structure, in bytes, without the contents. The
    /// contents take about as much as [`Self::encode_state`], unless operations are pending. The
    /// call is cheap for documents of any size.
    pub fn structure_bytes(&self) -> usize {
        self.engine.memory_bytes() + self.element_count() * ID_BYTES
    }
}
