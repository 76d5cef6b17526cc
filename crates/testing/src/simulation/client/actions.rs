//! The random actions of a client: edits, calls, moves and deletions.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use meshagent_document::MeshDocument;
use meshagent_protocol::{Content, DocPath, SyncCreate, SyncDescribe};
use serde_json::json;

use super::document::Replica;
use super::{Client, ClientKind, Context};
use crate::simulation::board;
use crate::simulation::random::Random;
use crate::simulation::roaming::{Relocation, is_roaming};
use crate::simulation::session::{NONSENSE_ID, Purpose};

/// The size of the attachment of each message to other participants.
const ATTACHMENT_BYTES: usize = 700;

/// The number of edits in a storm. Each makes one or several updates.
const STORM_EDITS: usize = 900;

/// The payload of a panic that the simulation causes in an edit.
#[derive(Debug)]
struct PlannedPanic;

impl Client {
    /// Takes a random action, or none.
    pub(in crate::simulation) fn act(&mut self, context: &mut Context<'_>) {
        self.now = context.now;
        let mut paths: Vec<String> = self.documents.keys().cloned().collect();
        if paths.iter().any(|path| is_roaming(path)) {
            let roams = self.random.one_in(2);
            paths.retain(|path| is_roaming(path) == roams);
        }
        let Some(path) = self.random.pick(&paths).cloned() else {
            return;
        };
        let is_ready = self.session.as_ref().is_some_and(|one| one.is_connected);
        let document = &self.documents[&path];
        let (is_open, has_replica) = (document.is_open(), document.replica.is_some());
        if is_ready && document.stream.is_none() && !self.random.one_in(4) {
            return self.open_with(&path, context);
        }
        match self.random.below(40) {
            0 if is_open => self.close(&path),
            1 if is_ready => self.describe(&path),
            2 if is_ready => self.create(&path),
            3 if is_ready => self.send_messages(),
            4 if is_ready && self.kind != ClientKind::Witness => self.send_nonsense(),
            5..7 if is_open && self.uses_published_sdk => self.send_garbage(&path, context),
            7..9 if has_replica && self.uses_published_sdk => self.break_schema(&path, context),
            9 if is_open && self.uses_published_sdk => self.lose_edit(&path, context),
            10 if is_open => self.send_all_kept(&path),
            11 if is_open && self.kind == ClientKind::Careful => self.send_twice(&path, context),
            17..22 if is_ready && is_roaming(&path) => self.relocate(&path, context),
            13 if is_ready => self.list_storage(&path),
            14..16 if is_ready => self.patch(&path, context),
            10..40 if self.kind != ClientKind::Witness && has_replica => self.edit(&path, context),
            _ => {}
        }
    }

    /// Makes and publishes a random edit.
    pub(super) fn edit(&mut self, path: &str, context: &mut Context<'_>) {
        let updates = if context.is_heavy && self.random.one_in(3) {
            self.change(path, board::enlarge)
        } else {
            self.change(path, board::edit)
        };
        context.totals.add("edits", updates.len() as u64);
        let panicked = std::mem::take(&mut self.panicked);
        context.totals.add("edits that panicked", panicked);
        if let Some(Replica::Ours(ours)) = &self.documents[path].replica {
            let place = (self.room.clone(), path.to_owned());
            let client_id = ours.read(MeshDocument::client_id);
            context.record.ours.insert(place, client_id);
        }
        self.publish(path, updates);
    }

    /// Makes more edits than a room takes in one batch.
    pub(in crate::simulation) fn storm(&mut self, context: &mut Context<'_>) {
        let open = self.documents.iter().find(|(_, one)| one.is_open());
        let Some(path) = open.map(|(path, _)| path.clone()) else {
            return;
        };
        context.totals.add("storms", 1);
        for _ in 0..STORM_EDITS {
            self.edit(&path, context);
        }
    }

    /// Changes the replica of a document and returns the updates.
    pub(super) fn change(
        &mut self,
        path: &str,
        change: impl FnOnce(&mut MeshDocument, &mut Random, &mut dyn FnMut() -> String) -> Vec<Vec<u8>>,
    ) -> Vec<Vec<u8>> {
        let Some(replica) = self
            .documents
            .get_mut(path)
            .and_then(|document| document.replica.as_mut())
        else {
            return Vec::new();
        };
        let (number, elements) = (self.number, &mut self.elements);
        let mut next_id = || {
            *elements += 1;
            format!("{number}-{elements}")
        };
        match replica {
            Replica::Plain(replica) => change(replica, &mut self.random, &mut next_id),
            Replica::Ours(replica) => {
                let panics = self.random.one_in(20);
                let (random, mut updates) = (&mut self.random, Vec::new());
                let edit = |document: &mut MeshDocument| {
                    updates = change(document, random, &mut next_id);
                    if panics {
                        // The change before the panic is kept. Unlike `panic!`, this does not call
                        // the panic hook.
                        resume_unwind(Box::new(PlannedPanic));
                    }
                    updates.clone()
                };
                if let Err(panic) = catch_unwind(AssertUnwindSafe(|| replica.edit_with(edit))) {
                    if !panic.is::<PlannedPanic>() {
                        resume_unwind(panic);
                    }
                    self.panicked += 1;
                }
                updates
            }
        }
    }

    /// Publishes edits. The client kind decides what happens to them without an open stream.
    pub(super) fn publish(&mut self, path: &str, updates: Vec<Vec<u8>>) {
        if self.kind == ClientKind::Ours {
            // The replica keeps the edits.
            return self.send_ours(path);
        }
        for update in updates {
            match self.kind {
                ClientKind::Careful => self.send_kept(path, update),
                _ if self.documents[path].is_open() => self.send(path, update, Purpose::Edit),
                // After a lost connection (not a closed stream), it sends the difference later.
                ClientKind::Python if self.documents[path].had.is_some() => {}
                _ => {
                    if let Some(document) = self.documents.get_mut(path) {
                        document.is_diverged = true;
                    }
                }
            }
        }
    }

    /// Requests a description of a document.
    pub(super) fn describe(&mut self, path: &str) {
        if let (Some(session), Ok(path)) = (&mut self.session, DocPath::parse(path)) {
            let describe = SyncDescribe::new(path);
            session.call("sync", "describe", describe.to_content());
        }
    }

    /// Creates a document, unless there is one.
    pub(super) fn create(&mut self, path: &str) {
        let json = if is_roaming(path) {
            board::named(&self.new_name())
        } else {
            json!({"board": {"items": [{"section": {"title": "made"}}]}})
        };
        if let (Some(session), Ok(path)) = (&mut self.session, DocPath::parse(path)) {
            let create = SyncCreate {
                path,
                json: Some(json),
                schema: Some(board::schema_json()),
                schema_path: None,
            };
            session.call("sync", "create", create.to_content());
        }
    }

    /// Moves or deletes a document or its folder, with edits in flight before and after the
    /// request. Often opens the document at its new path immediately.
    pub(super) fn relocate(&mut self, path: &str, context: &mut Context<'_>) {
        let may_edit = self.kind != ClientKind::Witness;
        for _ in 0..self.random.below(3) {
            if may_edit {
                self.edit(path, context);
            }
        }
        let relocation = Relocation::of(path, &mut self.random);
        let destination = relocation.destination(path);
        let number = context.record.roamers.sent(&self.room, relocation.clone());
        if let Some(session) = &mut self.session {
            session.relocate(&relocation, number, context.now);
        }
        for _ in 0..self.random.below(4) {
            if may_edit {
                self.edit(path, context);
            }
        }
        let is_closed = |path: &String| {
            let document = self.documents.get(path);
            document.is_some_and(|document| document.stream.is_none())
        };
        if let Some(destination) = destination.filter(is_closed)
            && self.random.one_in(2)
        {
            self.open_with(&destination, context);
        }
    }

    /// Requests the entry at a path, and the entries of the root folder.
    pub(super) fn list_storage(&mut self, path: &str) {
        if let Some(session) = &mut self.session {
            session.call("storage", "stat", Content::Json(json!({"path": path})));
            session.call("storage", "list", Content::Json(json!({"path": ""})));
        }
    }

    /// Sends messages to the other participants.
    pub(super) fn send_messages(&mut self) {
        let Some(session) = &mut self.session else {
            return;
        };
        session.call("messaging", "enable", Content::Json(json!({})));
        let attachment = meshagent_protocol::encode_base64(&[7; ATTACHMENT_BYTES]);
        let message = json!({
            "type": "chat",
            "message_json": "{}",
            "attachment_base64": String::from_utf8_lossy(&attachment),
        });
        for _ in 0..self.random.between(1, 8) {
            session.call("messaging", "broadcast", Content::Json(message.clone()));
        }
    }

    /// Sends random bytes, which are not a valid packet or message.
    pub(super) fn send_nonsense(&mut self) {
        let length = self.random.index(30);
        let bytes = self.random.bytes(length);
        if let Some(session) = &mut self.session {
            // A packet of a message that never ends. The next header packet starts a new message.
            let mut packet = NONSENSE_ID.to_be_bytes().to_vec();
            packet.extend([0, 0, 0, 1]);
            packet.extend(bytes);
            session.send_raw(packet);
        }
    }
}
