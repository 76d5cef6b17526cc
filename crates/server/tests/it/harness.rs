//! A server on a free port over a store in memory, tokens for it, and a WebSocket that sends raw
//! bytes.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use meshagent_client::Connection;
use meshagent_protocol::{ApiKey, ApiScope, Grant, ParticipantToken};
use meshagent_server::{Config, Server};
use meshagent_store::MemoryStore;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Nothing here takes this long: a test that hangs fails.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

pub(crate) struct TestServer {
    pub(crate) key: ApiKey,
    pub(crate) address: String,
    pub(crate) store: Arc<MemoryStore>,
    stop: Option<oneshot::Sender<()>>,
    running: JoinHandle<std::io::Result<()>>,
}

impl TestServer {
    pub(crate) async fn start() -> Self {
        Self::start_with(Config::default()).await
    }

    pub(crate) async fn start_with(config: Config) -> Self {
        let key = ApiKey {
            id: "123e4567-e89b-12d3-a456-426614174000".to_owned(),
            project_id: "fbf7ef3e-3b7b-4fbe-bfff-fffefdfcfbfa".to_owned(),
            secret: "a-secret-with-dashes-and-enough-length-0123456789".to_owned(),
        };
        Self::start_on(config, Arc::new(MemoryStore::new()), "127.0.0.1:0", key).await
    }

    /// Starts another server over the store of a stopped one, at its address.
    pub(crate) async fn start_again(store: Arc<MemoryStore>, address: &str, key: ApiKey) -> Self {
        Self::start_on(Config::default(), store, address, key).await
    }

    async fn start_on(config: Config, store: Arc<MemoryStore>, address: &str, key: ApiKey) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = Server::new(config, Arc::<MemoryStore>::clone(&store), key.clone()).unwrap();
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(server.run(listener, async {
            let _ = stopped.await;
        }));
        Self {
            key,
            address,
            store,
            stop: Some(stop),
            running,
        }
    }

    pub(crate) fn token(&self, name: &str) -> ParticipantToken {
        let mut token = ParticipantToken::new(name);
        token.grants.push(Grant::Room("room".to_owned()));
        token.grants.push(Grant::Api(Box::new(ApiScope::full())));
        token
    }

    pub(crate) fn jwt(&self, name: &str) -> String {
        self.token(name).sign(&self.key)
    }

    pub(crate) async fn join(&self, name: &str) -> Connection {
        let url = format!("ws://{}/rooms/room", self.address);
        tokio::time::timeout(PATIENCE, Connection::connect(&url, &self.jwt(name)))
            .await
            .unwrap()
            .unwrap()
    }

    /// Asks the server to stop, without waiting for it.
    pub(crate) fn begin_stop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
    }

    pub(crate) async fn stop(mut self) -> Arc<MemoryStore> {
        self.begin_stop();
        tokio::time::timeout(PATIENCE, self.running)
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        self.store
    }

    /// Sends an HTTP request and returns status, head and body.
    pub(crate) async fn http(
        &self,
        request_line: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> (u16, String, String) {
        let mut stream = TcpStream::connect(&self.address).await.unwrap();
        let mut request = format!(
            "{request_line} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n",
            self.address
        );
        for (name, value) in headers {
            write!(request, "{name}: {value}\r\n").unwrap();
        }
        write!(request, "content-length: {}\r\n\r\n{body}", body.len()).unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer))
            .await
            .unwrap()
            .unwrap();
        let answer = String::from_utf8_lossy(&answer);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head.to_owned(), body.to_owned())
    }
}

/// A WebSocket without any library, so that tests control every byte.
pub(crate) struct RawSocket {
    stream: TcpStream,
    pub(crate) head: String,
}

/// A received frame.
#[derive(Debug, PartialEq)]
pub(crate) enum RawFrame {
    Binary(Vec<u8>),
    Close(Vec<u8>),
    Ping,
    Pong(Vec<u8>),
    /// The connection ended without a close frame.
    End,
}

impl RawSocket {
    /// Upgrades; `Err` is the HTTP status of the refusal.
    pub(crate) async fn connect(
        server: &TestServer,
        target: &str,
        headers: &[(&str, &str)],
    ) -> Result<Self, u16> {
        Self::upgrade(server, target, headers, &[]).await
    }

    async fn upgrade(
        server: &TestServer,
        target: &str,
        headers: &[(&str, &str)],
        behind: &[u8],
    ) -> Result<Self, u16> {
        let stream = TcpStream::connect(&server.address).await.unwrap();
        Self::upgrade_on(stream, server, target, headers, behind).await
    }

    async fn upgrade_on(
        mut stream: TcpStream,
        server: &TestServer,
        target: &str,
        headers: &[(&str, &str)],
        behind: &[u8],
    ) -> Result<Self, u16> {
        let mut request = format!(
            "GET {target} HTTP/1.1\r\nhost: {}\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
            server.address
        );
        for (name, value) in headers {
            write!(request, "{name}: {value}\r\n").unwrap();
        }
        request += "\r\n";
        let request = [request.as_bytes(), behind].concat();
        stream.write_all(&request).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(
                tokio::time::timeout(PATIENCE, stream.read_u8())
                    .await
                    .unwrap()
                    .unwrap(),
            );
        }
        let head = String::from_utf8(head).unwrap();
        let status: u16 = head.split(' ').nth(1).unwrap().parse().unwrap();
        if status == 101 {
            Ok(Self { stream, head })
        } else {
            Err(status)
        }
    }

    /// Upgrades, with bytes directly after the request.
    pub(crate) async fn connect_and_send(
        server: &TestServer,
        target: &str,
        bytes: &[u8],
    ) -> Result<Self, u16> {
        Self::upgrade(server, target, &[], bytes).await
    }

    /// Joins the room and skips `room_ready` and `connected`.
    pub(crate) async fn join(server: &TestServer) -> Self {
        let target = format!("/rooms/room?token={}", server.jwt("raw"));
        let mut socket = Self::connect(server, &target, &[]).await.unwrap();
        for kind in ["room_ready", "connected"] {
            assert_eq!(socket.message().await.0, kind);
        }
        socket
    }

    /// Upgrades on a socket whose kernel buffers only some kilobytes of unread data.
    pub(crate) async fn narrow(server: &TestServer) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(8 << 10).unwrap();
        let stream = socket
            .connect(server.address.parse().unwrap())
            .await
            .unwrap();
        let target = format!("/rooms/room?token={}", server.jwt("narrow"));
        Self::upgrade_on(stream, server, &target, &[], &[])
            .await
            .unwrap()
    }

    /// Reads at most `bytes` bytes. Zero when the connection has ended.
    pub(crate) async fn some(&mut self, bytes: usize) -> usize {
        let mut buffer = vec![0; bytes];
        let read = tokio::time::timeout(PATIENCE, self.stream.read(&mut buffer));
        read.await.unwrap().unwrap_or(0)
    }

    /// Sends bytes; returns whether the server accepted them.
    pub(crate) async fn are_taken(&mut self, bytes: &[u8]) -> bool {
        let sent = tokio::time::timeout(PATIENCE, self.stream.write_all(bytes));
        sent.await.expect("they are taken, or refused").is_ok()
    }

    /// Sends bytes that need not be a frame, and ignores that the connection may have ended.
    pub(crate) async fn bytes(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).await;
    }

    pub(crate) async fn frame(&mut self, opcode: u8, payload: &[u8]) {
        self.masked(0x80 | opcode, payload).await;
    }

    /// Sends a frame that is not the last of its message.
    pub(crate) async fn fragment(&mut self, opcode: u8, payload: &[u8]) {
        self.masked(opcode, payload).await;
    }

    async fn masked(&mut self, first: u8, payload: &[u8]) {
        let mut frame = vec![first];
        match payload.len() {
            short @ 0..126 => frame.push(0x80 | u8::try_from(short).unwrap()),
            middle @ 126..0x1_0000 => {
                frame.push(0xfe);
                frame.extend(u16::try_from(middle).unwrap().to_be_bytes());
            }
            long => {
                frame.push(0xff);
                frame.extend((long as u64).to_be_bytes());
            }
        }
        // A mask of zeros does not change the payload.
        frame.extend([0; 4]);
        frame.extend(payload);
        self.stream.write_all(&frame).await.unwrap();
    }

    pub(crate) async fn packet(&mut self, id: u64, number: u32, rest: &[u8]) {
        let packet = [&id.to_be_bytes()[..], &number.to_be_bytes(), rest].concat();
        self.frame(2, &packet).await;
    }

    /// Sends a message with a JSON header, in two packets.
    pub(crate) async fn send(&mut self, id: u64, kind: &str, header: &serde_json::Value) {
        self.packet(id, 0, &[&1_u32.to_be_bytes()[..], kind.as_bytes()].concat())
            .await;
        let header = header.to_string();
        self.packet(
            id,
            1,
            &[&(header.len() as u64).to_be_bytes()[..], header.as_bytes()].concat(),
        )
        .await;
    }

    pub(crate) async fn next(&mut self) -> RawFrame {
        tokio::time::timeout(PATIENCE, self.read_frame())
            .await
            .unwrap()
    }

    async fn read_frame(&mut self) -> RawFrame {
        let mut head = [0; 2];
        if self.stream.read_exact(&mut head).await.is_err() {
            return RawFrame::End;
        }
        let length = match head[1] & 0x7f {
            126 => usize::from(self.stream.read_u16().await.unwrap()),
            127 => usize::try_from(self.stream.read_u64().await.unwrap()).unwrap(),
            short => usize::from(short),
        };
        let mut payload = vec![0; length];
        self.stream.read_exact(&mut payload).await.unwrap();
        match head[0] & 0x0f {
            2 => RawFrame::Binary(payload),
            8 => RawFrame::Close(payload),
            9 => RawFrame::Ping,
            10 => RawFrame::Pong(payload),
            other => panic!("opcode {other}"),
        }
    }

    /// The next message: its type, id and header.
    pub(crate) async fn message(&mut self) -> (String, u64, serde_json::Value) {
        let RawFrame::Binary(head) = self.next().await else {
            panic!("expected a header packet")
        };
        let id = u64::from_be_bytes(head[..8].try_into().unwrap());
        let packets = u32::from_be_bytes(head[12..16].try_into().unwrap());
        let kind = String::from_utf8(head[16..].to_vec()).unwrap();
        let mut body = Vec::new();
        for _ in 0..packets {
            let RawFrame::Binary(packet) = self.next().await else {
                panic!("expected a data packet")
            };
            body.extend(&packet[12..]);
        }
        let length = usize::try_from(u64::from_be_bytes(body[..8].try_into().unwrap())).unwrap();
        (
            kind,
            id,
            serde_json::from_slice(&body[8..8 + length]).unwrap(),
        )
    }

    /// The answer to a request; skips events before it.
    pub(crate) async fn answer(&mut self, id: u64) -> serde_json::Value {
        loop {
            let (kind, request, header) = self.message().await;
            if kind == "__response__" && request == id {
                return header;
            }
        }
    }
}

/// The arguments of a plain tool call.
pub(crate) fn call(toolkit: &str, tool: &str, json: &serde_json::Value) -> serde_json::Value {
    serde_json::json!({ "toolkit": toolkit, "tool": tool, "tool_call_id": "t", "arguments": { "type": "json", "json": json } })
}
