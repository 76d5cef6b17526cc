//! A chunk of a streamed answer for many recipients, with a common part that is encoded once.

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::content::Content;
use crate::packet::{MessageId, Packets};
use crate::server_to_client::RESPONSE_CHUNK;

/// A chunk for many streams; cheap to clone.
#[derive(Clone, Debug)]
pub struct SharedChunk {
    /// The content's header as JSON, in parts.
    header: [Bytes; 3],
    payload: Bytes,
}

impl SharedChunk {
    /// Encodes a chunk.
    pub fn new(content: &Content) -> Self {
        let header = Value::Object(content.header()).to_string();
        Self {
            header: [header.into(), Bytes::new(), Bytes::new()],
            payload: content.payload(),
        }
    }

    /// Creates a chunk equal to [`sync::state`](crate::sync::state) with this schema. The schema's
    /// JSON text is not copied, since many documents may share it.
    pub fn state(path: &str, schema_json: Bytes, payload: Bytes) -> Self {
        let path = Value::from(path);
        let begin =
            format!(r#"{{"type":"binary","headers":{{"kind":"state","path":{path},"schema":"#);
        Self {
            header: [begin.into(), schema_json, Bytes::from_static(b"}}")],
            payload,
        }
    }

    /// The content of the chunk.
    pub fn content(&self) -> Content {
        let header: Map<String, Value> =
            serde_json::from_slice(&self.header.concat()).unwrap_or_default();
        Content::from_parts(header, self.payload.clone()).unwrap_or(Content::Empty)
    }

    /// The size of the shared payload in bytes.
    pub fn payload_len(&self) -> usize {
        self.payload.len()
    }

    /// The size of the shared header in bytes.
    pub fn header_len(&self) -> usize {
        self.header.iter().map(Bytes::len).sum()
    }

    /// The packets of the message with this chunk for one stream, equal to those
    /// of [`ServerToClient::ResponseChunk`](crate::ServerToClient::ResponseChunk).
    pub fn packets(&self, tool_call_id: &str, id: MessageId) -> Packets<'static> {
        const LENGTH_BYTES: usize = 8;
        let Self { header, payload } = self;
        let around = LENGTH_BYTES + br#"{"tool_call_id":"","chunk":}"#.len();
        let mut head = Vec::with_capacity(around + tool_call_id.len() + self.header_len());
        head.extend_from_slice(&[0; LENGTH_BYTES]);
        head.extend_from_slice(br#"{"tool_call_id":"#);
        let written = serde_json::to_writer(&mut head, tool_call_id);
        debug_assert!(written.is_ok(), "text can be written to memory");
        head.extend_from_slice(br#","chunk":"#);
        for part in header {
            head.extend_from_slice(part);
        }
        head.push(b'}');
        let length = (head.len() - LENGTH_BYTES) as u64;
        head[..LENGTH_BYTES].copy_from_slice(&length.to_be_bytes());
        Packets::new(id, RESPONSE_CHUNK, head.into(), payload.clone())
    }
}
