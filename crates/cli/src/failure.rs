//! Errors of the command line: message, hint and exit code.

use std::fmt::Write as _;

use meshagent_client::{CallError, ConnectError, RoomEnd};
use meshagent_document::{Violation, Violations};
use meshagent_protocol::ErrorCode;
use thiserror::Error;

use crate::settings;

/// The server or the schema refuses the command.
pub(crate) const REFUSED: u8 = 1;
/// The command is invalid; clap exits with the same code.
pub(crate) const USAGE: u8 = 2;
/// The document or file does not exist.
pub(crate) const NOT_FOUND: u8 = 3;
/// The token does not allow the command.
pub(crate) const DENIED: u8 = 4;
/// The server can't be reached, or the connection was lost.
pub(crate) const UNREACHABLE: u8 = 5;

/// Ctrl-C interrupted the command; a shell reports the same code.
pub(crate) const INTERRUPTED: u8 = 130;

/// An error message, optionally with a hint and an exit code.
#[derive(Debug, Error)]
#[error("{message}")]
pub(crate) struct Failure {
    message: String,
    hint: Option<String>,
    exit_code: Option<u8>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: None,
            exit_code: None,
            source: None,
        }
    }

    /// Sets only the exit code; the reason was printed already.
    pub(crate) fn silent(code: u8) -> Self {
        Self::new("").with_exit_code(code)
    }

    /// Adds advice for the reader.
    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Replaces the default exit code, which is 1.
    pub(crate) fn with_exit_code(mut self, code: u8) -> Self {
        self.exit_code = Some(code);
        self
    }

    pub(crate) fn with_source(
        mut self,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        self.source = Some(Box::new(source));
        self
    }

    pub(crate) fn is_silent(&self) -> bool {
        self.message.is_empty()
    }

    pub(crate) fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    pub(crate) fn exit_code(&self) -> Option<u8> {
        self.exit_code
    }
}

/// The exit codes in the help of `room sync` and `room storage`.
pub(crate) const EXIT_CODES: &str = "Exit codes:
  0  success
  1  refused by the server or by the schema; `cp` skipped something;
     a document that can't be read
  2  invalid command: wrong flags, a local file that can't be read or
     written or is not valid JSON, no API key
  3  the document or file does not exist in the room
  4  the token does not allow it
  5  the server can't be reached, or the connection was lost";

/// The error code in the server's response.
pub(crate) fn code(error: &CallError) -> Option<ErrorCode> {
    match error {
        CallError::Refused { code, .. } => code.and_then(ErrorCode::from_number),
        _ => None,
    }
}

/// The hint for a URL at which no room answers.
const NO_ROOM_HINT: &str = "check that MESHAGENT_API_URL, if set, is the URL of a room server, \
                            without a path";
/// The hint for a path that is not valid in a room.
pub(crate) const PATH_HINT: &str = "a path in the room looks like plan or notes/plan";

/// The error for a call that failed.
pub(crate) fn of_call(message: impl Into<String>, error: CallError) -> Failure {
    let failure = Failure::new(message);
    let failure = match &error {
        CallError::Disconnected => failure
            .with_exit_code(UNREACHABLE)
            .with_hint("check the result before you try again: the server may have completed it"),
        CallError::Ended(RoomEnd::Refused { status, .. }) => match status {
            401 | 403 => failure
                .with_exit_code(DENIED)
                .with_hint("use a token for this room that has not expired"),
            404 => failure.with_exit_code(UNREACHABLE).with_hint(NO_ROOM_HINT),
            _ => unreachable(failure),
        },
        CallError::Ended(_) => unreachable(failure),
        CallError::InvalidPath(_) => failure.with_exit_code(USAGE).with_hint(PATH_HINT),
        CallError::Refused { code, .. } => match code.and_then(ErrorCode::from_number) {
            Some(ErrorCode::PermissionDenied) => failure
                .with_exit_code(DENIED)
                .with_hint("use a token whose grants allow it"),
            Some(ErrorCode::NotFound | ErrorCode::StorageNotFound) => failure
                .with_exit_code(NOT_FOUND)
                .with_hint("`meshagent room storage ls -r` lists all documents and files"),
            Some(ErrorCode::AlreadyExists | ErrorCode::StorageAlreadyExists) => failure
                .with_exit_code(REFUSED)
                .with_hint("choose another path, or remove the existing document or file first"),
            Some(ErrorCode::StorageInvalidPath) => failure
                .with_exit_code(REFUSED)
                .with_hint("choose another path; `meshagent room storage ls -r` lists all paths"),
            Some(ErrorCode::StorageRecursiveRequired) => failure
                .with_exit_code(REFUSED)
                .with_hint("use -r to remove a folder with its content"),
            _ => failure.with_exit_code(REFUSED),
        },
        _ => failure.with_exit_code(REFUSED),
    };
    failure.with_source(error)
}

/// The error for a failed connection. `is_given_token` says that the token was in MESHAGENT_TOKEN.
pub(crate) fn of_connect(url: &str, is_given_token: bool, error: ConnectError) -> Failure {
    if matches!(error, ConnectError::InvalidUrl) {
        let message = format!("invalid room URL {url}, made from MESHAGENT_API_URL");
        return Failure::new(message)
            .with_exit_code(USAGE)
            .with_hint(settings::URL_HINT);
    }
    let failure = Failure::new(format!("can't join {url}"));
    let failure = match &error {
        ConnectError::Refused { status, .. } => match status {
            401 | 403 if is_given_token => failure.with_exit_code(DENIED).with_hint(
                "the token in MESHAGENT_TOKEN was signed with another key, or the clocks disagree; \
                 unset it or pass --identity to sign a new token with the API key",
            ),
            401 | 403 => failure.with_exit_code(DENIED).with_hint(
                "use the API key that the server was started with, and check that both clocks \
                 agree",
            ),
            404 => failure.with_exit_code(UNREACHABLE).with_hint(NO_ROOM_HINT),
            _ => failure.with_exit_code(UNREACHABLE),
        },
        ConnectError::InvalidToken => failure
            .with_exit_code(USAGE)
            .with_hint("unset MESHAGENT_TOKEN, or set it to a valid token"),
        ConnectError::Tls(_) => failure.with_exit_code(UNREACHABLE).with_hint(
            "the server's certificate must be issued by an authority that this machine trusts; \
             SSL_CERT_FILE names a file with further authorities",
        ),
        _ => unreachable(failure),
    };
    failure.with_source(error)
}

/// The error for a token from the environment that the server refused, for a reason in itself.
pub(crate) fn of_given_token(url: &str, fault: &str) -> Failure {
    Failure::new(format!("can't join {url}: {fault}"))
        .with_exit_code(DENIED)
        .with_hint(
            "set MESHAGENT_TOKEN to a new token; or unset it or pass --identity to sign one with \
             the API key",
        )
}

/// Adds the hint and exit code for a server that does not answer.
pub(crate) fn unreachable(failure: Failure) -> Failure {
    failure.with_exit_code(UNREACHABLE).with_hint(
        "check that the server is running and that MESHAGENT_API_URL, if set, is its URL",
    )
}

/// The error for JSON that violates a schema, with one line per violation. `name` is the subject of
/// the message.
pub(crate) fn of_violations(name: &str, violations: &Violations) -> Failure {
    let more = violations.total() - violations.len();
    violates(name, violations.total(), &lines(violations), more)
}

/// The hint for JSON that violates the schema of an existing document.
pub(crate) const INSPECT_HINT: &str =
    "each line begins with a JSON pointer; `meshagent room sync inspect` prints the schema";

fn violates(name: &str, total: usize, lines: &str, more: usize) -> Failure {
    let places = match total {
        1 => "1 place".to_owned(),
        count => format!("{count} places"),
    };
    let more = match more {
        0 => String::new(),
        more => format!("\n  and {more} more"),
    };
    Failure::new(format!(
        "{name} violates the schema in {places}:{lines}{more}"
    ))
    .with_exit_code(REFUSED)
    .with_hint("each line begins with a JSON pointer")
}

/// The same for violations that the server found, which its message has on one line. `None` if the
/// error is another one.
pub(crate) fn of_refused_json(name: &str, error: &CallError) -> Option<Failure> {
    let CallError::Refused { text, .. } = error else {
        return None;
    };
    let (_, list) = text.split_once("the schema does not allow this: ")?;
    let (listed, more) = split(list);
    let line = |violation: &&str| match violation.strip_prefix("document: ") {
        Some(rest) => format!("\n  {WHOLE}: {rest}"),
        None => format!("\n  {violation}"),
    };
    let lines: String = listed.iter().map(line).collect();
    Some(violates(name, listed.len() + more, &lines, more))
}

/// The violations in a list on one line, and how many more there are.
fn split(list: &str) -> (Vec<&str>, usize) {
    let mut listed = Vec::new();
    let mut start = 0;
    for (at, separator) in list.match_indices("; ") {
        let next = at + separator.len();
        let rest = &list[next..];
        let count = rest
            .strip_prefix("and ")
            .and_then(|r| r.strip_suffix(" more"));
        if let Some(more) = count.and_then(|count| count.parse().ok()) {
            listed.push(&list[start..at]);
            return (listed, more);
        }
        // Other semicolons are in a value.
        if is_complete(&list[start..at]) && starts_violation(rest) {
            listed.push(&list[start..at]);
            start = next;
        }
    }
    listed.push(&list[start..]);
    (listed, 0)
}

/// Whether the text can be a whole violation: a string in it is not cut in the middle. The server
/// ends a long text by an ellipsis instead.
fn is_complete(text: &str) -> bool {
    let Some((_, found)) = text.split_once(FOUND) else {
        return false;
    };
    let mut quotes = 0;
    let mut is_escaped = false;
    for character in found.chars() {
        match character {
            '"' if !is_escaped => quotes += 1,
            _ => {}
        }
        is_escaped = character == '\\' && !is_escaped;
    }
    quotes % 2 == 0 || text.ends_with('…')
}

/// Whether the text starts with a violation: a JSON pointer, and what was expected and found.
fn starts_violation(text: &str) -> bool {
    text.starts_with('/')
        && text
            .split_once(": expected ")
            .is_some_and(|(pointer, rest)| !pointer.contains('"') && rest.contains(FOUND))
}

const FOUND: &str = ", found ";

/// The pointer to the whole document, which is the empty string.
const WHOLE: &str = "\"\" (the whole document)";

/// One indented line per violation, which begins with its JSON pointer.
pub(crate) fn lines(violations: &[Violation]) -> String {
    let mut lines = String::new();
    for violation in violations {
        let Violation {
            pointer,
            expected,
            found,
        } = violation;
        let pointer = match pointer.as_str() {
            "" => WHOLE,
            pointer => pointer,
        };
        // Writing to a `String` never fails.
        let _ = write!(lines, "\n  {pointer}: expected {expected}, found {found}");
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn violations_of_the_server_are_split() {
        let text = "the initial JSON does not fit the schema: the schema does not allow this: \
                    document: expected x, found 1; /a: expected y, found \"b; c\"; and 7 more";
        let error = CallError::Refused {
            code: None,
            text: text.to_owned(),
        };
        let failure = of_refused_json("the JSON", &error).map(|failure| failure.to_string());
        let expected = "the JSON violates the schema in 9 places:\n  \
                        \"\" (the whole document): expected x, found 1\n  \
                        /a: expected y, found \"b; c\"\n  and 7 more";
        assert_eq!(failure.as_deref(), Some(expected));
    }

    #[test]
    fn a_value_with_a_pointer_is_one_place() {
        let violation = |pointer: &str, found: &str| Violation {
            pointer: pointer.to_owned(),
            expected: "number".to_owned(),
            found: found.to_owned(),
        };
        let cut = format!("\"{}…", "x; /y ".repeat(80));
        let all = [
            violation("/doc/a", r#""x; /y""#),
            violation("/doc/b; c", r#""x; /y: expected z""#),
            violation("/doc/d", r#""\"x; /y: expected z, found \\""#),
            violation("/doc/e", &cut),
            violation("/doc/f", "null"),
        ];
        let mut violations = Violations::default();
        for violation in all {
            violations.append(violation.into());
        }
        let error = CallError::Refused {
            code: None,
            text: format!("the schema does not allow this: {violations}"),
        };
        let failure = of_refused_json("the JSON", &error).map(|failure| failure.to_string());
        let expected = of_violations("the JSON", &violations).to_string();
        assert_eq!(failure, Some(expected));
    }
}
