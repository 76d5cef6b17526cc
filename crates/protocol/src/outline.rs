//! A client's message at first sight: what it asks for and what reading it would take, without building any of it.

use crate::client_to_server::{INVOKE, LIST_TOOLKITS, REQUEST_CHUNK, SET_ATTRIBUTES};
use crate::json::scan;
use crate::message::{InvalidBody, InvalidMessage, split_body};
use crate::packet::Message;

/// What a message says of itself before it is read.
///
/// The names are those that an honest client sends; whoever hides them behind escapes or repeats them is asked again
/// for its rights after the message was read.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Outline {
    /// What kind of message it is.
    pub asks: Asks,
    /// Bytes of its header.
    pub header_bytes: usize,
    /// Bytes that the header takes as values, at most.
    pub parsed_bytes: usize,
}

/// What a message asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Asks {
    /// To call a tool; the names are empty if the message has none.
    Tool {
        /// The toolkit.
        toolkit: String,
        /// The tool.
        tool: String,
    },
    /// To take a chunk of a call.
    Chunk {
        /// The call; empty if the message names none.
        tool_call_id: String,
    },
    /// To set attributes.
    Attributes,
    /// For nothing that takes an input.
    Other,
}

impl Outline {
    /// Looks at a client's message.
    ///
    /// # Errors
    ///
    /// When the body ends within its header, or the header is nested too deeply.
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
            // Its body is not looked at.
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

/// The text of a short JSON string; of others, nothing.
fn name(json: &[u8]) -> String {
    const MAX_BYTES: usize = 2 << 10;
    if json.len() > MAX_BYTES {
        return String::new();
    }
    serde_json::from_slice(json).unwrap_or_default()
}
