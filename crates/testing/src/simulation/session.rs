//! A client's end of one connection: requests with their numbers, and each answered once.

use std::collections::BTreeMap;

use bytes::Bytes;
use meshagent_protocol::{
    ClientToServer, Content, Control, Envelope, Invoke, MessageId, PacketLimits, PacketReader,
    ServerToClient, SyncPatch,
};

use super::roaming::{Identity, Relocation};

/// The id under which bytes are sent that are no request.
pub(super) const NONSENSE_ID: u64 = u64::MAX;

/// What a request was about.
#[derive(Clone, Debug)]
pub(super) enum Asked {
    /// A plain call.
    Call,
    /// To begin a streamed call.
    Invoke { path: String },
    /// To open a document on it.
    Start { path: String },
    /// To take an update.
    Update {
        path: String,
        /// Empty if it is none.
        update: Vec<u8>,
        purpose: Purpose,
        /// What the replica of our client calls it.
        number: u64,
        /// The call on which it was sent, and when.
        call: String,
        sent: u64,
        /// The document that it is for, if that does not stay where it is.
        identity: Option<Identity>,
    },
    /// To move or remove something, by its number in the record.
    Relocate {
        number: usize,
        is_deletion: bool,
        sent: u64,
    },
    /// To change a document by a patch.
    Patch(Sealing),
    /// To end the call.
    Close,
}

/// A patch that sets the attribute that is only this client's.
#[derive(Clone, Debug)]
pub(super) struct Sealing {
    pub(super) path: String,
    /// What to.
    pub(super) number: u64,
    pub(super) condition: Condition,
}

/// What a patch depends on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Condition {
    Nothing,
    /// The document has the version of the patch before.
    SameVersion,
    /// It has one that no document ever has.
    WrongVersion,
    /// The attribute is what the patch before has set it to.
    SameSeal,
    /// The patch is only checked.
    DryRun,
}

/// Why an update was sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Purpose {
    Edit,
    /// It came from the server.
    Echo,
    /// Bytes that are not meant to be one.
    Garbage,
}

#[derive(Debug)]
pub(super) struct Session {
    reader: PacketReader,
    next_id: u64,
    waiting: BTreeMap<u64, Asked>,
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

    /// Takes a packet; the message that it completes.
    pub(super) fn receive(&mut self, packet: &[u8]) -> Result<Option<ServerToClient>, String> {
        let message = match self.reader.handle_packet(packet) {
            Ok(None) => return Ok(None),
            Ok(Some(message)) => message,
            Err(error) => return Err(format!("the server sent a packet that is none: {error}")),
        };
        ServerToClient::parse(&message)
            .map_err(|error| format!("the server sent a message that is none: {error}"))
    }

    /// What the answered request was; `None` if it was nonsense.
    pub(super) fn answered(&mut self, request: MessageId) -> Result<Option<Asked>, String> {
        let id = u64::from_be_bytes(request.0);
        match self.waiting.remove(&id) {
            None if id != NONSENSE_ID => {
                Err(format!("request {id} was answered twice, or never made"))
            }
            asked => Ok(asked),
        }
    }

    /// Requests without an answer.
    pub(super) fn waiting(&self) -> impl Iterator<Item = &Asked> {
        self.waiting.values()
    }

    /// The packets to send.
    pub(super) fn take_output(&mut self) -> Vec<Bytes> {
        std::mem::take(&mut self.out)
    }

    pub(super) fn call(&mut self, toolkit: &str, tool: &str, arguments: Content) -> u64 {
        self.invoke(toolkit, tool, arguments, None, Asked::Call)
    }

    pub(super) fn relocate(&mut self, relocation: &Relocation, number: usize, now: u64) {
        let (tool, arguments) = relocation.call();
        let asked = Asked::Relocate {
            number,
            is_deletion: matches!(relocation, Relocation::Delete { .. }),
            sent: now,
        };
        self.invoke("storage", tool, arguments, None, asked);
    }

    pub(super) fn patch(&mut self, patch: &SyncPatch, sealing: Sealing) {
        let asked = Asked::Patch(sealing);
        self.invoke("sync", "patch", patch.to_content(), None, asked);
    }

    /// Begins a streamed call and returns its id.
    pub(super) fn open(&mut self, path: &str) -> String {
        let call = format!("call-{}", self.next_id);
        let asked = Asked::Invoke {
            path: path.to_owned(),
        };
        let arguments = Content::Control(Control::Open);
        self.invoke("sync", "open", arguments, Some(call.clone()), asked);
        call
    }

    pub(super) fn chunk(&mut self, call: &str, chunk: Content, asked: Asked) {
        let message = ClientToServer::RequestChunk {
            tool_call_id: call.to_owned(),
            chunk,
        };
        self.send(message, asked);
    }

    /// Sends bytes that are no packet, or no message.
    pub(super) fn send_raw(&mut self, packet: Vec<u8>) {
        self.out.push(packet.into());
    }

    fn invoke(
        &mut self,
        toolkit: &str,
        tool: &str,
        arguments: Content,
        tool_call_id: Option<String>,
        asked: Asked,
    ) -> u64 {
        let message = ClientToServer::Invoke(Invoke {
            toolkit: toolkit.to_owned(),
            tool: tool.to_owned(),
            arguments,
            tool_call_id,
            participant_id: None,
            on_behalf_of_id: None,
        });
        self.send(message, asked)
    }

    fn send(&mut self, message: ClientToServer, asked: Asked) -> u64 {
        self.next_id += 1;
        self.waiting.insert(self.next_id, asked);
        let envelope = Envelope {
            id: MessageId::from(self.next_id),
            trace: None,
            message,
        };
        envelope.encode(&mut self.out);
        self.next_id
    }
}
