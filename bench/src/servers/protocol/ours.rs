//! Our protocol, as our own client uses it; to save the generator's time, messages are only parsed
//! as far as needed.

use std::borrow::Cow;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use meshagent_protocol::sync::{SyncChunk, SyncOpenStart};
use meshagent_protocol::{
    ApiKey, ApiScope, ClientSession, DocPath, Event, Grant, Message, PacketLimits, PacketReader,
    ParticipantToken, StreamId, decode_base64,
};
use serde_json::Value;

use super::{Meaning, Protocol};

const RESPONSE: &str = "__response__";
const RESPONSE_CHUNK: &str = "room.tool_call_response_chunk";

/// The API key that the server is started with, and a token.
#[derive(Debug)]
pub struct Credentials {
    key: ApiKey,
    token: String,
}

impl Credentials {
    /// Parses a key, and signs a token for one room.
    ///
    /// # Errors
    /// When the key is not valid.
    pub fn new(key: &str, room: &str) -> Result<Self> {
        let key = ApiKey::parse(key)?;
        let mut token = ParticipantToken::new("generator");
        token.grants.push(Grant::Room(room.to_owned()));
        token.grants.push(Grant::Api(Box::new(ApiScope::full())));
        let token = token.sign(&key);
        Ok(Self { key, token })
    }

    /// Returns the token for the room.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Returns the key's project.
    pub fn project(&self) -> &str {
        &self.key.project_id
    }
}

/// One client with one document open.
#[derive(Debug)]
pub struct Ours {
    target: String,
    session: ClientSession,
    stream: Option<StreamId>,
    start: SyncOpenStart,
    /// The id of the greeting's last message; later answers acknowledge updates.
    greeting: u64,
    /// The reader of packets after the state has arrived; it does not parse payloads.
    packets: Option<PacketReader>,
}

impl Ours {
    /// Creates a client of a document, which is created with `schema` if it does not exist.
    ///
    /// # Errors
    /// When the path is not valid.
    pub fn new(room: &str, token: &str, document: &str, schema: Value) -> Result<Self> {
        let mut start = SyncOpenStart::new(DocPath::parse(document)?);
        start.schema = Some(schema);
        start.merge = true;
        Ok(Self {
            target: format!("/rooms/{room}?token={token}"),
            session: ClientSession::new(PacketLimits::default()),
            stream: None,
            start,
            greeting: 0,
            packets: None,
        })
    }

    fn transmits(&mut self) -> Vec<Bytes> {
        std::iter::from_fn(|| self.session.poll_transmit()).collect()
    }

    /// Parses a message after the document is open.
    fn handle_message(message: &Message, greeting: u64, meanings: &mut Vec<Meaning>) -> Result<()> {
        let (length, rest) = message
            .body
            .split_first_chunk::<8>()
            .context("the message is shorter than a header length")?;
        let length = usize::try_from(u64::from_be_bytes(*length))?;
        let header = rest
            .get(..length)
            .context("the message is shorter than its header")?;
        match message.kind.as_str() {
            RESPONSE => {
                if header.windows(7).any(|part| part == b"\"error\"") {
                    bail!("the server refused: {}", String::from_utf8_lossy(header));
                }
                if u64::from_be_bytes(message.id.0) > greeting {
                    meanings.push(Meaning::Acknowledged(1));
                }
            }
            RESPONSE_CHUNK => meanings.push(Meaning::Update(message.body.slice(8 + length..))),
            _ => {}
        }
        Ok(())
    }
}

impl Protocol for Ours {
    fn target(&self) -> String {
        self.target.clone()
    }

    fn greet(&mut self) -> Vec<Bytes> {
        let stream = self.session.open_stream("sync", "open");
        self.stream = Some(stream);
        let start = self.start.to_content();
        self.session
            .send_chunk(stream, start)
            .expect("the stream was just opened");
        let frames = self.transmits();
        let id = frames.last().and_then(|frame| frame.first_chunk::<8>());
        self.greeting = id.map_or(0, |id| u64::from_be_bytes(*id));
        frames
    }

    fn encode_update(&mut self, update: &[u8]) -> Vec<Bytes> {
        let stream = self.stream.expect("the greeting opened the stream");
        self.session
            .send_chunk(stream, SyncChunk::of_update(update))
            .expect("the generator closes no stream");
        self.transmits()
    }

    fn handle_frame(
        &mut self,
        frame: &Bytes,
        meanings: &mut Vec<Meaning>,
        replies: &mut Vec<Bytes>,
    ) -> Result<()> {
        if let Some(packets) = &mut self.packets {
            return match packets.handle_packet(frame)? {
                Some(message) => Self::handle_message(&message, self.greeting, meanings),
                None => Ok(()),
            };
        }
        self.session.handle_packet(frame);
        while let Some(event) = self.session.poll_event() {
            match event {
                // The first chunk is the state; listeners decode it if they need it.
                Event::Chunk { chunk, .. } => {
                    meanings.push(Meaning::State(chunk.payload()));
                    self.packets = Some(PacketReader::new(PacketLimits::default()));
                }
                Event::StreamRefused { content, .. } => bail!("the server refused: {content:?}"),
                Event::StreamClosed { error, .. } => {
                    bail!("the server closed the stream: {error:?}")
                }
                Event::Malformed(what) => bail!("the server sent a malformed message: {what:?}"),
                _ => {}
            }
        }
        replies.extend(self.transmits());
        Ok(())
    }

    fn decode<'a>(&self, payload: &'a [u8]) -> Result<Cow<'a, [u8]>> {
        Ok(if payload.is_empty() {
            vec![0, 0].into()
        } else {
            decode_base64(payload)?.into()
        })
    }
}
