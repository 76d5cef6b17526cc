//! The trait that separates a room server from its database, and its errors.

use std::fmt::Debug;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use thiserror::Error;

use crate::{
    Batch, DocumentId, Entry, Epoch, FileHead, FileVersion, ProvenanceRecord, RoomId, Seq,
    StoreStats, StoredDocument, StoredFile, StoredUpdate, Write, WriteError, Written,
};

/// The database's own error, as the source of a [`StoreError`].
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Storage for the documents and files of rooms.
///
/// All calls block; [`AsyncStore`](crate::AsyncStore) is the form whose calls may wait. Reads see
/// every commit that returned before they began.
pub trait Store: Send + Sync + Debug {
    /// Applies `writes` in order, in one transaction, and returns one result for each.
    ///
    /// Once it returns `Ok`, the written data is durable, to the degree that the store was opened
    /// with. A later write of the batch sees the earlier ones.
    ///
    /// A refused write affects only itself, with one exception: a later update of a document
    /// builds on the earlier ones. If a [`Write::Append`] is refused although its document
    /// exists and its owner is the present one, the further appends to that document, and
    /// snapshots of it, are refused with [`WriteError::Behind`].
    ///
    /// The first of the writes belong to `batches`, in order. Those of an owner that is no longer
    /// the present one are refused with [`WriteError::Fenced`]. Further writes belong to programs
    /// that need no owner, because no server uses the store. If `staging` is given, the writes were
    /// [staged](Store::stage) under it.
    ///
    /// # Errors
    /// No write was applied. [`StoreError::Unavailable`] and [`StoreError::Full`] may be temporary:
    /// the same writes can be retried. After [`StoreError::Replaced`], nothing that is written will
    /// last. Also [`StoreError::Full`] if other writes needed the space of staged content. After
    /// [`StoreError::Unknown`] alone, writes may have been applied, or may still be.
    fn commit_batches(
        &self,
        writes: &[Write],
        batches: &[Batch],
        staging: Option<&Staging>,
    ) -> Result<Vec<Result<Written, WriteError>>, StoreError>;

    /// Commits writes that belong to no owner; see [`Store::commit_batches`].
    ///
    /// # Errors
    /// As [`Store::commit_batches`].
    fn commit(&self, writes: &[Write]) -> Result<Vec<Result<Written, WriteError>>, StoreError> {
        self.commit_batches(writes, &[], None)
    }

    /// Makes the caller the owner of a room, and returns its epoch. From then on, reads see all
    /// that earlier owners have written, and nothing more that they write is accepted.
    ///
    /// With `from`, the caller renews the epoch that it has, so that none of its own earlier writes
    /// can still arrive.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] if `from` is not the present epoch.
    fn take_over(&self, room: &RoomId, from: Option<Epoch>) -> Result<Epoch, StoreError>;

    /// Gives up the ownership of a room that ends. An epoch that is no longer the present one is
    /// ignored.
    fn release(&self, room: &RoomId, epoch: Epoch) {
        let _ = (room, epoch);
    }

    /// Stages a large batch: writes some of its content ahead of the commit, for a few
    /// milliseconds, and returns whether all of it is staged.
    ///
    /// While it returns `false`, call it again with the same batch; other commits may run in
    /// between. The commit with this `staging` is cheap afterwards. Staged content is invisible
    /// until that commit, and does not outlive the process without it.
    ///
    /// A large batch has more than a few hundred KiB of content. For smaller batches this does
    /// nothing, nor does it for a store to which batches of any size cost little.
    ///
    /// # Errors
    /// As [`Store::commit_batches`]: the batch fails. Dropping `staging` frees the space.
    fn stage(&self, writes: &[Write], staging: &Staging) -> Result<bool, StoreError> {
        let _ = (writes, staging);
        Ok(true)
    }

    /// Commits writes that belong to no owner, after they were [staged](Store::stage).
    ///
    /// # Errors
    /// As [`Store::commit_batches`].
    fn commit_staged(
        &self,
        writes: &[Write],
        staging: &Staging,
    ) -> Result<Vec<Result<Written, WriteError>>, StoreError> {
        self.commit_batches(writes, &[], Some(staging))
    }

    /// Returns the entry at `path`. A document or file takes precedence over a folder of the same
    /// name; the root always exists.
    ///
    /// # Errors
    /// The store can't be read.
    fn stat(&self, room: &RoomId, path: &str) -> Result<Option<Entry>, StoreError>;

    /// Returns the direct children of a folder, sorted by name (by code point) and kind; `None` if
    /// the folder does not exist. Of more than `max` children it reads and returns `max`.
    ///
    /// # Errors
    /// The store can't be read.
    fn list(
        &self,
        room: &RoomId,
        folder: &str,
        max: usize,
    ) -> Result<Option<Vec<Entry>>, StoreError>;

    /// Loads the document at `path`, with everything needed to rebuild its state; `None` if no
    /// document exists there.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] names the document if its stored content differs from what was
    /// written. Corrupt provenance never blocks loading a document; [`Store::provenance`] reports
    /// it. [`StoreError::Replaced`], since the readable content may include a commit that failed.
    fn load(&self, room: &RoomId, path: &str) -> Result<Option<StoredDocument>, StoreError>;

    /// Loads a document by its id, wherever it was moved; `None` if it was deleted.
    ///
    /// # Errors
    /// As [`Store::load`].
    fn load_by_id(&self, document: DocumentId) -> Result<Option<StoredDocument>, StoreError>;

    /// Returns the updates of a document after position `after`.
    ///
    /// # Errors
    /// [`StoreError::Compacted`] if a snapshot has replaced some of them,
    /// [`StoreError::NoSuchDocument`] if the document does not exist.
    fn load_since(
        &self,
        document: DocumentId,
        after: Seq,
    ) -> Result<Vec<StoredUpdate>, StoreError> {
        self.follow(document, after, usize::MAX)
    }

    /// Returns at most `limit` updates after position `after`, whichever node appended them. It
    /// does not wait for updates: if there are none yet, the result is empty.
    ///
    /// # Errors
    /// As [`Store::load_since`].
    fn follow(
        &self,
        document: DocumentId,
        after: Seq,
        limit: usize,
    ) -> Result<Vec<StoredUpdate>, StoreError>;

    /// Returns the document's provenance, from its creation to its last update: the records of
    /// merged updates together with the contributions in the log, merged and ordered by
    /// [`merge`](crate::provenance::merge). A snapshot that folds no records does not change it.
    ///
    /// # Errors
    /// [`StoreError::NoSuchDocument`] if the document does not exist, [`StoreError::Corrupt`] if
    /// the stored records differ from what was written.
    fn provenance(&self, document: DocumentId) -> Result<Vec<ProvenanceRecord>, StoreError>;

    /// Reads the file at `path`; `None` if no file exists there.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if the stored content differs from what was written.
    fn read_file(&self, room: &RoomId, path: &str) -> Result<Option<StoredFile>, StoreError>;

    /// Opens the file at `path` for reading in parts; `None` if no file exists there. No
    /// content is read: [`FileReading`](crate::FileReading) compares it with its checksum.
    ///
    /// # Errors
    /// The store can't be read, or content that should be there is not.
    fn open_file(&self, room: &RoomId, path: &str) -> Result<Option<FileHead>, StoreError>;

    /// Reads at most `length` bytes from `start` on, of the version that [`Store::open_file`]
    /// returned; `None` if `path` has another version by now, or no file.
    ///
    /// # Errors
    /// The store can't be read.
    fn read_file_range(
        &self,
        room: &RoomId,
        path: &str,
        version: FileVersion,
        start: u64,
        length: usize,
    ) -> Result<Option<Bytes>, StoreError>;

    /// Checks that the store can be read and written now. It does not wait for reads in flight.
    ///
    /// # Errors
    /// The error names the obstacle.
    fn check(&self) -> Result<(), StoreError>;

    /// Returns totals over all rooms.
    ///
    /// # Errors
    /// The store can't be read.
    fn stats(&self) -> Result<StoreStats, StoreError>;

    /// Does the work that commits have deferred, and checks that the store's files are still in
    /// place. Call it once a second or so; it costs next to nothing when nothing is due.
    ///
    /// # Errors
    /// [`StoreError::Replaced`], or the deferred work can't be done now.
    fn tend(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Frees some of the space of large deletions, for a few milliseconds, and returns whether all
    /// of it is free. While it returns `false`, call it again between commits.
    ///
    /// # Errors
    /// The space can't be freed now; the next call retries it.
    fn free_some(&self) -> Result<bool, StoreError> {
        Ok(true)
    }

    /// Continues to erase deleted content, and returns whether all of it is erased: then the
    /// content that was deleted by commits that returned before this call can't be read from any of
    /// the store's files. It does not wait for readers; while it returns `false`, call it again a
    /// few milliseconds later.
    ///
    /// # Errors
    /// The content can't be erased now, and the erasure remains due.
    fn erase(&self) -> Result<bool, StoreError> {
        Ok(true)
    }

    /// Returns the size, in bytes, of the write-ahead log; 0 if the store has none. That log
    /// contains what is not in the store's main file yet.
    fn log_bytes(&self) -> u64 {
        0
    }
}

/// The handle of a [staged](Store::stage) batch. Dropping it discards the staged content.
#[derive(Debug, Default)]
pub struct Staging(Arc<()>);

impl Staging {
    /// Returns the token by which a store recognises this batch and sees whether the handle
    /// was dropped.
    pub fn token(&self) -> Weak<()> {
        Arc::downgrade(&self.0)
    }

    /// Returns whether `token` belongs to this batch.
    pub fn is(&self, token: &Weak<()>) -> bool {
        Arc::as_ptr(&self.0) == token.as_ptr()
    }
}

/// Forwards all calls through a pointer.
macro_rules! forward {
    ($pointer:ty) => {
        impl<S: Store + ?Sized> Store for $pointer {
            fn commit_batches(
                &self,
                writes: &[Write],
                batches: &[Batch],
                staging: Option<&Staging>,
            ) -> Result<Vec<Result<Written, WriteError>>, StoreError> {
                (**self).commit_batches(writes, batches, staging)
            }

            fn take_over(&self, room: &RoomId, from: Option<Epoch>) -> Result<Epoch, StoreError> {
                (**self).take_over(room, from)
            }

            fn release(&self, room: &RoomId, epoch: Epoch) {
                (**self).release(room, epoch);
            }

            fn stage(&self, writes: &[Write], staging: &Staging) -> Result<bool, StoreError> {
                (**self).stage(writes, staging)
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

            fn load(
                &self,
                room: &RoomId,
                path: &str,
            ) -> Result<Option<StoredDocument>, StoreError> {
                (**self).load(room, path)
            }

            fn load_by_id(
                &self,
                document: DocumentId,
            ) -> Result<Option<StoredDocument>, StoreError> {
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

            fn provenance(
                &self,
                document: DocumentId,
            ) -> Result<Vec<ProvenanceRecord>, StoreError> {
                (**self).provenance(document)
            }

            fn read_file(
                &self,
                room: &RoomId,
                path: &str,
            ) -> Result<Option<StoredFile>, StoreError> {
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
    };
}

forward!(&S);
forward!(Arc<S>);

/// An error of a store.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A snapshot has replaced the requested updates; load the document again.
    #[error(
        "the updates of document {document} up to {through} were merged: load the document again"
    )]
    Compacted {
        /// The document.
        document: DocumentId,
        /// The last update that the snapshot contains.
        through: Seq,
    },
    /// The stored content differs from what was written. The remedy is to restore a backup.
    #[error(
        "the store is damaged: {what}{}",
        .document.map(|id| format!(" (document {id})")).unwrap_or_default()
    )]
    Corrupt {
        /// The document, if the damage is known to be in one.
        document: Option<DocumentId>,
        /// A description of the damage.
        what: String,
    },
    /// The caller is no longer the owner of the room.
    #[error("another writer has taken over the room, in epoch {epoch}")]
    Fenced {
        /// The epoch of the present owner.
        epoch: Epoch,
    },
    /// The disk is full. Deleting entries, or a larger disk, helps.
    #[error("the disk is full")]
    Full(#[source] BoxError),
    /// The document was deleted, or never existed.
    #[error("document {document} was deleted or never existed")]
    NoSuchDocument {
        /// The document.
        document: DocumentId,
    },
    /// The disk can only be read, for example since the operating system has met an error on it.
    #[error("the disk can't be written: it is read-only")]
    ReadOnly(#[source] BoxError),
    /// The database's files were deleted or replaced. Whatever is written from now on would be
    /// missing after a restart.
    #[error(
        "the database was deleted or replaced while in use: restart the server to save anything"
    )]
    Replaced(#[source] BoxError),
    /// The writes may have been stored, may still be stored, or may never be. Before a retry, take
    /// the room over, then look at what is stored.
    #[error("the store did not say whether it has stored the writes")]
    Unknown(#[source] BoxError),
    /// The store is busy, or its disk or network fails; a retry may succeed.
    #[error("the store is temporarily unavailable")]
    Unavailable(#[source] BoxError),
}
