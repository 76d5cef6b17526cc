//! Parsing of JSON from peers: a limit on its nesting, and an estimate of its memory.

use std::{fmt, slice};

use serde::Deserialize as _;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// The maximal nesting of objects and arrays, the outermost one included.
///
/// The nesting of the whole message header counts. Values that were parsed here may be
/// processed recursively.
pub const MAX_JSON_DEPTH: usize = 128;

/// Parses a JSON text.
///
/// # Errors
///
/// If it is not JSON, or nested deeper than [`MAX_JSON_DEPTH`].
pub fn parse_json(text: &[u8]) -> Result<Value, InvalidJson> {
    let mut members = Vec::new();
    scan(text, |_, _| {}, Some(&mut members))?;
    let mut members = members.iter();
    parse(text, |parser| Exact(&mut members).deserialize(parser))
}

/// Parses a JSON text that must be an object.
///
/// # Errors
///
/// If it is not JSON, not an object, or nested deeper than [`MAX_JSON_DEPTH`].
pub fn parse_json_object(text: &[u8]) -> Result<Map<String, Value>, InvalidJson> {
    match parse_json(text)? {
        Value::Object(object) => Ok(object),
        _ => Err(InvalidJson::NotAnObject),
    }
}

/// Checks a JSON text without building values.
pub(crate) fn check_json(text: &[u8]) -> Result<(), InvalidJson> {
    weigh_json(text)?;
    parse(text, |parser| IgnoredAny::deserialize(parser).map(|_| ()))
}

/// Why a JSON text was rejected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidJson {
    /// The text is JSON, but not an object.
    #[error("expected a JSON object")]
    NotAnObject,
    /// The text is not JSON.
    #[error("invalid JSON")]
    Syntax(#[source] serde_json::Error),
    /// The JSON is nested too deeply.
    #[error("JSON is nested deeper than {MAX_JSON_DEPTH} levels")]
    TooDeep,
}

impl InvalidJson {
    /// The message and its cause in one line, for the author of the text.
    pub(crate) fn explain(&self) -> String {
        match self {
            Self::Syntax(error) => format!("{self}: {error}"),
            Self::NotAnObject | Self::TooDeep => self.to_string(),
        }
    }
}

/// Parses a scanned text. The scan comes first, so that the parser's recursion is bounded by this
/// crate's limit and not by its own, which is one level lower.
fn parse<'a, T>(
    text: &'a [u8],
    read: impl FnOnce(
        &mut serde_json::Deserializer<serde_json::de::SliceRead<'a>>,
    ) -> serde_json::Result<T>,
) -> Result<T, InvalidJson> {
    let mut parser = serde_json::Deserializer::from_slice(text);
    parser.disable_recursion_limit();
    let value = read(&mut parser).map_err(InvalidJson::Syntax)?;
    parser.end().map_err(InvalidJson::Syntax)?;
    Ok(value)
}

/// Builds values whose containers have exact capacity. The numbers of members are known in advance,
/// in the order in which the containers begin. A container that grows takes up to three times that.
struct Exact<'a, 'm>(&'a mut slice::Iter<'m, u32>);

impl Exact<'_, '_> {
    fn members(&mut self) -> usize {
        self.0.next().map_or(0, |members| *members as usize)
    }
}

impl<'de> DeserializeSeed<'de> for Exact<'_, '_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Exact<'_, '_> {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut access: A) -> Result<Value, A::Error> {
        let mut list = Vec::with_capacity(self.members());
        while let Some(value) = access.next_element_seed(Exact(self.0))? {
            list.push(value);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut access: A) -> Result<Value, A::Error> {
        let mut object = Map::with_capacity(self.members());
        while let Some(key) = access.next_key::<String>()? {
            let value = access.next_value_seed(Exact(self.0))?;
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

/// Returns an upper bound for the memory that a JSON text takes as a [`Value`], in bytes, during
/// and after parsing. No value is built.
///
/// JSON with a few bytes per value is some forty times larger in memory, so the length of the text
/// says little.
///
/// # Errors
///
/// If it is nested deeper than [`MAX_JSON_DEPTH`].
pub fn weigh_json(text: &[u8]) -> Result<usize, InvalidJson> {
    scan(text, |_, _| {}, None)
}

/// Weighs a text and passes the strings directly in the outermost object to a callback: keys and
/// values in encoded form, quotes included. Stores an upper bound for the members of each container
/// in `members`.
pub(crate) fn scan<'a>(
    text: &'a [u8],
    mut field: impl FnMut(&'a [u8], &'a [u8]),
    mut members: Option<&mut Vec<u32>>,
) -> Result<usize, InvalidJson> {
    let mut open = [Container::default(); MAX_JSON_DEPTH];
    let mut depth = 0;
    let mut weight = Weight::default();
    // In the outermost object: the last string, and the key whose value it may be.
    let (mut last, mut key): (&[u8], &[u8]) = (b"", b"");
    let mut position = 0;
    while let Some(&byte) = text.get(position) {
        let start = position;
        position += 1;
        match byte {
            b'"' => {
                let (end, is_escaped) = string_end(text, position);
                weight.string(end - position, is_escaped);
                position = (end + 1).min(text.len());
                if depth == 1 {
                    last = text.get(start..position).unwrap_or_default();
                }
            }
            b'{' | b'[' => {
                let container = open.get_mut(depth).ok_or(InvalidJson::TooDeep)?;
                *container = Container {
                    is_object: byte == b'{',
                    commas: 0,
                    start,
                    number: weight.containers,
                };
                depth += 1;
                weight.containers += 1;
                if let Some(members) = &mut members {
                    members.push(0);
                }
            }
            b'}' | b']' => {
                if depth == 1 && !key.is_empty() && !last.is_empty() {
                    field(key, last);
                }
                if let Some(closed) = depth.checked_sub(1) {
                    depth = closed;
                    weight.container(&open[closed], start, members.as_deref_mut());
                }
                last = b"";
            }
            b',' => {
                if depth == 1 {
                    if !key.is_empty() && !last.is_empty() {
                        field(key, last);
                    }
                    (key, last) = (b"", b"");
                }
                if let Some(inner) = depth.checked_sub(1) {
                    open[inner].commas += 1;
                }
            }
            b':' if depth == 1 => (key, last) = (last, b""),
            b'0'..=b'9' | b'-' => {
                let digits =
                    |byte: &&u8| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
                let rest = text.get(position..).unwrap_or_default();
                let length = 1 + rest.iter().take_while(digits).count();
                position = start + length;
                weight.scratch = weight.scratch.max(length);
            }
            _ => {}
        }
    }
    // A truncated text is rejected only at its end, after everything before was built.
    for container in &open[..depth] {
        weight.container(container, text.len(), members.as_deref_mut());
    }
    Ok(weight.total())
}

#[derive(Clone, Copy, Default)]
struct Container {
    is_object: bool,
    commas: usize,
    /// Its start in the text.
    start: usize,
    /// The number of containers that began before it.
    number: usize,
}

impl Container {
    /// An upper bound for its members if it ends here. The shortest encodings of one are `0,` and
    /// `"":0,`; a text with more commas is not JSON.
    fn members(&self, end: usize) -> usize {
        let shortest = if self.is_object { 5 } else { 2 };
        (self.commas + 1).min((end - self.start) / shortest)
    }
}

/// The sums of a scan.
#[derive(Default)]
struct Weight {
    bytes: usize,
    containers: usize,
    /// The longest token that the parser assembles in a buffer of its own.
    scratch: usize,
}

impl Weight {
    fn string(&mut self, length: usize, is_escaped: bool) {
        const GRANULE: usize = 16;
        self.bytes += length.next_multiple_of(GRANULE);
        if is_escaped {
            self.scratch = self.scratch.max(length);
        }
    }

    fn container(&mut self, container: &Container, end: usize, noted: Option<&mut Vec<u32>>) {
        let members = container.members(end);
        if let Some(place) = noted.and_then(|noted| noted.get_mut(container.number)) {
            *place = u32::try_from(members).unwrap_or(u32::MAX);
        }
        let bytes = if container.is_object {
            object_bytes(members)
        } else {
            members.saturating_mul(size_of::<Value>())
        };
        self.bytes = self.bytes.saturating_add(bytes);
    }

    fn total(&self) -> usize {
        // A growing vector has up to twice the capacity of its content, and half of that again
        // while it moves.
        let grown = |bytes: usize| bytes.saturating_mul(3);
        // A vector has capacity for at least four.
        let noted = self.containers.max(4).saturating_mul(size_of::<u32>());
        size_of::<Value>()
            .saturating_add(self.bytes)
            .saturating_add(grown(noted))
            .saturating_add(grown(self.scratch))
    }
}

/// The allocation of a map with this capacity: its entries, and a hash table of their positions, at
/// most seven eighths full.
fn object_bytes(members: usize) -> usize {
    const ENTRY: usize = size_of::<u64>() + size_of::<String>() + size_of::<Value>();
    const POSITION: usize = size_of::<usize>() + 1;
    const GROUP: usize = 16;
    if members == 0 {
        return 0;
    }
    let buckets = if members < 4 {
        4
    } else {
        (members.saturating_mul(8) / 7 + 1).next_power_of_two()
    };
    let table = buckets.saturating_mul(POSITION) + 2 * GROUP;
    table.saturating_add(members.saturating_mul(ENTRY))
}

/// The end of a string that begins at `position`, and whether it has escapes.
fn string_end(text: &[u8], mut position: usize) -> (usize, bool) {
    let mut is_escaped = false;
    while let Some(byte) = text.get(position) {
        match byte {
            b'"' => break,
            b'\\' => {
                is_escaped = true;
                position += 2;
            }
            _ => position += 1,
        }
    }
    (position.min(text.len()), is_escaped)
}
