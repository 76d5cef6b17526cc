//! A socket that sends whole messages, parts of them, and bytes that no client would send.
//!
//! Frames are masked with zeros, which leave a payload unchanged, so sending costs the attacker
//! almost nothing.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpSocket;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::JoinHandle;

pub(crate) const BINARY: u8 = 2;
pub(crate) const CONTINUATION: u8 = 0;
pub(crate) const PING: u8 = 9;

/// The size of a data packet; the server accepts up to 4 MiB.
pub(crate) const PACKET_BYTES: usize = 1 << 20;

/// The largest frame that an attacker reads.
const MAX_FRAME_BYTES: usize = 64 << 20;

const ALREADY_READ: &str = "another task reads from this socket";

#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) write: OwnedWriteHalf,
    read: Option<BufReader<OwnedReadHalf>>,
    drain: Option<JoinHandle<()>>,
    /// The id that the server assigned to the participant.
    pub(crate) participant: String,
    next_id: u64,
}

/// A message from the server.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) kind: String,
    pub(crate) id: u64,
    pub(crate) header: Value,
    pub(crate) payload: Vec<u8>,
}

impl Socket {
    /// Opens a TCP connection, with a small receive buffer if `has_small_buffer`.
    pub(crate) async fn connect(address: SocketAddr, has_small_buffer: bool) -> Result<Self> {
        let socket = TcpSocket::new_v4()?;
        if has_small_buffer {
            socket.set_recv_buffer_size(4096)?;
        }
        let stream = socket.connect(address).await?;
        stream.set_nodelay(true)?;
        let (read, write) = stream.into_split();
        Ok(Self {
            write,
            read: Some(BufReader::with_capacity(64 << 10, read)),
            drain: None,
            participant: String::new(),
            next_id: 1,
        })
    }

    /// Upgrades to a WebSocket in the room, and waits for the participant's id.
    pub(crate) async fn join(mut self, room: &str, token: &str) -> Result<Self> {
        let request = format!(
            "GET /rooms/{room} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n\
             connection: Upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        self.bytes(request.as_bytes()).await?;
        let head = self.head().await?;
        ensure!(
            head.starts_with("HTTP/1.1 101 "),
            "the handshake was answered {:?}",
            head.lines().next()
        );
        loop {
            let message = self.next().await?;
            if message.kind == "connected" {
                message.header["participantId"]
                    .as_str()
                    .unwrap_or_default()
                    .clone_into(&mut self.participant);
                return Ok(self);
            }
        }
    }

    /// Discards all input from now on.
    pub(crate) fn drain(&mut self) {
        if let Some(mut read) = self.read.take() {
            self.drain = Some(tokio::spawn(async move {
                let mut nothing = tokio::io::sink();
                let _ = tokio::io::copy_buf(&mut read, &mut nothing).await;
            }));
        }
    }

    /// Takes the reading half, for a task of its own.
    pub(crate) fn take_reader(&mut self) -> Result<Reader> {
        let read = self.read.take().context(ALREADY_READ)?;
        Ok(Reader(read))
    }

    pub(crate) async fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.write.write_all(bytes).await?)
    }

    /// Sends a frame with any opcode, whole or one of several fragments.
    pub(crate) async fn frame(&mut self, opcode: u8, is_last: bool, payload: &[u8]) -> Result<()> {
        let mut out = Vec::with_capacity(payload.len() + 14);
        frame(&mut out, opcode, is_last, &[payload]);
        self.bytes(&out).await
    }

    /// Sends a whole message, and returns its id.
    pub(crate) async fn message(
        &mut self,
        kind: &str,
        header: &str,
        payload: &[u8],
    ) -> Result<u64> {
        let id = self.id();
        let bytes = message(id, kind, header, payload);
        self.bytes(&bytes).await?;
        Ok(id)
    }

    /// Calls a tool with JSON, and returns the message's id.
    pub(crate) async fn call(&mut self, toolkit: &str, tool: &str, input: &str) -> Result<u64> {
        self.message("room.invoke_tool", &invocation(toolkit, tool, input), b"")
            .await
    }

    /// Calls a tool with JSON and waits for the answer.
    pub(crate) async fn ask(&mut self, toolkit: &str, tool: &str, input: &str) -> Result<Value> {
        let id = self.call(toolkit, tool, input).await?;
        self.answer(id).await
    }

    /// Opens a streamed call.
    pub(crate) async fn open_call(&mut self, toolkit: &str, tool: &str, call: &str) -> Result<u64> {
        let header = format!(
            r#"{{"toolkit":"{toolkit}","tool":"{tool}","arguments":{{"type":"control","method":"open"}},"tool_call_id":"{call}"}}"#
        );
        self.message("room.invoke_tool", &header, b"").await
    }

    /// Sends a chunk of a streamed call, with these headers.
    pub(crate) async fn chunk(&mut self, call: &str, headers: &str, payload: &[u8]) -> Result<u64> {
        self.message(
            "room.tool_call_request_chunk",
            &chunk(call, headers),
            payload,
        )
        .await
    }

    /// Opens a document by the call `call`, without waiting for the answer.
    pub(crate) async fn open_document(&mut self, call: &str, path: &str) -> Result<u64> {
        self.open_call("sync", "open", call).await?;
        let start = format!(r#"{{"kind":"start","path":"{path}"}}"#);
        self.chunk(call, &start, b"").await
    }

    /// Sends an update of the document that `call` has open.
    pub(crate) async fn update(&mut self, call: &str, update: &[u8]) -> Result<u64> {
        let payload = meshagent_protocol::encode_base64(update);
        self.chunk(call, r#"{"kind":"sync"}"#, &payload).await
    }

    /// Returns the header of the answer to a message, and discards everything before it.
    pub(crate) async fn answer(&mut self, id: u64) -> Result<Value> {
        loop {
            let message = self.next().await?;
            if message.kind == "__response__" && message.id == id {
                return Ok(message.header);
            }
        }
    }

    pub(crate) async fn next(&mut self) -> Result<Incoming> {
        let read = self.read.as_mut().context(ALREADY_READ)?;
        next(read).await
    }

    /// Reads an HTTP head, up to the empty line.
    pub(crate) async fn head(&mut self) -> Result<String> {
        let read = self.read.as_mut().context(ALREADY_READ)?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            ensure!(head.len() < 64 << 10, "the HTTP head is longer than 64 KiB");
            head.push(read.read_u8().await?);
        }
        Ok(String::from_utf8_lossy(&head).into_owned())
    }

    /// Reads until the connection ends, at most `most` bytes.
    pub(crate) async fn rest(&mut self, most: usize) -> Result<Vec<u8>> {
        let read = self.read.as_mut().context(ALREADY_READ)?;
        let mut bytes = Vec::new();
        read.take(most as u64).read_to_end(&mut bytes).await?;
        Ok(bytes)
    }

    pub(crate) fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Some(drain) = &self.drain {
            drain.abort();
        }
    }
}

/// The reading half of a socket.
#[derive(Debug)]
pub(crate) struct Reader(BufReader<OwnedReadHalf>);

impl Reader {
    pub(crate) async fn next(&mut self) -> Result<Incoming> {
        next(&mut self.0).await
    }
}

async fn next(read: &mut BufReader<OwnedReadHalf>) -> Result<Incoming> {
    let head = next_frame(read).await?;
    let length = head.len();
    ensure!(
        length >= 16,
        "a header packet has {length} bytes, expected at least 16"
    );
    let (id, total) = (&head[..8], &head[12..16]);
    let id = u64::from_be_bytes(id.try_into()?);
    let total = u32::from_be_bytes(total.try_into()?);
    let mut body = Vec::new();
    for _ in 0..total {
        let packet = next_frame(read).await?;
        body.extend_from_slice(
            packet
                .get(12..)
                .context("a packet is shorter than 12 bytes")?,
        );
    }
    let length = body
        .first_chunk()
        .map_or(0, |length| u64::from_be_bytes(*length));
    let end = usize::try_from(length)?.saturating_add(8);
    let header = body
        .get(8..end)
        .context("the header is longer than the message")?;
    Ok(Incoming {
        kind: String::from_utf8_lossy(&head[16..]).into_owned(),
        id,
        header: serde_json::from_slice(header)?,
        payload: body.split_off(end),
    })
}

/// Reads the next frame with data, and skips pings and pongs.
async fn next_frame(read: &mut BufReader<OwnedReadHalf>) -> Result<Vec<u8>> {
    loop {
        let opcode = read.read_u8().await? & 0x0f;
        let length = match read.read_u8().await? {
            126 => usize::from(read.read_u16().await?),
            127 => usize::try_from(read.read_u64().await?)?,
            short => usize::from(short),
        };
        ensure!(
            length <= MAX_FRAME_BYTES,
            "the server sent a frame of {length} bytes, expected at most {MAX_FRAME_BYTES}"
        );
        let mut payload = vec![0; length];
        read.read_exact(&mut payload).await?;
        match opcode {
            BINARY => return Ok(payload),
            9 | 10 => {}
            other => bail!("the server sent a frame with opcode {other}, expected binary"),
        }
    }
}

/// Returns the header of a call whose input is already JSON text.
pub(crate) fn invocation(toolkit: &str, tool: &str, input: &str) -> String {
    format!(
        r#"{{"toolkit":"{toolkit}","tool":"{tool}","arguments":{{"type":"json","json":{input}}}}}"#
    )
}

/// Returns the header of a binary chunk.
pub(crate) fn chunk(call: &str, headers: &str) -> String {
    format!(r#"{{"tool_call_id":"{call}","chunk":{{"type":"binary","headers":{headers}}}}}"#)
}

/// Returns a message as it is sent on the socket.
pub(crate) fn message(id: u64, kind: &str, header: &str, payload: &[u8]) -> Vec<u8> {
    let length = (header.len() as u64).to_be_bytes();
    let mut body = Vec::with_capacity(8 + header.len() + payload.len());
    body.extend_from_slice(&length);
    body.extend_from_slice(header.as_bytes());
    body.extend_from_slice(payload);
    let packets = body.chunks(PACKET_BYTES);
    let mut out = Vec::with_capacity(body.len() + 64 * (packets.len() + 1));
    let total = u32::try_from(packets.len()).unwrap_or(u32::MAX);
    packet(&mut out, id, 0, &[&total.to_be_bytes(), kind.as_bytes()]);
    for (index, data) in (1..).zip(packets) {
        packet(&mut out, id, index, &[data]);
    }
    out
}

/// Appends a packet as a frame.
pub(crate) fn packet(out: &mut Vec<u8>, id: u64, index: u32, rest: &[&[u8]]) {
    let (id, index) = (id.to_be_bytes(), index.to_be_bytes());
    let parts: Vec<&[u8]> = [&id[..], &index[..]]
        .into_iter()
        .chain(rest.iter().copied())
        .collect();
    frame(out, BINARY, true, &parts);
}

pub(crate) fn frame(out: &mut Vec<u8>, opcode: u8, is_last: bool, parts: &[&[u8]]) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    out.push(opcode | if is_last { 0x80 } else { 0 });
    // The shortest form: any other is a protocol error.
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short), _) if short < 126 => out.push(0x80 | short),
        (_, Ok(middle)) => {
            out.push(0xfe);
            out.extend_from_slice(&middle.to_be_bytes());
        }
        _ => {
            out.push(0xff);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&[0; 4]);
    for part in parts {
        out.extend_from_slice(part);
    }
}
