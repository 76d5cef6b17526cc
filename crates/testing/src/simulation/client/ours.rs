//! Our own client: it drives its document, and its program ends and begins again.

mod journal;
mod replica;

pub(super) use self::replica::Ours;
use super::document::Holder;
use super::{Client, Context, Manner};
use crate::simulation::session::{Asked, Purpose};
use meshagent_protocol::Content;

impl Client {
    /// What our client makes of an answer.
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
        let Some(Holder::Ours(ours)) = &mut document.replica else {
            return Ok(());
        };
        // What is answered on a stream that has ended is sent again.
        if document
            .stream
            .as_ref()
            .is_none_or(|stream| stream.call != call)
        {
            return Ok(());
        }
        let goes_on = ours.answered(number, content.clone());
        let goes_on = goes_on.map_err(|error| format!("{}: {path:?}: {error}", self.name))?;
        // The document is opened again, after a while.
        if !goes_on && let Some(stream) = document.stream.take() {
            document.give_up(&stream);
            if let Some(session) = &mut self.session {
                session.chunk(&stream.call, Content::close(), Asked::Close);
            }
        }
        self.send_ours(path);
        Ok(())
    }

    /// Sends what our client's replica has to send.
    pub(super) fn send_ours(&mut self, path: &str) {
        let is_full = self.random.one_in(10);
        let has_time = !self.random.one_in(3);
        loop {
            let Some(document) = self.documents.get_mut(path) else {
                return;
            };
            let is_open = document.is_open();
            let Some(Holder::Ours(ours)) = &mut document.replica else {
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

    /// The program ends, and begins again from its journals. Whoever calls this sees to the end of its connection.
    pub(in crate::simulation) fn restart(
        &mut self,
        context: &mut Context<'_>,
    ) -> Result<(), String> {
        for (path, document) in &mut self.documents {
            document.had = None;
            let Some(Holder::Ours(ours)) = document.replica.take() else {
                continue;
            };
            self.replicas += 1;
            let client_id = ours_id(self.number, self.replicas);
            let again = ours.restart(client_id, &mut self.random, context.totals);
            let again = again.map_err(|error| format!("{}: {path:?}: {error}", self.name))?;
            document.replica = again.map(|ours| Holder::Ours(Box::new(ours)));
        }
        Ok(())
    }

    pub(in crate::simulation) fn is_ours(&self) -> bool {
        self.manner == Manner::Ours
    }
}

/// The first of the client ids that one document of our client takes.
pub(super) fn ours_id(client: u64, replica: u64) -> u64 {
    (client << 24) + (replica << 8)
}
