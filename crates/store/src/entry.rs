//! What comes back from a store: entries of a room's namespace, documents, updates, files, totals.

use bytes::Bytes;

use crate::{Contribution, DocumentId, Seq, Timestamp};

/// One name in a folder.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    /// The last segment of the path; empty for the root folder.
    pub name: String,
    /// What stands there.
    pub kind: EntryKind,
    /// Bytes that are kept for it: a file's data, or a document's snapshot and updates, not counting who made them.
    /// `None` for a folder.
    pub size: Option<u64>,
    /// `None` for a folder.
    pub created_at: Option<Timestamp>,
    /// When its content or its path last changed. `None` for a folder.
    pub updated_at: Option<Timestamp>,
}

/// The kinds of entry. A name may stand for a document or file and for a folder at once; the folder sorts last.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum EntryKind {
    /// A document with its log of updates.
    Document,
    /// A file.
    File,
    /// Something lies below this name.
    Folder,
}

/// A document as it is loaded: its snapshot and the updates after it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StoredDocument {
    /// Its id.
    pub document: DocumentId,
    /// The schema's JSON text, as it came.
    pub schema: String,
    /// The merged state up to and including `snapshot_seq`, as a v1 update. `None` if there never was one.
    pub snapshot: Option<Bytes>,
    /// The last update that the snapshot contains; 0 without a snapshot.
    pub snapshot_seq: Seq,
    /// The updates after the snapshot, in order and without gaps.
    pub updates: Vec<StoredUpdate>,
    /// The last update that was ever appended; 0 if none was.
    pub last_seq: Seq,
    /// When it was created.
    pub created_at: Timestamp,
    /// When its content or its path last changed.
    pub updated_at: Timestamp,
}

/// One update of a document's log.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StoredUpdate {
    /// Its position.
    pub seq: Seq,
    /// The v1 update, as it came.
    pub update: Bytes,
    /// Who made what of it. Nothing if that was lost to damage.
    pub contributions: Vec<Contribution>,
    /// When it was handed in.
    pub at: Timestamp,
}

/// A file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StoredFile {
    /// Its content.
    pub data: Bytes,
    /// Its media type, as given by whoever put it there.
    pub mime_type: String,
    /// When a file was first put at this path.
    pub created_at: Timestamp,
    /// When its content or its path last changed.
    pub updated_at: Timestamp,
}

/// A file without its content, for whoever reads that part by part.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FileHead {
    /// Bytes of its content.
    pub size: u64,
    /// Its media type, as given by whoever put it there.
    pub mime_type: String,
    /// Which content it is.
    pub version: FileVersion,
}

/// A content of a file. The content that replaces it has another version, and so has every other file.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct FileVersion(pub [u64; 3]);

/// Totals over all rooms.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct StoreStats {
    /// Documents.
    pub documents: u64,
    /// Files.
    pub files: u64,
    /// Bytes of files, snapshots and updates.
    pub bytes: u64,
}
