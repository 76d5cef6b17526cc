//! Names that come from outside: paths in a room, and names of rooms.

/// A normalised path in a room: of a document, a file or a folder. Empty is the storage root.
///
/// Leading `./` and `/` are dropped, trailing `/` too, and `.` is the root, as in the published
/// SDKs. What remains has no empty, `.` or `..` segment, no backslash and no control character, and
/// at most [`MAX_BYTES`](Self::MAX_BYTES) bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct DocPath(String);

impl DocPath {
    /// The longest path in bytes: what common file systems and object stores take as a key.
    pub const MAX_BYTES: usize = 1024;

    /// Normalises a path and checks it.
    ///
    /// # Errors
    ///
    /// When the path can't name anything in a room.
    pub fn parse(text: &str) -> Result<Self, InvalidPath> {
        if text.len() > Self::MAX_BYTES {
            return Err(InvalidPath::TooLong);
        }
        let path = strip_aliases(text);
        if path.chars().any(char::is_control) {
            return Err(InvalidPath::ControlCharacter);
        }
        if path.contains('\\') {
            return Err(InvalidPath::Backslash);
        }
        if path.is_empty() {
            return Ok(Self::default());
        }
        if path
            .split('/')
            .any(|segment| matches!(segment, "" | "." | ".."))
        {
            return Err(InvalidPath::Segment);
        }
        Ok(Self(path.to_owned()))
    }

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is the storage root, which is a folder and never a document.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The last segment; empty for the root.
    pub fn file_name(&self) -> &str {
        match self.0.rsplit_once('/') {
            Some((_, name)) => name,
            None => &self.0,
        }
    }

    /// The folder that holds this path; `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        if self.is_root() {
            return None;
        }
        match self.0.rsplit_once('/') {
            Some((parent, _)) => Some(Self(parent.to_owned())),
            None => Some(Self::default()),
        }
    }

    /// What follows the last dot of the last segment; `None` without a dot, and if nothing precedes
    /// or follows it.
    pub fn extension(&self) -> Option<&str> {
        let (stem, extension) = self.file_name().rsplit_once('.')?;
        (!stem.is_empty() && !extension.is_empty()).then_some(extension)
    }

    /// Whether this path lies below `folder`, at any depth; no path lies below itself.
    pub fn is_below(&self, folder: &Self) -> bool {
        if folder.is_root() {
            return !self.is_root();
        }
        self.0
            .strip_prefix(&folder.0)
            .is_some_and(|rest| rest.starts_with('/'))
    }
}

impl std::fmt::Display for DocPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for DocPath {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for DocPath {
    type Err = InvalidPath;

    fn from_str(text: &str) -> Result<Self, InvalidPath> {
        Self::parse(text)
    }
}

/// Why a text is no path.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidPath {
    /// It contains a backslash.
    #[error("the path contains a backslash, separate folders by `/`")]
    Backslash,
    /// It contains a control character.
    #[error("the path contains a control character")]
    ControlCharacter,
    /// One of its segments is empty, `.` or `..`.
    #[error("the path contains an empty, `.` or `..` segment")]
    Segment,
    /// It is too long.
    #[error("the path is longer than {} bytes", DocPath::MAX_BYTES)]
    TooLong,
}

/// The name of a room: 1 to 63 of `a-z`, `0-9` and `-`, with a letter or digit at both ends.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RoomName(String);

impl RoomName {
    /// Checks a name.
    ///
    /// # Errors
    ///
    /// When it has other characters or another length.
    pub fn parse(text: &str) -> Result<Self, InvalidRoomName> {
        let is_edge = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9');
        let (Some(first), Some(last)) = (text.as_bytes().first(), text.as_bytes().last()) else {
            return Err(InvalidRoomName);
        };
        let is_valid = text.len() <= 63
            && is_edge(first)
            && is_edge(last)
            && text.bytes().all(|byte| byte == b'-' || is_edge(&byte));
        if !is_valid {
            return Err(InvalidRoomName);
        }
        Ok(Self(text.to_owned()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for RoomName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for RoomName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for RoomName {
    type Err = InvalidRoomName;

    fn from_str(text: &str) -> Result<Self, InvalidRoomName> {
        Self::parse(text)
    }
}

/// The text is no name of a room.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "a room name has 1 to 63 of the characters a-z, 0-9 and -, with a letter or digit at both ends"
)]
pub struct InvalidRoomName;

/// Drops what the SDKs drop before they send a path.
pub(crate) fn strip_aliases(text: &str) -> &str {
    let mut path = text;
    while let Some(rest) = path.strip_prefix("./").or_else(|| path.strip_prefix('/')) {
        path = rest;
    }
    let path = path.trim_end_matches('/');
    if path == "." { "" } else { path }
}
