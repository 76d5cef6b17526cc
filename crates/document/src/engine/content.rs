//! The content of operations. Values stay encoded until they are read.

use serde_json::{Map, Value};

use super::{KeyIndex, NodeIndex};
use crate::update::json::is_json;
use crate::update::reader::Reader;
use crate::update::{scan, writer};

/// The maximal bytes of a piece of long content that has several values.
const PIECE_BYTES: usize = 2 << 10;

/// The maximal number of values in such a piece.
const PIECE_VALUES: u32 = 128;

#[derive(Clone, Debug)]
pub(crate) enum Content {
    /// Deleted or collected.
    Deleted,
    /// A formatting mark; the value is JSON text.
    Format(KeyIndex, Box<str>),
    /// Consecutive JSON texts, each with a length prefix.
    Json(Box<[u8]>),
    Text(String),
    Type(NodeIndex),
    /// Consecutive encoded values.
    Values(Box<[u8]>),
    /// One value that can't be split, with its content number in updates: a binary or an
    /// embedded object.
    Whole(u8, Box<[u8]>),
}

impl Content {
    /// Splits off the content after this many operations of the total `length`; `true` if that is
    /// inside a character.
    pub(super) fn split(&mut self, at: u32, length: u32) -> (Self, bool) {
        match self {
            Self::Text(text) => {
                let (behind, is_within) = split_text(text, at, length);
                (Self::Text(behind), is_within)
            }
            Self::Values(bytes) => {
                let behind = split_bytes(bytes, at, |reader| reader.skip_value().is_ok());
                (Self::Values(behind), false)
            }
            Self::Json(bytes) => {
                let behind = split_bytes(bytes, at, |reader| reader.string().is_ok());
                (Self::Json(behind), false)
            }
            Self::Deleted | Self::Format(..) | Self::Type(_) | Self::Whole(..) => {
                (Self::Deleted, false)
            }
        }
    }

    /// Whether it should be divided into pieces before it is split.
    pub(super) fn is_long(&self, length: u32) -> bool {
        match self {
            Self::Text(text) => text.len() > 2 * PIECE_BYTES,
            Self::Values(bytes) | Self::Json(bytes) => {
                length > 2 * PIECE_VALUES || length > 1 && bytes.len() > 2 * PIECE_BYTES
            }
            Self::Deleted | Self::Format(..) | Self::Type(_) | Self::Whole(..) => false,
        }
    }

    /// The number of pieces into which the first split divides it, approximately.
    pub(super) fn pieces(&self, length: u32) -> usize {
        match self {
            _ if !self.is_long(length) => 0,
            Self::Values(bytes) | Self::Json(bytes) => pieces_of(bytes.len(), length),
            _ => pieces_of(self.value_bytes(), 0),
        }
    }

    /// All content in pieces, each with its number of operations. Splitting a piece is cheap.
    pub(super) fn into_pieces(self, length: u32) -> Vec<(u32, Self)> {
        match self {
            Self::Text(text) => {
                let pieces = pieces_of_text(&text, length).into_iter();
                pieces
                    .map(|(length, piece)| (length, Self::Text(piece.to_owned())))
                    .collect()
            }
            Self::Values(bytes) => {
                let pieces = pieces_of_bytes(&bytes, length, |reader| reader.skip_value().is_ok());
                let pieces = pieces.into_iter();
                pieces
                    .map(|(length, piece)| (length, Self::Values(piece.into())))
                    .collect()
            }
            Self::Json(bytes) => {
                let pieces = pieces_of_bytes(&bytes, length, |reader| reader.string().is_ok());
                let pieces = pieces.into_iter();
                pieces
                    .map(|(length, piece)| (length, Self::Json(piece.into())))
                    .collect()
            }
            whole => vec![(length, whole)],
        }
    }

    /// The single value of an attribute; `None` for a shared type or foreign content.
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

    /// A value of the same kind with empty lists, objects and strings, whose contents would take as
    /// many bytes or many times more.
    pub(crate) fn shallow(&self) -> Option<Value> {
        let of_text = |text: &str| match text.trim_start().as_bytes().first() {
            Some(b'[' | b'{' | b'"') if !is_json(text) => None,
            Some(b'[') => Some(Value::Array(Vec::new())),
            Some(b'{') => Some(Value::Object(Map::new())),
            Some(b'"') => Some(Value::String(String::new())),
            _ => serde_json::from_str(text).ok(),
        };
        match self {
            Self::Values(bytes) if matches!(bytes.first(), Some(116 | 117)) => {
                Some(Value::Array(Vec::new()))
            }
            Self::Values(bytes) if bytes.first() == Some(&118) => Some(Value::Object(Map::new())),
            Self::Values(bytes) if bytes.first() == Some(&119) => {
                Some(Value::String(String::new()))
            }
            Self::Text(_) => Some(Value::String(String::new())),
            Self::Json(bytes) => {
                let text = Reader::new(bytes).string().ok()?;
                Some(of_text(text).unwrap_or(Value::Null))
            }
            Self::Whole(5, bytes) => of_text(Reader::new(bytes).string().ok()?),
            Self::Whole(..) => Some(Value::Array(Vec::new())),
            _ => self.value(),
        }
    }

    /// Whether it is an infinite number or NaN, which other programs write in place of a number.
    pub(crate) fn is_beyond_numbers(&self) -> bool {
        let Self::Values(bytes) = self else {
            return false;
        };
        match bytes.split_first() {
            Some((123, bytes)) => {
                let first = bytes.first_chunk().map(|bytes| f64::from_be_bytes(*bytes));
                first.is_some_and(|number| !number.is_finite())
            }
            Some((124, bytes)) => {
                let first = bytes.first_chunk().map(|bytes| f32::from_be_bytes(*bytes));
                first.is_some_and(|number| !number.is_finite())
            }
            _ => false,
        }
    }

    /// The bytes of its encoded values.
    pub(crate) fn value_bytes(&self) -> usize {
        match self {
            Self::Values(bytes) | Self::Json(bytes) | Self::Whole(_, bytes) => bytes.len(),
            Self::Text(text) => text.len(),
            Self::Deleted | Self::Format(..) | Self::Type(_) => 0,
        }
    }

    /// Like [`Self::value`] for a string, without a copy.
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

/// The number of pieces of long content, approximately; a text has no values.
pub(crate) fn pieces_of(bytes: usize, values: u32) -> usize {
    bytes / PIECE_BYTES + (values / PIECE_VALUES) as usize
}

/// The byte at which a text is split after this many UTF-16 units; `true` if that is inside
/// a character.
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

/// A split character becomes U+FFFD on both sides, as in Yjs.
fn split_text(text: &mut String, at: u32, length: u32) -> (String, bool) {
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
    (behind, is_within)
}

/// Splits a text into pieces of whole characters, each with its number of UTF-16 units.
fn pieces_of_text(text: &str, length: u32) -> Vec<(u32, &str)> {
    let is_ascii = text.len() == length as usize;
    let mut pieces = Vec::with_capacity(text.len() / PIECE_BYTES + 1);
    let (mut rest, mut left) = (text, length);
    while rest.len() > PIECE_BYTES {
        let (piece, behind) = rest.split_at(rest.floor_char_boundary(PIECE_BYTES));
        let units = if is_ascii {
            piece.len()
        } else {
            scan::utf16_length(piece)
        };
        let units = super::index(units);
        pieces.push((units, piece));
        (rest, left) = (behind, left - units);
    }
    pieces.push((left, rest));
    pieces
}

/// Splits values into pieces, each with its number of values.
fn pieces_of_bytes(
    bytes: &[u8],
    length: u32,
    mut skip: impl FnMut(&mut Reader<'_>) -> bool,
) -> Vec<(u32, &[u8])> {
    let mut pieces = Vec::new();
    let mut reader = Reader::new(bytes);
    // The start of the current piece, and its number of values.
    let (mut start, mut count) = (0, 0);
    for _ in 0..length {
        let position = reader.position();
        let is_read = skip(&mut reader);
        debug_assert!(is_read, "content was scanned before");
        let is_full = count == PIECE_VALUES || reader.position() - start > PIECE_BYTES;
        if is_full && count > 0 {
            pieces.push((count, &bytes[start..position]));
            (start, count) = (position, 0);
        }
        count += 1;
    }
    pieces.push((count, &bytes[start..]));
    pieces
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

/// Reads one value in lib0's encoding, with at most 128 levels, which the scan of every
/// update checks.
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

/// Integers print without a fraction, as in JavaScript.
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
    /// Writes all operations from an offset on, in the form that follows the place in an update.
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
                    writer::string(out, &split_text(&mut whole, offset, length).0);
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
            Self::Values(_) | Self::Json(_) => {
                writer::unsigned(out, left.into());
                self.write_values(out, offset);
            }
            Self::Whole(_, bytes) => out.extend_from_slice(bytes),
        }
    }

    /// Writes its values from an offset on, without their count.
    pub(super) fn write_values(&self, out: &mut Vec<u8>, offset: u32) {
        let (Self::Values(bytes) | Self::Json(bytes)) = self else {
            return;
        };
        let mut reader = Reader::new(bytes);
        for _ in 0..offset {
            let skipped = match self {
                Self::Json(_) => reader.string().map(drop),
                _ => reader.skip_value(),
            };
            debug_assert!(skipped.is_ok(), "content was scanned before");
        }
        out.extend_from_slice(reader.rest());
    }

    /// The content number in updates.
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
