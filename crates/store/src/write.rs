//! Changes as data: the writes that a room asks of a store, and their results.

use std::collections::BTreeMap;

use bytes::Bytes;
use thiserror::Error;

use crate::{Contribution, DocumentId, Epoch, Reach, RoomId, Seq, Timestamp};

/// One change to a room.
#[derive(Clone, Debug)]
pub enum Write {
    /// Creates a document at a free path. A state that isn't empty becomes its first update.
    CreateDocument {
        /// The room of the path.
        room: RoomId,
        /// The path of the document.
        path: String,
        /// The schema's JSON text, stored verbatim.
        schema: String,
        /// The initial state as a v1 update, or empty.
        state: Bytes,
        /// The contributions to the state. With an empty state they are dropped.
        contributions: Vec<Contribution>,
        /// The current time.
        at: Timestamp,
    },
    /// Adds an update to the end of a document's log.
    Append {
        /// The document.
        document: DocumentId,
        /// The position at which the log has to end. `None` accepts any, for programs that are
        /// known to be the only writer.
        end: Option<Seq>,
        /// The change as a v1 update.
        update: Bytes,
        /// The contributions to the update.
        contributions: Vec<Contribution>,
        /// The current time.
        at: Timestamp,
    },
    /// Replaces the snapshot, and all updates up to and including `through`, by `state`. The
    /// updates' provenance is kept, as records.
    Snapshot {
        /// The document.
        document: DocumentId,
        /// The position at which the log has to end. `None` accepts any, for programs that are
        /// known to be the only writer.
        end: Option<Seq>,
        /// The last update that `state` contains.
        through: Seq,
        /// The merged state as a v1 update.
        state: Bytes,
        /// Records that ended before this instant are folded into one for each author.
        fold_before: Timestamp,
    },
    /// Creates or replaces a file.
    PutFile {
        /// The room of the path.
        room: RoomId,
        /// The path of the file.
        path: String,
        /// The file's content.
        data: Bytes,
        /// The file's media type.
        mime_type: String,
        /// Whether an existing file is replaced. A document never is.
        overwrite: bool,
        /// The current time.
        at: Timestamp,
    },
    /// Removes a document or file; with `recursive`, all entries at and below the path.
    Delete {
        /// The room of the path.
        room: RoomId,
        /// The path to remove.
        path: String,
        /// Whether all entries below the path are removed too.
        recursive: bool,
        /// The entries that may be removed.
        reach: Reach,
    },
    /// Moves the document or file at `source`; if neither exists there, the folder with all entries
    /// below it.
    ///
    /// The destination is the new path itself, not a folder to move into. Documents keep their ids.
    Move {
        /// The room of the path.
        room: RoomId,
        /// The path to move.
        source: String,
        /// The new path.
        destination: String,
        /// Whether documents and files at the destination paths are removed.
        overwrite: bool,
        /// The entries that may be moved: at the source, and below it.
        reach: Reach,
        /// The entries that may be replaced: at the destination, and below it.
        replaces: Reach,
        /// The current time.
        at: Timestamp,
    },
}

impl Write {
    /// Returns the content that the write contains.
    pub fn content(&self) -> Option<&Bytes> {
        match self {
            Self::Append { update: bytes, .. }
            | Self::CreateDocument { state: bytes, .. }
            | Self::PutFile { data: bytes, .. }
            | Self::Snapshot { state: bytes, .. } => Some(bytes),
            Self::Delete { .. } | Self::Move { .. } => None,
        }
    }

    /// Returns the size of that content in bytes.
    pub fn bytes(&self) -> usize {
        self.content().map_or(0, Bytes::len)
    }

    /// Returns whether the write touches all entries below its path, up to [`MAX_TOUCHED_ENTRIES`].
    pub fn may_touch_many(&self) -> bool {
        match self {
            Self::Move { .. } => true,
            Self::Delete { recursive, .. } => *recursive,
            _ => false,
        }
    }
}

/// Some of the writes of a commit, which the owner of a room made.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Batch {
    /// The room, to which all of the writes belong.
    pub room: RoomId,
    /// The epoch of the owner. If the room has another owner, all of the writes are refused.
    pub epoch: Epoch,
    /// The number of writes.
    pub writes: usize,
}

impl Batch {
    /// Returns for each write of a commit why its owner may not make it, by the index of the write.
    /// `current` returns the present epoch of a room.
    pub fn fenced(
        batches: &[Self],
        current: impl Fn(&RoomId) -> Epoch,
    ) -> BTreeMap<usize, WriteError> {
        let mut fenced = BTreeMap::new();
        let mut start = 0;
        for batch in batches {
            let end = start + batch.writes;
            let epoch = current(&batch.room);
            if epoch != batch.epoch {
                let refusal = |index| (index, WriteError::Fenced { epoch });
                fenced.extend((start..end).map(refusal));
            }
            start = end;
        }
        fenced
    }
}

/// The result of a write. There is one variant for each of [`Write`]'s, in the same order.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Written {
    /// The document was created.
    Created {
        /// The document's id.
        document: DocumentId,
        /// The position of its state in the log: 1, or 0 if it was created empty.
        seq: Seq,
    },
    /// The update was appended to the log.
    Appended {
        /// The update's position.
        seq: Seq,
    },
    /// The snapshot has replaced the updates that it contains.
    Snapshotted,
    /// The file was written.
    Put {
        /// Whether it replaced another file.
        replaced: bool,
    },
    /// The entries were removed.
    Deleted {
        /// The removed entries, ordered by path.
        entries: Vec<Removed>,
    },
    /// The entries were moved.
    Moved {
        /// The moved entries, ordered by source path.
        entries: Vec<MovedEntry>,
        /// The replaced entries, ordered by path.
        replaced: Vec<Removed>,
    },
}

/// A document or file that was removed.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Removed {
    /// The path that it had.
    pub path: String,
    /// The document, unless it was a file.
    pub document: Option<DocumentId>,
}

/// A document or file that was moved.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct MovedEntry {
    /// The path that it had.
    pub source: String,
    /// The path that it has now.
    pub destination: String,
    /// The document, unless it is a file.
    pub document: Option<DocumentId>,
}

/// The number of entries that one deletion or move may touch: all rooms wait while it is written.
pub const MAX_TOUCHED_ENTRIES: usize = 10_000;

/// The bytes that the paths of these entries may have together, before a move and after it. The
/// index of paths is rewritten for a move, so a few long paths may cost more than many short ones.
pub const MAX_TOUCHED_PATH_BYTES: usize = 512 << 10;

/// What a write touches below a folder, counted path by path.
#[derive(Clone, Copy, Debug, Default)]
pub struct Touched {
    entries: usize,
    path_bytes: usize,
}

impl Touched {
    /// Counts an entry by its path.
    ///
    /// # Errors
    ///
    /// If there are too many entries, or their paths are too long together.
    pub fn add(&mut self, folder: &str, path: &str) -> Result<(), WriteError> {
        self.entries += 1;
        self.path_bytes += path.len();
        if self.entries > MAX_TOUCHED_ENTRIES {
            return Err(WriteError::TooMany {
                path: folder.to_owned(),
                max: MAX_TOUCHED_ENTRIES,
            });
        }
        // One path alone never exceeds the limit.
        if self.path_bytes > MAX_TOUCHED_PATH_BYTES {
            return Err(WriteError::PathsTooLong {
                path: folder.to_owned(),
                max_bytes: MAX_TOUCHED_PATH_BYTES,
            });
        }
        Ok(())
    }

    /// Counts the entries with these paths.
    ///
    /// # Errors
    ///
    /// As for [`add`](Self::add).
    pub fn check<'a>(
        folder: &str,
        paths: impl IntoIterator<Item = &'a str>,
    ) -> Result<(), WriteError> {
        let mut touched = Self::default();
        paths
            .into_iter()
            .try_for_each(|path| touched.add(folder, path))
    }
}

/// The reason why a write was refused. The refusal affects only that write: it changed nothing, and
/// the other writes of its batch take effect, except those that are [`Behind`](Self::Behind) it.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum WriteError {
    /// A document or file exists at the path already.
    #[error("{path:?} already exists")]
    AlreadyExists {
        /// The path of the entry.
        path: String,
    },
    /// An earlier update of the document was refused in the same batch.
    #[error("an earlier update of document {document} was refused: reload the document and retry")]
    Behind {
        /// The document.
        document: DocumentId,
    },
    /// The stored content that the write would change is damaged.
    #[error("the stored content is damaged: {what}")]
    Damaged {
        /// A description of the damage.
        what: String,
    },
    /// The room has another owner: nothing more can be written in this epoch.
    #[error("another writer has taken over the room, in epoch {epoch}")]
    Fenced {
        /// The epoch of the present owner.
        epoch: Epoch,
    },
    /// There is no space, although there was some for the deletions of the same batch.
    #[error("the disk is full; try again when there is space, which deletions make")]
    Full,
    /// The destination of a move is its source, or lies below it.
    #[error("an entry can't be moved onto or below itself: choose another destination")]
    IntoItself,
    /// A file can't replace a document.
    #[error("{path:?} is a document, which a file can't replace: delete or move it first")]
    IsDocument {
        /// The path of the entry.
        path: String,
    },
    /// The root folder can't be a document or a file.
    #[error("the path is empty: name a document or file")]
    IsRoot,
    /// The document was deleted, or never existed.
    #[error("document {document} was deleted or never existed")]
    NoSuchDocument {
        /// The document.
        document: DocumentId,
    },
    /// Nothing exists at the path.
    #[error("{path:?} does not exist")]
    NotFound {
        /// The path of the entry.
        path: String,
    },
    /// The write may not touch an entry that it would change.
    #[error("{path:?} is outside what the participant may change")]
    OutOfReach {
        /// The path of the entry.
        path: String,
    },
    /// A path that a move would make is too long; entries in a folder have longer paths than
    /// the folder.
    #[error(
        "the path {path:?} would have {} bytes, expected at most {max}",
        .path.len(),
        max = crate::path::MAX_BYTES
    )]
    PathTooLong {
        /// The path that the move would make.
        path: String,
    },
    /// The outcome of the write was unknown at first, and it is not stored.
    #[error("storage failed, and nothing of this was saved; try again")]
    NotStored,
    /// The path is a folder.
    #[error("{path:?} is a folder: set the recursive flag to delete it")]
    RecursiveRequired {
        /// The path of the entry.
        path: String,
    },
    /// A snapshot must contain at least the updates of the one before it, and must not exceed the
    /// end of the log.
    #[error("a snapshot through {through} is outside the log of document {document}")]
    SnapshotOutOfRange {
        /// The document.
        document: DocumentId,
        /// The position that was given.
        through: Seq,
    },
    /// The folder has more entries than one write may touch.
    #[error("more than {max} entries lie below {path:?}: move or delete its parts one by one")]
    TooMany {
        /// The folder's path.
        path: String,
        /// The number of entries that may be touched.
        max: usize,
    },
    /// The paths of the folder's entries are longer than one write may touch.
    #[error(
        "the paths below {path:?} have more than {max_bytes} bytes together: move or delete its \
         parts one by one"
    )]
    PathsTooLong {
        /// The folder's path.
        path: String,
        /// The bytes that the paths may have together.
        max_bytes: usize,
    },
    /// The log of the document ends at another position than the write expects.
    #[error("the log of document {document} ends at {end}, expected {expected}")]
    WrongEnd {
        /// The document.
        document: DocumentId,
        /// The position of its last update.
        end: Seq,
        /// The position that was given.
        expected: Seq,
    },
    /// The value is larger than this store can keep in one piece.
    #[error("a value of {bytes} bytes is too large, expected at most {max_bytes}")]
    TooLarge {
        /// The size that was given, in bytes.
        bytes: u64,
        /// The largest size that is accepted, in bytes.
        max_bytes: u64,
    },
}

impl WriteError {
    /// Returns whether the refusal of an append with this error refuses what follows it in the same
    /// commit for the same document. What the present owner writes does not build on what is
    /// fenced.
    #[must_use]
    pub fn breaks_document(&self) -> bool {
        !matches!(self, Self::Fenced { .. } | Self::NoSuchDocument { .. })
    }
}
