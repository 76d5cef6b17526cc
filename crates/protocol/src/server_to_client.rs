//! Messages from server to client.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::content::Content;
use crate::field::{Fields, InvalidField, take_object};
use crate::message::{Body, InvalidMessage, parse_body};
use crate::packet::{Message, MessageId, Packets};

/// A message from the server to a client.
#[derive(Clone, PartialEq, Debug)]
pub enum ServerToClient {
    /// `room_ready`: the first message of a connection.
    RoomReady {
        /// The room's name.
        room_name: String,
        /// The absolute URL, which ends in `/rooms/{room}` and has the host that the client used.
        room_url: String,
        /// Equal for all participants that are in the room at the same time.
        session_id: String,
    },
    /// `connected`: the second message, which makes the connection usable.
    Connected {
        /// The client's own id; unique per connection.
        participant_id: String,
        /// The client's own attributes, including `name`.
        attributes: Map<String, Value>,
    },
    /// `room.status`: may be sent at any time.
    RoomStatus {
        /// A word, for programs.
        status: String,
        /// A sentence, for people.
        message: String,
    },
    /// `__response__`: the answer to one request.
    Response {
        /// The id of the request, which is also the id of the message.
        request: MessageId,
        /// The content of the answer.
        content: Content,
    },
    /// `room.tool_call_response_chunk`: a chunk of a streamed call.
    ResponseChunk {
        /// The call's id, chosen by the client.
        tool_call_id: String,
        /// The content of the chunk.
        chunk: Content,
    },
    /// `messaging.send`: a message from or about another participant.
    Messaging {
        /// The sender, or the participant that the message is about.
        from_participant_id: String,
        /// The type, for example `participant.enabled`.
        kind: String,
        /// The JSON body.
        message: Value,
        /// The payload; empty without an attachment.
        attachment: Bytes,
    },
    /// `storage.file.updated`: a file or document was created or written.
    FileUpdated {
        /// The path of the file.
        path: String,
        /// The participant that wrote it.
        participant_id: String,
    },
    /// `storage.file.deleted`: a file or document was deleted.
    FileDeleted {
        /// The former path.
        path: String,
        /// The participant that deleted it.
        participant_id: String,
    },
    /// `storage.file.moved`: a file or document was moved.
    FileMoved {
        /// The former path.
        source_path: String,
        /// The new path.
        destination_path: String,
        /// The participant that moved it.
        participant_id: String,
    },
}

impl ServerToClient {
    /// The packets of this message, created one at a time.
    ///
    /// A response has its request's id, other messages have `next_id`.
    pub fn packets(&self, next_id: MessageId) -> Packets<'static> {
        let id = match self {
            Self::Response { request, .. } => *request,
            _ => next_id,
        };
        // Nearly every update is answered by this one.
        if matches!(
            self,
            Self::Response {
                content: Content::Empty,
                ..
            }
        ) {
            let body = Bytes::from_static(EMPTY_RESPONSE);
            return Packets::new(id, self.kind(), body, Bytes::new());
        }
        let header = match self.header() {
            Value::Object(header) => header,
            _ => Map::new(),
        };
        let body = Body {
            header,
            payload: self.payload(),
            trace: None,
        };
        body.packets(id, self.kind())
    }

    /// Appends the packets of this message to `out`, as [`packets`](Self::packets) returns them.
    pub fn encode(&self, next_id: MessageId, out: &mut Vec<Bytes>) {
        out.extend(self.packets(next_id));
    }

    /// Parses a server's message; `None` for a type that this crate does not know, which
    /// clients ignore.
    ///
    /// # Errors
    ///
    /// If the body or one of its fields is malformed.
    pub fn parse(message: &Message) -> Result<Option<Self>, InvalidMessage> {
        if !KINDS.contains(&message.kind.as_str()) {
            return Ok(None);
        }
        let mut body = parse_body(message)?;
        let chunk = match message.kind.as_str() {
            RESPONSE => Some(std::mem::take(&mut body.header)),
            RESPONSE_CHUNK if body.header.get("chunk").is_some_and(Value::is_object) => {
                take_object(&mut body.header, "chunk")
            }
            _ => None,
        };
        let fields = Fields(&body.header);
        let id = message.id;
        let invalid = |error: InvalidField| InvalidMessage::from_field(id, &error);
        let string = |field| Ok(fields.string(field).map_err(invalid)?.to_owned());
        let content = |header: Option<Map<String, Value>>, payload| {
            Content::from_parts(header.unwrap_or_default(), payload)
                .map_err(|error| InvalidMessage::new(id, error.to_string()))
        };
        let parsed = match message.kind.as_str() {
            ROOM_READY => Self::RoomReady {
                room_name: string("room_name")?,
                room_url: string("room_url")?,
                session_id: string("session_id")?,
            },
            CONNECTED => Self::Connected {
                participant_id: string("participantId")?,
                attributes: fields.object("attributes").map_err(invalid)?.clone(),
            },
            ROOM_STATUS => Self::RoomStatus {
                status: string("status")?,
                message: string("message")?,
            },
            RESPONSE => Self::Response {
                request: id,
                content: content(chunk, body.payload.clone())?,
            },
            RESPONSE_CHUNK => Self::ResponseChunk {
                tool_call_id: string("tool_call_id")?,
                chunk: match chunk {
                    None => content(
                        Some(fields.object("chunk").map_err(invalid)?.clone()),
                        body.payload.clone(),
                    )?,
                    chunk => content(chunk, body.payload.clone())?,
                },
            },
            MESSAGING => Self::Messaging {
                from_participant_id: string("from_participant_id")?,
                kind: string("type")?,
                message: body.header.get("message").cloned().unwrap_or_default(),
                attachment: body.payload.clone(),
            },
            FILE_UPDATED => Self::FileUpdated {
                path: string("path")?,
                participant_id: string("participant_id")?,
            },
            FILE_DELETED => Self::FileDeleted {
                path: string("path")?,
                participant_id: string("participant_id")?,
            },
            _ => Self::FileMoved {
                source_path: string("source_path")?,
                destination_path: string("destination_path")?,
                participant_id: string("participant_id")?,
            },
        };
        Ok(Some(parsed))
    }

    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::RoomReady { .. } => ROOM_READY,
            Self::Connected { .. } => CONNECTED,
            Self::RoomStatus { .. } => ROOM_STATUS,
            Self::Response { .. } => RESPONSE,
            Self::ResponseChunk { .. } => RESPONSE_CHUNK,
            Self::Messaging { .. } => MESSAGING,
            Self::FileUpdated { .. } => FILE_UPDATED,
            Self::FileDeleted { .. } => FILE_DELETED,
            Self::FileMoved { .. } => FILE_MOVED,
        }
    }

    /// The start of its body before the payload: the header with its length.
    pub(crate) fn head(&self) -> Vec<u8> {
        let header = self.header().to_string();
        let mut head = Vec::with_capacity(8 + header.len());
        head.extend_from_slice(&(header.len() as u64).to_be_bytes());
        head.extend_from_slice(header.as_bytes());
        head
    }

    fn header(&self) -> Value {
        match self {
            Self::RoomReady {
                room_name,
                room_url,
                session_id,
            } => json!({"room_name": room_name, "room_url": room_url, "session_id": session_id}),
            Self::Connected {
                participant_id,
                attributes,
            } => json!({
                "type": "init",
                "participantId": participant_id,
                "attributes": attributes,
            }),
            Self::RoomStatus { status, message } => json!({"status": status, "message": message}),
            Self::Response { content, .. } => content.header().into(),
            Self::ResponseChunk {
                tool_call_id,
                chunk,
            } => {
                let mut header = Map::new();
                header.insert("tool_call_id".to_owned(), tool_call_id.clone().into());
                header.insert("chunk".to_owned(), chunk.header().into());
                header.into()
            }
            Self::Messaging {
                from_participant_id,
                kind,
                message,
                ..
            } => json!({
                "from_participant_id": from_participant_id,
                "type": kind,
                "message": message,
            }),
            Self::FileUpdated {
                path,
                participant_id,
            }
            | Self::FileDeleted {
                path,
                participant_id,
            } => json!({"path": path, "participant_id": participant_id}),
            Self::FileMoved {
                source_path,
                destination_path,
                participant_id,
            } => json!({
                "source_path": source_path,
                "destination_path": destination_path,
                "participant_id": participant_id,
            }),
        }
    }

    pub(crate) fn payload(&self) -> Bytes {
        match self {
            Self::Response { content, .. } => content.payload(),
            Self::ResponseChunk { chunk, .. } => chunk.payload(),
            Self::Messaging { attachment, .. } => attachment.clone(),
            _ => Bytes::new(),
        }
    }
}

const KINDS: [&str; 9] = [
    ROOM_READY,
    CONNECTED,
    ROOM_STATUS,
    RESPONSE,
    RESPONSE_CHUNK,
    MESSAGING,
    FILE_UPDATED,
    FILE_DELETED,
    FILE_MOVED,
];
const ROOM_READY: &str = "room_ready";
const CONNECTED: &str = "connected";
const ROOM_STATUS: &str = "room.status";
pub(crate) const RESPONSE: &str = "__response__";
pub(crate) const RESPONSE_CHUNK: &str = "room.tool_call_response_chunk";
pub(crate) const MESSAGING: &str = "messaging.send";
const FILE_UPDATED: &str = "storage.file.updated";
const FILE_DELETED: &str = "storage.file.deleted";
const FILE_MOVED: &str = "storage.file.moved";

/// The body of an empty response, as [`Body`] encodes it.
const EMPTY_RESPONSE: &[u8] = b"\0\0\0\0\0\0\0\x10{\"type\":\"empty\"}";
