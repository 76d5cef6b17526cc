//! The chunk that an editing client sends with each update, parsed without an intermediate tree.
//!
//! Almost all messages of a busy room have this one form. Its header takes a bounded number of
//! bytes and holds only short strings, so its memory need not be estimated first, and no map is
//! built but the one that the content contains. Every other message, a malformed one included, is
//! left to the general parser, which gives the same result for this form.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::client_to_server::{ClientToServer, Envelope, REQUEST_CHUNK};
use crate::content::Content;
use crate::field::MAX_NAME_BYTES;
use crate::message::split_body;
use crate::packet::Message;

/// The longest header that is parsed here, in bytes.
const MAX_HEADER_BYTES: usize = 1024;

/// The memory of a map with one entry, its key included, in bytes, at most.
const MAP_BYTES: usize = 320;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Header<'a> {
    #[serde(borrow)]
    tool_call_id: Cow<'a, str>,
    #[serde(borrow)]
    chunk: Chunk<'a>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Chunk<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    headers: Headers<'a>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Headers<'a> {
    #[serde(borrow)]
    kind: Cow<'a, str>,
}

/// Parses a message if it is a binary chunk whose headers are a `kind` and nothing else. The number
/// is an upper bound for the memory of the parsed header, in bytes.
pub(crate) fn parse(message: &Message) -> Option<(Envelope, usize)> {
    if message.kind != REQUEST_CHUNK {
        return None;
    }
    let (header, payload) = split_body(&message.body).ok()?;
    // Serde reads an array as a struct, too: its members in order, without their names.
    if header.len() > MAX_HEADER_BYTES || header.contains(&b'[') {
        return None;
    }
    // The strings, and the buffer for one with escapes, which grows by doubling.
    let parsed_bytes = 4 * header.len() + MAP_BYTES;
    let header: Header<'_> = serde_json::from_slice(header).ok()?;
    let is_name = !header.tool_call_id.is_empty() && header.tool_call_id.len() <= MAX_NAME_BYTES;
    if !is_name || header.chunk.kind != "binary" {
        return None;
    }
    let mut headers = Map::with_capacity(1);
    let kind = header.chunk.headers.kind.into_owned();
    headers.insert("kind".to_owned(), Value::String(kind));
    let data = if payload.is_empty() {
        Bytes::new()
    } else {
        message.body.slice_ref(payload)
    };
    let envelope = Envelope {
        id: message.id,
        trace: None,
        message: ClientToServer::RequestChunk {
            tool_call_id: header.tool_call_id.into_owned(),
            chunk: Content::Binary { headers, data },
        },
    };
    Some((envelope, parsed_bytes))
}
