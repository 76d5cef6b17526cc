//! Paths in arguments: `room://PATH` in the room; for `cp`, all others are on this machine.

use std::path::PathBuf;

const SCHEME: &str = "room://";

/// The source or destination of a copy.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// A path in the room.
    Room(String),
    /// A path on this machine.
    Local(PathBuf),
    /// Stdin or stdout.
    Stream,
}

impl Place {
    pub(super) fn parse(text: &str) -> Self {
        match text.strip_prefix(SCHEME) {
            Some(path) => Self::Room(path.to_owned()),
            None if text == "-" => Self::Stream,
            None => Self::Local(PathBuf::from(text)),
        }
    }
}

/// Removes the scheme from a path in the room, if it has one.
pub(super) fn in_room(text: &str) -> &str {
    text.strip_prefix(SCHEME).unwrap_or(text)
}
