//! Escapes foreign text for a terminal: names, content of documents, messages of a server.
//!
//! A terminal interprets control characters, and Unicode's direction controls make a text look like
//! another one. All output for people passes through here, where such characters are escaped.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, Write as _};

/// Whether a character may control a terminal or change how the text around it looks.
pub(crate) fn is_control(char: char) -> bool {
    // C0, DEL and C1.
    char.is_control()
        || matches!(
            char,
            // Direction marks, embeddings, overrides and isolates.
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{206f}'
            // Line and paragraph separators, and interlinear annotations.
            | '\u{2028}' | '\u{2029}' | '\u{fff9}'..='\u{fffb}'
        )
}

/// Escapes a text for one line.
pub(crate) fn one_line(text: &str) -> Cow<'_, str> {
    escaped(text, |_| false)
}

/// Escapes a text of several lines. Lines after the first are indented, so that none can pose as
/// another message.
pub(crate) fn lines(text: &str) -> Cow<'_, str> {
    let escaped = escaped(text, |char| char == '\n');
    if !escaped.contains('\n') {
        return escaped;
    }
    let mut lines = escaped.split('\n');
    let mut indented = lines.next().unwrap_or_default().to_owned();
    for line in lines {
        let missing = line.len().min(2)
            - line
                .bytes()
                .take(2)
                .take_while(|byte| *byte == b' ')
                .count();
        indented.push('\n');
        indented.push_str(&"  "[..missing]);
        indented.push_str(line);
    }
    indented.into()
}

/// Escapes the JSON text of a library; its value stays the same.
pub(crate) fn json(text: &str) -> Cow<'_, str> {
    if !text.contains(|char| is_control(char) && char != '\n') {
        return text.into();
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for char in text.chars() {
        // A line feed in a string is escaped already.
        if is_control(char) && char != '\n' {
            // Writing to a `String` never fails.
            let _ = write!(escaped, "\\u{:04x}", u32::from(char));
        } else {
            escaped.push(char);
        }
    }
    escaped.into()
}

/// Escapes the content of a file, including bytes that are not UTF-8; lines and tabs are kept.
pub(crate) fn file(bytes: &[u8]) -> String {
    let mut shown = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        let text = chunk.valid().replace("\r\n", "\n");
        shown.push_str(&escaped(&text, |char| matches!(char, '\n' | '\t')));
        for byte in chunk.invalid() {
            let _ = write!(shown, "\\x{byte:02x}");
        }
    }
    shown
}

/// Prints a text on stderr. Errors are ignored: they could not be reported.
pub(crate) fn print_stderr(text: &str) {
    let mut stderr = io::stderr().lock();
    let _ = writeln!(stderr, "{}", lines(text));
    let _ = stderr.flush();
}

/// Escapes all control characters in Rust's notation, except those that are kept.
fn escaped(text: &str, is_kept: impl Fn(char) -> bool) -> Cow<'_, str> {
    let is_escaped = |char| is_control(char) && !is_kept(char);
    if !text.contains(is_escaped) {
        return text.into();
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for char in text.chars() {
        match char {
            char if !is_escaped(char) => escaped.push(char),
            '\n' => escaped.push_str("\\n"),
            '\r' => escaped.push_str("\\r"),
            '\t' => escaped.push_str("\\t"),
            char => {
                let _ = write!(escaped, "{}", char.escape_unicode());
            }
        }
    }
    escaped.into()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json as value};

    use super::*;

    #[test]
    fn all_control_characters_are_escaped() {
        let all: String = ('\0'..=char::MAX)
            .filter(|char| is_control(*char))
            .collect();
        assert_eq!(all.chars().count(), 33 + 32 + 3 + 5 + 10 + 2 + 3);
        let all = format!("ä{all}😀");
        assert!(!one_line(&all).contains(is_control));
        assert_eq!(
            one_line("\x1b[31m\u{9b}2J\u{202e}\r\n"),
            "\\u{1b}[31m\\u{9b}2J\\u{202e}\\r\\n"
        );
        assert_eq!(one_line("grün 世界 👩\u{200d}👩"), "grün 世界 👩\u{200d}👩");
        let left: Vec<char> = lines(&all)
            .chars()
            .filter(|char| is_control(*char))
            .collect();
        assert_eq!(left, ['\n']);
    }

    #[test]
    fn lines_after_the_first_are_indented() {
        assert_eq!(
            lines("a\nhint: b\n c\n  d\n\n\te"),
            "a\n  hint: b\n  c\n  d\n\n  \\te"
        );
    }

    #[test]
    fn json_keeps_its_value() {
        let foreign = value!({ "\u{7f}k": ["\u{85}\u{9b}31m", "\u{202e}ü\n", "\x1b"] });
        let text = serde_json::to_string_pretty(&foreign).unwrap_or_default();
        let shown = json(&text);
        assert!(
            !shown.contains(|char| is_control(char) && char != '\n'),
            "{shown}"
        );
        assert_eq!(serde_json::from_str::<Value>(&shown).ok(), Some(foreign));
    }

    #[test]
    fn files_keep_their_lines() {
        assert_eq!(
            file(b"a\tb\r\nc\rd\x1b]0;x\x07\n"),
            "a\tb\nc\\rd\\u{1b}]0;x\\u{7}\n"
        );
        assert_eq!(file(b"\xff\xc3\xbc\xc3"), "\\xffü\\xc3");
    }
}
