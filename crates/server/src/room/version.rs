//! The name of a document's state: an opaque text that differs after any change.
//!
//! It is a hash of the replica's state vector and deletions. So a state has the same name wherever
//! and whenever it is requested: also after a snapshot, an unload or a restart.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

use super::documents::Document;

/// The bytes of the hash that a name contains. Only the author of two states with the same name
/// could gain from the collision.
const NAME_BYTES: usize = 16;

impl Document {
    /// Returns the name of the replica's state, which is computed on the first request.
    pub(super) fn version(&mut self) -> String {
        if let Some((head, name)) = &self.named
            && *head == self.head
        {
            return name.clone();
        }
        let vector = self.replica.state_vector();
        // The difference to the replica's own vector is only the deletions, in their one shortest
        // form.
        let deletions = self.replica.encode_diff(&vector);
        let hash = Sha256::new()
            .chain_update((vector.len() as u64).to_le_bytes())
            .chain_update(&vector)
            .chain_update(deletions.expect("the replica's own vector is well-formed"))
            .finalize();
        let name = URL_SAFE_NO_PAD.encode(&hash[..NAME_BYTES]);
        self.named = Some((self.head, name.clone()));
        name
    }
}
