//! Contents: the values of requests, answers and chunks of streamed calls.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::code::ErrorCode;
use crate::field::{Fields, InvalidField, take_object};

/// A value with a type: a header, and for some types a payload.
///
/// # Wire form
///
/// | type | header fields | payload |
/// |---|---|---|
/// | `json` | `json` | |
/// | `text` | `text` | |
/// | `binary` | `headers` (object) | bytes |
/// | `file` | `name`, `mime_type` | bytes |
/// | `link` | `name`, `url` | |
/// | `empty` | | |
/// | `error` | `text`, `code` (optional) | |
/// | `control` | `method`; with `close` also `status_code`, `message` | |
/// | `raw` | `outputs` (list) | |
#[derive(Clone, PartialEq, Debug)]
pub enum Content {
    /// A JSON value.
    Json(Value),
    /// A text.
    Text(String),
    /// Bytes with descriptive headers.
    Binary {
        /// The description of the bytes; each tool defines its keys.
        headers: Map<String, Value>,
        /// The bytes.
        data: Bytes,
    },
    /// A file.
    File {
        /// The file's name.
        name: String,
        /// The file's media type.
        mime_type: String,
        /// The file's bytes.
        data: Bytes,
    },
    /// A link to a resource.
    Link {
        /// The name of the target, for people.
        name: String,
        /// The URL of the target.
        url: String,
    },
    /// Success without a result.
    Empty,
    /// A failure.
    Error {
        /// The defect and its remedy, for people.
        text: String,
        /// An [`ErrorCode`], or another number of an SDK.
        code: Option<i64>,
    },
    /// The beginning or the end of a streamed call.
    Control(Control),
    /// The outputs of a language model.
    Raw {
        /// The outputs, as returned by the model.
        outputs: Vec<Value>,
    },
}

/// The beginning or the end of a streamed call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Control {
    /// Begins a streamed call.
    Open,
    /// The sender will send no more chunks.
    Close {
        /// 1000 is normal, 1007 stands for invalid data.
        status_code: u16,
        /// The reason, for people.
        message: Option<String>,
    },
}

impl Control {
    /// The status code of a normal end.
    pub const NORMAL: u16 = 1000;
    /// The status code of an end due to invalid data.
    pub const INVALID_DATA: u16 = 1007;

    /// A normal end.
    pub const fn close() -> Self {
        Self::Close {
            status_code: Self::NORMAL,
            message: None,
        }
    }
}

impl Content {
    /// Creates an `error` with one of the protocol's codes.
    pub fn error(code: ErrorCode, text: impl Into<String>) -> Self {
        Self::Error {
            text: text.into(),
            code: Some(code.number()),
        }
    }

    /// Creates a normal `control/close`.
    pub const fn close() -> Self {
        Self::Control(Control::close())
    }

    /// Parses a content from its header and the payload of its message. The payload is ignored for
    /// types without one.
    ///
    /// # Errors
    ///
    /// If the type is unknown, or a field is missing or has a wrong type.
    pub fn from_parts(
        mut header: Map<String, Value>,
        payload: Bytes,
    ) -> Result<Self, InvalidContent> {
        let fields = Fields(&header);
        let kind: String = fields.string("type")?.chars().take(64).collect();
        // Large values are moved out of the header, since a copy would not be accounted for.
        let content = match kind.as_str() {
            // Any JSON value is valid, null included, but the field must be present.
            "json" => Self::Json(header.swap_remove("json").ok_or(InvalidField::Missing {
                field: "json",
                expected: "a JSON value",
            })?),
            "text" => {
                fields.string("text")?;
                match header.swap_remove("text") {
                    Some(Value::String(text)) => Self::Text(text),
                    _ => Self::Text(String::new()),
                }
            }
            "binary" => {
                fields.opt_object("headers")?;
                Self::Binary {
                    headers: take_object(&mut header, "headers").unwrap_or_default(),
                    data: payload,
                }
            }
            "file" => Self::File {
                name: fields.string("name")?.to_owned(),
                mime_type: fields.string("mime_type")?.to_owned(),
                data: payload,
            },
            "link" => Self::Link {
                name: fields.string("name")?.to_owned(),
                url: fields.string("url")?.to_owned(),
            },
            "empty" => Self::Empty,
            "error" => Self::Error {
                text: fields.string("text")?.to_owned(),
                code: fields.opt_i64("code")?,
            },
            "control" => Self::Control(read_control(fields)?),
            "raw" => {
                fields.list("outputs")?;
                match header.swap_remove("outputs") {
                    Some(Value::Array(outputs)) => Self::Raw { outputs },
                    _ => Self::Raw {
                        outputs: Vec::new(),
                    },
                }
            }
            _ => return Err(InvalidContent::UnknownType { name: kind }),
        };
        Ok(content)
    }

    /// The header of this content.
    pub fn header(&self) -> Map<String, Value> {
        let header = match self {
            Self::Json(json) => json!({"type": "json", "json": json}),
            Self::Text(text) => json!({"type": "text", "text": text}),
            Self::Binary { headers, .. } => json!({"type": "binary", "headers": headers}),
            Self::File {
                name, mime_type, ..
            } => json!({"type": "file", "name": name, "mime_type": mime_type}),
            Self::Link { name, url } => json!({"type": "link", "name": name, "url": url}),
            Self::Empty => json!({"type": "empty"}),
            Self::Error { text, code: None } => json!({"type": "error", "text": text}),
            Self::Error {
                text,
                code: Some(code),
            } => json!({"type": "error", "text": text, "code": code}),
            Self::Control(Control::Open) => json!({"type": "control", "method": "open"}),
            Self::Control(Control::Close {
                status_code,
                message: None,
            }) => json!({"type": "control", "method": "close", "status_code": status_code}),
            Self::Control(Control::Close {
                status_code,
                message: Some(message),
            }) => json!({
                "type": "control",
                "method": "close",
                "status_code": status_code,
                "message": message,
            }),
            Self::Raw { outputs } => json!({"type": "raw", "outputs": outputs}),
        };
        match header {
            Value::Object(header) => header,
            _ => Map::new(),
        }
    }

    /// The payload of this content; empty for types without one.
    pub fn payload(&self) -> Bytes {
        match self {
            Self::Binary { data, .. } | Self::File { data, .. } => data.clone(),
            _ => Bytes::new(),
        }
    }
}

/// A malformed content.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidContent {
    /// A field is missing or malformed.
    #[error(transparent)]
    Field(#[from] InvalidField),
    /// The content type is unknown.
    #[error("unsupported content type: {name}")]
    UnknownType {
        /// The name of the type.
        name: String,
    },
}

fn read_control(fields: Fields<'_>) -> Result<Control, InvalidField> {
    match fields.string("method")? {
        "open" => Ok(Control::Open),
        "close" => {
            let status_code = match fields.opt_u64("status_code")? {
                None => Control::NORMAL,
                Some(number) => {
                    u16::try_from(number).map_err(|_out_of_range| InvalidField::WrongType {
                        field: "status_code",
                        expected: "a number of at most 65535",
                    })?
                }
            };
            Ok(Control::Close {
                status_code,
                message: fields.opt_string("message")?.map(str::to_owned),
            })
        }
        _ => Err(InvalidField::WrongType {
            field: "method",
            expected: "`open` or `close`",
        }),
    }
}
