//! What a document takes in memory.

use super::MeshDocument;

/// What the index of `$id`s has for an element.
const ID_BYTES: usize = 40;

impl MeshDocument {
    /// Bytes of memory that the document takes, about, beside its contents themselves: those take about as much as
    /// [`Self::encode_state`] has, if nothing of it waits for missing operations. Costs nothing to speak of, however
    /// large the document is.
    pub fn structure_bytes(&self) -> usize {
        self.engine.memory_bytes() + self.element_count() * ID_BYTES
    }
}
