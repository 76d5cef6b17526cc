//! Our protocol, as our own client speaks it. What costs time at the generator is read no further than needed.

use std::borrow::Cow;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use meshagent_protocol::sync::{SyncChunk, SyncOpenStart};
use meshagent_protocol::{
    ApiKey, ApiScope, ClientSession, DocPath, Event, Grant, Message, PacketLimits, PacketReader,
    ParticipantToken, StreamId, decode_base64,
};
use serde_json::Value;

use super::{Heard, Speech};

const RESPONSE: &str = "__response__";
const RESPONSE_CHUNK: &str = "room.tool_call_response_chunk";

/// A project with a key, which the server is started with.
#[derive(Debug)]
pub struct Credentials {
    key: ApiKey,
    token: String,
}

impl Credentials {
    /// Reads a key, and signs a token for one room.
    ///
    /// # Errors
    /// When it is no key.
    pub fn new(key: &str, room: &str) -> Result<Self> {
        let key = ApiKey::parse(key)?;
        let mut token = ParticipantToken::new("generator");
        token.grants.push(Grant::Room(room.to_owned()));
        token.grants.push(Grant::Api(Box::new(ApiScope::full())));
        let token = token.sign(&key);
        Ok(Self { key, token })
    }

    /// The token.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// The key's project.
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
    /// The last message of our greeting; what comes after it are updates.
    greeting: u64,
    /// After the state has come, messages are read here and no further than to their payload.
    packets: Option<PacketReader>,
}

impl Ours {
    /// For a document in a room; made with the schema if it is not there.
    ///
    /// # Errors
    /// When the path is none.
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

    /// What a message means once the document is open.
    fn hear_message(message: &Message, greeting: u64, heard: &mut Vec<Heard>) -> Result<()> {
        let (length, rest) = message
            .body
            .split_first_chunk::<8>()
            .context("the message has no header")?;
        let length = usize::try_from(u64::from_be_bytes(*length))?;
        let header = rest.get(..length).context("the header is incomplete")?;
        match message.kind.as_str() {
            RESPONSE => {
                if header.windows(7).any(|part| part == b"\"error\"") {
                    bail!("refused: {}", String::from_utf8_lossy(header));
                }
                if u64::from_be_bytes(message.id.0) > greeting {
                    heard.push(Heard::Acknowledged(1));
                }
            }
            RESPONSE_CHUNK => heard.push(Heard::Update(message.body.slice(8 + length..))),
            _ => {}
        }
        Ok(())
    }
}

impl Speech for Ours {
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

    fn say(&mut self, update: &[u8]) -> Vec<Bytes> {
        let stream = self.stream.expect("greeted before anything is said");
        self.session
            .send_chunk(stream, SyncChunk::of_update(update))
            .expect("the generator closes no stream");
        self.transmits()
    }

    fn hear(
        &mut self,
        frame: &Bytes,
        heard: &mut Vec<Heard>,
        replies: &mut Vec<Bytes>,
    ) -> Result<()> {
        if let Some(packets) = &mut self.packets {
            return match packets.handle_packet(frame)? {
                Some(message) => Self::hear_message(&message, self.greeting, heard),
                None => Ok(()),
            };
        }
        self.session.handle_packet(frame);
        while let Some(event) = self.session.poll_event() {
            match event {
                // The state; what it contains is for whoever wants to know.
                Event::Chunk { chunk, .. } => {
                    heard.push(Heard::State(chunk.payload()));
                    self.packets = Some(PacketReader::new(PacketLimits::default()));
                }
                Event::StreamRefused { content, .. } => bail!("refused: {content:?}"),
                Event::StreamClosed { error, .. } => bail!("the stream was closed: {error:?}"),
                Event::Malformed(what) => bail!("malformed: {what:?}"),
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
