//! The size of values as JSON and in memory, computed without building them.

use serde_json::Value;

use super::text::Formats;
use super::{Content, Engine, NodeIndex};
use crate::update::reader::Reader;

/// The bytes of a value in memory, without its text.
const VALUE_BYTES: usize = 72;

/// The bytes of an object's member, without its value.
const MEMBER_BYTES: usize = 56;

/// The maximal length of a number as text.
const NUMBER_TEXT: usize = 24;

/// The size of JSON in bytes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct JsonSize {
    /// The maximal length of its text.
    pub text: usize,
    /// The approximate memory of its values.
    pub memory: usize,
}

impl JsonSize {
    pub(crate) fn exceeds(&self, text: usize, memory: usize) -> bool {
        self.text > text || self.memory > memory
    }

    /// Adds lists and objects without their contents.
    pub(crate) fn add_containers(&mut self, count: usize) {
        self.add(3 * count, VALUE_BYTES * count);
    }

    /// Adds the name of a member.
    pub(crate) fn add_name(&mut self, name: &str) {
        self.add(escaped(name) + 1, MEMBER_BYTES + name.len());
    }

    /// Adds the value of an attribute.
    pub(crate) fn add_content(&mut self, content: &Content) {
        match content {
            Content::Values(bytes) => self.add_encoded(&mut Reader::new(bytes)).unwrap_or(()),
            Content::Json(bytes) | Content::Whole(5, bytes) => {
                self.add_json(Reader::new(bytes).string().unwrap_or_default());
            }
            Content::Whole(_, bytes) => self.add_list_of_bytes(bytes.len()),
            Content::Text(text) => self.add_text(text),
            Content::Deleted | Content::Format(..) | Content::Type(_) => {}
        }
    }

    fn add(&mut self, text: usize, memory: usize) {
        self.text = self.text.saturating_add(text);
        self.memory = self.memory.saturating_add(memory);
    }

    fn add_all(&mut self, other: Self) {
        self.add(other.text, other.memory);
    }

    fn subtract(&mut self, other: Self) {
        self.text = self.text.saturating_sub(other.text);
        self.memory = self.memory.saturating_sub(other.memory);
    }

    fn add_text(&mut self, text: &str) {
        self.add(escaped(text) + 1, VALUE_BYTES + text.len());
    }

    fn add_list_of_bytes(&mut self, length: usize) {
        self.add_containers(1);
        self.add(length.saturating_mul(4), length.saturating_mul(VALUE_BYTES));
    }

    /// Adds a value in lib0's encoding; recursive, within the depth that the scan of every update
    /// checks. `None` if it ends too early.
    fn add_encoded(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        match reader.byte().ok()? {
            122 | 123 => self.take(reader, 8)?,
            124 => self.take(reader, 4)?,
            125 => {
                let number = reader.signed().ok()?.unsigned_abs();
                let digits = number.checked_ilog10().unwrap_or(0) as usize + 1;
                self.add(digits + 2, VALUE_BYTES);
            }
            119 => self.add_text(reader.string().ok()?),
            118 => {
                self.add_containers(1);
                for _ in 0..reader.count(2).ok()? {
                    self.add_name(reader.string().ok()?);
                    self.add_encoded(reader)?;
                }
            }
            117 => {
                self.add_containers(1);
                for _ in 0..reader.count(1).ok()? {
                    self.add_encoded(reader)?;
                }
            }
            116 => {
                let length = reader.unsigned().ok()?;
                self.add_list_of_bytes(reader.take(length).ok()?.len());
            }
            // false, true and null
            _ => self.add(6, VALUE_BYTES),
        }
        Some(())
    }

    /// Adds a number of this many bytes.
    fn take(&mut self, reader: &mut Reader<'_>, bytes: u64) -> Option<()> {
        reader.take(bytes).ok()?;
        self.add(NUMBER_TEXT, VALUE_BYTES);
        Some(())
    }

    /// Adds JSON text, estimated by its punctuation.
    fn add_json(&mut self, json: &str) {
        let (mut in_text, mut is_escaped) = (false, false);
        let (mut values, mut members) = (1_usize, 0_usize);
        for byte in json.bytes() {
            match byte {
                _ if is_escaped => is_escaped = false,
                b'\\' if in_text => is_escaped = true,
                b'"' => in_text = !in_text,
                b',' | b'[' | b'{' if !in_text => values += 1,
                b':' if !in_text => members += 1,
                _ => {}
            }
        }
        let memory = values * VALUE_BYTES + members * MEMBER_BYTES + json.len();
        self.add(json.len() + 1, memory);
    }
}

impl Engine {
    /// Adds the delta of a text.
    pub(crate) fn measure_text(&self, node: NodeIndex, size: &mut JsonSize) {
        let of = |name: &str, value: &Value| {
            let mut one = JsonSize::default();
            one.add_name(name);
            one.add_json(&value.to_string());
            one
        };
        let mut formats = Formats::default();
        // The size of all current formats.
        let mut held = JsonSize::default();
        let mut is_first = true;
        for index in self.items(self.node(node).first) {
            let item = self.item(index);
            match &item.content {
                _ if item.is_deleted() => {}
                Content::Format(key, value) => {
                    let name = self.name(*key);
                    let before = formats.set(*key, name, value);
                    if !before.is_null() {
                        held.subtract(of(name, &before));
                    }
                    if let Some(now) = formats.now.get(&**name) {
                        held.add_all(of(name, now));
                    }
                }
                Content::Text(text) => {
                    if formats.begin_run() || is_first {
                        // {"insert":…,"attributes":{…}}
                        size.add_containers(2);
                        size.add_name("insert");
                        size.add_name("attributes");
                        size.add_text("");
                        size.add_all(held);
                    }
                    size.add(escaped(text), text.len());
                    is_first = false;
                }
                _ => {}
            }
        }
    }
}

/// The bytes of a text as a JSON string.
fn escaped(text: &str) -> usize {
    let more = text.bytes().map(|byte| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 8 | 12 => 1,
        0..0x20 => 5,
        _ => 0,
    });
    text.len() + 2 + more.sum::<usize>()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::JsonSize;
    use crate::engine::Content;
    use crate::test;
    use crate::update::writer;

    #[test]
    fn size_is_a_close_upper_bound() {
        let values = [
            json!(null),
            json!(true),
            json!(false),
            json!(-12),
            json!(1.25),
            json!("é\n\"\u{1}\\"),
            json!([0, [], {}, "x"]),
            json!({"a": {"b": [null, 3_000_000_000_i64]}, "c:,[": "\"[,"}),
        ];
        for value in values {
            let text = value.to_string();
            let mut encoded = Vec::new();
            writer::value(&mut encoded, &value);
            let mut as_text = Vec::new();
            writer::string(&mut as_text, &text);
            for content in [
                Content::Values(encoded.into()),
                Content::Whole(5, as_text.into()),
            ] {
                let mut size = JsonSize::default();
                size.add_content(&content);
                assert!(size.text >= text.len(), "{text}: {size:?}");
                assert!(size.text <= 2 * text.len() + 24, "{text}: {size:?}");
                assert!(size.memory >= count(&value) * 72, "{text}: {size:?}");
            }
        }
    }

    fn count(value: &Value) -> usize {
        1 + match value {
            Value::Array(items) => items.iter().map(count).sum::<usize>(),
            Value::Object(members) => members.values().map(count).sum(),
            _ => 0,
        }
    }
}
