//! The log as JSON: one object per event, in the form of the library, but with texts quoted once.
//!
//! The server logs foreign names by their `Debug` form, which has quotes and escapes that keep a
//! line of text unambiguous. The library would put that form into a JSON string as it is.

use std::fmt;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::span::Record;
use tracing::{Event, Subscriber};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::registry::{LookupSpan, Scope};

use crate::output::terminal;

/// Formats events as JSON.
pub(super) struct Json;

impl<S> FormatEvent<S, JsonFields> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, JsonFields>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut timestamp = String::new();
        SystemTime.format_time(&mut Writer::new(&mut timestamp))?;
        let mut fields = Fields::default();
        event.record(&mut fields);
        let metadata = event.metadata();
        let target = fields.target.take();
        let mut line = Map::new();
        line.insert("timestamp".to_owned(), timestamp.into());
        line.insert("level".to_owned(), metadata.level().as_str().into());
        line.insert("fields".to_owned(), fields.values.into());
        let target = target.unwrap_or_else(|| metadata.target().to_owned());
        line.insert("target".to_owned(), target.into());
        let mut spans = Vec::new();
        for span in context.event_scope().into_iter().flat_map(Scope::from_root) {
            let extensions = span.extensions();
            let formatted = extensions.get::<FormattedFields<JsonFields>>();
            let mut span_fields = formatted.map(|fields| parsed(fields)).unwrap_or_default();
            span_fields.insert("name".to_owned(), span.name().into());
            spans.push(Value::from(span_fields));
        }
        if let Some(innermost) = spans.last() {
            line.insert("span".to_owned(), innermost.clone());
            line.insert("spans".to_owned(), spans.into());
        }
        // JSON itself escapes only the control characters below U+0020.
        let line = Value::from(line).to_string();
        writeln!(writer, "{}", terminal::json(&line))
    }
}

/// Formats the fields of spans as JSON objects.
pub(super) struct JsonFields;

impl<'writer> FormatFields<'writer> for JsonFields {
    fn format_fields<R: RecordFields>(
        &self,
        mut writer: Writer<'writer>,
        fields: R,
    ) -> fmt::Result {
        let mut visitor = Fields::default();
        fields.record(&mut visitor);
        write!(writer, "{}", Value::from(visitor.values))
    }

    fn add_fields(
        &self,
        current: &'writer mut FormattedFields<Self>,
        fields: &Record<'_>,
    ) -> fmt::Result {
        let mut visitor = Fields {
            values: parsed(current),
            target: None,
        };
        fields.record(&mut visitor);
        current.fields = Value::from(visitor.values).to_string();
        Ok(())
    }
}

fn parsed(fields: &str) -> Map<String, Value> {
    serde_json::from_str(fields).unwrap_or_default()
}

#[derive(Default)]
struct Fields {
    values: Map<String, Value>,
    /// The real target of an event of the `log` crate.
    target: Option<String>,
}

impl Fields {
    fn insert(&mut self, field: &Field, value: impl Into<Value>) {
        // Events of the `log` crate carry their source location, which is not printed.
        if !field.name().starts_with("log.") {
            self.values.insert(field.name().to_owned(), value.into());
        }
    }
}

impl Visit for Fields {
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.insert(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        let text = match field.name() {
            "message" => text,
            _ => unquoted(&text).unwrap_or(text),
        };
        self.insert(field, text);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.insert(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.insert(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "log.target" {
            self.target = Some(value.to_owned());
        }
        self.insert(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.insert(field, value);
    }
}

/// The text whose `Debug` form this is; `None` if it is that of no text.
fn unquoted(debug: &str) -> Option<String> {
    let inner = debug.strip_prefix('"')?.strip_suffix('"')?;
    let mut text = String::with_capacity(inner.len());
    let mut rest = inner.chars();
    while let Some(char) = rest.next() {
        text.push(match char {
            '"' => return None,
            '\\' => match rest.next()? {
                '0' => '\0',
                't' => '\t',
                'r' => '\r',
                'n' => '\n',
                'u' => {
                    let (digits, after) = rest.as_str().strip_prefix('{')?.split_once('}')?;
                    rest = after.chars();
                    char::from_u32(u32::from_str_radix(digits, 16).ok()?)?
                }
                escaped @ ('"' | '\'' | '\\') => escaped,
                _ => return None,
            },
            char => char,
        });
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_form_of_a_text_is_undone() {
        for text in [
            "",
            "ada",
            "zoë",
            "\"",
            "a\"b\\c'\0\t\r\n\x1b[2J\u{202e}\u{301}😀",
            "\\u{41}",
        ] {
            assert_eq!(unquoted(&format!("{text:?}")).as_deref(), Some(text));
        }
        for other in [
            "",
            "\"",
            "Some(\"a\")",
            "\"a\" is not \"b\"",
            "\"\\",
            "\"\\u{x}\"",
            "\"\\\"",
        ] {
            assert_eq!(unquoted(other), None, "{other}");
        }
    }
}
