//! Reading JSON that somebody else wrote: a bound on its nesting, and what it will take in memory.

use std::{fmt, slice};

use serde::Deserialize as _;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

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
    let mut members = Vec::new();
    scan(text, |_, _| {}, Some(&mut members))?;
    let mut members = members.iter();
    parse(text, |parser| Exact(&mut members).deserialize(parser))
}

/// Parses a JSON text that has to be an object.
///
/// # Errors
///
/// When it is not JSON, not an object, or nested deeper than [`MAX_JSON_DEPTH`].
pub fn parse_json_object(text: &[u8]) -> Result<Map<String, Value>, InvalidJson> {
    match parse_json(text)? {
        Value::Object(object) => Ok(object),
        _ => Err(InvalidJson::NotAnObject),
    }
}

/// Checks a JSON text without building anything of it.
pub(crate) fn check_json(text: &[u8]) -> Result<(), InvalidJson> {
    weigh_json(text)?;
    parse(text, |parser| IgnoredAny::deserialize(parser).map(|_| ()))
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

/// Reads a text that was scanned. The scan comes first, so that the parser's recursion is bounded by our limit, and not
/// by its own, which is one level lower.
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

/// Builds values whose containers have room for their members and no more: how many there are, in the order in which
/// the containers begin, is known before. One that grows as it is read takes up to three times that.
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

/// Bytes that a JSON text takes as a [`Value`] at most, while it is parsed and after that, judged without making any.
///
/// A JSON text of a few bytes per value is some forty times larger in memory, so its own length says little.
///
/// # Errors
///
/// When it is nested deeper than [`MAX_JSON_DEPTH`].
pub fn weigh_json(text: &[u8]) -> Result<usize, InvalidJson> {
    scan(text, |_, _| {}, None)
}

/// Weighs a text and shows the strings that stand directly in the outermost object, keys and values as they are in the
/// text, quotes included. Puts how many members each container has, at most, into `members`.
pub(crate) fn scan<'a>(
    text: &'a [u8],
    mut field: impl FnMut(&'a [u8], &'a [u8]),
    mut members: Option<&mut Vec<u32>>,
) -> Result<usize, InvalidJson> {
    let mut open = [Container::default(); MAX_JSON_DEPTH];
    let mut depth = 0;
    let mut weight = Weight::default();
    // Of the outermost object: the last string, and the key that it may be the value of.
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
    // A text that ends too early is refused at its end, after all this was made.
    for container in &open[..depth] {
        weight.container(container, text.len(), members.as_deref_mut());
    }
    Ok(weight.total())
}

#[derive(Clone, Copy, Default)]
struct Container {
    is_object: bool,
    commas: usize,
    /// Where it begins in the text.
    start: usize,
    /// How many began before it.
    number: usize,
}

impl Container {
    /// How many members it has at most if it ends here. The shortest texts of one are `0,` and `"":0,`; what has more
    /// commas than that is no JSON.
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
    /// The longest token that the parser puts together in a buffer of its own.
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
        // A vector that grows has up to twice what is in it, and half of that again while it moves.
        let grown = |bytes: usize| bytes.saturating_mul(3);
        // A vector has room for four at least.
        let noted = self.containers.max(4).saturating_mul(size_of::<u32>());
        size_of::<Value>()
            .saturating_add(self.bytes)
            .saturating_add(grown(noted))
            .saturating_add(grown(self.scratch))
    }
}

/// What a map with room for so many members has allocated: its entries, and a hash table of their positions, filled to
/// seven eighths.
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

/// Where a string ends that begins at `position`, and whether it has escapes.
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
