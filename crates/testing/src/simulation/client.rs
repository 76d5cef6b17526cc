//! The clients of a run: models of programs with published SDKs, of a client that keeps its edits
//! until they are acknowledged, of readers and of read-only participants who try to write, and our
//! own client's documents.
//!
//! # Layout
//!
//! - `document`: a document as a client has it.
//! - `actions`, `patches`: edits and calls that a client makes.
//! - `streams`, `chunks`, `answers`: opened documents, and what the server sends.
//! - `published`, `careful`, `ours`, `readers`: what only one client kind does.
//! - `impersonation`: another program that writes under the client id of one of ours.
//! - `rest`: the end of a run.

mod actions;
mod answers;
mod careful;
mod chunks;
mod document;
mod impersonation;
mod ours;
mod patches;
mod published;
mod readers;
mod rest;
mod streams;

use std::collections::BTreeMap;

use bytes::Bytes;
use meshagent_document::MeshDocument;
use meshagent_protocol::{ApiScope, ServerToClient, SyncGrant, SyncPathGrant};

use self::document::Document;
use self::patches::Patches;
use super::random::Random;
use super::record::Record;
use super::roaming::is_roaming;
use super::session::{Purpose, Request, Session};
use super::trace::Totals;

/// The kind of program that a client is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum ClientKind {
    /// A program with the published SDK for Python: it ignores answers. After a reconnect, it sends
    /// what was edited in the meantime, but not what was in flight.
    Python,
    /// A program with the published SDK for JavaScript: it sends the next chunk after the answer to
    /// the previous one, closes the stream after an error, and resends nothing.
    Npm,
    /// A program that keeps its edits until they are acknowledged, resends them, and fills gaps
    /// that the server reports.
    Careful,
    /// Our own client: its document decides what is sent, and handles the answers.
    Ours,
    /// A reader that checks the document after every chunk.
    Witness,
    /// A read-only participant that tries to write.
    Intruder,
}

impl ClientKind {
    /// Whether its token allows writes.
    fn may_write(self) -> bool {
        matches!(self, Self::Python | Self::Npm | Self::Careful | Self::Ours)
    }

    /// Whether it echoes every update that it receives.
    fn echoes(self) -> bool {
        !self.loses_nothing()
    }

    /// Whether it resends edits that were not acknowledged.
    fn loses_nothing(self) -> bool {
        matches!(self, Self::Careful | Self::Ours)
    }
}

/// The state of the run that a client's steps read and change.
pub(super) struct Context<'a> {
    /// The time in microseconds.
    pub(super) now: u64,
    pub(super) record: &'a mut Record,
    pub(super) totals: &'a mut Totals,
    /// Whether the size limit of documents is small, so that they can get full.
    pub(super) may_be_full: bool,
    /// Since when something prevents the erasure of deleted content.
    pub(super) log_held: Option<u64>,
    /// Whether some edits are large.
    pub(super) is_heavy: bool,
}

/// A client: its program, its connection and its documents.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) name: String,
    pub(super) room: String,
    kind: ClientKind,
    /// Whether it uses a published SDK, and so also does what programs should not do.
    uses_published_sdk: bool,
    random: Random,
    number: u64,
    /// How many replicas it has created.
    replicas: u64,
    /// How many ids and names it has created.
    elements: u64,
    session: Option<Session>,
    documents: BTreeMap<String, Document>,
    patches: BTreeMap<String, Patches>,
    /// Whether the current connection is read-only.
    is_read_only: bool,
    /// The number of edits that ended in a panic and are not counted in the totals yet.
    panicked: u64,
    now: u64,
}

impl Client {
    /// Creates a client that uses the documents at these paths.
    pub(super) fn new(
        number: u64,
        kind: ClientKind,
        room: &str,
        paths: &[String],
        random: Random,
    ) -> Self {
        let documents = paths
            .iter()
            .map(|path| (path.clone(), Document::default()))
            .collect();
        Self {
            name: format!("{kind:?}{number}"),
            room: room.to_owned(),
            uses_published_sdk: matches!(kind, ClientKind::Python | ClientKind::Npm),
            kind,
            random,
            number,
            replicas: 0,
            elements: 0,
            session: None,
            documents,
            patches: BTreeMap::new(),
            is_read_only: false,
            panicked: 0,
            now: 0,
        }
    }

    /// Whether it may write on the current connection.
    fn may_write(&self) -> bool {
        self.kind.may_write() && !self.is_read_only
    }

    /// Chooses the rights of the next connection.
    pub(super) fn next_scope(&mut self) -> ApiScope {
        let mut scope = ApiScope::full();
        // A participant can lose its rights and get them back.
        self.is_read_only = self.kind == ClientKind::Ours && self.random.one_in(10);
        if !self.may_write() {
            scope.sync = Some(SyncGrant {
                paths: Some(vec![SyncPathGrant {
                    path: "*".to_owned(),
                    read_only: true,
                }]),
            });
        }
        scope
    }

    /// Handles a new connection, on which the server has not sent anything yet.
    pub(super) fn connected(&mut self) {
        self.session = Some(Session::new());
    }

    /// Handles the loss of the connection and of everything in flight.
    pub(super) fn disconnected(&mut self) {
        let Some(session) = self.session.take() else {
            return;
        };
        for patches in self.patches.values_mut() {
            patches.is_unsure |= std::mem::take(&mut patches.is_waiting);
        }
        for request in session.waiting() {
            if let Request::Update {
                path,
                purpose: Purpose::Edit | Purpose::Garbage,
                ..
            } = request
                && !self.kind.loses_nothing()
                && let Some(document) = self.documents.get_mut(path)
            {
                document.is_diverged = true;
            }
        }
        for (path, document) in &mut self.documents {
            if is_roaming(path) {
                document.forget();
            }
            if let Some(stream) = document.stream.take() {
                document.stream_ended(&stream);
            }
            if document.had.is_none() {
                let replica = document.replica.as_ref();
                document.had = replica.map(|one| one.read(MeshDocument::state_vector));
            }
            for kept in &mut document.kept {
                kept.is_sent = false;
            }
        }
    }

    /// Takes the packets to send.
    pub(super) fn take_output(&mut self) -> Vec<Bytes> {
        self.session
            .as_mut()
            .map(Session::take_output)
            .unwrap_or_default()
    }

    /// Handles a packet from the server.
    pub(super) fn receive(
        &mut self,
        packet: &[u8],
        context: &mut Context<'_>,
    ) -> Result<(), String> {
        self.now = context.now;
        let Some(session) = &mut self.session else {
            return Ok(());
        };
        match session.receive(packet)? {
            Some(ServerToClient::Connected { .. }) => session.is_connected = true,
            Some(ServerToClient::Response { request, content }) => {
                if let Some(request) = session.answered(request)? {
                    self.answered(request, &content, context)?;
                }
            }
            Some(ServerToClient::ResponseChunk {
                tool_call_id,
                chunk,
            }) => self.chunk_received(&tool_call_id, &chunk, context)?,
            Some(ServerToClient::Messaging { .. }) => context.totals.add("messages received", 1),
            Some(ServerToClient::RoomStatus { status, .. }) if status == "messages_lost" => {
                context.totals.add("lost messages reported", 1);
            }
            Some(_) | None => {}
        }
        Ok(())
    }

    /// Creates a unique id or name.
    fn new_name(&mut self) -> String {
        self.elements += 1;
        format!("{}-{}", self.number, self.elements)
    }
}
