//! One connection as its client sees it: requests, streamed calls and their answers.
//!
//! Contains no networking code and no timers: whoever drives it carries packets and waits.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::client_to_server::{ClientToServer, Envelope, Invoke};
use crate::content::{Content, Control};
use crate::message::InvalidMessage;
use crate::packet::{MessageId, PacketError, PacketLimits, PacketReader};
use crate::server_to_client::ServerToClient;

/// A client's side of one connection.
///
/// - `handle_packet` takes what the socket received.
/// - `invoke`, `open_stream`, `send_chunk`, `close_stream` and `set_attributes` are what the user
///   wants.
/// - `poll_transmit` gives the packets to send, and `poll_event` what happened. Drain both after
///   each of the above.
///
/// What is queued is bounded by the caller, who sees what it asks for: a request queues its
/// packets, and a packet from the server queues at most one event.
#[derive(Debug)]
pub struct ClientSession {
    reader: PacketReader,
    next_id: u64,
    requests: HashMap<MessageId, Pending>,
    streams: HashMap<StreamId, Stream>,
    events: VecDeque<Event>,
    transmits: VecDeque<Bytes>,
    is_ready: bool,
    is_connected: bool,
}

/// A request that was sent; unique within its session.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct RequestId(u64);

/// A streamed call; unique within its session.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct StreamId(u64);

/// Something that happened on a connection.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub enum Event {
    /// The room said who it is. With [`Event::Connected`] the connection is usable.
    Ready {
        /// The room's name.
        room_name: String,
        /// The room's address.
        room_url: String,
        /// Equal for everyone who is in the room at the same time.
        session_id: String,
    },
    /// The room said who we are.
    Connected {
        /// Our id.
        participant_id: String,
        /// Our attributes.
        attributes: Map<String, Value>,
    },
    /// A request of [`ClientSession::invoke`] was answered, maybe by an `error`.
    Response {
        /// The request.
        request: RequestId,
        /// The answer.
        content: Content,
    },
    /// The server takes the streamed call.
    StreamOpened {
        /// The call.
        stream: StreamId,
    },
    /// The server does not take the call, or answered it at once: the stream is gone.
    StreamRefused {
        /// The call.
        stream: StreamId,
        /// What came in place of `control/open`.
        content: Content,
    },
    /// A chunk that we sent was answered: by an `error` if it was refused, by `json` if there is
    /// something to say, by anything else if it was taken.
    ChunkAnswered {
        /// The call.
        stream: StreamId,
        /// The request that [`ClientSession::send_chunk`] returned.
        request: RequestId,
        /// The answer.
        content: Content,
    },
    /// The server sent a chunk.
    Chunk {
        /// The call.
        stream: StreamId,
        /// The chunk.
        chunk: Content,
    },
    /// The server closed the call, normally or by an `error`: the stream is gone.
    StreamClosed {
        /// The call.
        stream: StreamId,
        /// Why, if it was not a normal close.
        error: Option<StreamError>,
    },
    /// Any other message: of the room's status, of files, of participants.
    Message(ServerToClient),
    /// A packet or message of the server could not be read; what it belonged to goes on.
    Malformed(MalformedInput),
}

/// Why the server ended a stream.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the server ended the stream: {text}")]
#[non_exhaustive]
pub struct StreamError {
    /// The code of an `error` chunk, or the status code of an abnormal close.
    pub code: Option<i64>,
    /// The reason.
    pub text: String,
}

impl StreamError {
    /// An end for this reason.
    pub fn new(code: Option<i64>, text: impl Into<String>) -> Self {
        Self {
            code,
            text: text.into(),
        }
    }
}

/// Something from the server that could not be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MalformedInput {
    /// A message.
    #[error("the server sent a message that can't be read")]
    Message(#[source] InvalidMessage),
    /// A packet.
    #[error("the server sent a packet that can't be read")]
    Packet(#[source] PacketError),
}

/// The stream was closed, refused, or never open.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the stream is closed, open a new one")]
pub struct UnknownStream;

#[derive(Clone, Copy, Debug)]
enum Pending {
    Chunk(StreamId),
    Invoke,
    Open(StreamId),
}

#[derive(Debug)]
struct Stream {
    is_closing: bool,
}

impl ClientSession {
    /// A session of a connection that was just made.
    pub fn new(limits: PacketLimits) -> Self {
        Self {
            reader: PacketReader::new(limits),
            // The Python SDK begins at 1, too.
            next_id: 1,
            requests: HashMap::new(),
            streams: HashMap::new(),
            events: VecDeque::new(),
            transmits: VecDeque::new(),
            is_ready: false,
            is_connected: false,
        }
    }

    /// Takes one packet from the server.
    pub fn handle_packet(&mut self, packet: &[u8]) {
        let message = match self.reader.handle_packet(packet) {
            Ok(Some(message)) => message,
            Ok(None) => return,
            Err(error) => {
                let malformed = MalformedInput::Packet(error);
                self.events.push_back(Event::Malformed(malformed));
                return;
            }
        };
        match ServerToClient::parse(&message) {
            Ok(Some(message)) => self.handle_message(message),
            // A type that this version does not know.
            Ok(None) => {}
            Err(error) => {
                let malformed = MalformedInput::Message(error);
                self.events.push_back(Event::Malformed(malformed));
            }
        }
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The next packet to send; each is one binary WebSocket message.
    pub fn poll_transmit(&mut self) -> Option<Bytes> {
        self.transmits.pop_front()
    }

    /// Calls a tool. The answer is an [`Event::Response`] with the same id.
    pub fn invoke(&mut self, toolkit: &str, tool: &str, arguments: Content) -> RequestId {
        let request = self.next_request(Pending::Invoke);
        // The number is unique within the connection, which is all that a call's id has to be.
        let tool_call_id = request.0.to_string();
        self.send(
            request,
            invoke_message(toolkit, tool, arguments, tool_call_id),
        );
        request
    }

    /// Begins a streamed call. Chunks may be sent at once.
    pub fn open_stream(&mut self, toolkit: &str, tool: &str) -> StreamId {
        let stream = StreamId(self.next_id);
        let request = self.next_request(Pending::Open(stream));
        self.streams.insert(stream, Stream { is_closing: false });
        let arguments = Content::Control(Control::Open);
        let tool_call_id = stream.0.to_string();
        self.send(
            request,
            invoke_message(toolkit, tool, arguments, tool_call_id),
        );
        stream
    }

    /// Sends a chunk of a streamed call. Its answer is an [`Event::ChunkAnswered`].
    ///
    /// # Errors
    ///
    /// When the stream is not open any more.
    pub fn send_chunk(
        &mut self,
        stream: StreamId,
        chunk: Content,
    ) -> Result<RequestId, UnknownStream> {
        let is_open = self
            .streams
            .get(&stream)
            .is_some_and(|stream| !stream.is_closing);
        if !is_open {
            return Err(UnknownStream);
        }
        Ok(self.queue_chunk(stream, chunk))
    }

    /// Says that no more chunks will be sent. The server answers with its own close, an
    /// [`Event::StreamClosed`]. Does nothing for a stream that is closed already.
    pub fn close_stream(&mut self, stream: StreamId) {
        let Some(state) = self.streams.get_mut(&stream) else {
            return;
        };
        if !state.is_closing {
            state.is_closing = true;
            self.queue_chunk(stream, Content::close());
        }
    }

    /// Changes our attributes; the server does not answer.
    pub fn set_attributes(&mut self, attributes: Map<String, Value>) {
        let id = MessageId::from(self.take_id());
        self.transmit(id, ClientToServer::SetAttributes(attributes));
    }

    /// Whether both messages have come that make a connection usable.
    pub fn is_connected(&self) -> bool {
        self.is_ready && self.is_connected
    }

    /// How many requests wait for an answer.
    pub fn pending_requests(&self) -> usize {
        self.requests.len()
    }

    /// How many streams are open.
    pub fn open_streams(&self) -> usize {
        self.streams.len()
    }

    fn handle_message(&mut self, message: ServerToClient) {
        let event = match message {
            ServerToClient::RoomReady {
                room_name,
                room_url,
                session_id,
            } => {
                self.is_ready = true;
                Event::Ready {
                    room_name,
                    room_url,
                    session_id,
                }
            }
            ServerToClient::Connected {
                participant_id,
                attributes,
            } => {
                self.is_connected = true;
                Event::Connected {
                    participant_id,
                    attributes,
                }
            }
            ServerToClient::Response { request, content } => {
                let Some(pending) = self.requests.remove(&request) else {
                    return;
                };
                let request = RequestId(u64::from_be_bytes(request.0));
                match pending {
                    Pending::Invoke => Event::Response { request, content },
                    Pending::Chunk(stream) => Event::ChunkAnswered {
                        stream,
                        request,
                        content,
                    },
                    Pending::Open(stream) if content == Content::Control(Control::Open) => {
                        Event::StreamOpened { stream }
                    }
                    Pending::Open(stream) => {
                        self.streams.remove(&stream);
                        Event::StreamRefused { stream, content }
                    }
                }
            }
            ServerToClient::ResponseChunk {
                tool_call_id,
                chunk,
            } => {
                let stream = tool_call_id.parse().ok().map(StreamId);
                let Some(stream) = stream.filter(|stream| self.streams.contains_key(stream)) else {
                    return;
                };
                match stream_end(&chunk) {
                    None => Event::Chunk { stream, chunk },
                    Some(error) => {
                        self.streams.remove(&stream);
                        Event::StreamClosed { stream, error }
                    }
                }
            }
            other => Event::Message(other),
        };
        self.events.push_back(event);
    }

    fn queue_chunk(&mut self, stream: StreamId, chunk: Content) -> RequestId {
        let request = self.next_request(Pending::Chunk(stream));
        let message = ClientToServer::RequestChunk {
            tool_call_id: stream.0.to_string(),
            chunk,
        };
        self.send(request, message);
        request
    }

    fn next_request(&mut self, pending: Pending) -> RequestId {
        let id = self.take_id();
        self.requests.insert(MessageId::from(id), pending);
        RequestId(id)
    }

    fn take_id(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        id
    }

    fn send(&mut self, request: RequestId, message: ClientToServer) {
        self.transmit(MessageId::from(request.0), message);
    }

    fn transmit(&mut self, id: MessageId, message: ClientToServer) {
        let envelope = Envelope {
            id,
            trace: None,
            message,
        };
        let mut packets = Vec::new();
        envelope.encode(&mut packets);
        self.transmits.extend(packets);
    }
}

fn invoke_message(
    toolkit: &str,
    tool: &str,
    arguments: Content,
    tool_call_id: String,
) -> ClientToServer {
    ClientToServer::Invoke(Invoke {
        toolkit: toolkit.to_owned(),
        tool: tool.to_owned(),
        arguments,
        tool_call_id: Some(tool_call_id),
        participant_id: None,
        on_behalf_of_id: None,
    })
}

/// `None` if the stream goes on after this chunk, else why it ended.
#[expect(
    clippy::option_option,
    reason = "whether it ended, and whether by an error, are two questions"
)]
fn stream_end(chunk: &Content) -> Option<Option<StreamError>> {
    match chunk {
        Content::Error { text, code } => Some(Some(StreamError {
            code: *code,
            text: text.clone(),
        })),
        Content::Control(Control::Close {
            status_code: Control::NORMAL,
            ..
        }) => Some(None),
        Content::Control(Control::Close {
            status_code,
            message,
        }) => Some(Some(StreamError {
            code: Some(i64::from(*status_code)),
            text: message.clone().unwrap_or_default(),
        })),
        _ => None,
    }
}
