//! The toolkit `messaging`: the inputs of `send` and `broadcast`, and the messages
//! about participants.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::content::Content;
use crate::field::{Fields, InvalidField};
use crate::json::{check_json, parse_json};
use crate::request::{InvalidRequest, decode_base64, encode_base64, json_input};
use crate::server_to_client::ServerToClient;

/// The input of `send`, answered by `empty`.
///
/// ```text
/// json {"to_participant_id", "type", "message_json": JSON text,
///       "attachment_base64": base64 or null}
/// ```
#[derive(Clone, PartialEq, Debug)]
pub struct SendInput {
    /// The recipient's participant id.
    pub to_participant_id: String,
    /// The message to send.
    pub message: OutgoingMessage,
}

impl SendInput {
    /// Parses the input.
    ///
    /// # Errors
    ///
    /// If a field is missing or malformed.
    pub fn parse(content: &Content) -> Result<Self, InvalidRequest> {
        let fields = json_input(content)?;
        Ok(Self {
            to_participant_id: fields.string("to_participant_id")?.to_owned(),
            message: OutgoingMessage::from_fields(fields)?,
        })
    }

    /// Returns the input as the SDKs send it.
    pub fn to_content(&self) -> Content {
        let mut json = self.message.to_json();
        json.insert(
            "to_participant_id".to_owned(),
            self.to_participant_id.clone().into(),
        );
        Content::Json(json.into())
    }
}

/// The input of `broadcast`, answered by `empty`: that of `send` without a recipient.
#[derive(Clone, PartialEq, Debug)]
pub struct BroadcastInput {
    /// The message to all others.
    pub message: OutgoingMessage,
}

impl BroadcastInput {
    /// Parses the input.
    ///
    /// # Errors
    ///
    /// If a field is missing or malformed.
    pub fn parse(content: &Content) -> Result<Self, InvalidRequest> {
        let message = OutgoingMessage::from_fields(json_input(content)?)?;
        Ok(Self { message })
    }

    /// Returns the input as the SDKs send it.
    pub fn to_content(&self) -> Content {
        Content::Json(self.message.to_json().into())
    }
}

/// A message from a participant to others.
#[derive(Clone, PartialEq, Debug)]
pub struct OutgoingMessage {
    /// The type of the message, defined by the participants.
    pub kind: String,
    /// The JSON body.
    pub message: Value,
    /// The attachment; may be empty.
    pub attachment: Bytes,
}

impl OutgoingMessage {
    /// Converts the message to the form that its recipients get.
    pub fn deliver(self, from_participant_id: impl Into<String>) -> ServerToClient {
        ServerToClient::Messaging {
            from_participant_id: from_participant_id.into(),
            kind: self.kind,
            message: self.message,
            attachment: self.attachment,
        }
    }

    fn from_fields(fields: Fields<'_>) -> Result<Self, InvalidRequest> {
        let message = parse_json(fields.string("message_json")?.as_bytes()).map_err(|error| {
            InvalidRequest::new(format!("in the field `message_json`: {}", error.explain()))
        })?;
        let attachment = match fields.opt_string("attachment_base64")? {
            None => Bytes::new(),
            Some(text) => decode_base64(text.as_bytes())
                .map_err(|error| {
                    InvalidRequest::new(format!("in the field `attachment_base64`: {error}"))
                })?
                .into(),
        };
        Ok(Self {
            kind: fields.string("type")?.to_owned(),
            message,
            attachment,
        })
    }

    fn to_json(&self) -> Map<String, Value> {
        let mut json = Map::new();
        json.insert("type".to_owned(), self.kind.clone().into());
        json.insert("message_json".to_owned(), self.message.to_string().into());
        if !self.attachment.is_empty() {
            let attachment = encode_base64(&self.attachment);
            let attachment = String::from_utf8_lossy(&attachment).into_owned();
            json.insert("attachment_base64".to_owned(), attachment.into());
        }
        json
    }
}

/// The types of messages about participants, which only the server may send.
const NEWS: [&str; 4] = [
    "messaging.enabled",
    "participant.enabled",
    "participant.disabled",
    "participant.attributes",
];

/// A message from a participant to others, with a JSON text that was checked but not parsed.
///
/// Forwarding needs no values, which take many times the memory of the text.
#[derive(Clone, Copy, Debug)]
pub struct Forwarded<'a> {
    kind: &'a str,
    message_json: &'a str,
    attachment_base64: Option<&'a str>,
}

impl<'a> Forwarded<'a> {
    /// Parses the input of `broadcast`, or of `send`, which also has a recipient.
    ///
    /// # Errors
    ///
    /// If a field is missing or malformed.
    pub fn parse(content: &'a Content) -> Result<(Option<&'a str>, Self), InvalidRequest> {
        let fields = json_input(content)?;
        let message_json = fields.string("message_json")?;
        check_json(message_json.as_bytes()).map_err(|error| {
            InvalidRequest::new(format!("in the field `message_json`: {}", error.explain()))
        })?;
        let kind = fields.string("type")?;
        if NEWS.contains(&kind) {
            let text = format!("only the server may send messages of type {kind:?}");
            return Err(InvalidRequest::new(text));
        }
        let forwarded = Self {
            kind,
            message_json,
            attachment_base64: fields.opt_string("attachment_base64")?,
        };
        Ok((fields.opt_string("to_participant_id")?, forwarded))
    }

    /// An upper bound for the bytes of the message to the recipients.
    pub fn max_bytes(&self) -> usize {
        const AROUND: usize = 256;
        let attachment = self.attachment_base64.map_or(0, str::len);
        // Every character of the type may need an escape.
        AROUND + self.kind.len() * 6 + self.message_json.len() + attachment
    }

    /// Encodes the message to the recipients: the head of its body, and the attachment.
    ///
    /// # Errors
    ///
    /// If the attachment is not base64.
    pub fn encode(&self, from_participant_id: &str) -> Result<(Vec<u8>, Vec<u8>), InvalidRequest> {
        let attachment = match self.attachment_base64 {
            None => Vec::new(),
            Some(text) => decode_base64(text.as_bytes()).map_err(|error| {
                InvalidRequest::new(format!("in the field `attachment_base64`: {error}"))
            })?,
        };
        let (from, kind) = (Value::from(from_participant_id), Value::from(self.kind));
        let header = format!(
            r#"{{"from_participant_id":{from},"type":{kind},"message":{}}}"#,
            self.message_json
        );
        let mut head = Vec::with_capacity(8 + header.len());
        head.extend_from_slice(&(header.len() as u64).to_be_bytes());
        head.extend_from_slice(header.as_bytes());
        Ok((head, attachment))
    }
}

/// A participant as seen by others.
#[derive(Clone, PartialEq, Debug)]
pub struct Participant {
    /// The participant's id, unique per connection.
    pub id: String,
    /// The role in its token.
    pub role: String,
    /// Its attributes, including `name`.
    pub attributes: Map<String, Value>,
}

impl Participant {
    /// Parses a participant in a message about it.
    ///
    /// # Errors
    ///
    /// If a field is missing or malformed.
    pub fn from_json(value: &Value) -> Result<Self, InvalidField> {
        let Value::Object(object) = value else {
            return Err(InvalidField::WrongType {
                field: "participants",
                expected: "a list of objects",
            });
        };
        let fields = Fields(object);
        Ok(Self {
            id: fields.string("id")?.to_owned(),
            role: fields.string("role")?.to_owned(),
            attributes: fields
                .opt_object("attributes")?
                .cloned()
                .unwrap_or_default(),
        })
    }

    fn to_json(&self) -> Value {
        json!({"id": self.id, "role": self.role, "attributes": self.attributes})
    }
}

/// The message to a participant after its own `enable`: the other participants with
/// enabled messaging.
pub fn enabled(participant_id: &str, others: &[Participant]) -> ServerToClient {
    let others: Vec<Value> = others.iter().map(Participant::to_json).collect();
    about(
        participant_id,
        "messaging.enabled",
        json!({"participants": others}),
    )
}

/// The head of [`enabled`]'s body, written directly from the participants' data, which may be
/// large. Each participant is an id, a role and the attributes.
pub fn enabled_head<'a>(
    participant_id: &str,
    others: impl Iterator<Item = (&'a str, &'a str, &'a Map<String, Value>)>,
) -> Vec<u8> {
    let mut head = vec![0; 8];
    head.extend_from_slice(br#"{"from_participant_id":"#);
    write_json(&mut head, &participant_id);
    head.extend_from_slice(br#","type":"messaging.enabled","message":{"participants":["#);
    for (index, (id, role, attributes)) in others.enumerate() {
        if index > 0 {
            head.push(b',');
        }
        head.extend_from_slice(br#"{"id":"#);
        write_json(&mut head, &id);
        head.extend_from_slice(br#","role":"#);
        write_json(&mut head, &role);
        head.extend_from_slice(br#","attributes":"#);
        write_json(&mut head, attributes);
        head.push(b'}');
    }
    head.extend_from_slice(b"]}}");
    let length = (head.len() - 8) as u64;
    head[..8].copy_from_slice(&length.to_be_bytes());
    head
}

/// The message to the others after a participant's `enable`.
pub fn participant_enabled(participant: &Participant) -> ServerToClient {
    about(
        &participant.id,
        "participant.enabled",
        participant.to_json(),
    )
}

/// The message to the others after changes of attributes; contains only the changed ones.
pub fn participant_attributes(participant_id: &str, changed: Map<String, Value>) -> ServerToClient {
    about(
        participant_id,
        "participant.attributes",
        json!({"attributes": Value::Object(changed)}),
    )
}

/// The message to the others after a participant's `disable`, and after the end of its connection.
pub fn participant_disabled(participant_id: &str) -> ServerToClient {
    about(
        participant_id,
        "participant.disabled",
        json!({"id": participant_id}),
    )
}

fn write_json<T: serde::Serialize + ?Sized>(head: &mut Vec<u8>, value: &T) {
    let written = serde_json::to_writer(head, value);
    debug_assert!(written.is_ok(), "JSON can be written to memory");
}

fn about(participant_id: &str, kind: &str, message: Value) -> ServerToClient {
    ServerToClient::Messaging {
        from_participant_id: participant_id.to_owned(),
        kind: kind.to_owned(),
        message,
        attachment: Bytes::new(),
    }
}
