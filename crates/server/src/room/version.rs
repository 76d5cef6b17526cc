//! What a document's state is called: an opaque text that differs after any change.
//!
//! It is a hash of what the replica contains and what of that is deleted. So a state has the same name wherever
//! and whenever it is asked for: after a snapshot, an unload or a restart, too.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

use super::documents::Document;

/// Bytes of the hash that are told. Nobody gains by two states with one name but who gave them to it.
const NAME_BYTES: usize = 16;

impl Document {
    /// The name of the replica's state, made when it is asked for.
    pub(super) fn version(&mut self) -> String {
        if let Some((head, name)) = &self.named
            && *head == self.head
        {
            return name.clone();
        }
        let vector = self.replica.state_vector();
        // To who has all operations an update brings but the deletions, in their one shortest form.
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
