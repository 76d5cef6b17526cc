//! The server's log on stderr: one line per event.
//!
//! Names of participants, paths and texts from requests are foreign data, so control characters in
//! them are escaped: they must not forge log lines or control a terminal.

mod json;
mod thread;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt;
use std::io::{self, IsTerminal as _};

use tracing::field::{Field, Visit};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::Writer;

use self::json::{Json, JsonFields};
use self::thread::Lines;
pub(crate) use self::thread::finish;
use crate::output::terminal;

/// Returns the directives of a filter, with `warning` for `warn` accepted. `None` if a level is
/// unknown. A word without a level must be one itself: the library would take it for the name of a
/// crate, and log nothing else.
pub(crate) fn directives(text: &str) -> Option<String> {
    // A filter by spans and their fields, which the library checks.
    if text.contains('[') {
        return Some(text.to_owned());
    }
    let mut directives = Vec::new();
    for directive in text.split(',') {
        let directive = directive.trim();
        directives.push(match directive.rsplit_once('=') {
            Some((target, name)) => format!("{target}={}", level(name)?),
            None => level(directive)?.to_owned(),
        });
    }
    Some(directives.join(","))
}

/// The level with this name.
fn level(name: &str) -> Option<&'static str> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let name = name.trim();
    if name.eq_ignore_ascii_case("warning") {
        return Some("warn");
    }
    LEVELS
        .into_iter()
        .find(|level| level.eq_ignore_ascii_case(name))
}

/// Writes the waiting lines when it is dropped.
#[must_use]
pub(crate) struct Log;

impl Drop for Log {
    fn drop(&mut self) {
        finish();
    }
}

/// Starts logging as text.
///
/// # Errors
///
/// If the system starts no thread.
pub(crate) fn start_text(filter: EnvFilter) -> io::Result<Log> {
    let lines = Lines::start(io::stderr())?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(move || lines.clone())
        .log_internal_errors(false)
        .with_ansi(io::stderr().is_terminal())
        .fmt_fields(EscapedFields)
        .init();
    log_panics();
    Ok(Log)
}

/// Starts logging as JSON objects.
///
/// # Errors
///
/// If the system starts no thread.
pub(crate) fn start_json(filter: EnvFilter) -> io::Result<Log> {
    let lines = Lines::start(io::stderr())?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(move || lines.clone())
        .log_internal_errors(false)
        .with_ansi(false)
        .fmt_fields(JsonFields)
        .event_format(Json)
        .init();
    log_panics();
    Ok(Log)
}

/// Makes panics events of the log. The standard library's message would wait for stderr, and
/// contain control characters as they are.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let backtrace = Backtrace::capture();
        let backtrace =
            (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
        tracing::error!(
            thread = thread.name(),
            location = panic.location().map(ToString::to_string),
            backtrace,
            "panic: {}",
            panic.payload_as_str().unwrap_or("without a text")
        );
    }));
}

/// Formats fields like the library, but escapes control characters in all of them.
struct EscapedFields;

impl<'writer> FormatFields<'writer> for EscapedFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut visitor = Visitor {
            writer,
            is_first: true,
            result: Ok(()),
        };
        fields.record(&mut visitor);
        visitor.result
    }
}

struct Visitor<'writer> {
    writer: Writer<'writer>,
    is_first: bool,
    result: fmt::Result,
}

impl Visitor<'_> {
    fn write(&mut self, field: &Field, value: &str) -> fmt::Result {
        // Events of the `log` crate carry their source location, which is not printed.
        if field.name().starts_with("log.") {
            return Ok(());
        }
        if !std::mem::take(&mut self.is_first) {
            self.writer.write_char(' ')?;
        }
        let value = terminal::one_line(value);
        match field.name() {
            "message" => write!(self.writer, "{value}"),
            name if self.writer.has_ansi_escapes() => {
                write!(self.writer, "\x1b[3m{name}\x1b[0m\x1b[2m=\x1b[0m{value}")
            }
            name => write!(self.writer, "{name}={value}"),
        }
    }
}

impl Visit for Visitor<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if self.result.is_ok() {
            self.result = self.write(field, &format!("{value:?}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn panics_are_events_with_escaped_text() {
        let buffer = Buffer::default();
        let output = buffer.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || output.clone())
            .with_ansi(false)
            .fmt_fields(EscapedFields)
            .finish();
        log_panics();
        tracing::subscriber::with_default(subscriber, || {
            let panicked = std::panic::catch_unwind(|| panic!("ä\x1b[2J\nERROR forged"));
            assert!(panicked.is_err());
        });
        let _ = std::panic::take_hook();
        let text = String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(
            text.contains("panic: ä") && text.contains("log.rs:"),
            "{text}"
        );
        assert!(!text.contains('\x1b'), "{text}");
    }
}
