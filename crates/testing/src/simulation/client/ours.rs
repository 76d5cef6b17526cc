//! Our own client: its documents decide what is sent, and its program ends and starts again.

mod journal;
mod replica;

use meshagent_protocol::Content;

pub(super) use self::replica::OurDocument;
use super::document::Replica;
use super::{Client, ClientKind, Context};
use crate::simulation::session::Purpose;

impl Client {
    /// Passes an answer to our client's document.
    pub(super) fn answer_ours(
        &mut self,
        path: &str,
        call: &str,
        number: u64,
        content: &Content,
    ) -> Result<(), String> {
        let Some(document) = self.documents.get_mut(path) else {
            return Ok(());
        };
        let Some(Replica::Ours(ours)) = &mut document.replica else {
            return Ok(());
        };
        // An edit that was answered on an ended stream is sent again.
        if document
            .stream
            .as_ref()
            .is_none_or(|stream| stream.call != call)
        {
            return Ok(());
        }
        let continues = ours.answered(number, content.clone());
        let continues = continues.map_err(|error| format!("{}: {path:?}: {error}", self.name))?;
        // A later action opens the document again.
        if !continues {
            self.end_stream(path);
        }
        self.send_ours(path);
        Ok(())
    }

    /// Writes the journal, if its thread has time, and sends what the document has to send.
    pub(super) fn send_ours(&mut self, path: &str) {
        let is_full = self.random.one_in(10);
        let has_time = !self.random.one_in(3);
        loop {
            let Some(document) = self.documents.get_mut(path) else {
                return;
            };
            let is_open = document.is_open();
            let Some(Replica::Ours(ours)) = &mut document.replica else {
                return;
            };
            if has_time {
                ours.write(is_full);
            }
            if !is_open {
                return;
            }
            let Some(next) = ours.next_to_send() else {
                return;
            };
            self.send_numbered(path, next.update, Purpose::Edit, next.number);
        }
    }

    /// Ends the program and starts it again from its journals. The caller ends its connection.
    pub(in crate::simulation) fn restart(
        &mut self,
        context: &mut Context<'_>,
    ) -> Result<(), String> {
        for (path, document) in &mut self.documents {
            document.had = None;
            let Some(Replica::Ours(ours)) = document.replica.take() else {
                continue;
            };
            self.replicas += 1;
            let client_id = first_client_id(self.number, self.replicas);
            let again = ours.restart(client_id, &mut self.random, context.totals);
            let again = again.map_err(|error| format!("{}: {path:?}: {error}", self.name))?;
            document.replica = again.map(|ours| Replica::Ours(Box::new(ours)));
        }
        Ok(())
    }

    /// Whether this is our own client.
    pub(in crate::simulation) fn is_ours(&self) -> bool {
        self.kind == ClientKind::Ours
    }
}

/// The first of the client ids that a document of our client uses.
pub(super) fn first_client_id(client: u64, replica: u64) -> u64 {
    (client << 24) + (replica << 8)
}
