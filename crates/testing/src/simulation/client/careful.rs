//! The client that keeps its edits until they are acknowledged, resends them, and fills gaps.

use meshagent_protocol::decode_base64;
use serde_json::Value;

use super::document::{Kept, Replica};
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

    /// Sends the operations that the server lacks, after an answer that reports a gap.
    pub(super) fn fill_gap(
        &mut self,
        path: &str,
        answer: &Value,
        context: &mut Context<'_>,
    ) -> Result<(), String> {
        let document = self.documents.get(path);
        let replica = document.and_then(|document| document.replica.as_ref());
        let Some(Replica::Plain(replica)) = replica else {
            return Ok(());
        };
        let vector = answer["state_vector"].as_str().unwrap_or_default();
        let vector = decode_base64(vector.as_bytes()).map_err(|error| error.to_string())?;
        let missing = replica
            .encode_diff(&vector)
            .map_err(|error| error.to_string())?;
        context.totals.add("gaps filled", 1);
        self.send_kept(path, missing);
        Ok(())
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
