//! Results of reads: entries of a room's namespace, documents, updates, files, totals.

use bytes::Bytes;

use crate::reading::FileSum;
use crate::{Contribution, DocumentId, Seq, Timestamp};

/// An entry of a folder.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    /// The last segment of the path; empty for the root folder.
    pub name: String,
    /// The kind of the entry.
    pub kind: EntryKind,
    /// The stored bytes: a file's data, or a document's snapshot and updates, without their
    /// provenance. `None` for a folder.
    pub size: Option<u64>,
    /// When it was created. `None` for a folder.
    pub created_at: Option<Timestamp>,
    /// When its content or its path last changed. `None` for a folder.
    pub updated_at: Option<Timestamp>,
}

/// The kinds of entry. One name may belong to a document or file and to a folder; the folder
/// sorts last.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum EntryKind {
    /// A document with its log of updates.
    Document,
    /// A file with its content.
    File,
    /// A folder: an entry lies below this name.
    Folder,
}

/// A loaded document: its snapshot and the updates after it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StoredDocument {
    /// The document's id.
    pub document: DocumentId,
    /// The schema's JSON text, verbatim.
    pub schema: String,
    /// The merged state up to and including `snapshot_seq`, as a v1 update. `None` without
    /// a snapshot.
    pub snapshot: Option<Bytes>,
    /// The last update that the snapshot contains; 0 without a snapshot.
    pub snapshot_seq: Seq,
    /// The updates after the snapshot, in order and without gaps.
    pub updates: Vec<StoredUpdate>,
    /// The last update that was ever appended; 0 if there was none.
    pub last_seq: Seq,
    /// When it was created.
    pub created_at: Timestamp,
    /// When its content or its path last changed.
    pub updated_at: Timestamp,
}

/// One update of a document's log.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StoredUpdate {
    /// The update's position.
    pub seq: Seq,
    /// The v1 update, verbatim.
    pub update: Bytes,
    /// The contributions to the update. Empty if they were lost to damage.
    pub contributions: Vec<Contribution>,
    /// When it was appended.
    pub at: Timestamp,
}

/// A file with its content.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StoredFile {
    /// The file's content.
    pub data: Bytes,
    /// The file's media type, as its writer gave it.
    pub mime_type: String,
    /// When a file was first put at this path.
    pub created_at: Timestamp,
    /// When its content or its path last changed.
    pub updated_at: Timestamp,
}

/// A file without its content, for readers that read it in parts.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FileHead {
    /// The size of the content in bytes.
    pub size: u64,
    /// The file's media type, as its writer gave it.
    pub mime_type: String,
    /// The version of the content.
    pub version: FileVersion,
    /// The checksum before the content is read; `None` if the store has none.
    pub sum: Option<FileSum>,
}

/// A version of a file's content. The content that replaces it has another version, and so has
/// every other file.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct FileVersion(pub [u64; 3]);

/// Totals over all rooms.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct StoreStats {
    /// The number of documents.
    pub documents: u64,
    /// The number of files.
    pub files: u64,
    /// Bytes of files, snapshots and updates.
    pub bytes: u64,
}
