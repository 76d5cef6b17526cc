//! A chunk of a streamed answer that many get: what is the same for all of them is encoded once.

use std::sync::Arc;

use bytes::Bytes;

use crate::content::Content;
use crate::packet::{MessageId, Packets};
use crate::server_to_client::RESPONSE_CHUNK;

/// A chunk for many streams; cheap to clone.
#[derive(Clone, Debug)]
pub struct SharedChunk(Arc<Encoded>);

#[derive(Debug)]
struct Encoded {
    content: Content,
    /// The content's header as JSON.
    header: Vec<u8>,
    payload: Bytes,
}

impl SharedChunk {
    /// Encodes a chunk.
    pub fn new(content: Content) -> Self {
        let header = serde_json::Value::Object(content.header());
        Self(Arc::new(Encoded {
            header: header.to_string().into_bytes(),
            payload: content.payload(),
            content,
        }))
    }

    /// What it says.
    pub fn content(&self) -> &Content {
        &self.0.content
    }

    /// Bytes of its payload, which all of them share.
    pub fn payload_len(&self) -> usize {
        self.0.payload.len()
    }

    /// The packets of the message that carries it on one of the streams, equal to those of
    /// [`ServerToClient::ResponseChunk`](crate::ServerToClient::ResponseChunk).
    pub fn packets(&self, tool_call_id: &str, id: MessageId) -> Packets<'static> {
        const LENGTH_BYTES: usize = 8;
        let Encoded {
            header, payload, ..
        } = &*self.0;
        let around = LENGTH_BYTES + br#"{"tool_call_id":"","chunk":}"#.len();
        let mut head = Vec::with_capacity(around + tool_call_id.len() + header.len());
        head.extend_from_slice(&[0; LENGTH_BYTES]);
        head.extend_from_slice(br#"{"tool_call_id":"#);
        let written = serde_json::to_writer(&mut head, tool_call_id);
        debug_assert!(written.is_ok(), "text can be written to memory");
        head.extend_from_slice(br#","chunk":"#);
        head.extend_from_slice(header);
        head.push(b'}');
        let length = (head.len() - LENGTH_BYTES) as u64;
        head[..LENGTH_BYTES].copy_from_slice(&length.to_be_bytes());
        Packets::new(id, RESPONSE_CHUNK, head.into(), payload.clone())
    }
}
