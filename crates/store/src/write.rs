//! Changes as data: what a room asks a store to write, and what becomes of each request.

use bytes::Bytes;
use thiserror::Error;

use crate::{Contribution, DocumentId, Reach, RoomId, Seq, Timestamp};

/// One change.
#[derive(Clone, Debug)]
pub enum Write {
    /// Makes a document where nothing stands yet. A state that isn't empty is its first update.
    CreateDocument {
        /// The room.
        room: RoomId,
        /// Where.
        path: String,
        /// The schema's JSON text, kept as it is.
        schema: String,
        /// A v1 update, or nothing.
        state: Bytes,
        /// Who made the state. Of an empty state this is kept nowhere.
        contributions: Vec<Contribution>,
        /// Now.
        at: Timestamp,
    },
    /// Adds an update to the end of a document's log.
    Append {
        /// The document.
        document: DocumentId,
        /// A v1 update.
        update: Bytes,
        /// Who made what of it.
        contributions: Vec<Contribution>,
        /// Now.
        at: Timestamp,
    },
    /// Replaces the snapshot, and all updates up to and including `through`, by `state`. Who made them is kept, as
    /// records.
    Snapshot {
        /// The document.
        document: DocumentId,
        /// The last update that `state` contains.
        through: Seq,
        /// The merged state as a v1 update.
        state: Bytes,
        /// Records of what ended before this instant are folded into one for each author.
        fold_before: Timestamp,
    },
    /// Puts a file.
    PutFile {
        /// The room.
        room: RoomId,
        /// Where.
        path: String,
        /// The content.
        data: Bytes,
        /// The media type.
        mime_type: String,
        /// Whether a file that stands there is replaced. A document never is.
        overwrite: bool,
        /// Now.
        at: Timestamp,
    },
    /// Removes a document or file, or with `recursive` whatever lies at and below the path.
    Delete {
        /// The room.
        room: RoomId,
        /// What.
        path: String,
        /// Whether everything below the path goes too.
        recursive: bool,
        /// What may be removed.
        reach: Reach,
    },
    /// Moves the document or file at `source`, or if none stands there, the folder with all that lies below it.
    ///
    /// The destination is the new path itself, not a folder to move into. Documents keep their ids.
    Move {
        /// The room.
        room: RoomId,
        /// What.
        source: String,
        /// Where to.
        destination: String,
        /// Whether documents and files that stand in the way are removed.
        overwrite: bool,
        /// What may be moved: at the source, and below it.
        reach: Reach,
        /// What may be removed that stands in the way: at the destination, and below it.
        replaces: Reach,
        /// Now.
        at: Timestamp,
    },
}

impl Write {
    /// The content that it brings.
    pub fn content(&self) -> Option<&Bytes> {
        match self {
            Self::Append { update: bytes, .. }
            | Self::CreateDocument { state: bytes, .. }
            | Self::PutFile { data: bytes, .. }
            | Self::Snapshot { state: bytes, .. } => Some(bytes),
            Self::Delete { .. } | Self::Move { .. } => None,
        }
    }

    /// Bytes of content that it brings.
    pub fn bytes(&self) -> usize {
        self.content().map_or(0, Bytes::len)
    }

    /// Whether it touches whatever lies below its path, up to [`MAX_TOUCHED_ENTRIES`].
    pub fn may_touch_many(&self) -> bool {
        match self {
            Self::Move { .. } => true,
            Self::Delete { recursive, .. } => *recursive,
            _ => false,
        }
    }
}

/// What a write did. One variant for each of [`Write`]'s, in the same order.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Written {
    /// The document is there.
    Created {
        /// Its id.
        document: DocumentId,
        /// The position of its state in the log: 1, or 0 if it was created empty.
        seq: Seq,
    },
    /// The update is in the log.
    Appended {
        /// Its position.
        seq: Seq,
    },
    /// The log is shorter.
    Snapshotted,
    /// The file is there.
    Put {
        /// Whether it took the place of another file.
        replaced: bool,
    },
    /// It is gone.
    Deleted {
        /// All that was removed, by path.
        entries: Vec<Removed>,
    },
    /// It is elsewhere.
    Moved {
        /// All that was moved, by source path.
        entries: Vec<MovedEntry>,
        /// What stood in the way and was removed, by path.
        replaced: Vec<Removed>,
    },
}

/// A document or file that was removed.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Removed {
    /// Where it stood.
    pub path: String,
    /// The document, unless it was a file.
    pub document: Option<DocumentId>,
}

/// A document or file that was moved.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct MovedEntry {
    /// Where it stood.
    pub source: String,
    /// Where it stands now.
    pub destination: String,
    /// The document, unless it is a file.
    pub document: Option<DocumentId>,
}

/// Entries that one deletion or one move may touch: all rooms wait while it is written.
pub const MAX_TOUCHED_ENTRIES: usize = 20_000;

/// Why a write was refused. It costs only that write: nothing of it happened, the others of its batch stand, but for
/// those that are [`Behind`](Self::Behind) it.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum WriteError {
    /// A document or file stands there already.
    #[error("{path:?} already exists")]
    AlreadyExists {
        /// Where.
        path: String,
    },
    /// An earlier update of the document was refused in the same batch.
    #[error("an earlier update of document {document} was refused, try again")]
    Behind {
        /// Which document.
        document: DocumentId,
    },
    /// What is stored there is damaged, which was found when it was to be changed.
    #[error("what is stored there is damaged: {what}")]
    Damaged {
        /// What was found.
        what: String,
    },
    /// A folder can't be moved below itself, and nothing onto itself.
    #[error("can't be moved onto or below itself, choose another destination")]
    IntoItself,
    /// A file can't take the place of a document.
    #[error("{path:?} is a document, delete or move it first")]
    IsDocument {
        /// Where.
        path: String,
    },
    /// The root folder can't be a document or a file.
    #[error("the path is empty, name a document or file")]
    IsRoot,
    /// The document was deleted, or never existed.
    #[error("document {document} is gone")]
    NoSuchDocument {
        /// Which.
        document: DocumentId,
    },
    /// Nothing stands there.
    #[error("{path:?} does not exist")]
    NotFound {
        /// Where.
        path: String,
    },
    /// An entry lies there that the write may not touch.
    #[error("{path:?} may not be touched")]
    OutOfReach {
        /// Where.
        path: String,
    },
    /// A path that a move would make is too long; what lies in a folder has a longer path than the folder.
    #[error("{path:?} would have {} bytes, a path may have {max} at most", .path.len(), max = crate::path::MAX_BYTES)]
    PathTooLong {
        /// What it would be.
        path: String,
    },
    /// The path is a folder.
    #[error("{path:?} is a folder, deleting it takes the recursive flag")]
    RecursiveRequired {
        /// Where.
        path: String,
    },
    /// A snapshot has to reach at least as far as the one before it, and not beyond the log's end.
    #[error("a snapshot through {through} does not fit the log of document {document}")]
    SnapshotOutOfRange {
        /// Which document.
        document: DocumentId,
        /// The position that was given.
        through: Seq,
    },
    /// A folder with more entries than one write may touch.
    #[error("more than {max} entries lie below {path:?}; take its parts one by one")]
    TooMany {
        /// Which folder.
        path: String,
        /// How many may be touched.
        max: usize,
    },
    /// More than this store can keep in one piece.
    #[error("{bytes} bytes are too many for one value, the store takes {max_bytes}")]
    TooLarge {
        /// The size that was given.
        bytes: u64,
        /// The largest size that is taken.
        max_bytes: u64,
    },
}
