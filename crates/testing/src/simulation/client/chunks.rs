//! The handling of the chunks of a stream: the state, and the updates that follow it.

use meshagent_document::MeshDocument;
use meshagent_protocol::{Content, Control, SyncOutput};
use serde_json::Value;

use super::document::Replica;
use super::ours::{OurDocument, first_client_id};
use super::readers::check_shown;
use super::{Client, ClientKind, Context};
use crate::simulation::board;
use crate::simulation::roaming::{Clocks, is_roaming};
use crate::simulation::session::Purpose;

impl Client {
    /// Handles a chunk from the server.
    pub(super) fn chunk_received(
        &mut self,
        call: &str,
        chunk: &Content,
        context: &mut Context<'_>,
    ) -> Result<(), String> {
        let found = self.documents.iter_mut().find(|(_, document)| {
            document
                .stream
                .as_ref()
                .is_some_and(|stream| stream.call == call)
        });
        // Otherwise this side has ended the call.
        let Some((path, document)) = found else {
            return Ok(());
        };
        let path = path.clone();
        if self.kind == ClientKind::Ours
            && let Some(stream) = document.stream.as_mut().filter(|one| one.answer.is_none())
        {
            stream.early.push(chunk.clone());
            return Ok(());
        }
        match chunk {
            Content::Error { .. } | Content::Control(Control::Close { .. }) => {
                if let Some(stream) = document.stream.take() {
                    document.stream_ended(&stream);
                }
                if is_roaming(&path) {
                    document.forget();
                }
                return Ok(());
            }
            _ => {}
        }
        let output = SyncOutput::parse(chunk)
            .map_err(|error| format!("{}: received an invalid chunk: {error:?}", self.name))?;
        let is_first = document.stream.as_ref().is_some_and(|one| !one.is_open);
        let (schema, update) = match output {
            SyncOutput::State { schema, update, .. } if is_first => (Some(schema), update),
            SyncOutput::Sync { update, .. } if !is_first => (None, update),
            _ => {
                let name = &self.name;
                return Err(format!("{name}: expected one state, and updates after it"));
            }
        };
        if !is_roaming(&path) {
            let place = (self.room.clone(), path.clone());
            context.record.promise(&place, &update)?;
        }
        if self.documents[&path].replica.is_none() {
            let replica = self.new_replica(&path, context)?;
            if let Some(document) = self.documents.get_mut(&path) {
                document.replica = Some(replica);
            }
        }
        self.show(&path, schema.as_ref(), &update, context)?;
        // The published SDKs echo what they receive, also those of readers.
        if self.kind.echoes() && !update.is_empty() {
            self.send(&path, update, Purpose::Echo);
        }
        if is_first {
            self.after_opening(&path);
        }
        Ok(())
    }

    /// Creates the replica of a document that this client has not opened before.
    fn new_replica(&mut self, path: &str, context: &mut Context<'_>) -> Result<Replica, String> {
        self.replicas += 1;
        let client_id = self.number * 1000 + self.replicas;
        if self.kind == ClientKind::Intruder {
            context.record.forbid(client_id);
        }
        Ok(match self.kind {
            ClientKind::Ours => {
                let ours = OurDocument::new(path, first_client_id(self.number, self.replicas))?;
                Replica::Ours(Box::new(ours))
            }
            ClientKind::Careful | ClientKind::Witness => {
                Replica::Plain(Box::new(board::strict(client_id)))
            }
            _ => Replica::Plain(Box::new(board::lax(client_id))),
        })
    }

    /// Applies what the server sent, and checks the document afterwards. Only the state comes
    /// with a schema.
    fn show(
        &mut self,
        path: &str,
        schema: Option<&Value>,
        update: &[u8],
        context: &mut Context<'_>,
    ) -> Result<(), String> {
        let Some(document) = self.documents.get_mut(path) else {
            return Ok(());
        };
        let (Some(replica), Some(stream)) = (&mut document.replica, &mut document.stream) else {
            return Ok(());
        };
        stream.is_open = true;
        let failed = |name: &str, error: &str| format!("{name}: {path:?}: {error}");
        let has_gap = match replica {
            Replica::Plain(_) if update.is_empty() => false,
            Replica::Plain(replica) => {
                let applied = replica.apply_update(update);
                let applied = applied.map_err(|error| failed(&self.name, &error.to_string()))?;
                applied.gap
            }
            Replica::Ours(ours) => {
                let applied = match (schema, &stream.answer) {
                    (Some(schema), Some(answer)) => {
                        ours.begin(answer, schema, update, context.totals)
                    }
                    _ => ours.received(update),
                };
                applied.map_err(|error| failed(&self.name, &error))?;
                // Another program may have replaced our operations, on which those of others
                // depend.
                ours.read(MeshDocument::has_gap) && ours.is_saved()
            }
        };
        if has_gap && !document.is_diverged {
            return Err(format!(
                "{}: received an update of {path:?} with missing operations",
                self.name
            ));
        }
        let is_first = schema.is_some();
        if is_roaming(path) {
            if is_first {
                let Some(name) = replica.read(board::identity) else {
                    return Err(format!("{}: {path:?} has lost its name", self.name));
                };
                stream.due = stream.due_of.remove(&name).unwrap_or_default();
                document.identity = Some((self.room.clone(), name));
            }
            if let Some(identity) = &document.identity {
                let since = if is_first { stream.since } else { 0 };
                let roamers = &mut context.record.roamers;
                roamers.promise(identity, path, update, since)?;
            }
        }
        if is_first {
            let clocks: Clocks = replica.read(|document| document.clocks().collect());
            let has = |(client, clock): (&u64, &u64)| clocks.get(client) >= Some(clock);
            if !stream.due.iter().all(has) {
                return Err(format!(
                    "{}: the state of {path:?} lacks operations that were promised before",
                    self.name
                ));
            }
        }
        if self.kind == ClientKind::Witness {
            check_shown(&self.name, replica, context.totals)?;
        }
        Ok(())
    }

    /// Sends what this client kind sends after a document was opened.
    fn after_opening(&mut self, path: &str) {
        let Some(document) = self.documents.get_mut(path) else {
            return;
        };
        let had = document.had.take();
        match self.kind {
            ClientKind::Careful => self.send_all_kept(path),
            ClientKind::Ours => self.send_ours(path),
            ClientKind::Python => self.send_difference(path, had),
            ClientKind::Npm | ClientKind::Witness | ClientKind::Intruder => {}
        }
    }
}
