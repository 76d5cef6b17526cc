//! Identifiers in a store: rooms, documents, positions in a document's log, instants.

use std::fmt;
use std::sync::Arc;

/// A room of a project.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct RoomId {
    /// The project's id.
    pub project: Arc<str>,
    /// The room's name, unique in its project.
    pub room: Arc<str>,
}

impl RoomId {
    /// Creates the id of a room.
    pub fn new(project: impl Into<Arc<str>>, room: impl Into<Arc<str>>) -> Self {
        Self {
            project: project.into(),
            room: room.into(),
        }
    }
}

impl fmt::Display for RoomId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.project, self.room)
    }
}

/// A document's id, which moves keep. A store never gives the same id twice.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct DocumentId(pub u64);

impl fmt::Display for DocumentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The position of an update in its document's log. The first update is 1; 0 is the position
/// before it.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Seq(pub u64);

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of an owner of a room. Each owner has a higher one than the owners before it; 0 is
/// before the first.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An instant in milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Timestamp(pub i64);
