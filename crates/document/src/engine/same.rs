//! Equality of two encoded values, at a cost proportional to the shorter one.
//!
//! Libraries encode one value in different ways: escapes, whitespace and numbers differ, and some
//! write an object's members in any order. Both encodings are walked side by side without building
//! values. Values are built only if the names of an object come in another order, and only if they
//! are small.

use serde_json::{Number, Value};

use super::content::read_value;
use crate::update::reader::Reader;

/// The maximal ratio of the lengths of two equal values: an escaped character takes six bytes, a
/// small number up to ten.
const LONGER: usize = 12;

/// The permitted difference in length in addition to the ratio.
const MORE_BYTES: usize = 64;

/// The maximal length of values that are built for a comparison.
const MADE_BYTES: usize = 1 << 20;

fn is_as_long(one: usize, other: usize) -> bool {
    one.max(other) <= one.min(other).saturating_mul(LONGER) + MORE_BYTES
}

/// Whether two JSON texts have the same value.
pub(super) fn is_same_json(one: &str, other: &str) -> bool {
    if one == other {
        return true;
    }
    if !is_as_long(one.len(), other.len()) {
        return false;
    }
    let (mut tokens, mut others) = (Tokens(one), Tokens(other));
    loop {
        let (token, other_token) = (tokens.next(), others.next());
        match (token, other_token) {
            (None, None) => return true,
            (Some(token), Some(other)) if is_same_token(token, other) => {}
            (Some(_), Some(_)) if tokens.are_behind_name() && others.are_behind_name() => break,
            _ => return false,
        }
    }
    if one.len().max(other.len()) > MADE_BYTES {
        return false;
    }
    let read = |text: &str| serde_json::from_str::<Value>(text).ok();
    read(one).is_some_and(|one| read(other).is_some_and(|other| is_same_value(&one, &other)))
}

/// Whether two values in lib0's encoding are the same.
pub(super) fn is_same_encoded(one: &[u8], other: &[u8]) -> bool {
    if one == other {
        return true;
    }
    if !is_as_long(one.len(), other.len()) {
        return false;
    }
    match is_same_walked(&mut Reader::new(one), &mut Reader::new(other)) {
        Some(is_same) => is_same,
        None if one.len().max(other.len()) > MADE_BYTES => false,
        None => {
            let read = |bytes| read_value(&mut Reader::new(bytes));
            read(one).is_some_and(|one| read(other).is_some_and(|o| is_same_value(&one, &o)))
        }
    }
}

/// `None` if a walk side by side does not suffice; recursive, within the depth that the scan of
/// every update checks.
fn is_same_walked(one: &mut Reader<'_>, other: &mut Reader<'_>) -> Option<bool> {
    let kinds = (*one.rest().first()?, *other.rest().first()?);
    match kinds {
        (119, 119) => {
            one.byte().ok()?;
            other.byte().ok()?;
            Some(one.string().ok()? == other.string().ok()?)
        }
        (117, 117) | (118, 118) => {
            one.byte().ok()?;
            other.byte().ok()?;
            let has_names = kinds.0 == 118;
            let size = 1 + usize::from(has_names);
            let count = one.count(size).ok()?;
            if other.count(size).ok()? != count {
                // Of two members with one name, the last is current.
                return (!has_names).then_some(false);
            }
            for _ in 0..count {
                if has_names && one.string().ok()? != other.string().ok()? {
                    return None;
                }
                if !is_same_walked(one, other)? {
                    return Some(false);
                }
            }
            Some(true)
        }
        // Bytes are equal to a list of numbers, too.
        (116..=118, 116..=118) => None,
        (116..=119, _) | (_, 116..=119) => Some(false),
        _ => Some(is_same_value(&read_value(one)?, &read_value(other)?)),
    }
}

/// The tokens of a JSON text, without whitespace.
struct Tokens<'a>(&'a str);

impl<'a> Tokens<'a> {
    fn next(&mut self) -> Option<&'a str> {
        let text = self.0.trim_start_matches([' ', '\t', '\n', '\r']);
        let length = match *text.as_bytes().first()? {
            b'"' => {
                let mut is_escaped = false;
                let end = text.bytes().skip(1).position(|byte| {
                    let is_end = byte == b'"' && !is_escaped;
                    is_escaped = byte == b'\\' && !is_escaped;
                    is_end
                });
                end.map_or(text.len(), |end| end + 2)
            }
            b'[' | b']' | b'{' | b'}' | b',' | b':' => 1,
            _ => {
                let is_end = |byte: u8| b"[]{},:\" \t\n\r".contains(&byte);
                text.bytes().position(is_end).unwrap_or(text.len())
            }
        };
        let (token, rest) = text.split_at(length);
        self.0 = rest;
        Some(token)
    }

    /// Whether the last token was the name of a member.
    fn are_behind_name(&self) -> bool {
        let text = self.0.trim_start_matches([' ', '\t', '\n', '\r']);
        text.starts_with(':')
    }
}

fn is_same_token(one: &str, other: &str) -> bool {
    if one == other {
        return true;
    }
    match (one.as_bytes().first(), other.as_bytes().first()) {
        (Some(b'"'), Some(b'"')) => {
            // Texts without escapes were compared byte by byte.
            (one.contains('\\') || other.contains('\\')) && {
                let text = |token| serde_json::from_str::<String>(token).ok();
                let one = text(one);
                one.is_some() && one == text(other)
            }
        }
        (Some(b'-' | b'0'..=b'9'), Some(b'-' | b'0'..=b'9')) => {
            let number = |token: &str| token.parse::<Number>().ok();
            match (number(one), number(other)) {
                (Some(one), Some(other)) => is_same_number(&one, &other),
                _ => false,
            }
        }
        _ => false,
    }
}

fn is_same_number(one: &Number, other: &Number) -> bool {
    one == other || one.as_f64() == other.as_f64()
}

/// Recursive: values have at most 128 levels.
fn is_same_value(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => is_same_number(one, other),
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len()
                && one
                    .iter()
                    .zip(other)
                    .all(|(one, other)| is_same_value(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one.iter().all(|(key, one)| {
                    other
                        .get(key)
                        .is_some_and(|other| is_same_value(one, other))
                })
        }
        _ => one == other,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::{is_same_encoded, is_same_json, is_same_value};
    use crate::test;
    use crate::update::writer;

    #[test]
    fn comparison_agrees_with_values() {
        let texts = [
            "1",
            "1.0",
            "1e0",
            "10",
            "-1",
            "null",
            "true",
            "\"1\"",
            "\"é\"",
            "\"\\u00e9\"",
            "\"\\\\\"",
            "\"\\\"\"",
            "[]",
            "[1]",
            " [ 1.0 ] ",
            "[1,1]",
            "[[1]]",
            "{}",
            "{\"a\":1,\"é\":[2]}",
            "{\"\\u00e9\":[2.0],\"a\":1}",
            "{\"a\":1,\"b\":[2]}",
            "{\"a\":2,\"é\":[2]}",
            "{\"a\":1}",
            "[{\"a\":1,\"b\":2},3]",
            "[{\"b\":2,\"a\":1},3]",
            "[{\"b\":2,\"a\":1},4]",
            "{\"a\":{\"x\":0,\"y\":1}}",
            "{\"a\":{\"y\":1,\"x\":0}}",
        ];
        for one in texts {
            for other in texts {
                let values = [one, other].map(|text| serde_json::from_str::<Value>(text).unwrap());
                let is_same = is_same_value(&values[0], &values[1]);
                assert_eq!(is_same_json(one, other), is_same, "{one} and {other}");
                let encoded = values.map(|value| {
                    let mut out = Vec::new();
                    writer::value(&mut out, &value);
                    out
                });
                let found = is_same_encoded(&encoded[0], &encoded[1]);
                assert_eq!(found, is_same, "{one} and {other}, encoded");
            }
        }
        // Bytes equal the list of the same numbers, and an integer the same number as a float.
        assert!(is_same_encoded(&[116, 2, 1, 2], &[117, 2, 125, 1, 125, 2]));
        assert!(is_same_encoded(&[125, 1], &[124, 0x3f, 0x80, 0, 0]));
        assert!(!is_same_encoded(&[116, 1, 1], &[118, 0]));
    }

    #[test]
    fn malformed_values_are_unequal() {
        for (one, other) in [
            ("\"", "\"\\"),
            ("[", "{"),
            ("", " "),
            ("{\"a\":", "{\"b\":"),
        ] {
            assert_eq!(is_same_json(one, other), one.trim() == other.trim());
        }
    }
}
