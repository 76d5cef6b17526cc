//! The programs at the other end: models of the published SDKs, of a client that keeps what was not acknowledged,
//! our own client's replica, readers, and those who may not write and try.

mod actions;
mod answers;
mod careful;
mod chunks;
mod document;
mod impersonation;
mod ours;
mod patches;
mod published;
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
use super::session::{Asked, Purpose, Session};
use super::trace::Totals;

/// What kind of program it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Manner {
    /// As the published SDK for Python: looks at no answer; after a reconnect it sends what was edited meanwhile,
    /// and not what was in flight.
    Python,
    /// As the published SDK for JavaScript: sends the next chunk when the last one was answered, gives the stream up
    /// after an error, and sends nothing again.
    Npm,
    /// Keeps its edits until they are acknowledged, sends them again, and fills gaps that it is told of.
    Careful,
    /// Our own client: its replica decides what is sent, and what becomes of the answers.
    Ours,
    /// Only reads, and looks at the document after every chunk.
    Witness,
    /// May only read, and writes.
    Intruder,
}

impl Manner {
    fn may_write(self) -> bool {
        matches!(self, Self::Python | Self::Npm | Self::Careful | Self::Ours)
    }

    /// Whether every update that comes in goes back.
    fn echoes(self) -> bool {
        !self.loses_nothing()
    }

    /// Whether what was not acknowledged is sent again.
    fn loses_nothing(self) -> bool {
        matches!(self, Self::Careful | Self::Ours)
    }
}

/// What a client's steps are told to, and counted in.
pub(super) struct Context<'a> {
    pub(super) now: u64,
    pub(super) record: &'a mut Record,
    pub(super) totals: &'a mut Totals,
    /// Whether documents have a small bound.
    pub(super) may_be_full: bool,
    /// Since when something holds the log of what was deleted.
    pub(super) log_held: Option<u64>,
    /// Whether some edits are large.
    pub(super) is_heavy: bool,
}

#[derive(Debug)]
pub(super) struct Client {
    pub(super) name: String,
    pub(super) room: String,
    manner: Manner,
    /// Whether it is one of the published SDKs, and so does what programs should not do.
    is_rough: bool,
    random: Random,
    number: u64,
    replicas: u64,
    elements: u64,
    session: Option<Session>,
    documents: BTreeMap<String, Document>,
    patches: BTreeMap<String, Patches>,
    /// Whether the connection is one that may not write.
    is_read_only: bool,
    /// Edits that ended in a panic and were not counted yet.
    panicked: u64,
    now: u64,
}

impl Client {
    pub(super) fn new(
        number: u64,
        manner: Manner,
        room: &str,
        paths: &[String],
        random: Random,
    ) -> Self {
        let documents = paths
            .iter()
            .map(|path| (path.clone(), Document::default()))
            .collect();
        Self {
            name: format!("{manner:?}{number}"),
            room: room.to_owned(),
            is_rough: matches!(manner, Manner::Python | Manner::Npm),
            manner,
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

    /// Whether it may write on this connection.
    fn may_write(&self) -> bool {
        self.manner.may_write() && !self.is_read_only
    }

    /// The rights of its next connection.
    pub(super) fn next_scope(&mut self) -> ApiScope {
        let mut scope = ApiScope::full();
        // A person's rights may be taken, and given again.
        self.is_read_only = self.manner == Manner::Ours && self.random.one_in(10);
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

    /// A connection was made; the server has not said anything yet.
    pub(super) fn connected(&mut self) {
        self.session = Some(Session::new());
    }

    /// The connection is gone, and with it what was in flight.
    pub(super) fn disconnected(&mut self) {
        let Some(session) = self.session.take() else {
            return;
        };
        for patches in self.patches.values_mut() {
            patches.is_unsure |= std::mem::take(&mut patches.is_waiting);
        }
        for asked in session.waiting() {
            if let Asked::Update {
                path,
                purpose: Purpose::Edit | Purpose::Garbage,
                ..
            } = asked
                && !self.manner.loses_nothing()
                && let Some(document) = self.documents.get_mut(path)
            {
                document.is_off = true;
            }
        }
        for (path, document) in &mut self.documents {
            if is_roaming(path) {
                document.leave();
            }
            if let Some(stream) = document.stream.take() {
                document.give_up(&stream);
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

    /// The packets to send.
    pub(super) fn take_output(&mut self) -> Vec<Bytes> {
        self.session
            .as_mut()
            .map(Session::take_output)
            .unwrap_or_default()
    }

    /// A packet came from the server.
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
                if let Some(asked) = session.answered(request)? {
                    self.answered(asked, &content, context)?;
                }
            }
            Some(ServerToClient::ResponseChunk {
                tool_call_id,
                chunk,
            }) => self.chunk_came(&tool_call_id, &chunk, context)?,
            Some(ServerToClient::Messaging { .. }) => context.totals.add("talk heard", 1),
            Some(ServerToClient::RoomStatus { status, .. }) if status == "messages_lost" => {
                context.totals.add("losses of talk told", 1);
            }
            Some(_) | None => {}
        }
        Ok(())
    }

    /// A name for a document that no other has.
    fn new_name(&mut self) -> String {
        self.elements += 1;
        format!("{}-{}", self.number, self.elements)
    }
}
