//! The handling of the chunks of a stream: the state, and the updates that follow it.

use meshagent_document::MeshDocument;
use meshagent_protocol::{Content, Control, SyncOutput};

use super::document::Replica;
use super::ours::{Ours, ours_id};
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
                    document.give_up(&stream);
                }
                if is_roaming(&path) {
                    document.leave();
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
                return Err(format!(
                    "{}: expected one state, and updates after it",
                    self.name
                ));
            }
        };
        let place = (self.room.clone(), path.clone());
        if !is_roaming(&path) {
            context.record.promise(&place, &update)?;
        }
        if document.replica.is_none() {
            self.replicas += 1;
            let client_id = self.number * 1000 + self.replicas;
            if self.kind == ClientKind::Intruder {
                context.record.forbid(client_id);
            }
            let replica = match self.kind {
                ClientKind::Ours => {
                    let ours = Ours::new(&path, ours_id(self.number, self.replicas))?;
                    Replica::Ours(Box::new(ours))
                }
                ClientKind::Careful | ClientKind::Witness => {
                    Replica::Plain(Box::new(board::strict(client_id)))
                }
                _ => Replica::Plain(Box::new(board::lax(client_id))),
            };
            document.replica = Some(replica);
        }
        let (Some(replica), Some(stream)) = (&mut document.replica, &mut document.stream) else {
            return Ok(());
        };
        stream.is_open = true;
        let failed = |name: &str, error: &str| format!("{name}: {path:?}: {error}");
        let gap = match replica {
            Replica::Plain(_) if update.is_empty() => false,
            Replica::Plain(replica) => {
                let applied = replica.apply_update(&update);
                let applied = applied.map_err(|error| failed(&self.name, &error.to_string()))?;
                applied.gap
            }
            Replica::Ours(ours) => {
                let taken = match (&schema, &stream.answer) {
                    (Some(schema), Some(answer)) => {
                        ours.begin(answer, schema, &update, context.totals)
                    }
                    _ => ours.received(&update),
                };
                taken.map_err(|error| failed(&self.name, &error))?;
                // Another program may have replaced our operations, on which those of others depend.
                ours.read(MeshDocument::has_gap) && ours.is_saved()
            }
        };
        if gap && !document.is_off {
            return Err(format!(
                "{}: received an update of {path:?} with missing operations",
                self.name
            ));
        }
        if is_roaming(&path) {
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
                roamers.promise(identity, &path, &update, since)?;
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
            context.totals.add("chunks witnessed", 1);
            let violations = match replica {
                Replica::Plain(replica) => replica.violations(),
                Replica::Ours(_) => meshagent_document::Violations::default(),
            };
            if !violations.is_empty() {
                return Err(format!("{}: was shown {violations:?}", self.name));
            }
        }
        // The published SDKs publish what they receive.
        if self.kind.echoes() && !update.is_empty() {
            self.send(&path, update, Purpose::Echo);
        }
        if is_first {
            self.after_opening(&path);
        }
        Ok(())
    }

    /// Sends what the client kind sends after a document was opened.
    pub(super) fn after_opening(&mut self, path: &str) {
        let Some(document) = self.documents.get_mut(path) else {
            return;
        };
        let had = document.had.take();
        match self.kind {
            ClientKind::Careful => self.send_all_kept(path),
            ClientKind::Ours => self.send_ours(path),
            ClientKind::Python => {
                let Some((had, Replica::Plain(replica))) = had.zip(document.replica.as_ref())
                else {
                    return;
                };
                // It contains also what others sent in the meantime, and all deletions, which no state
                // vector counts.
                if let Ok(difference) = replica.encode_diff(&had) {
                    self.send(path, difference, Purpose::Edit);
                }
            }
            ClientKind::Npm | ClientKind::Witness | ClientKind::Intruder => {}
        }
    }
}
