//! How much of an update a document does not have yet.

use super::MeshDocument;
use crate::update::scan::{Scan, Struct};
use crate::update::{DecodeError, writer};

impl MeshDocument {
    /// Returns how much longer an update makes a log that contains the document: the length of
    /// [`Applied::kept`](crate::Applied::kept) after it was applied, or of the update if there is
    /// none. Operations that are pending here, and deletions, count as new.
    ///
    /// # Errors
    /// [`DecodeError`] if the update is malformed or exceeds a limit.
    pub fn new_bytes(&self, update: &[u8]) -> Result<usize, DecodeError> {
        let scan = Scan::read_within(update, &self.limits)?;
        let is_known = |one: &Struct<'_>| one.id.clock < self.engine.clock(one.id.client);
        if !scan.structs.iter().any(is_known) {
            return Ok(update.len());
        }
        let known = |client| self.engine.clock(client);
        writer::update(scan.structs, scan.deletes, known).map(|kept| kept.len())
    }
}
