//! A room's socket without a client library: it reads only on request, and keeps no data in memory.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use crate::stress::token;

/// Maximum bytes of a message in memory.
const PIECE_BYTES: usize = 64 << 10;

pub(crate) struct RawSocket {
    stream: TcpStream,
    piece: Vec<u8>,
}

/// A received message without its payload.
pub(crate) struct Incoming {
    pub(crate) kind: String,
    pub(crate) id: u64,
    pub(crate) header: Value,
    pub(crate) payload_bytes: usize,
}

impl RawSocket {
    /// Joins the room `room`; `receive_buffer` sets the size of the system's receive buffer.
    pub(crate) async fn join(server: &str, name: &str, receive_buffer: Option<u32>) -> Self {
        let host = server.trim_start_matches("http://");
        let socket = TcpSocket::new_v4().unwrap();
        if let Some(bytes) = receive_buffer {
            socket.set_recv_buffer_size(bytes).unwrap();
        }
        let mut stream = socket.connect(host.parse().unwrap()).await.unwrap();
        let request = format!(
            "GET /rooms/room?token={} HTTP/1.1\r\nhost: {host}\r\n\
             connection: Upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            token(name)
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        assert!(
            head.starts_with(b"HTTP/1.1 101 "),
            "{}",
            String::from_utf8_lossy(&head)
        );
        Self {
            stream,
            piece: vec![0; PIECE_BYTES],
        }
    }

    /// Sends bytes, which need not be a complete frame.
    pub(crate) async fn bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// Calls a tool.
    pub(crate) async fn invoke(&mut self, id: u64, toolkit: &str, tool: &str, input: &Value) {
        let arguments = json!({ "type": "json", "json": input });
        let call = json!({ "toolkit": toolkit, "tool": tool, "arguments": arguments });
        self.send(id, "room.invoke_tool", &call, b"").await;
    }

    /// Opens a document with the call id `open`. The responses have the ids 1 and 2.
    pub(crate) async fn open(&mut self, path: &str) {
        let arguments = json!({ "type": "control", "method": "open" });
        let open = json!({
            "toolkit": "sync", "tool": "open", "tool_call_id": "open", "arguments": arguments,
        });
        self.send(1, "room.invoke_tool", &open, b"").await;
        let start = json!({ "type": "binary", "headers": { "kind": "start", "path": path } });
        self.chunk(2, &start, b"").await;
    }

    /// Sends an update in base64 on the open document.
    pub(crate) async fn update(&mut self, id: u64, update: &[u8]) {
        let header = json!({ "type": "binary", "headers": { "kind": "sync" } });
        self.chunk(id, &header, update).await;
    }

    async fn chunk(&mut self, id: u64, chunk: &Value, payload: &[u8]) {
        let header = json!({ "tool_call_id": "open", "chunk": chunk });
        self.send(id, "room.tool_call_request_chunk", &header, payload)
            .await;
    }

    async fn send(&mut self, id: u64, kind: &str, header: &Value, payload: &[u8]) {
        let header = header.to_string();
        let length = (header.len() as u64).to_be_bytes();
        let pieces = payload.chunks(PIECE_BYTES);
        let total = u32::try_from(pieces.len()).unwrap() + 1;
        self.packet(id, 0, &[&total.to_be_bytes(), kind.as_bytes()])
            .await;
        self.packet(id, 1, &[&length, header.as_bytes()]).await;
        for (index, piece) in (2..).zip(pieces) {
            self.packet(id, index, &[piece]).await;
        }
    }

    async fn packet(&mut self, id: u64, index: u32, rest: &[&[u8]]) {
        let length: usize = 12 + rest.iter().map(|part| part.len()).sum::<usize>();
        // A binary frame; a mask of zeros does not change the payload.
        let mut frame = vec![0x82];
        frame.extend(masked_length(length));
        frame.extend([0; 4]);
        frame.extend(id.to_be_bytes());
        frame.extend(index.to_be_bytes());
        frame.extend(rest.concat());
        self.stream.write_all(&frame).await.unwrap();
    }

    /// The next message; its payload is passed on in pieces as it arrives.
    pub(crate) async fn next(&mut self, mut payload: impl FnMut(&[u8])) -> Incoming {
        let mut head = vec![0; self.frame().await];
        self.stream.read_exact(&mut head).await.unwrap();
        let id = u64::from_be_bytes(head[..8].try_into().unwrap());
        let packets = u32::from_be_bytes(head[12..16].try_into().unwrap());
        let kind = String::from_utf8(head[16..].to_vec()).unwrap();

        // The received part of the body until its header is complete; headers are small.
        let mut begin = Vec::new();
        let mut header = None;
        let mut payload_bytes = 0;
        for _ in 0..packets {
            let mut left = self.frame().await - 12;
            self.stream.read_exact(&mut self.piece[..12]).await.unwrap();
            while left > 0 {
                let most = left.min(PIECE_BYTES);
                let come = self.stream.read(&mut self.piece[..most]).await.unwrap();
                assert!(come > 0, "the connection ended within a message");
                left -= come;
                let piece = &self.piece[..come];
                if header.is_some() {
                    payload_bytes += come;
                    payload(piece);
                    continue;
                }
                begin.extend(piece);
                let end = begin
                    .first_chunk()
                    .map(|length| 8 + u64::from_be_bytes(*length));
                if let Some(end) = end.and_then(|end| usize::try_from(end).ok())
                    && begin.len() >= end
                {
                    header = Some(serde_json::from_slice(&begin[8..end]).unwrap());
                    payload_bytes = begin.len() - end;
                    payload(&begin[end..]);
                }
            }
        }
        Incoming {
            kind,
            id,
            header: header.unwrap(),
            payload_bytes,
        }
    }

    /// The length of the next data frame; pings are skipped.
    async fn frame(&mut self) -> usize {
        loop {
            let mut head = [0; 2];
            self.stream.read_exact(&mut head).await.unwrap();
            let length = match head[1] {
                126 => usize::from(self.stream.read_u16().await.unwrap()),
                127 => usize::try_from(self.stream.read_u64().await.unwrap()).unwrap(),
                short => usize::from(short),
            };
            match head[0] & 0x0f {
                2 => return length,
                9 => assert_eq!(length, 0, "the server's pings say nothing"),
                other => panic!("opcode {other}"),
            }
        }
    }
}

/// The length of a masked frame's payload, in its shortest form; servers refuse longer ones.
pub(crate) fn masked_length(length: usize) -> Vec<u8> {
    let mut head = Vec::with_capacity(9);
    if let Some(short) = u8::try_from(length).ok().filter(|short| *short < 126) {
        head.push(0x80 | short);
    } else if let Ok(medium) = u16::try_from(length) {
        head.push(0xfe);
        head.extend(medium.to_be_bytes());
    } else {
        head.push(0xff);
        head.extend((length as u64).to_be_bytes());
    }
    head
}
