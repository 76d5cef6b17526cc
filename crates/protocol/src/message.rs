//! The body of a message: a JSON header and a payload, before it is parsed as a request or
//! an answer.

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::code::ErrorCode;
use crate::content::Content;
use crate::field::InvalidField;
use crate::json::{InvalidJson, parse_json_object};
use crate::packet::{Message, MessageId, Packets};
use crate::server_to_client::ServerToClient;
use crate::trace::{META_KEY, TraceParent, take_trace};

/// The parts of a message's body.
///
/// # Wire form
///
/// ```text
/// u64 header length | header, JSON object, UTF-8 | payload bytes
/// ```
#[derive(Clone, PartialEq, Debug)]
pub struct Body {
    /// The header without `__meshagent__`.
    pub header: Map<String, Value>,
    /// The bytes after the header; shares memory with the message.
    pub payload: Bytes,
    /// The sender's trace context.
    pub trace: Option<TraceParent>,
}

impl Body {
    /// Parses a body.
    ///
    /// # Errors
    ///
    /// If the lengths are inconsistent, or the header is not a JSON object of limited depth.
    pub fn parse(body: &Bytes) -> Result<Self, InvalidBody> {
        let (header, payload) = split_body(body)?;
        let mut header = parse_json_object(header).map_err(InvalidBody::Header)?;
        let trace = take_trace(&mut header);
        Ok(Self {
            header,
            payload: body.slice_ref(payload),
            trace,
        })
    }

    /// The packets of a message with this body.
    pub fn packets<'a>(&self, id: MessageId, kind: &'a str) -> Packets<'a> {
        let header = match self.trace {
            Some(trace) => {
                let mut header = self.header.clone();
                header.insert(META_KEY.to_owned(), trace.to_meta());
                to_json_bytes(&header)
            }
            None => to_json_bytes(&self.header),
        };
        let mut head = Vec::with_capacity(8 + header.len());
        head.extend_from_slice(&(header.len() as u64).to_be_bytes());
        head.extend_from_slice(&header);
        Packets::new(id, kind, head.into(), self.payload.clone())
    }

    /// Appends the packets of a message with this body to `out`.
    pub fn encode(&self, id: MessageId, kind: &str, out: &mut Vec<Bytes>) {
        out.extend(self.packets(id, kind));
    }
}

/// The header and the payload of a body.
pub(crate) fn split_body(body: &[u8]) -> Result<(&[u8], &[u8]), InvalidBody> {
    let (length, rest) = body
        .split_first_chunk::<8>()
        .ok_or(InvalidBody::HeaderIncomplete)?;
    usize::try_from(u64::from_be_bytes(*length))
        .ok()
        .and_then(|length| rest.split_at_checked(length))
        .ok_or(InvalidBody::HeaderIncomplete)
}

/// Why a body is malformed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidBody {
    /// The header is not a JSON object.
    #[error("the message header is invalid: expected a JSON object")]
    Header(#[source] InvalidJson),
    /// The body ends within its header.
    #[error("the message header is incomplete")]
    HeaderIncomplete,
}

/// A malformed message, with the text of its rejection.
///
/// The answer is a `__response__` with this id: see [`response`](Self::response).
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{text}")]
#[non_exhaustive]
pub struct InvalidMessage {
    /// The message to answer.
    pub id: MessageId,
    /// The defect, for the peer.
    pub text: String,
}

impl InvalidMessage {
    pub(crate) fn new(id: MessageId, text: impl Into<String>) -> Self {
        Self {
            id,
            text: text.into(),
        }
    }

    pub(crate) fn from_body(id: MessageId, error: &InvalidBody) -> Self {
        let text = match error {
            InvalidBody::Header(cause) => format!("{error}: {}", cause.explain()),
            InvalidBody::HeaderIncomplete => error.to_string(),
        };
        Self::new(id, text)
    }

    pub(crate) fn from_field(id: MessageId, error: &InvalidField) -> Self {
        Self::new(id, error.to_string())
    }

    /// The error code of the answer.
    pub const fn code(&self) -> ErrorCode {
        ErrorCode::InvalidRequest
    }

    /// The answer to the message.
    pub fn response(&self) -> ServerToClient {
        ServerToClient::Response {
            request: self.id,
            content: Content::error(self.code(), self.text.clone()),
        }
    }
}

/// Parses the body of a message; the error can be sent to the peer.
pub(crate) fn parse_body(message: &Message) -> Result<Body, InvalidMessage> {
    Body::parse(&message.body).map_err(|error| InvalidMessage::from_body(message.id, &error))
}

fn to_json_bytes(header: &Map<String, Value>) -> Vec<u8> {
    serde_json::to_vec(header).expect("maps with string keys always serialize")
}
