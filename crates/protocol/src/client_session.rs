//! The client's side of one connection: requests, streamed calls and their answers.
//!
//! It contains no networking code and no timers: its driver transports packets and waits.

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
/// - `handle_packet` accepts packets from the socket.
/// - `invoke`, `open_stream`, `send_chunk`, `close_stream` and `set_attributes` are the requests of
///   the user.
/// - `poll_transmit` returns packets to send, and `poll_event` returns events. Drain both after
///   each call of the others.
///
/// The queues are bounded by the caller's own calls: a request queues its packets, and a packet
/// from the server queues at most one event.
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

/// The id of a sent request, unique within its session.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct RequestId(u64);

/// The id of a streamed call, unique within its session.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct StreamId(u64);

/// An event of a connection.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub enum Event {
    /// The room has introduced itself. After this event and [`Event::Connected`] the connection
    /// is usable.
    Ready {
        /// The room's name.
        room_name: String,
        /// The room's address.
        room_url: String,
        /// Equal for all participants that are in the room at the same time.
        session_id: String,
    },
    /// The room has sent the client's own id and attributes.
    Connected {
        /// The client's participant id.
        participant_id: String,
        /// The client's attributes.
        attributes: Map<String, Value>,
    },
    /// The answer to a request of [`ClientSession::invoke`], possibly an `error`.
    Response {
        /// The request.
        request: RequestId,
        /// The content of the answer.
        content: Content,
    },
    /// The server has accepted the streamed call.
    StreamOpened {
        /// The call.
        stream: StreamId,
    },
    /// The server has rejected the call, or answered it without a stream. The stream is closed.
    StreamRefused {
        /// The call.
        stream: StreamId,
        /// The content that came instead of `control/open`.
        content: Content,
    },
    /// The answer to a sent chunk: an `error` if it was rejected, `json` for a result, anything
    /// else for plain success.
    ChunkAnswered {
        /// The call.
        stream: StreamId,
        /// The request id that [`ClientSession::send_chunk`] returned.
        request: RequestId,
        /// The content of the answer.
        content: Content,
    },
    /// A chunk from the server.
    Chunk {
        /// The call.
        stream: StreamId,
        /// The content of the chunk.
        chunk: Content,
    },
    /// The server has closed the call, normally or with an `error`. The stream is closed.
    StreamClosed {
        /// The call.
        stream: StreamId,
        /// The error, if the close was not normal.
        error: Option<StreamError>,
    },
    /// Any other message: about the room's status, files, or participants.
    Message(ServerToClient),
    /// A packet or message of the server was malformed. The stream or request that it belonged to
    /// goes on.
    Malformed(MalformedInput),
}

/// Why the server ended a stream.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the server ended the stream: {text}")]
#[non_exhaustive]
pub struct StreamError {
    /// The code of an `error` chunk, or the status code of an abnormal close.
    pub code: Option<i64>,
    /// The reason, as text for people.
    pub text: String,
}

impl StreamError {
    /// Creates an error with this reason.
    pub fn new(code: Option<i64>, text: impl Into<String>) -> Self {
        Self {
            code,
            text: text.into(),
        }
    }
}

/// Malformed input from the server.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MalformedInput {
    /// A malformed message.
    #[error("the server sent a malformed message")]
    Message(#[source] InvalidMessage),
    /// A malformed packet.
    #[error("the server sent a malformed packet")]
    Packet(#[source] PacketError),
}

/// The stream is closed, was rejected, or never existed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the stream is closed; open a new one")]
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
    /// Creates the session of a new connection.
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

    /// Processes one packet from the server.
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
            // A message type that this version does not know.
            Ok(None) => {}
            Err(error) => {
                let malformed = MalformedInput::Message(error);
                self.events.push_back(Event::Malformed(malformed));
            }
        }
    }

    /// Returns the next event, if any.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Returns the next packet to send, if any; each is one binary WebSocket message.
    pub fn poll_transmit(&mut self) -> Option<Bytes> {
        self.transmits.pop_front()
    }

    /// Calls a tool. The answer is an [`Event::Response`] with the returned id.
    pub fn invoke(&mut self, toolkit: &str, tool: &str, arguments: Content) -> RequestId {
        let request = self.next_request(Pending::Invoke);
        // The number is unique within the connection, as the id of a call must be.
        let tool_call_id = request.0.to_string();
        self.send(
            request,
            invoke_message(toolkit, tool, arguments, tool_call_id),
        );
        request
    }

    /// Begins a streamed call. Chunks may be sent immediately.
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

    /// Sends a chunk of a streamed call. The answer is an [`Event::ChunkAnswered`] with the
    /// returned id.
    ///
    /// # Errors
    ///
    /// If the stream is not open.
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

    /// Announces that no more chunks follow. The server answers with its own close, an
    /// [`Event::StreamClosed`]. Has no effect on a closed stream.
    pub fn close_stream(&mut self, stream: StreamId) {
        let Some(state) = self.streams.get_mut(&stream) else {
            return;
        };
        if !state.is_closing {
            state.is_closing = true;
            self.queue_chunk(stream, Content::close());
        }
    }

    /// Changes the client's attributes; the server does not answer.
    pub fn set_attributes(&mut self, attributes: Map<String, Value>) {
        let id = MessageId::from(self.take_id());
        self.transmit(id, ClientToServer::SetAttributes(attributes));
    }

    /// Whether both messages that make a connection usable have arrived.
    pub fn is_connected(&self) -> bool {
        self.is_ready && self.is_connected
    }

    /// The number of requests without an answer.
    pub fn pending_requests(&self) -> usize {
        self.requests.len()
    }

    /// The number of open streams.
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

/// `None` if the stream goes on after this chunk, otherwise the reason of its end.
#[expect(
    clippy::option_option,
    reason = "the end of the stream and its error are separate facts"
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
