//! The programs with a published SDK. They also do what programs should not do: they make edits
//! against the schema, do not send edits, and send bytes that are not a valid update.

use super::document::Replica;
use super::{Client, ClientKind, Context};
use crate::simulation::board;
use crate::simulation::session::Purpose;

impl Client {
    /// Sends what the replica has and the state vector `had` lacks, as the SDK for Python does
    /// after a reconnect.
    pub(super) fn send_difference(&mut self, path: &str, had: Option<Vec<u8>>) {
        let document = self.documents.get(path);
        let replica = document.and_then(|document| document.replica.as_ref());
        let Some((had, Replica::Plain(replica))) = had.zip(replica) else {
            return;
        };
        // The difference also contains what others sent in the meantime, and all deletions, which
        // no state vector counts.
        if let Ok(difference) = replica.encode_diff(&had) {
            self.send(path, difference, Purpose::Edit);
        }
    }

    /// Closes the stream after a refused update, as the SDK for JavaScript does.
    pub(super) fn close_after_refusal(&mut self, path: &str) {
        if self.kind == ClientKind::Npm {
            self.end_stream(path);
        }
    }

    /// Makes and publishes an edit that the schema forbids.
    pub(super) fn break_schema(&mut self, path: &str, context: &mut Context<'_>) {
        let updates = self.change(path, board::break_schema);
        context
            .totals
            .add("edits against the schema", updates.len() as u64);
        self.publish(path, updates);
    }

    /// Makes an edit without sending its first update.
    pub(super) fn lose_edit(&mut self, path: &str, context: &mut Context<'_>) {
        let mut updates = self.change(path, board::edit);
        if updates.is_empty() {
            return;
        }
        updates.remove(0);
        context.totals.add("edits never sent", 1);
        if let Some(document) = self.documents.get_mut(path) {
            document.is_diverged = true;
        }
        self.publish(path, updates);
    }

    /// Sends bytes that may not be a valid update, content that not every reader supports, or an
    /// update under another client's id.
    pub(super) fn send_garbage(&mut self, path: &str, context: &mut Context<'_>) {
        if self.random.one_in(4) && self.impersonate(path, context) {
            return;
        }
        context.totals.add("garbage sent", 1);
        let length = self.random.index(60);
        let mut update = self.random.bytes(length);
        if self.random.one_in(12) {
            self.replicas += 1;
            update = board::hook(self.number * 1000 + self.replicas + 7_000_000);
        } else if self.random.one_in(2) {
            // An update of a replica that no other client has, with one byte changed.
            self.replicas += 1;
            let mut other = board::lax(self.number * 1000 + self.replicas + 7_000_000);
            let mut updates = board::edit(&mut other, &mut self.random, &mut || "garbage".into());
            updates.extend(board::break_schema(
                &mut other,
                &mut self.random,
                &mut || "x".into(),
            ));
            update = updates.swap_remove(0);
            let at = self.random.index(update.len());
            update[at] = self.random.next().to_le_bytes()[0];
        }
        self.send(path, update, Purpose::Garbage);
    }
}
