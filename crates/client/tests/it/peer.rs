//! The server's end of a connection, scripted by a test.

use std::collections::VecDeque;

use bytes::Bytes;
use fastwebsockets::{Frame, OpCode, Payload, Role, WebSocket};
use meshagent_client::{ConnectError, Connection, LiveDocument, RoomBuilder, RoomClient};
use meshagent_document::{MeshDocument, MeshSchema, Target};
use meshagent_protocol::{
    ClientToServer, Content, Control, Envelope, Invoke, MessageId, PacketLimits, PacketReader,
    ServerToClient, encode_base64, sync,
};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream};
use tokio::net::{TcpListener, TcpStream};

pub(crate) const URL: &str = "ws://host.example:8080/rooms/my-room";

pub(crate) struct Peer<S = DuplexStream> {
    socket: WebSocket<S>,
    reader: PacketReader,
    received: VecDeque<Envelope>,
    next_id: u64,
}

/// A connection and its peer.
pub(crate) async fn connect() -> (Connection, Peer) {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let accept = Peer::accept(theirs);
    let (room, peer) = tokio::join!(Connection::connect_over(ours, URL, "token"), accept);
    (room.unwrap(), peer)
}

/// A server's listener, and the builder of a room that connects to it.
pub(crate) async fn listen() -> (TcpListener, RoomBuilder) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let room = RoomClient::builder()
        .room_url(format!("ws://{address}/rooms/my-room"))
        .token("token");
    (listener, room)
}

/// Accepts the next connection of a room.
pub(crate) async fn accept(listener: &TcpListener) -> Peer<TcpStream> {
    Peer::accept(listener.accept().await.unwrap().0).await
}

/// Appends an element with a text to a document's root.
pub(crate) fn append(document: &LiveDocument, text: &str) {
    let element = json!({ "body": { "text": text } });
    document
        .edit(|d| d.append_child(Target::Root, element))
        .unwrap()
        .unwrap();
}

/// Accepts a call that opens `a.document`, which is empty. Returns the call's id.
pub(crate) async fn begin(peer: &mut Peer<TcpStream>) -> String {
    begin_with(peer, Content::Empty).await
}

/// The same, with this answer to the start chunk.
pub(crate) async fn begin_with(peer: &mut Peer<TcpStream>, answer: Content) -> String {
    let schema = MeshSchema::builtin("document").unwrap();
    begin_at(peer, answer, &MeshDocument::new(schema, 1)).await
}

/// The same, with this content.
pub(crate) async fn begin_at(
    peer: &mut Peer<TcpStream>,
    answer: Content,
    document: &MeshDocument,
) -> String {
    let (_, call, _) = peer.open_with(answer).await;
    peer.send_state(&call, document).await;
    call
}

/// The error of `connect_over` if the server answers with this text.
pub(crate) async fn refuse(answer: &'static str) -> (ConnectError, String) {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let accept = async {
        let (mut stream, head) = read_head(theirs).await;
        stream.write_all(answer.as_bytes()).await.unwrap();
        head
    };
    let (room, head) = tokio::join!(Connection::connect_over(ours, URL, "token"), accept);
    (room.unwrap_err(), head)
}

pub(crate) async fn read_head<S: AsyncRead + Unpin>(mut stream: S) -> (S, String) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    (stream, String::from_utf8(head).unwrap())
}

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    /// Accepts a connection, and welcomes the client.
    pub(crate) async fn accept(stream: S) -> Self {
        let (stream, _) = read_head(stream).await;
        let mut peer = Self::upgrade(stream).await;
        peer.welcome().await;
        peer
    }

    async fn upgrade(mut stream: S) -> Self {
        let answer = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n\
                      upgrade: websocket\r\nsec-websocket-accept: x\r\n\r\n";
        stream.write_all(answer.as_bytes()).await.unwrap();
        let mut socket = WebSocket::after_handshake(stream, Role::Server);
        socket.set_auto_close(true);
        Self {
            socket,
            reader: PacketReader::new(PacketLimits::default()),
            received: VecDeque::new(),
            next_id: 1,
        }
    }

    async fn welcome(&mut self) {
        self.send(ServerToClient::RoomReady {
            room_name: "my-room".to_owned(),
            room_url: "http://host.example/rooms/my-room".to_owned(),
            session_id: "s".to_owned(),
        })
        .await;
        self.send(ServerToClient::Connected {
            participant_id: "p".to_owned(),
            attributes: json!({"name": "n"}).as_object().unwrap().clone(),
        })
        .await;
    }

    pub(crate) async fn send(&mut self, message: ServerToClient) {
        let mut packets = Vec::new();
        message.encode(MessageId::from(self.next_id), &mut packets);
        self.next_id += 1;
        for packet in packets {
            let frame = Frame::binary(Payload::Owned(packet.into()));
            self.socket.write_frame(frame).await.unwrap();
        }
    }

    pub(crate) async fn ping(&mut self) {
        let frame = Frame::new(true, OpCode::Ping, None, Payload::Borrowed(b"hi"));
        self.socket.write_frame(frame).await.unwrap();
    }

    /// The next frame that is not a message: its kind and payload.
    pub(crate) async fn control_frame(&mut self) -> (OpCode, Bytes) {
        loop {
            let frame = self.socket.read_frame().await.unwrap();
            if frame.opcode != OpCode::Binary {
                return (frame.opcode, Bytes::from(frame.payload.to_vec()));
            }
        }
    }

    pub(crate) async fn recv(&mut self) -> Envelope {
        loop {
            if let Some(envelope) = self.received.pop_front() {
                return envelope;
            }
            let frame = self.socket.read_frame().await.unwrap();
            assert_eq!(frame.opcode, OpCode::Binary);
            if let Some(message) = self.reader.handle_packet(&frame.payload).unwrap() {
                self.received.push_back(Envelope::parse(message).unwrap());
            }
        }
    }

    pub(crate) async fn invoke(&mut self) -> (MessageId, Invoke) {
        let envelope = self.recv().await;
        let ClientToServer::Invoke(invoke) = envelope.message else {
            panic!("not an invoke: {envelope:?}");
        };
        (envelope.id, invoke)
    }

    /// Receives the next chunk, and answers it.
    pub(crate) async fn chunk(&mut self, answer: Content) -> Content {
        let (request, chunk) = self.unanswered().await;
        self.answer(request, answer).await;
        chunk
    }

    /// Receives the next chunk without answering it.
    pub(crate) async fn unanswered(&mut self) -> (MessageId, Content) {
        let envelope = self.recv().await;
        let ClientToServer::RequestChunk { chunk, .. } = envelope.message else {
            panic!("not a chunk: {envelope:?}");
        };
        (envelope.id, chunk)
    }

    pub(crate) async fn answer(&mut self, request: MessageId, content: Content) {
        self.send(ServerToClient::Response { request, content })
            .await;
    }

    pub(crate) async fn send_chunk(&mut self, tool_call_id: &str, chunk: Content) {
        let tool_call_id = tool_call_id.to_owned();
        self.send(ServerToClient::ResponseChunk {
            tool_call_id,
            chunk,
        })
        .await;
    }

    /// Sends this content as the start of a stream.
    pub(crate) async fn send_state(&mut self, tool_call_id: &str, document: &MeshDocument) {
        let schema = document.schema().to_json();
        let state = encode_base64(&document.encode_state());
        self.send_chunk(tool_call_id, sync::state("a.document", &schema, state))
            .await;
    }

    /// Accepts a streamed call. Returns its tool, its id and its first chunk.
    pub(crate) async fn open(&mut self) -> (String, String, Content) {
        self.open_with(Content::Empty).await
    }

    async fn open_with(&mut self, answer: Content) -> (String, String, Content) {
        let (id, invoke) = self.invoke().await;
        assert_eq!(invoke.arguments, Content::Control(Control::Open));
        self.answer(id, Content::Control(Control::Open)).await;
        let first = self.chunk(answer).await;
        (invoke.tool, invoke.tool_call_id.unwrap(), first)
    }
}
