//! Messages from client to server.

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::content::Content;
use crate::field::{Fields, InvalidField, take_object};
use crate::message::{Body, InvalidMessage, parse_body};
use crate::packet::{Message, MessageId};
use crate::plain_chunk;
use crate::trace::TraceParent;

/// A client's message with its id and trace context.
#[derive(Clone, PartialEq, Debug)]
pub struct Envelope {
    /// The client's id of the message, which the answer repeats.
    pub id: MessageId,
    /// The client's trace context.
    pub trace: Option<TraceParent>,
    /// The message itself.
    pub message: ClientToServer,
}

/// A message from a client to the server.
#[derive(Clone, PartialEq, Debug)]
pub enum ClientToServer {
    /// `room.invoke_tool`: a call, answered by a `__response__`.
    Invoke(Invoke),
    /// `room.tool_call_request_chunk`: a chunk of a streamed call, answered by a `__response__`.
    ///
    /// ```text
    /// {"tool_call_id", "chunk": <content header>} | the chunk's payload
    /// ```
    RequestChunk {
        /// The call's id, chosen by the client; unique within the connection.
        tool_call_id: String,
        /// The content of the chunk.
        chunk: Content,
    },
    /// `set_attributes`: the header contains the attributes; not answered.
    SetAttributes(Map<String, Value>),
    /// `room.list_toolkits`: answered by a `__response__`.
    ListToolkits,
    /// Any other type; the body was not parsed.
    Unknown {
        /// The type of the message.
        kind: String,
    },
}

/// A call of a tool.
///
/// # Wire form
///
/// ```text
/// {"toolkit", "tool", "arguments": <content header>, "tool_call_id", "participant_id",
///  "on_behalf_of_id"} | the content's payload
/// ```
#[derive(Clone, PartialEq, Debug)]
pub struct Invoke {
    /// The toolkit, for example `sync`.
    pub toolkit: String,
    /// The tool, for example `open`.
    pub tool: String,
    /// The input; `control/open` begins a streamed call.
    pub arguments: Content,
    /// The id of the call; streamed calls have one.
    pub tool_call_id: Option<String>,
    /// The participant that provides the toolkit; absent for the room's own toolkits.
    pub participant_id: Option<String>,
    /// The participant on whose behalf the call is made.
    pub on_behalf_of_id: Option<String>,
}

impl Envelope {
    /// Parses a message if it is the chunk that an editing client sends with each update: binary,
    /// with a `kind` and no other header. Returns it with an upper bound for the memory of its
    /// parsed header in bytes.
    ///
    /// The limit on the header's length is so low that it may be parsed before its memory is
    /// accounted for. The result is that of [`parse`](Self::parse); `None` means nothing but that
    /// the message has another form.
    pub fn parse_plain_chunk(message: &Message) -> Option<(Self, usize)> {
        plain_chunk::parse(message)
    }

    /// Parses a client's message.
    ///
    /// # Errors
    ///
    /// If the body or one of its fields is malformed; the text names the field.
    pub fn parse(message: Message) -> Result<Self, InvalidMessage> {
        let id = message.id;
        let body = match message.kind.as_str() {
            INVOKE | REQUEST_CHUNK | SET_ATTRIBUTES | LIST_TOOLKITS => parse_body(&message)?,
            _ => {
                return Ok(Self {
                    id,
                    trace: None,
                    message: ClientToServer::Unknown { kind: message.kind },
                });
            }
        };
        let trace = body.trace;
        let (mut header, mut payload) = (body.header, body.payload);
        let invalid = |error: InvalidField| InvalidMessage::from_field(id, &error);
        let mut content = |header: &mut Map<String, Value>, field| {
            Fields(header).object(field).map_err(invalid)?;
            let content = take_object(header, field).unwrap_or_default();
            Content::from_parts(content, std::mem::take(&mut payload))
                .map_err(|error| InvalidMessage::new(id, format!("in `{field}`: {error}")))
        };
        let message = match message.kind.as_str() {
            INVOKE => {
                let name = |header: &Map<String, Value>, field| {
                    let name = Fields(header).name(field).map_err(invalid)?;
                    Ok::<_, InvalidMessage>(name.to_owned())
                };
                let opt_name = |header: &Map<String, Value>, field| {
                    let name = Fields(header).opt_name(field).map_err(invalid)?;
                    Ok::<_, InvalidMessage>(name.map(str::to_owned))
                };
                ClientToServer::Invoke(Invoke {
                    toolkit: name(&header, "toolkit")?,
                    tool: name(&header, "tool")?,
                    arguments: content(&mut header, "arguments")?,
                    tool_call_id: opt_name(&header, "tool_call_id")?,
                    participant_id: opt_name(&header, "participant_id")?,
                    on_behalf_of_id: opt_name(&header, "on_behalf_of_id")?,
                })
            }
            REQUEST_CHUNK => ClientToServer::RequestChunk {
                tool_call_id: Fields(&header)
                    .name("tool_call_id")
                    .map_err(invalid)?
                    .to_owned(),
                chunk: content(&mut header, "chunk")?,
            },
            SET_ATTRIBUTES => ClientToServer::SetAttributes(header),
            _ => ClientToServer::ListToolkits,
        };
        Ok(Self { id, trace, message })
    }

    /// Appends the packets of this message to `out`.
    pub fn encode(&self, out: &mut Vec<Bytes>) {
        let (kind, header, payload) = match &self.message {
            ClientToServer::Invoke(invoke) => (INVOKE, invoke.header(), invoke.arguments.payload()),
            ClientToServer::RequestChunk {
                tool_call_id,
                chunk,
            } => {
                let mut header = Map::new();
                header.insert("tool_call_id".to_owned(), tool_call_id.clone().into());
                header.insert("chunk".to_owned(), chunk.header().into());
                (REQUEST_CHUNK, header, chunk.payload())
            }
            ClientToServer::SetAttributes(attributes) => {
                (SET_ATTRIBUTES, attributes.clone(), Bytes::new())
            }
            ClientToServer::ListToolkits => (LIST_TOOLKITS, Map::new(), Bytes::new()),
            ClientToServer::Unknown { kind } => (kind.as_str(), Map::new(), Bytes::new()),
        };
        let body = Body {
            header,
            payload,
            trace: self.trace,
        };
        body.encode(self.id, kind, out);
    }
}

impl Invoke {
    fn header(&self) -> Map<String, Value> {
        let mut header = Map::new();
        header.insert("toolkit".to_owned(), self.toolkit.clone().into());
        header.insert("tool".to_owned(), self.tool.clone().into());
        header.insert("arguments".to_owned(), self.arguments.header().into());
        let optional = [
            ("tool_call_id", &self.tool_call_id),
            ("participant_id", &self.participant_id),
            ("on_behalf_of_id", &self.on_behalf_of_id),
        ];
        for (name, value) in optional {
            if let Some(value) = value {
                header.insert(name.to_owned(), value.clone().into());
            }
        }
        header
    }
}

pub(crate) const INVOKE: &str = "room.invoke_tool";
pub(crate) const LIST_TOOLKITS: &str = "room.list_toolkits";
pub(crate) const REQUEST_CHUNK: &str = "room.tool_call_request_chunk";
pub(crate) const SET_ATTRIBUTES: &str = "set_attributes";
