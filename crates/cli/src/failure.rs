//! A failure whose reader can do something about it.

use thiserror::Error;

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
