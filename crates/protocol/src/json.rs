//! Reading JSON that somebody else wrote, with a bound on its nesting.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// The deepest nesting of objects and arrays that is read, the outermost one included.
///
/// The whole message header is counted. Whoever walks a value that came through here may recurse.
pub const MAX_JSON_DEPTH: usize = 128;

/// Parses a JSON text.
///
/// # Errors
///
/// When it is not JSON, or nested deeper than [`MAX_JSON_DEPTH`].
pub fn parse_json(text: &[u8]) -> Result<Value, InvalidJson> {
    parse::<Value>(text)
}

/// Parses a JSON text that has to be an object.
///
/// # Errors
///
/// When it is not JSON, not an object, or nested deeper than [`MAX_JSON_DEPTH`].
pub fn parse_json_object(text: &[u8]) -> Result<Map<String, Value>, InvalidJson> {
    match parse::<Value>(text)? {
        Value::Object(object) => Ok(object),
        _ => Err(InvalidJson::NotAnObject),
    }
}

/// Why a JSON text was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidJson {
    /// It is JSON, but not an object.
    #[error("expected a JSON object")]
    NotAnObject,
    /// It is not JSON.
    #[error("invalid JSON")]
    Syntax(#[source] serde_json::Error),
    /// It is nested too deeply.
    #[error("JSON is nested deeper than {MAX_JSON_DEPTH} levels")]
    TooDeep,
}

impl InvalidJson {
    /// The message and its cause in one line, for the peer who wrote the text.
    pub(crate) fn explain(&self) -> String {
        match self {
            Self::Syntax(error) => format!("{self}: {error}"),
            Self::NotAnObject | Self::TooDeep => self.to_string(),
        }
    }
}

fn parse<T: DeserializeOwned>(text: &[u8]) -> Result<T, InvalidJson> {
    // The scan comes first, so that the parser's recursion is bounded by our limit, and not by its
    // own, which is one level lower.
    if is_deeper_than(text, MAX_JSON_DEPTH) {
        return Err(InvalidJson::TooDeep);
    }
    let mut parser = serde_json::Deserializer::from_slice(text);
    parser.disable_recursion_limit();
    let value = T::deserialize(&mut parser).map_err(InvalidJson::Syntax)?;
    parser.end().map_err(InvalidJson::Syntax)?;
    Ok(value)
}

fn is_deeper_than(text: &[u8], limit: usize) -> bool {
    let mut depth = 0_usize;
    let mut in_string = false;
    let mut escaped = false;
    for byte in text {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'{' | b'[' => {
                depth += 1;
                if depth > limit {
                    return true;
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}
