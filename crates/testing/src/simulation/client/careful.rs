//! The client that keeps its edits until they are acknowledged, resends them, and fills gaps.

use super::document::Kept;
use super::{Client, Context};
use crate::simulation::board;
use crate::simulation::session::Purpose;

impl Client {
    /// Sends an edit twice, as after a lost answer.
    pub(super) fn send_twice(&mut self, path: &str, context: &mut Context<'_>) {
        let updates = self.change(path, board::edit);
        context
            .totals
            .add("updates sent twice", updates.len() as u64);
        for update in updates {
            self.send(path, update.clone(), Purpose::Edit);
            self.send_kept(path, update);
        }
    }

    /// Keeps an update and sends it if the document is open.
    pub(super) fn send_kept(&mut self, path: &str, update: Vec<u8>) {
        if let Some(document) = self.documents.get_mut(path) {
            document.kept.push_back(Kept {
                update,
                is_sent: false,
            });
        }
        self.send_all_kept(path);
    }

    /// Sends all kept updates that are not in flight.
    pub(super) fn send_all_kept(&mut self, path: &str) {
        let Some(document) = self.documents.get_mut(path).filter(|one| one.is_open()) else {
            return;
        };
        let unsent = document.kept.iter_mut().filter(|kept| !kept.is_sent);
        let updates: Vec<Vec<u8>> = unsent
            .map(|kept| {
                kept.is_sent = true;
                kept.update.clone()
            })
            .collect();
        for update in updates {
            self.send(path, update, Purpose::Edit);
        }
    }
}
