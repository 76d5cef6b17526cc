//! Validation of JSON text without building values, which would take many times its bytes.
//!
//! JavaScript produces two kinds of JSON that other readers reject: strings that are cut inside a
//! character and end in an escaped surrogate half, and values of unlimited depth.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// Whether `serde_json` can parse a text.
pub(crate) fn is_json(text: &str) -> bool {
    serde_json::from_str::<Skipped>(text).is_ok()
}

/// The maximal nesting of arrays and objects in `serde_json`, and so in readers that are built
/// on yrs.
const MAX_DEPTH: usize = 127;

/// The validity of a text as JSON.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Json {
    /// Valid for every reader.
    Sound,
    /// Valid if `fffd` replaces the four digits at each of these bytes, which escape a
    /// surrogate half.
    Halves(Vec<usize>),
    /// Valid for JavaScript alone: it nests too deeply, or has a number that is too large.
    Beyond,
    /// Not JSON.
    No,
}

/// Classifies a text more closely than [`is_json`].
pub(crate) fn check(text: &str) -> Json {
    if is_json(text) {
        return Json::Sound;
    }
    let mut grammar = Grammar::new(text);
    if grammar.document().is_none() {
        return Json::No;
    }
    let halves = grammar.halves;
    if grammar.is_deep || halves.is_empty() || !is_json(&without_halves(text, &halves)) {
        return Json::Beyond;
    }
    Json::Halves(halves)
}

/// The text with U+FFFD for the surrogate halves at these positions.
fn without_halves(text: &str, halves: &[usize]) -> String {
    let mut whole = String::with_capacity(text.len());
    let mut from = 0;
    for &at in halves {
        whole.push_str(&text[from..at]);
        whole.push_str("fffd");
        from = at + 4;
    }
    whole.push_str(&text[from..]);
    whole
}

/// The grammar of RFC 8259 without recursion.
struct Grammar<'a> {
    text: &'a [u8],
    at: usize,
    /// One entry per open array or object: whether it is an object.
    open: Vec<bool>,
    is_deep: bool,
    halves: Vec<usize>,
}

impl<'a> Grammar<'a> {
    fn new(text: &'a str) -> Self {
        Self {
            text: text.as_bytes(),
            at: 0,
            open: Vec::new(),
            is_deep: false,
            halves: Vec::new(),
        }
    }

    /// Reads one value; `None` if the text is not exactly one value.
    fn document(&mut self) -> Option<()> {
        // Whether the last opened array or object may close immediately.
        let mut is_fresh = false;
        loop {
            let ends = is_fresh && matches!(self.token()?, b']' | b'}');
            if !ends {
                if self.open.last() == Some(&true) {
                    self.token()?;
                    self.string()?;
                    self.expect(b':')?;
                }
                is_fresh = self.value()?;
                if is_fresh {
                    continue;
                }
            }
            is_fresh = false;
            // After a value: the closing bracket, or the next value.
            while let Some(&is_object) = self.open.last() {
                match self.token()? {
                    b',' => {
                        self.at += 1;
                        break;
                    }
                    b'}' if is_object => {}
                    b']' if !is_object => {}
                    _ => return None,
                }
                self.at += 1;
                self.open.pop();
            }
            if self.open.is_empty() {
                self.skip_space();
                return (self.at == self.text.len()).then_some(());
            }
        }
    }

    /// Reads a value, or the beginning of an array or object: then `true`.
    fn value(&mut self) -> Option<bool> {
        let first = self.token()?;
        match first {
            b'[' | b'{' => {
                self.at += 1;
                self.open.push(first == b'{');
                self.is_deep |= self.open.len() > MAX_DEPTH;
                return Some(true);
            }
            b'"' => self.string()?,
            b't' => self.literal(b"true")?,
            b'f' => self.literal(b"false")?,
            b'n' => self.literal(b"null")?,
            _ => self.number()?,
        }
        Some(false)
    }

    fn literal(&mut self, expected: &[u8]) -> Option<()> {
        let found = self.text[self.at..].starts_with(expected);
        self.at += expected.len();
        found.then_some(())
    }

    fn number(&mut self) -> Option<()> {
        self.at += usize::from(self.next() == Some(b'-'));
        let length = self.digits()?;
        if length == 0 || length > 1 && self.text[self.at - length] == b'0' {
            return None;
        }
        if self.next() == Some(b'.') {
            self.at += 1;
            (self.digits()? > 0).then_some(())?;
        }
        if matches!(self.next(), Some(b'e' | b'E')) {
            self.at += 1;
            self.at += usize::from(matches!(self.next(), Some(b'+' | b'-')));
            (self.digits()? > 0).then_some(())?;
        }
        Some(())
    }

    fn digits(&mut self) -> Option<usize> {
        let rest = self.text.get(self.at..)?;
        let count = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.at += count;
        Some(count)
    }

    fn string(&mut self) -> Option<()> {
        if self.next() != Some(b'"') {
            return None;
        }
        self.at += 1;
        loop {
            let byte = self.next()?;
            self.at += 1;
            match byte {
                b'"' => return Some(()),
                0..0x20 => return None,
                b'\\' => self.escape()?,
                _ => {}
            }
        }
    }

    /// Reads the rest of an escape after its backslash.
    fn escape(&mut self) -> Option<()> {
        let kind = self.next()?;
        self.at += 1;
        match kind {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => return Some(()),
            b'u' => {}
            _ => return None,
        }
        let place = self.at;
        let unit = self.unit(place)?;
        self.at += 4;
        match unit {
            0xd800..0xdc00 => {
                let is_escape = self.text[self.at..].starts_with(b"\\u");
                let second = if is_escape {
                    self.unit(self.at + 2)
                } else {
                    None
                };
                if matches!(second, Some(0xdc00..0xe000)) {
                    self.at += 6;
                } else {
                    self.halves.push(place);
                }
            }
            0xdc00..0xe000 => self.halves.push(place),
            _ => {}
        }
        Some(())
    }

    fn unit(&self, at: usize) -> Option<u32> {
        let digits = self.text.get(at..at + 4)?;
        digits.iter().try_fold(0, |unit, &digit| {
            Some(unit << 4 | char::from(digit).to_digit(16)?)
        })
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.token()? == byte).then(|| self.at += 1)
    }

    /// The first byte that is not whitespace.
    fn token(&mut self) -> Option<u8> {
        self.skip_space();
        self.next()
    }

    fn skip_space(&mut self) {
        while matches!(self.next(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn next(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }
}

/// A value that is parsed and discarded. Unlike serde's `IgnoredAny`, it has the same limits on
/// depth and numbers as a real value.
struct Skipped;

impl<'de> Deserialize<'de> for Skipped {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for Skipped {
    type Value = Self;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self, A::Error> {
        while items.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self, A::Error> {
        while members.next_entry::<Self, Self>()?.is_some() {}
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::{Json, check, is_json};
    use crate::test;

    #[test]
    fn grammar_accepts_same_json_as_serde() {
        let texts = [
            "null",
            "true",
            "false",
            "nul",
            "tru",
            "-1",
            "-",
            "01",
            "0",
            "-0",
            "1.",
            "1.5",
            ".5",
            "1e",
            "1e5",
            "1E+5",
            "1e-",
            "\"\"",
            "\"aé\"",
            "\"\\u00e9\"",
            "\"\\x\"",
            "\"\\\"",
            "\"\n\"",
            "[]",
            "[ ]",
            "[1]",
            "[1,]",
            "[,1]",
            "[1 2]",
            "[[],[[]]]",
            "{}",
            "{ }",
            "{\"a\":1}",
            "{\"a\":1,}",
            "{\"a\"}",
            "{\"a\":}",
            "{1:2}",
            "{\"a\":{\"b\":[{}]},\"c\":[]}",
            "[}",
            "{]",
            "[1}",
            "",
            " ",
            "1 2",
            " 1 ",
            "[",
            "{",
            "\"",
            "[1",
            "{\"a\":1",
            "\u{a0}1",
            "漢",
            "\"漢字🌿\"",
        ];
        for text in texts {
            let mut grammar = super::Grammar::new(text);
            assert_eq!(grammar.document().is_some(), is_json(text), "{text}");
            assert_eq!(
                (grammar.halves.len(), grammar.is_deep),
                (0, false),
                "{text}"
            );
        }
    }

    #[test]
    fn check_distinguishes_halves_and_depth() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        let (cut, pair) = ("\"cut \\ud83c\"", "\"\\ud83c\\udf3f\"");
        for (text, expected) in [
            (cut.to_owned(), Json::Halves(vec![7])),
            (pair.to_owned(), Json::Sound),
            (
                "{\"\\uDF3F\":\"\\ud83c\\ud83c\\udf3f\"}".to_owned(),
                Json::Halves(vec![4, 13]),
            ),
            ("\"\\ud83c\\u00e9\"".to_owned(), Json::Halves(vec![3])),
            ("\"\\ud83\"".to_owned(), Json::No),
            (format!("[{cut}"), Json::No),
            (nested(127), Json::Sound),
            (nested(128), Json::Beyond),
            (nested(100_000), Json::Beyond),
            (format!("[{cut},{}]", nested(200)), Json::Beyond),
            ("1e999".to_owned(), Json::Beyond),
            (format!("[1e999,{cut}]"), Json::Beyond),
            ("{\"a\":1".to_owned(), Json::No),
        ] {
            assert_eq!(check(&text), expected, "{}", &text[..text.len().min(40)]);
        }
    }

    #[test]
    fn is_json_agrees_with_serde_values() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        let texts = [
            "null",
            "true",
            "-1",
            "18446744073709551615",
            "1e300",
            "1e999",
            "\"😀\\u00e9\"",
            "\"\\ud800\"",
            "[]",
            "[1,[2,{}]]",
            "{\"a\":{\"b\":[null]}}",
            "{\"a\":1,\"a\":2}",
            "{1:2}",
            "[1,]",
            "",
            " ",
            "1 2",
            "\"",
            "[",
            "{\"a\"}",
            "nul",
        ];
        let texts = texts.map(str::to_owned).into_iter();
        for text in texts.chain([nested(127), nested(128), nested(100_000)]) {
            let is_value = serde_json::from_str::<serde_json::Value>(&text).is_ok();
            assert_eq!(is_json(&text), is_value, "{text}");
        }
    }
}
