//! How commands name places: `room://PATH` in the room, all else on this machine where both are meant.

use std::path::PathBuf;

const SCHEME: &str = "room://";

/// Where something is copied from or to.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// In the room.
    Room(String),
    /// On this machine.
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

/// A path in the room, with or without its scheme.
pub(super) fn in_room(text: &str) -> &str {
    text.strip_prefix(SCHEME).unwrap_or(text)
}
