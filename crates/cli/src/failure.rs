//! Errors as the command line reports them: what is wrong, a hint, and the exit code.

use meshagent_client::{CallError, ConnectError, RoomEnd};
use meshagent_document::{Violation, Violations};
use meshagent_protocol::ErrorCode;
use thiserror::Error;

use crate::settings;

/// By the server or by the schema.
pub(crate) const REFUSED: u8 = 1;
/// The command makes no sense; clap ends with the same.
pub(crate) const USAGE: u8 = 2;
/// There is no such document or file.
pub(crate) const NOT_FOUND: u8 = 3;
/// The token does not allow it.
pub(crate) const DENIED: u8 = 4;
/// The server can't be reached, or the connection was lost.
pub(crate) const UNREACHABLE: u8 = 5;

/// By Ctrl-C, as a shell tells it.
pub(crate) const INTERRUPTED: u8 = 130;

/// What went wrong, with a hint and an exit code of its own if it has them.
#[derive(Debug, Error)]
#[error("{what}")]
pub(crate) struct Failure {
    what: String,
    hint: Option<String>,
    exit_code: Option<u8>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Failure {
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            hint: None,
            exit_code: None,
            source: None,
        }
    }

    /// An exit code whose reason was printed.
    pub(crate) fn silent(code: u8) -> Self {
        Self::new("").with_exit_code(code)
    }

    /// What the reader can do.
    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Other than the usual 1.
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
        self.what.is_empty()
    }

    pub(crate) fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    pub(crate) fn exit_code(&self) -> Option<u8> {
        self.exit_code
    }
}

/// What commands of `room sync` and `room storage` say about their exit codes.
pub(crate) const EXIT_CODES: &str = "Exit codes:
  0  done
  1  refused, by the server or by the schema
  2  the command makes no sense: wrong flags, local files that can't be
     read or written or are no JSON, no key
  3  there is no such document or file in the room
  4  the token does not allow it
  5  the server can't be reached, or the connection was lost";

/// The server's reason.
pub(crate) fn code(error: &CallError) -> Option<ErrorCode> {
    match error {
        CallError::Refused { code, .. } => code.and_then(ErrorCode::from_number),
        _ => None,
    }
}

/// A call that failed; `what` could not be done.
pub(crate) fn of_call(what: impl Into<String>, error: CallError) -> Failure {
    let failure = Failure::new(what);
    let failure = match &error {
        CallError::Disconnected => failure
            .with_exit_code(UNREACHABLE)
            .with_hint("try again; what was not confirmed may have been done or not"),
        CallError::Ended(RoomEnd::Refused { status, .. }) => match status {
            401 | 403 => failure
                .with_exit_code(DENIED)
                .with_hint("use a token that is still good for this room"),
            404 => failure
                .with_exit_code(NOT_FOUND)
                .with_hint("see whether MESHAGENT_API_URL is a room server's"),
            _ => unreachable(failure),
        },
        CallError::Ended(_) => unreachable(failure),
        CallError::InvalidPath(_) => failure
            .with_exit_code(USAGE)
            .with_hint("a path in the room is like plan or notes/plan"),
        CallError::Refused { code, .. } => match code.and_then(ErrorCode::from_number) {
            Some(ErrorCode::PermissionDenied) => failure
                .with_exit_code(DENIED)
                .with_hint("use a token whose grants allow it"),
            Some(ErrorCode::NotFound | ErrorCode::StorageNotFound) => {
                failure.with_exit_code(NOT_FOUND).with_hint(
                    "`meshagent room sync ls` and `meshagent room storage ls` show what is there",
                )
            }
            Some(ErrorCode::AlreadyExists | ErrorCode::StorageAlreadyExists) => failure
                .with_exit_code(REFUSED)
                .with_hint("choose another path, or remove what is there first"),
            Some(ErrorCode::StorageInvalidPath) => failure.with_exit_code(REFUSED).with_hint(
                "name another place in the room; `meshagent room storage ls` shows what is there",
            ),
            Some(ErrorCode::StorageRecursiveRequired) => failure
                .with_exit_code(REFUSED)
                .with_hint("use -r to remove a folder with what is in it"),
            _ => failure.with_exit_code(REFUSED),
        },
        _ => failure.with_exit_code(REFUSED),
    };
    failure.with_source(error)
}

/// There is no connection to the room.
pub(crate) fn of_connect(url: &str, is_given_token: bool, error: ConnectError) -> Failure {
    if matches!(error, ConnectError::InvalidUrl) {
        let what = format!("MESHAGENT_API_URL leads to {url}, which is no address of a room");
        return Failure::new(what)
            .with_exit_code(USAGE)
            .with_hint(settings::URL_HINT);
    }
    let failure = Failure::new(format!("can't join {url}"));
    let failure = match &error {
        ConnectError::Refused { status, .. } => match status {
            401 | 403 if is_given_token => failure.with_exit_code(DENIED).with_hint(
                "the token in MESHAGENT_TOKEN is for another room, has expired or was signed with another key; unset it, or give --identity, to sign one with the key",
            ),
            401 | 403 => failure.with_exit_code(DENIED).with_hint(
                "use the key that the server was started with, and see that the clocks agree",
            ),
            404 => failure
                .with_exit_code(NOT_FOUND)
                .with_hint("see whether MESHAGENT_API_URL is a room server's"),
            _ => failure.with_exit_code(UNREACHABLE),
        },
        ConnectError::InvalidToken => failure
            .with_exit_code(USAGE)
            .with_hint("unset MESHAGENT_TOKEN, or set it to a token"),
        ConnectError::Tls(_) => failure.with_exit_code(UNREACHABLE).with_hint(
            "its certificate has to be of an authority that this machine trusts; SSL_CERT_FILE names a file of others",
        ),
        _ => unreachable(failure),
    };
    failure.with_source(error)
}

/// Nothing answers.
pub(crate) fn unreachable(failure: Failure) -> Failure {
    failure
        .with_exit_code(UNREACHABLE)
        .with_hint("see that the server runs and that MESHAGENT_API_URL is its address")
}

/// What the schema forbids, a line for each place.
pub(crate) fn of_violations(what: &str, violations: &Violations) -> Failure {
    let places = match violations.total() {
        1 => "1 place".to_owned(),
        count => format!("{count} places"),
    };
    let more = match violations.total() - violations.len() {
        0 => String::new(),
        more => format!("\n  and {more} more"),
    };
    Failure::new(format!("{what} breaks the schema in {places}:{}{more}", lines(violations)))
        .with_exit_code(REFUSED)
        .with_hint("the pointers lead into the document's JSON; `meshagent room sync inspect` prints the schema")
}

/// A line for each place, indented.
pub(crate) fn lines(violations: &[Violation]) -> String {
    let mut lines = String::new();
    for violation in violations {
        lines.push_str("\n  ");
        lines.push_str(&violation.to_string());
    }
    lines
}
