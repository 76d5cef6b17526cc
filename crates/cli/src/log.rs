//! The server's log on stderr: one line per event.
//!
//! Names of participants, paths and texts from requests are foreign data, so control characters in
//! them are escaped: they must not forge log lines or control a terminal.

mod thread;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt;
use std::io::{self, IsTerminal as _, Write};

use tracing::field::{Field, Visit};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::Writer;

use self::thread::Lines;
pub(crate) use self::thread::finish;
use crate::output::terminal;

/// Returns the directives of a filter, with `warning` for `warn` accepted. `None` if one of them is
/// a single word but no level: the library would take it for the name of a crate, and log nothing
/// else.
pub(crate) fn directives(text: &str) -> Option<String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let mut directives = Vec::new();
    for directive in text.split(',') {
        let directive = directive.trim();
        let level = directive.to_ascii_lowercase();
        if level == "warning" {
            directives.push("warn");
        } else if LEVELS.contains(&level.as_str()) || directive.contains(['=', '_', ':', '[']) {
            directives.push(directive);
        } else {
            return None;
        }
    }
    Some(directives.join(","))
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
        .json()
        .with_writer(move || EscapedJson(lines.clone()))
        .log_internal_errors(false)
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

/// Escapes control characters in JSON, which itself escapes only those below U+0020. The library
/// writes each event in one call.
struct EscapedJson<W>(W);

impl<W: Write> Write for EscapedJson<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match std::str::from_utf8(bytes) {
            Ok(text) => self.0.write_all(terminal::json(text).as_bytes())?,
            Err(_) => self.0.write_all(bytes)?,
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
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
