//! The outline of a client's message: its request and the memory that parsing would take, without
//! building any values.

use crate::client_to_server::{INVOKE, LIST_TOOLKITS, REQUEST_CHUNK, SET_ATTRIBUTES};
use crate::json::scan;
use crate::message::{InvalidBody, InvalidMessage, split_body};
use crate::packet::Message;

/// What is known of a message before it is parsed.
///
/// The names are exact for messages as the SDKs write them. A client can hide or repeat names by
/// escapes, so rights are checked again after parsing.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Outline {
    /// The kind of request.
    pub asks: Asks,
    /// The size of the header in bytes.
    pub header_bytes: usize,
    /// An upper bound for the memory of the header as values, in bytes.
    pub parsed_bytes: usize,
}

/// The kind of request in a message.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Asks {
    /// A call of a tool; missing names are empty.
    Tool {
        /// The toolkit.
        toolkit: String,
        /// The tool.
        tool: String,
    },
    /// A chunk of a streamed call.
    Chunk {
        /// The call's id; empty if the message has none.
        tool_call_id: String,
    },
    /// A change of attributes.
    Attributes,
    /// Any message without an input.
    Other,
}

impl Outline {
    /// Returns the outline of a client's message.
    ///
    /// # Errors
    ///
    /// If the body ends within its header, or the header is nested too deeply.
    pub fn of(message: &Message) -> Result<Self, InvalidMessage> {
        let asks = match message.kind.as_str() {
            INVOKE => Asks::Tool {
                toolkit: String::new(),
                tool: String::new(),
            },
            REQUEST_CHUNK => Asks::Chunk {
                tool_call_id: String::new(),
            },
            SET_ATTRIBUTES => Asks::Attributes,
            LIST_TOOLKITS => Asks::Other,
            // The body of other messages is not parsed.
            _ => {
                return Ok(Self {
                    asks: Asks::Other,
                    header_bytes: 0,
                    parsed_bytes: 0,
                });
            }
        };
        let invalid = |error: &InvalidBody| InvalidMessage::from_body(message.id, error);
        let (header, _) = split_body(&message.body).map_err(|error| invalid(&error))?;
        let mut outline = Self {
            asks,
            header_bytes: header.len(),
            parsed_bytes: 0,
        };
        let weight = scan(header, |key, value| outline.note(key, value), None);
        outline.parsed_bytes = weight.map_err(|error| invalid(&InvalidBody::Header(error)))?;
        Ok(outline)
    }

    fn note(&mut self, key: &[u8], value: &[u8]) {
        let place = match (&mut self.asks, key) {
            (Asks::Tool { toolkit, .. }, br#""toolkit""#) => toolkit,
            (Asks::Tool { tool, .. }, br#""tool""#) => tool,
            (Asks::Chunk { tool_call_id }, br#""tool_call_id""#) => tool_call_id,
            _ => return,
        };
        *place = name(value);
    }
}

/// The text of a short JSON string; empty for other values.
fn name(json: &[u8]) -> String {
    const MAX_BYTES: usize = 2 << 10;
    if json.len() > MAX_BYTES {
        return String::new();
    }
    serde_json::from_slice(json).unwrap_or_default()
}
