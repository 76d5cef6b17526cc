//! What operations hold. Values stay as they were encoded until somebody reads them.

use serde_json::{Map, Value};

use super::{KeyIndex, NodeIndex};
use crate::update::reader::Reader;
use crate::update::writer;

#[derive(Debug)]
pub(crate) enum Content {
    /// Nothing is left.
    Deleted,
    /// A formatting mark; the value is JSON text.
    Format(KeyIndex, Box<str>),
    /// JSON texts, one behind the other, each with its length.
    Json(Box<[u8]>),
    Text(String),
    Type(NodeIndex),
    /// Values, one behind the other.
    Values(Box<[u8]>),
    /// One thing that can't be split, by its number in updates: a binary or an embedded object.
    Whole(u8, Box<[u8]>),
}

impl Content {
    /// Cuts off what comes after this many operations of all that it has.
    pub(super) fn split(&mut self, at: u32, length: u32) -> Self {
        match self {
            Self::Text(text) => Self::Text(split_text(text, at, length)),
            Self::Values(bytes) => {
                Self::Values(split_bytes(bytes, at, |reader| reader.skip_value().is_ok()))
            }
            Self::Json(bytes) => {
                Self::Json(split_bytes(bytes, at, |reader| reader.string().is_ok()))
            }
            Self::Deleted | Self::Format(..) | Self::Type(_) | Self::Whole(..) => Self::Deleted,
        }
    }

    /// The one value that an attribute holds; `None` if it is a shared type or something foreign.
    pub(crate) fn value(&self) -> Option<Value> {
        match self {
            Self::Values(bytes) => read_value(&mut Reader::new(bytes)),
            Self::Json(bytes) => {
                let text = Reader::new(bytes).string().ok()?;
                Some(serde_json::from_str(text).unwrap_or(Value::Null))
            }
            Self::Whole(5, bytes) => {
                let text = Reader::new(bytes).string().ok()?;
                serde_json::from_str(text).ok()
            }
            Self::Whole(_, bytes) => {
                let mut reader = Reader::new(bytes);
                let length = reader.unsigned().ok()?;
                let bytes = reader.take(length).ok()?;
                Some(bytes.iter().copied().map(Value::from).collect())
            }
            Self::Text(text) => Some(text.as_str().into()),
            Self::Deleted | Self::Format(..) | Self::Type(_) => None,
        }
    }

    /// The same, if it is a string, without a copy.
    pub(crate) fn as_str(&self) -> Option<&str> {
        let Self::Values(bytes) = self else {
            return None;
        };
        let mut reader = Reader::new(bytes);
        (reader.byte().ok()? == 119)
            .then(|| reader.string().ok())
            .flatten()
    }
}

/// The byte at which a text is cut after this many UTF-16 units; `true` if that is within a character.
pub(crate) fn byte_of(text: &str, length: u32, units: u32) -> (usize, bool) {
    if text.len() == length as usize {
        return (units as usize, false);
    }
    let mut passed = 0;
    for (at, character) in text.char_indices() {
        if passed == units {
            return (at, false);
        }
        passed += if character.len_utf16() == 2 { 2 } else { 1 };
        if passed > units {
            return (at, true);
        }
    }
    (text.len(), false)
}

/// Half a character becomes U+FFFD on both sides, as in Yjs.
fn split_text(text: &mut String, at: u32, length: u32) -> String {
    let (byte, is_within) = byte_of(text, length, at);
    let mut behind = text.split_off(byte);
    if text.len() < text.capacity() / 2 {
        text.shrink_to_fit();
    }
    if is_within {
        text.push('\u{fffd}');
        behind = std::iter::once('\u{fffd}')
            .chain(behind.chars().skip(1))
            .collect();
    }
    behind
}

fn split_bytes(
    bytes: &mut Box<[u8]>,
    at: u32,
    mut skip: impl FnMut(&mut Reader<'_>) -> bool,
) -> Box<[u8]> {
    let mut reader = Reader::new(bytes);
    for _ in 0..at {
        if !skip(&mut reader) {
            break;
        }
    }
    let behind: Box<[u8]> = reader.rest().into();
    let before = bytes.len() - behind.len();
    *bytes = bytes[..before].into();
    behind
}

/// Reads one value in lib0's encoding; at most 128 levels deep, which the scan of every update sees to.
pub(crate) fn read_value(reader: &mut Reader<'_>) -> Option<Value> {
    Some(match reader.byte().ok()? {
        120 => Value::Bool(true),
        121 => Value::Bool(false),
        122 => Value::from(i64::from_be_bytes(reader.take(8).ok()?.try_into().ok()?)),
        123 => number(f64::from_be_bytes(reader.take(8).ok()?.try_into().ok()?)),
        124 => number(f64::from(f32::from_be_bytes(
            reader.take(4).ok()?.try_into().ok()?,
        ))),
        125 => Value::from(reader.signed().ok()?),
        119 => Value::from(reader.string().ok()?),
        118 => {
            let count = reader.count(2).ok()?;
            let mut members = Map::new();
            for _ in 0..count {
                let key = reader.string().ok()?.to_owned();
                members.insert(key, read_value(reader)?);
            }
            Value::Object(members)
        }
        117 => {
            let count = reader.count(1).ok()?;
            let mut items = Vec::with_capacity(count.min(1 << 10));
            for _ in 0..count {
                items.push(read_value(reader)?);
            }
            Value::Array(items)
        }
        116 => {
            let length = reader.unsigned().ok()?;
            let bytes = reader.take(length).ok()?;
            bytes.iter().copied().map(Value::from).collect()
        }
        _ => Value::Null,
    })
}

/// Whole numbers print without a fraction, as in JavaScript.
#[expect(clippy::cast_possible_truncation, reason = "checked to be exact")]
fn number(float: f64) -> Value {
    const EXACT: f64 = 9_007_199_254_740_991.0;
    if float.fract() == 0.0 && float.abs() <= EXACT {
        Value::from(float as i64)
    } else {
        serde_json::Number::from_f64(float).map_or(Value::Null, Value::Number)
    }
}

impl Content {
    /// Writes all operations from an offset on, as an update has them behind their place.
    pub(super) fn write(
        &self,
        out: &mut Vec<u8>,
        length: u32,
        offset: u32,
        name: impl Fn(KeyIndex) -> std::sync::Arc<str>,
        type_of: impl Fn(NodeIndex) -> (u8, Option<std::sync::Arc<str>>),
    ) {
        let left = length - offset;
        match self {
            Self::Deleted => writer::unsigned(out, left.into()),
            Self::Format(key, value) => {
                writer::string(out, &name(*key));
                writer::string(out, value);
            }
            Self::Text(text) => {
                let (byte, is_within) = byte_of(text, length, offset);
                if is_within {
                    let mut whole = text.clone();
                    writer::string(out, &split_text(&mut whole, offset, length));
                } else {
                    writer::string(out, &text[byte..]);
                }
            }
            Self::Type(node) => {
                let (number, tag) = type_of(*node);
                out.push(number);
                if let Some(tag) = tag {
                    writer::string(out, &tag);
                }
            }
            Self::Values(bytes) | Self::Json(bytes) => {
                writer::unsigned(out, left.into());
                let mut reader = Reader::new(bytes);
                for _ in 0..offset {
                    let skipped = match self {
                        Self::Json(_) => reader.string().map(drop),
                        _ => reader.skip_value(),
                    };
                    debug_assert!(skipped.is_ok(), "it was scanned before");
                }
                out.extend_from_slice(reader.rest());
            }
            Self::Whole(_, bytes) => out.extend_from_slice(bytes),
        }
    }

    /// The number of its kind in updates.
    pub(super) fn number(&self) -> u8 {
        match self {
            Self::Deleted => 1,
            Self::Json(_) => 2,
            Self::Whole(number, _) => *number,
            Self::Text(_) => 4,
            Self::Format(..) => 6,
            Self::Type(_) => 7,
            Self::Values(_) => 8,
        }
    }
}
