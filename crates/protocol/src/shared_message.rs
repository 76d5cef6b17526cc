//! A message for many recipients: it is encoded once, and they share the bytes.

use bytes::Bytes;

use crate::content::Content;
use crate::packet::{MessageId, Packets};
use crate::server_to_client::{MESSAGING, RESPONSE, ServerToClient};
use crate::storage::Entry;

/// An encoded message of the server; cheap to clone.
#[derive(Clone, Debug)]
pub struct SharedMessage {
    kind: &'static str,
    head: Bytes,
    payload: Bytes,
}

impl SharedMessage {
    /// A `messaging.send`, as encoded by
    /// [`Forwarded::encode`](crate::messaging::Forwarded::encode).
    pub fn messaging(head: Bytes, payload: Bytes) -> Self {
        Self {
            kind: MESSAGING,
            head,
            payload,
        }
    }

    /// An answer with the body `head`; it is sent with the request's id.
    pub fn answer(head: Bytes) -> Self {
        Self {
            kind: RESPONSE,
            head,
            payload: Bytes::new(),
        }
    }

    /// The body of the answer to `storage.list`, equal to that of [`list`](crate::storage::list). A
    /// folder may be large, so no values are built for its entries.
    pub fn answer_list(entries: impl Iterator<Item = Entry>) -> Vec<u8> {
        let mut head = vec![0; 8];
        head.extend_from_slice(br#"{"type":"json","json":{"files":["#);
        for (index, entry) in entries.enumerate() {
            if index > 0 {
                head.push(b',');
            }
            let written = serde_json::to_writer(&mut head, &entry.to_json());
            debug_assert!(written.is_ok(), "JSON can be written to memory");
        }
        head.extend_from_slice(b"]}}");
        let length = (head.len() - 8) as u64;
        head[..8].copy_from_slice(&length.to_be_bytes());
        head
    }

    /// The body of an answer.
    pub fn answer_head(content: &Content) -> Vec<u8> {
        Self::answer_head_of(content, 0)
    }

    /// The body of an answer of at most `bytes` bytes, allocated in advance. A longer answer
    /// is complete as well.
    pub fn answer_head_of(content: &Content, bytes: usize) -> Vec<u8> {
        // A description may be large, so its text is written in place, not copied into a
        // header first.
        let mut head = Vec::with_capacity(bytes.max(8));
        head.resize(8, 0);
        let written = match content {
            Content::Json(json) => {
                head.extend_from_slice(br#"{"type":"json","json":"#);
                let written = serde_json::to_writer(&mut head, json);
                head.push(b'}');
                written
            }
            other => serde_json::to_writer(&mut head, &other.header()),
        };
        debug_assert!(written.is_ok(), "JSON can be written to memory");
        let length = (head.len() - 8) as u64;
        head[..8].copy_from_slice(&length.to_be_bytes());
        head.shrink_to_fit();
        head
    }

    /// Encodes a message that is the same for all recipients.
    pub fn of(message: &ServerToClient) -> Self {
        Self {
            kind: message.kind(),
            head: message.head().into(),
            payload: message.payload(),
        }
    }

    /// Replaces the header by the result of `hold`, which must have the same bytes.
    #[must_use]
    pub fn held_by(self, hold: impl FnOnce(Bytes) -> Bytes) -> Self {
        let Self {
            kind,
            head,
            payload,
        } = self;
        let head = hold(head);
        Self {
            kind,
            head,
            payload,
        }
    }

    /// The size of its body in bytes.
    pub fn body_len(&self) -> usize {
        self.head.len() + self.payload.len()
    }

    /// Its body: the header with its length, and the payload.
    pub fn body(&self) -> (&Bytes, &Bytes) {
        (&self.head, &self.payload)
    }

    /// The type of the message.
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// The packets of the message.
    pub fn packets(&self, id: MessageId) -> Packets<'static> {
        Packets::new(id, self.kind, self.head.clone(), self.payload.clone())
    }
}
