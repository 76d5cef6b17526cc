//! Files of this machine: what a command reads, `-` for stdin, the JSON in it; and what it can't write.

use std::fs;
use std::io::{self, Read as _};
use std::path::Path;

use meshagent_document::MeshSchema;
use meshagent_protocol::{InvalidJson, parse_json};
use serde_json::Value;

use crate::failure::{Failure, USAGE};

/// `-` stands for stdin or stdout.
pub(crate) fn is_standard_stream(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// A file's bytes.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let bytes = if is_standard_stream(path) {
        let mut bytes = Vec::new();
        io::stdin().read_to_end(&mut bytes).map(|_size| bytes)
    } else {
        fs::read(path)
    };
    bytes.map_err(|error| {
        Failure::new(format!("can't read {}", name(path)))
            .with_exit_code(USAGE)
            .with_hint("name a file that can be read, or - for stdin")
            .with_source(error)
    })
}

/// A file's JSON.
pub(super) fn read_json(path: &Path) -> Result<Value, Failure> {
    json(&read(path)?, &name(path))
}

/// A file's schema, with the JSON that it is written in.
pub(super) fn read_schema(path: &Path) -> Result<(MeshSchema, Value), Failure> {
    let json = read_json(path)?;
    let schema = MeshSchema::from_json(&json).map_err(|error| {
        let what = format!("{} is not a schema", name(path));
        let failure = if error.pointer.is_empty() {
            // It would be the whole file that the message begins with, and that has no name of its own.
            Failure::new(format!("{what}: {}", error.message))
        } else {
            Failure::new(what).with_source(error)
        };
        failure
            .with_exit_code(USAGE)
            .with_hint("`meshagent room sync inspect` prints that of a document")
    })?;
    Ok((schema, json))
}

/// JSON from a file or a flag that is called `name`.
pub(super) fn json(bytes: &[u8], name: &str) -> Result<Value, Failure> {
    parse_json(bytes).map_err(|error| {
        let failure = Failure::new(format!("{name} is not valid JSON"));
        let failure = match error {
            // Which is what was said already.
            InvalidJson::Syntax(cause) => failure.with_source(cause),
            error => failure.with_source(error),
        };
        let hint = if name.starts_with("--") {
            "names and texts are in double quotes; put all of it in single ones for the shell"
        } else {
            "it has to be one JSON value, in UTF-8, with names and texts in double quotes"
        };
        failure.with_exit_code(USAGE).with_hint(hint)
    })
}

/// How a file is called in messages.
pub(crate) fn name(path: &Path) -> String {
    if is_standard_stream(path) {
        "stdin".to_owned()
    } else {
        path.display().to_string()
    }
}

/// Stdin can be read once.
pub(super) fn at_most_one_stdin(first: &Path, second: Option<&Path>) -> Result<(), Failure> {
    if is_standard_stream(first) && second.is_some_and(is_standard_stream) {
        return Err(Failure::new("stdin can't be two files")
            .with_exit_code(USAGE)
            .with_hint("name a file for one of them"));
    }
    Ok(())
}

/// A file that can't be written.
pub(crate) fn unwritable(path: &Path, error: io::Error) -> Failure {
    Failure::new(format!("can't write {}", path.display()))
        .with_exit_code(USAGE)
        .with_hint("name a file in a folder that is there and that you may write to")
        .with_source(error)
}
