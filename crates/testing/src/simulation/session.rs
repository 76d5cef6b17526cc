//! The client's side of one connection: requests have numbers, and each receives one answer.

use std::collections::BTreeMap;

use bytes::Bytes;
use meshagent_protocol::{
    ClientToServer, Content, Control, Envelope, Invoke, MessageId, PacketLimits, PacketReader,
    ServerToClient, SyncPatch,
};

use super::roaming::{Identity, Relocation};

/// The id of the packets that do not make up a request.
pub(super) const NONSENSE_ID: u64 = u64::MAX;

/// A request that waits for its answer.
#[derive(Clone, Debug)]
pub(super) enum Request {
    /// A call whose answer is not examined.
    Call,
    /// The start of a streamed call.
    Invoke { path: String },
    /// The start chunk of a streamed call, which opens a document.
    Start { path: String },
    /// An update of a document.
    Update {
        path: String,
        /// The bytes, which are not always a valid update.
        update: Vec<u8>,
        purpose: Purpose,
        /// The number that our client's replica gave the update.
        number: u64,
        /// The streamed call on which it was sent.
        call: String,
        /// When it was sent.
        sent: u64,
        /// The document that it is for, if that is a roaming one.
        identity: Option<Identity>,
    },
    /// A move or deletion, with its number in the record.
    Relocate {
        number: usize,
        is_deletion: bool,
        sent: u64,
    },
    /// A patch of a document.
    Patch(Sealing),
    /// The end of a streamed call.
    Close,
}

/// A patch that sets the attribute that belongs to this client.
#[derive(Clone, Debug)]
pub(super) struct Sealing {
    pub(super) path: String,
    /// The value that the patch sets.
    pub(super) number: u64,
    pub(super) condition: Condition,
}

/// The condition of a patch.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Condition {
    /// The patch is unconditional.
    Nothing,
    /// The document has the version that the previous patch made.
    SameVersion,
    /// The document has a version that no document ever has.
    WrongVersion,
    /// The attribute has the value that the previous patch set.
    SameSeal,
    /// The patch is a dry run.
    DryRun,
}

/// The reason why an update was sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Purpose {
    /// The client has edited the document.
    Edit,
    /// The client echoes an update from the server.
    Echo,
    /// The client sends bytes that are not one of its edits.
    Garbage,
}

#[derive(Debug)]
pub(super) struct Session {
    reader: PacketReader,
    next_id: u64,
    waiting: BTreeMap<u64, Request>,
    out: Vec<Bytes>,
    pub(super) is_connected: bool,
}

impl Session {
    pub(super) fn new() -> Self {
        Self {
            reader: PacketReader::new(PacketLimits::default()),
            next_id: 0,
            waiting: BTreeMap::new(),
            out: Vec::new(),
            is_connected: false,
        }
    }

    /// Handles a packet and returns the message that it completes.
    pub(super) fn receive(&mut self, packet: &[u8]) -> Result<Option<ServerToClient>, String> {
        let message = match self.reader.handle_packet(packet) {
            Ok(None) => return Ok(None),
            Ok(Some(message)) => message,
            Err(error) => return Err(format!("the server sent an invalid packet: {error}")),
        };
        ServerToClient::parse(&message)
            .map_err(|error| format!("the server sent an invalid message: {error}"))
    }

    /// Removes and returns the answered request; `None` if it was nonsense.
    pub(super) fn answered(&mut self, id: MessageId) -> Result<Option<Request>, String> {
        let id = u64::from_be_bytes(id.0);
        match self.waiting.remove(&id) {
            None if id != NONSENSE_ID => Err(format!(
                "an answer to request {id}, which was answered before or never sent"
            )),
            request => Ok(request),
        }
    }

    /// The requests without an answer.
    pub(super) fn waiting(&self) -> impl Iterator<Item = &Request> {
        self.waiting.values()
    }

    /// Takes the packets to send.
    pub(super) fn take_output(&mut self) -> Vec<Bytes> {
        std::mem::take(&mut self.out)
    }

    /// Calls a tool.
    pub(super) fn call(&mut self, toolkit: &str, tool: &str, arguments: Content) -> u64 {
        self.invoke(toolkit, tool, arguments, None, Request::Call)
    }

    /// Sends a move or a deletion.
    pub(super) fn relocate(&mut self, relocation: &Relocation, number: usize, now: u64) {
        let (tool, arguments) = relocation.call();
        let request = Request::Relocate {
            number,
            is_deletion: matches!(relocation, Relocation::Delete { .. }),
            sent: now,
        };
        self.invoke("storage", tool, arguments, None, request);
    }

    /// Sends a patch.
    pub(super) fn patch(&mut self, patch: &SyncPatch, sealing: Sealing) {
        let request = Request::Patch(sealing);
        self.invoke("sync", "patch", patch.to_content(), None, request);
    }

    /// Starts a streamed call for a document and returns the call's id.
    pub(super) fn open(&mut self, path: &str) -> String {
        let call = format!("call-{}", self.next_id);
        let request = Request::Invoke {
            path: path.to_owned(),
        };
        let arguments = Content::Control(Control::Open);
        self.invoke("sync", "open", arguments, Some(call.clone()), request);
        call
    }

    /// Sends a chunk of a streamed call.
    pub(super) fn chunk(&mut self, call: &str, chunk: Content, request: Request) {
        let message = ClientToServer::RequestChunk {
            tool_call_id: call.to_owned(),
            chunk,
        };
        self.send(message, request);
    }

    /// Sends bytes as they are. They may be an invalid packet or message.
    pub(super) fn send_raw(&mut self, packet: Vec<u8>) {
        self.out.push(packet.into());
    }

    fn invoke(
        &mut self,
        toolkit: &str,
        tool: &str,
        arguments: Content,
        tool_call_id: Option<String>,
        request: Request,
    ) -> u64 {
        let message = ClientToServer::Invoke(Invoke {
            toolkit: toolkit.to_owned(),
            tool: tool.to_owned(),
            arguments,
            tool_call_id,
            participant_id: None,
            on_behalf_of_id: None,
        });
        self.send(message, request)
    }

    fn send(&mut self, message: ClientToServer, request: Request) -> u64 {
        self.next_id += 1;
        self.waiting.insert(self.next_id, request);
        let envelope = Envelope {
            id: MessageId::from(self.next_id),
            trace: None,
            message,
        };
        envelope.encode(&mut self.out);
        self.next_id
    }
}
