//! JSON in the format of the published command, which is that of Python; but whole numbers have
//! no fraction.

use std::fmt::Write as _;

use serde_json::{Number, Value};

use super::terminal::is_control;

/// Whole numbers below this are printed with all digits, as in JavaScript.
const MAX_PLAIN: f64 = 1e21;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Layout {
    /// On one line, with a space after each comma and colon.
    Compact,
    /// One line per value, indented by two spaces.
    Pretty,
}

/// Formats a value, without a trailing newline.
pub(crate) fn text(value: &Value, layout: Layout, is_ascii: bool, is_colored: bool) -> String {
    let mut printer = Printer {
        out: String::new(),
        layout,
        is_ascii,
        is_colored,
    };
    printer.value(value, 0);
    printer.out
}

struct Printer {
    out: String,
    layout: Layout,
    is_ascii: bool,
    is_colored: bool,
}

impl Printer {
    /// Recurses as deep as the value, whose depth is bounded when it is read.
    fn value(&mut self, value: &Value, level: usize) {
        match value {
            Value::Null => self.out.push_str("null"),
            Value::Bool(value) => self.out.push_str(if *value { "true" } else { "false" }),
            Value::Number(number) => self.out.push_str(&python_number(number)),
            Value::String(text) => self.string(text, "\x1b[32m"),
            Value::Array(items) => {
                self.out.push('[');
                for (index, item) in items.iter().enumerate() {
                    self.separate(index, level + 1);
                    self.value(item, level + 1);
                }
                self.close(items.is_empty(), ']', level);
            }
            Value::Object(fields) => {
                self.out.push('{');
                for (index, (name, item)) in fields.iter().enumerate() {
                    self.separate(index, level + 1);
                    self.string(name, "\x1b[36m");
                    self.out.push_str(": ");
                    self.value(item, level + 1);
                }
                self.close(fields.is_empty(), '}', level);
            }
        }
    }

    fn separate(&mut self, index: usize, level: usize) {
        match (self.layout, index) {
            (Layout::Compact, 0) => {}
            (Layout::Compact, _) => self.out.push_str(", "),
            (Layout::Pretty, 0) => self.begin_line(level),
            (Layout::Pretty, _) => {
                self.out.push(',');
                self.begin_line(level);
            }
        }
    }

    fn close(&mut self, is_empty: bool, bracket: char, level: usize) {
        if self.layout == Layout::Pretty && !is_empty {
            self.begin_line(level);
        }
        self.out.push(bracket);
    }

    fn begin_line(&mut self, level: usize) {
        self.out.push('\n');
        self.out.extend(std::iter::repeat_n("  ", level));
    }

    fn string(&mut self, text: &str, color: &str) {
        if self.is_colored {
            self.out.push_str(color);
        }
        self.out.push('"');
        for char in text.chars() {
            match char {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                ' '..='~' => self.out.push(char),
                // A terminal would interpret control characters.
                _ if self.is_ascii || is_control(char) => self.escape(char),
                _ => self.out.push(char),
            }
        }
        self.out.push('"');
        if self.is_colored {
            self.out.push_str("\x1b[0m");
        }
    }

    fn escape(&mut self, char: char) {
        for unit in char.encode_utf16(&mut [0; 2]) {
            // Writing to a `String` never fails.
            let _ = write!(self.out, "\\u{unit:04x}");
        }
    }
}

fn python_number(number: &Number) -> String {
    match number.as_f64() {
        Some(float) if number.is_f64() => python_float(float),
        _ => number.to_string(),
    }
}

fn python_float(float: f64) -> String {
    // The shortest digits that parse to the same number, as in Python and JavaScript.
    let shortest = format!("{float:e}");
    let Some((mantissa, exponent)) = shortest.split_once('e') else {
        return shortest;
    };
    let exponent: i32 = exponent.parse().unwrap_or_default();
    let (sign, mantissa) = match mantissa.strip_prefix('-') {
        Some(mantissa) => ("-", mantissa),
        None => ("", mantissa),
    };
    if float == 0.0 {
        return "0".to_owned();
    }
    if float.fract() == 0.0 && float.abs() < MAX_PLAIN {
        let digits = mantissa.replace('.', "");
        let zeros = usize::try_from(exponent).unwrap_or_default() + 1 - digits.len();
        return format!("{sign}{digits}{}", "0".repeat(zeros));
    }
    if (-4..16).contains(&exponent) {
        return format!("{float}");
    }
    let exponent_sign = if exponent < 0 { '-' } else { '+' };
    format!(
        "{sign}{mantissa}e{exponent_sign}{:02}",
        exponent.unsigned_abs()
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(value: &Value, layout: Layout, expected: &str) {
        assert_eq!(text(value, layout, true, false), expected);
    }

    #[test]
    fn layouts_match_python() {
        let value = json!({"a": [1, {"b": []}, {}], "c": null, "d": [true]});
        check(
            &value,
            Layout::Compact,
            r#"{"a": [1, {"b": []}, {}], "c": null, "d": [true]}"#,
        );
        check(
            &value,
            Layout::Pretty,
            "{\n  \"a\": [\n    1,\n    {\n      \"b\": []\n    },\n    {}\n  ],\n  \
             \"c\": null,\n  \"d\": [\n    true\n  ]\n}",
        );
    }

    #[test]
    fn strings_are_ascii_except_on_a_terminal() {
        let value = json!("ü 世 😀 \u{7f}\u{1}\u{85}\"\\\n");
        check(
            &value,
            Layout::Compact,
            "\"\\u00fc \\u4e16 \\ud83d\\ude00 \\u007f\\u0001\\u0085\\\"\\\\\\n\"",
        );
        assert_eq!(
            text(&value, Layout::Compact, false, false),
            "\"ü 世 😀 \\u007f\\u0001\\u0085\\\"\\\\\\n\""
        );
        assert_eq!(
            text(&json!({"k": "v"}), Layout::Compact, true, true),
            "{\x1b[36m\"k\"\x1b[0m: \x1b[32m\"v\"\x1b[0m}"
        );
    }

    #[test]
    fn numbers_match_python_except_for_whole_floats() {
        for (float, expected) in [
            (0.0, "0"),
            (-0.0, "0"),
            (2.0, "2"),
            (-120.0, "-120"),
            (2.5, "2.5"),
            (-0.0001, "-0.0001"),
            (0.00001, "1e-05"),
            (1.5e-7, "1.5e-07"),
            (1e16, "10000000000000000"),
            (1.234_567_890_123_456_8e20, "123456789012345680000"),
            (1e21, "1e+21"),
            (-1.5e300, "-1.5e+300"),
            (1_234_567_890_123_456.8, "1234567890123456.8"),
        ] {
            check(&json!(float), Layout::Compact, expected);
        }
        check(&json!(u64::MAX), Layout::Compact, "18446744073709551615");
    }
}
