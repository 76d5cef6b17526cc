//! Local files as input, with `-` for stdin: bytes, JSON and schemas.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use meshagent_document::MeshSchema;
use meshagent_protocol::{InvalidJson, parse_json};
use serde_json::Value;

use crate::failure::{Failure, USAGE};

/// `-` stands for stdin or stdout.
pub(crate) fn is_standard_stream(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// The largest file that is read, some times the largest that a server takes by default.
const MAX_BYTES: u64 = 256 << 20;

/// Reads a file.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let bytes = if is_standard_stream(path) {
        bounded(io::stdin().lock(), 0)
    } else {
        File::open(path).and_then(|file| {
            let size = file.metadata()?.len();
            bounded(file, size)
        })
    };
    bytes.map_err(|error| {
        let hint = match error.kind() {
            io::ErrorKind::FileTooLarge => "pass a smaller file",
            _ => "pass a readable file, or - for stdin",
        };
        Failure::new(format!("can't read {}", name(path)))
            .with_exit_code(USAGE)
            .with_hint(hint)
            .with_source(error)
    })
}

/// Reads a file that was found in a folder. Does not wait for a writer if a pipe has taken its
/// place.
pub(crate) fn read_found(path: &Path) -> io::Result<Vec<u8>> {
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let mut options = OpenOptions::new();
    let file = options.read(true).custom_flags(nonblocking).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is no longer a file"));
    }
    bounded(file, metadata.len())
}

/// Reads up to [`MAX_BYTES`]; `size` is the number of bytes as far as it is known.
fn bounded(reader: impl Read, size: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if size <= MAX_BYTES {
        bytes.try_reserve(usize::try_from(size).unwrap_or_default())?;
        reader.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    }
    if size > MAX_BYTES || bytes.len() as u64 > MAX_BYTES {
        let message = format!("it has more than {MAX_BYTES} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    Ok(bytes)
}

/// Reads a JSON file.
pub(super) fn read_json(path: &Path) -> Result<Value, Failure> {
    json(&read(path)?, &name(path))
}

/// Reads a schema file; returns the schema and its JSON.
pub(super) fn read_schema(path: &Path) -> Result<(MeshSchema, Value), Failure> {
    let json = read_json(path)?;
    let schema = MeshSchema::from_json(&json).map_err(|error| {
        let message = format!("{} is not a valid schema", name(path));
        let failure = if error.pointer.is_empty() {
            // The error concerns the whole file, so the pointer is omitted.
            Failure::new(format!("{message}: {}", error.message))
        } else {
            Failure::new(message).with_source(error)
        };
        failure
            .with_exit_code(USAGE)
            .with_hint("expected a schema in the form that `meshagent room sync inspect` prints")
    })?;
    Ok((schema, json))
}

/// Parses JSON from a file or a flag; error messages call it `name`.
pub(super) fn json(bytes: &[u8], name: &str) -> Result<Value, Failure> {
    parse_json(bytes).map_err(|error| {
        let failure = Failure::new(format!("{name} is not valid JSON"));
        let failure = match error {
            // Its own message would repeat this one.
            InvalidJson::Syntax(cause) => failure.with_source(cause),
            error => failure.with_source(error),
        };
        let hint = if name.starts_with("--") {
            "use double quotes for names and texts; put the whole value in single quotes for the \
             shell"
        } else {
            "expected one JSON value, in UTF-8, with names and texts in double quotes"
        };
        failure.with_exit_code(USAGE).with_hint(hint)
    })
}

/// The content of a new document, which is a JSON object. Error messages call it `name`.
pub(super) fn content(json: Value, name: &str) -> Result<Value, Failure> {
    if json.is_object() {
        return Ok(json);
    }
    let found = described(&json);
    let message =
        format!("{name} is not the content of a document: expected an object, found {found}");
    Err(Failure::new(message)
        .with_exit_code(USAGE)
        .with_hint("the content of a document looks like {\"doc\": {\"title\": \"Plan\"}}"))
}

/// A value in messages: itself if it is short, otherwise its kind.
pub(super) fn described(json: &Value) -> String {
    match json {
        Value::Object(_) => "an object".to_owned(),
        Value::Array(_) => "an array".to_owned(),
        Value::String(_) => "a string".to_owned(),
        value => value.to_string(),
    }
}

/// The name of a file in messages.
pub(crate) fn name(path: &Path) -> String {
    if is_standard_stream(path) {
        "stdin".to_owned()
    } else {
        path.display().to_string()
    }
}

/// Checks that at most one of two files is stdin, which can be read only once.
pub(super) fn at_most_one_stdin(first: &Path, second: Option<&Path>) -> Result<(), Failure> {
    if is_standard_stream(first) && second.is_some_and(is_standard_stream) {
        return Err(Failure::new("stdin can't be read twice")
            .with_exit_code(USAGE)
            .with_hint("use `-` only once, and pass a file for the other one"));
    }
    Ok(())
}

/// The error for a file that can't be written.
pub(crate) fn unwritable(path: &Path, error: io::Error) -> Failure {
    let hint = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "free some space on the disk",
        _ => "pass a file in an existing folder that you may write to",
    };
    Failure::new(format!("can't write {}", path.display()))
        .with_exit_code(USAGE)
        .with_hint(hint)
        .with_source(error)
}
