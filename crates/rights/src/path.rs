//! Names from outside: paths in a room, and names of rooms.

/// A normalised path in a room: of a document, a file or a folder. Empty for the storage root.
///
/// As in the published SDKs, leading `./` and `/` and trailing `/` are removed, and `.` is the
/// root. The rest has no empty, `.` or `..` segment, no backslash and no control character, and at
/// most [`MAX_BYTES`](Self::MAX_BYTES) bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct DocPath(String);

impl DocPath {
    /// The maximal length in bytes: what common file systems and object stores accept as a key.
    pub const MAX_BYTES: usize = 1024;

    /// Normalises and checks a path.
    ///
    /// # Errors
    ///
    /// If the path is invalid in a room.
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

    /// The folder that contains this path; `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        if self.is_root() {
            return None;
        }
        match self.0.rsplit_once('/') {
            Some((parent, _)) => Some(Self(parent.to_owned())),
            None => Some(Self::default()),
        }
    }

    /// The text after the last dot of the last segment; `None` without a dot, or if nothing
    /// precedes or follows it.
    pub fn extension(&self) -> Option<&str> {
        let (stem, extension) = self.file_name().rsplit_once('.')?;
        (!stem.is_empty() && !extension.is_empty()).then_some(extension)
    }

    /// Whether this path is below `folder`, at any depth. A path is not below itself.
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

/// Why a text is not a valid path.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidPath {
    /// The path contains a backslash.
    #[error("the path contains a backslash; separate folders with `/`")]
    Backslash,
    /// The path contains a control character.
    #[error("the path contains a control character")]
    ControlCharacter,
    /// A segment is empty, `.` or `..`.
    #[error("the path contains an empty, `.` or `..` segment")]
    Segment,
    /// The path exceeds [`DocPath::MAX_BYTES`].
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
    /// If it has other characters or a wrong length.
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

/// The text is not a valid name of a room.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "a room name has 1 to 63 of the characters a-z, 0-9 and -, with a letter or digit at both ends"
)]
pub struct InvalidRoomName;

/// Removes prefixes that the SDKs remove before they send a path.
pub(crate) fn strip_aliases(text: &str) -> &str {
    let mut path = text;
    while let Some(rest) = path.strip_prefix("./").or_else(|| path.strip_prefix('/')) {
        path = rest;
    }
    let path = path.trim_end_matches('/');
    if path == "." { "" } else { path }
}
