//! What a server lacks that was restored from an older copy.

use meshagent_document::{DecodeError, MeshDocument};

use super::Replica;
use super::lost::Witness;
use super::queue::{Kind, Queue, Standing};

impl Replica {
    /// A stream has started, with the server's state vector and the state that it sent. Queues the
    /// operations that the server lacks beyond the kept edits, to be sent before them. The server
    /// had these operations, but was restored from an older copy.
    pub(crate) fn send_lacking(
        &mut self,
        state_vector: &[u8],
        state: &[u8],
    ) -> Result<(), DecodeError> {
        let kept = self.queue.iter().map(|one| &one.update[..]);
        let updates: Vec<&[u8]> = std::iter::once(state).chain(kept).collect();
        if self.document.is_covered_by(state_vector, &updates)? {
            return Ok(());
        }
        let missing = self.document.encode_diff(state_vector)?;
        self.keep(missing, Kind::Fill, self.next);
        Ok(())
    }

    /// The same for a replica that starts over from the server's document: what this replica has
    /// beyond it and the updates in `queue`. It is applied to the server's document, because edits
    /// may depend on it, and to the witness of these.
    pub(super) fn lacking(
        &self,
        queue: &Queue,
        server: &mut MeshDocument,
        witness: &mut Witness,
    ) -> Option<Vec<u8>> {
        let (mut waiting, mut refused) = (Vec::new(), Vec::new());
        for one in queue.iter() {
            if one.standing == Standing::Refused {
                refused.push(&one.update[..]);
            } else if one.kind != Kind::Fill {
                waiting.push(&one.update[..]);
            }
        }
        // Updates that were made or applied here can be decoded.
        let lacking = self
            .document
            .encode_diff_without(server, &waiting, &refused);
        let lacking = lacking.ok().flatten()?;
        server.apply_update(&lacking).ok()?;
        witness.apply(&lacking);
        Some(lacking)
    }
}
