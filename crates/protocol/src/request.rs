//! Shared parts of the toolkits' typed inputs: errors, and access to contents.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::general_purpose::GeneralPurposeConfig;
use base64::engine::{DecodePaddingMode, GeneralPurpose};
use bytes::Bytes;
use meshagent_rights::{DocPath, InvalidPath};
use serde_json::{Map, Value};

use crate::code::ErrorCode;
use crate::content::Content;
use crate::field::{Fields, InvalidField, take_object};

/// An invalid input of a tool, answered with this code and text.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{text}")]
#[non_exhaustive]
pub struct InvalidRequest {
    /// The error code of the answer.
    pub code: ErrorCode,
    /// The defect, for the peer.
    pub text: String,
}

impl InvalidRequest {
    /// Creates the error of a malformed request.
    pub fn new(text: impl Into<String>) -> Self {
        Self {
            code: ErrorCode::InvalidRequest,
            text: text.into(),
        }
    }

    /// The content of the answer.
    pub fn content(&self) -> Content {
        Content::error(self.code, self.text.clone())
    }
}

impl From<InvalidField> for InvalidRequest {
    fn from(error: InvalidField) -> Self {
        Self::new(error.to_string())
    }
}

impl From<InvalidPath> for InvalidRequest {
    fn from(error: InvalidPath) -> Self {
        Self::new(error.to_string())
    }
}

impl From<InvalidBase64> for InvalidRequest {
    fn from(error: InvalidBase64) -> Self {
        Self::new(error.to_string())
    }
}

/// A text that is not base64.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the bytes are not base64 text; encode them before sending")]
pub struct InvalidBase64(#[source] base64::DecodeError);

/// Decodes standard base64, with or without padding.
///
/// # Errors
///
/// If the text has other characters, whitespace included, or a wrong length.
pub fn decode_base64(text: &[u8]) -> Result<Vec<u8>, InvalidBase64> {
    BASE64.decode(text).map_err(InvalidBase64)
}

/// Encodes standard base64, with padding.
pub fn encode_base64(bytes: &[u8]) -> Bytes {
    BASE64.encode(bytes).into()
}

/// The object in a `json` content.
pub(crate) fn json_input(content: &Content) -> Result<Fields<'_>, InvalidRequest> {
    match content {
        Content::Json(Value::Object(object)) => Ok(Fields(object)),
        _ => Err(InvalidRequest::new(
            "the input must be a `json` content with an object",
        )),
    }
}

/// The owned object in a `json` content.
pub(crate) fn into_json_input(content: Content) -> Result<Map<String, Value>, InvalidRequest> {
    json_input(&content)?;
    match content {
        Content::Json(Value::Object(object)) => Ok(object),
        _ => Ok(Map::new()),
    }
}

/// Moves out an optional object.
pub(crate) fn take_opt_object(
    input: &mut Map<String, Value>,
    name: &'static str,
) -> Result<Option<Value>, InvalidRequest> {
    Fields(input).opt_object(name)?;
    Ok(take_object(input, name).map(Value::Object))
}

/// The headers and bytes of a `binary` content.
pub(crate) fn binary_input(content: &Content) -> Result<(Fields<'_>, &Bytes), InvalidRequest> {
    match content {
        Content::Binary { headers, data } => Ok((Fields(headers), data)),
        _ => Err(InvalidRequest::new(
            "a chunk of this call must be a `binary` content",
        )),
    }
}

/// A mandatory path; `code` is the toolkit's error code for invalid paths.
pub(crate) fn path_field(
    fields: Fields<'_>,
    name: &'static str,
    code: ErrorCode,
) -> Result<DocPath, InvalidRequest> {
    parse_path(fields.string(name)?, name, code)
}

/// A mandatory path other than the root.
pub(crate) fn file_path_field(
    fields: Fields<'_>,
    name: &'static str,
    code: ErrorCode,
) -> Result<DocPath, InvalidRequest> {
    let path = path_field(fields, name, code)?;
    if path.is_root() {
        return Err(InvalidRequest {
            code,
            text: format!(
                "the field `{name}` names the storage root, which is a folder; name something in it"
            ),
        });
    }
    Ok(path)
}

/// An optional path.
pub(crate) fn opt_path_field(
    fields: Fields<'_>,
    name: &'static str,
) -> Result<Option<DocPath>, InvalidRequest> {
    fields
        .opt_string(name)?
        .map(|text| parse_path(text, name, ErrorCode::InvalidRequest))
        .transpose()
}

/// An optional object.
pub(crate) fn opt_object_field(
    fields: Fields<'_>,
    name: &'static str,
) -> Result<Option<Value>, InvalidRequest> {
    Ok(fields.opt_object(name)?.cloned().map(Value::Object))
}

/// A `binary` content with these headers.
pub(crate) fn binary(headers: Value, data: Bytes) -> Content {
    let headers = match headers {
        Value::Object(headers) => headers,
        _ => Map::new(),
    };
    Content::Binary { headers, data }
}

fn parse_path(text: &str, name: &str, code: ErrorCode) -> Result<DocPath, InvalidRequest> {
    DocPath::parse(text).map_err(|error| InvalidRequest {
        code,
        text: format!("in the field `{name}`: {error}"),
    })
}

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);
