//! The server's log on stderr: one line per event.
//!
//! Names of participants, paths and texts from requests are foreign data, so control characters in
//! them are escaped: they must not forge log lines or control a terminal.

use std::fmt;
use std::io::{self, IsTerminal as _, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::field::{Field, Visit};
use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::Writer;

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

/// Lines that wait for stderr, at most; later ones are lost.
const MAX_WAITING_LINES: usize = 4096;

/// The time for the last lines at the end of the process.
const FINISH_TIMEOUT: Duration = Duration::from_secs(1);

/// The thread that writes the log, until the process ends.
static THREAD: Mutex<Option<WorkerGuard>> = Mutex::new(None);

/// Writes the waiting lines when it is dropped.
#[must_use]
pub(crate) struct Log;

impl Drop for Log {
    fn drop(&mut self) {
        finish();
    }
}

/// Writes the waiting lines, if stderr accepts them in time. Nothing is logged after that.
pub(crate) fn finish() {
    let Some(guard) = THREAD.lock().unwrap_or_else(PoisonError::into_inner).take() else {
        return;
    };
    // Dropping the guard waits for the thread, which may wait for a reader for ever.
    let writing = std::thread::spawn(|| drop(guard));
    let deadline = Instant::now() + FINISH_TIMEOUT;
    while !writing.is_finished() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Starts a thread that writes to stderr. Its writer for events never waits and never fails:
/// stderr may be a pipe that nobody reads, or a file on a full disk.
fn stderr() -> NonBlocking {
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(MAX_WAITING_LINES)
        .thread_name("log")
        .finish(io::stderr());
    *THREAD.lock().unwrap_or_else(PoisonError::into_inner) = Some(guard);
    writer
}

/// Starts logging as text.
pub(crate) fn start_text(filter: EnvFilter) -> Log {
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(stderr())
        .log_internal_errors(false)
        .with_ansi(io::stderr().is_terminal())
        .fmt_fields(EscapedFields)
        .init();
    Log
}

/// Starts logging as JSON objects.
pub(crate) fn start_json(filter: EnvFilter) -> Log {
    let writer = stderr();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .json()
        .with_writer(move || EscapedJson(writer.clone()))
        .log_internal_errors(false)
        .init();
    Log
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
