//! The trait that separates a room server from its database.

use std::fmt::Debug;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use thiserror::Error;

use crate::{
    DocumentId, Entry, FileHead, FileVersion, ProvenanceRecord, RoomId, Seq, StoreStats,
    StoredDocument, StoredFile, StoredUpdate, Write, WriteError, Written,
};

/// A database's own error.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Keeps rooms' documents and files.
///
/// All calls block. Reads see every commit that returned before they began.
pub trait Store: Send + Sync + Debug {
    /// Writes all of `writes`, in order, in one transaction, and returns one result for each.
    ///
    /// When it returns `Ok`, what was written is durable, to the degree the store was opened for. A later write of
    /// the batch sees the earlier ones. A refused write costs only itself, with one exception: a later update of a document
    /// builds on the earlier ones. So behind a [`Write::Append`] that is refused although its document is there, all further
    /// appends to that document, and snapshots of it, are refused with [`WriteError::Behind`].
    ///
    /// # Errors
    /// Nothing of the batch happened. [`StoreError::Unavailable`] and [`StoreError::Full`] may pass: the same batch
    /// can be tried again. After [`StoreError::Replaced`] nothing counts that is written.
    fn commit(&self, writes: &[Write]) -> Result<Vec<Result<Written, WriteError>>, StoreError>;

    /// Writes some content of a large batch ahead of its commit, for some milliseconds, and returns whether none is left
    /// to be written ahead. While it returns `false` it is to be called again with the same batch, with other commits in
    /// between; then [`Store::commit_staged`] costs little. Nobody sees anything of the batch before that, and a process
    /// that ends leaves nothing of it.
    ///
    /// A large batch is one of more than some hundred KiB. For others this does nothing, and for a store that takes
    /// batches of any size in its stride.
    ///
    /// # Errors
    /// As [`Store::commit`]: the batch fails. Dropping `staging` gives the space back.
    fn stage(&self, writes: &[Write], staging: &Staging) -> Result<bool, StoreError> {
        let _ = (writes, staging);
        Ok(true)
    }

    /// The same as [`Store::commit`], of a batch that was [staged](Store::stage).
    ///
    /// # Errors
    /// As [`Store::commit`]. [`StoreError::Full`] also if others needed the space that it had.
    fn commit_staged(
        &self,
        writes: &[Write],
        staging: &Staging,
    ) -> Result<Vec<Result<Written, WriteError>>, StoreError> {
        let _ = staging;
        self.commit(writes)
    }

    /// What stands at `path`. A document or file goes before a folder of the same name; the root always exists.
    ///
    /// # Errors
    /// If the store can't be read.
    fn stat(&self, room: &RoomId, path: &str) -> Result<Option<Entry>, StoreError>;

    /// The direct children of a folder, sorted by name (by code point) and kind; `None` if there is no such folder. If it
    /// has more than `max`, that many of them, and no more are read.
    ///
    /// # Errors
    /// If the store can't be read.
    fn list(
        &self,
        room: &RoomId,
        folder: &str,
        max: usize,
    ) -> Result<Option<Vec<Entry>>, StoreError>;

    /// The document at `path`, with all it takes to rebuild its state; `None` if no document stands there.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] names the document if what was kept is not what was written. Damage to who made it is
    /// none that would keep anybody from the document; [`Store::provenance`] tells it. [`StoreError::Replaced`], since
    /// what could be read may be what a commit did not keep.
    fn load(&self, room: &RoomId, path: &str) -> Result<Option<StoredDocument>, StoreError>;

    /// The same document as [`Store::load`] gives, by its id, wherever its path has gone; `None` if it was deleted.
    ///
    /// # Errors
    /// As [`Store::load`].
    fn load_by_id(&self, document: DocumentId) -> Result<Option<StoredDocument>, StoreError>;

    /// The updates of a document after position `after`.
    ///
    /// # Errors
    /// [`StoreError::Compacted`] if a snapshot has replaced some of them, [`StoreError::NoSuchDocument`] if the
    /// document is gone.
    fn load_since(
        &self,
        document: DocumentId,
        after: Seq,
    ) -> Result<Vec<StoredUpdate>, StoreError> {
        self.follow(document, after, usize::MAX)
    }

    /// The next updates, at most `limit`, after position `after`, whichever node appended them. Returns at once,
    /// with nothing if there are none yet.
    ///
    /// # Errors
    /// As [`Store::load_since`].
    fn follow(
        &self,
        document: DocumentId,
        after: Seq,
        limit: usize,
    ) -> Result<Vec<StoredUpdate>, StoreError>;

    /// Who made the document, from its creation to its last update: the records of what was merged together with what
    /// the log tells, merged and ordered by [`merge`](crate::provenance::merge). A snapshot that folds nothing does not
    /// change it.
    ///
    /// # Errors
    /// [`StoreError::NoSuchDocument`] if the document is gone, [`StoreError::Corrupt`] if what was kept is not what was
    /// written.
    fn provenance(&self, document: DocumentId) -> Result<Vec<ProvenanceRecord>, StoreError>;

    /// The file at `path`; `None` if no file stands there.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if what was kept is not what was written.
    fn read_file(&self, room: &RoomId, path: &str) -> Result<Option<StoredFile>, StoreError>;

    /// The file at `path`, to be read part by part; `None` if no file stands there. Its whole content was compared with
    /// what was written, without being in memory at once.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if what was kept is not what was written.
    fn open_file(&self, room: &RoomId, path: &str) -> Result<Option<FileHead>, StoreError>;

    /// At most `length` bytes from `start` on, of the content that [`Store::open_file`] told; `None` if another stands at
    /// `path` by now, or none.
    ///
    /// # Errors
    /// If the store can't be read.
    fn read_file_range(
        &self,
        room: &RoomId,
        path: &str,
        version: FileVersion,
        start: u64,
        length: usize,
    ) -> Result<Option<Bytes>, StoreError>;

    /// Whether the store can be read and written now. Waits for no read that is under way.
    ///
    /// # Errors
    /// Says what is in the way.
    fn check(&self) -> Result<(), StoreError>;

    /// Totals over all rooms.
    ///
    /// # Errors
    /// If the store can't be read.
    fn stats(&self) -> Result<StoreStats, StoreError>;

    /// Does what commits have put off, and looks whether the store is still where it was opened. To be called every
    /// second or so; costs next to nothing when there is nothing to do.
    ///
    /// # Errors
    /// [`StoreError::Replaced`], or what was put off can't be done now.
    fn tend(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Frees some of the space that large deletions left to be freed, for a few milliseconds, and returns whether none
    /// is left. To be called again between commits while it returns `false`.
    ///
    /// # Errors
    /// It can't be done now, and is left to the next call.
    fn free_some(&self) -> Result<bool, StoreError> {
        Ok(true)
    }

    /// Goes on with what deletions owe, and returns whether nothing is owed any more: then what was deleted by commits
    /// that returned before this call can be read from none of the store's files. Waits for no reader, so while it
    /// returns `false` it is to be called again a few milliseconds later.
    ///
    /// # Errors
    /// It can't be done now, and is still owed.
    fn erase(&self) -> Result<bool, StoreError> {
        Ok(true)
    }

    /// Bytes of the log of what is not yet in the store's main file; 0 if there is no such log.
    fn log_bytes(&self) -> u64 {
        0
    }
}

/// A batch that is [staged](Store::stage). Dropping it gives up what was written ahead.
#[derive(Debug, Default)]
pub struct Staging(Arc<()>);

impl Staging {
    /// By which a store knows it again, and whether it was dropped.
    pub fn token(&self) -> Weak<()> {
        Arc::downgrade(&self.0)
    }

    /// Whether the token is that of this batch.
    pub fn is(&self, token: &Weak<()>) -> bool {
        Arc::as_ptr(&self.0) == token.as_ptr()
    }
}

impl<S: Store + ?Sized> Store for Arc<S> {
    fn commit(&self, writes: &[Write]) -> Result<Vec<Result<Written, WriteError>>, StoreError> {
        (**self).commit(writes)
    }

    fn stage(&self, writes: &[Write], staging: &Staging) -> Result<bool, StoreError> {
        (**self).stage(writes, staging)
    }

    fn commit_staged(
        &self,
        writes: &[Write],
        staging: &Staging,
    ) -> Result<Vec<Result<Written, WriteError>>, StoreError> {
        (**self).commit_staged(writes, staging)
    }

    fn stat(&self, room: &RoomId, path: &str) -> Result<Option<Entry>, StoreError> {
        (**self).stat(room, path)
    }

    fn list(
        &self,
        room: &RoomId,
        folder: &str,
        max: usize,
    ) -> Result<Option<Vec<Entry>>, StoreError> {
        (**self).list(room, folder, max)
    }

    fn load(&self, room: &RoomId, path: &str) -> Result<Option<StoredDocument>, StoreError> {
        (**self).load(room, path)
    }

    fn load_by_id(&self, document: DocumentId) -> Result<Option<StoredDocument>, StoreError> {
        (**self).load_by_id(document)
    }

    fn load_since(
        &self,
        document: DocumentId,
        after: Seq,
    ) -> Result<Vec<StoredUpdate>, StoreError> {
        (**self).load_since(document, after)
    }

    fn follow(
        &self,
        document: DocumentId,
        after: Seq,
        limit: usize,
    ) -> Result<Vec<StoredUpdate>, StoreError> {
        (**self).follow(document, after, limit)
    }

    fn provenance(&self, document: DocumentId) -> Result<Vec<ProvenanceRecord>, StoreError> {
        (**self).provenance(document)
    }

    fn read_file(&self, room: &RoomId, path: &str) -> Result<Option<StoredFile>, StoreError> {
        (**self).read_file(room, path)
    }

    fn open_file(&self, room: &RoomId, path: &str) -> Result<Option<FileHead>, StoreError> {
        (**self).open_file(room, path)
    }

    fn read_file_range(
        &self,
        room: &RoomId,
        path: &str,
        version: FileVersion,
        start: u64,
        length: usize,
    ) -> Result<Option<Bytes>, StoreError> {
        (**self).read_file_range(room, path, version, start, length)
    }

    fn check(&self) -> Result<(), StoreError> {
        (**self).check()
    }

    fn stats(&self) -> Result<StoreStats, StoreError> {
        (**self).stats()
    }

    fn tend(&self) -> Result<(), StoreError> {
        (**self).tend()
    }

    fn free_some(&self) -> Result<bool, StoreError> {
        (**self).free_some()
    }

    fn erase(&self) -> Result<bool, StoreError> {
        (**self).erase()
    }

    fn log_bytes(&self) -> u64 {
        (**self).log_bytes()
    }
}

/// Why a store could not do what it was asked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A snapshot has replaced updates that were asked for; load the document again.
    #[error(
        "the updates of document {document} up to {through} were merged, load the document again"
    )]
    Compacted {
        /// Which document.
        document: DocumentId,
        /// The last update that the snapshot contains.
        through: Seq,
    },
    /// What was kept is not what was written. Restoring a backup is the way out.
    #[error("the store is damaged: {what}{}", .document.map(|id| format!(" (document {id})")).unwrap_or_default())]
    Corrupt {
        /// The document, if the damage is known to be in one.
        document: Option<DocumentId>,
        /// What was found.
        what: String,
    },
    /// There is no room for more; deleting something, or a larger disk, helps.
    #[error("the disk is full")]
    Full(#[source] BoxError),
    /// The document was deleted, or never existed.
    #[error("document {document} is gone")]
    NoSuchDocument {
        /// Which.
        document: DocumentId,
    },
    /// What it was opened on is not there any more. Nothing that is written from now on would be found after a restart.
    #[error(
        "the database was deleted or replaced while it was in use; nothing can be saved until the server is started again"
    )]
    Replaced(#[source] BoxError),
    /// Busy, or its disk or network fails; trying again may help.
    #[error("the store can't be used right now")]
    Unavailable(#[source] BoxError),
}
