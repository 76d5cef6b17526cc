//! Another program that writes under the client id of one of our clients.

use super::document::Replica;
use super::{Client, Context};
use crate::simulation::board;
use crate::simulation::roaming::is_roaming;
use crate::simulation::session::Purpose;

/// The count of such edits. Some checks of our client depend on whether there were any.
pub(super) const IMPERSONATIONS: &str = "edits under a client id of ours";

impl Client {
    /// Sends an edit under the client id of one of our clients, as a program does that was copied
    /// with its data. The edit can take the place of one of our client's that is not stored yet.
    ///
    /// Returns false if there is nothing to send.
    pub(super) fn impersonate(&mut self, path: &str, context: &mut Context<'_>) -> bool {
        let place = (self.room.clone(), path.to_owned());
        let Some(&client_id) = context
            .record
            .ours
            .get(&place)
            .filter(|_| !is_roaming(path))
        else {
            return false;
        };
        let Some(Replica::Plain(replica)) = &self.documents[path].replica else {
            return false;
        };
        let mut other = board::strict(client_id);
        if other.apply_update(&replica.encode_state()).is_err() {
            return false;
        }
        let id = self.new_name();
        let updates = board::edit(&mut other, &mut self.random, &mut || id.clone());
        let Some(update) = updates.into_iter().next() else {
            return false;
        };
        context.totals.add(IMPERSONATIONS, 1);
        self.send(path, update, Purpose::Garbage);
        true
    }
}
