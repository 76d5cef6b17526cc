//! The store itself: the writer behind a lock, the readers beside it, the claim on the directory.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use meshagent_store::{
    DocumentId, Entry, ProvenanceRecord, RoomId, Seq, Store, StoreError, StoreStats,
    StoredDocument, StoredFile, StoredUpdate, Write, WriteError, Written,
};

use crate::open::{Claim, DATABASE_FILE, OpenError, Options, claim, open_database};
use crate::provenance;
use crate::read;
use crate::readers::Readers;
use crate::writer::Writer;

/// A store in one SQLite file.
///
/// Dropping it folds the WAL into the database file and lets go of the data directory.
#[derive(Debug)]
pub struct SqliteStore {
    readers: Readers,
    writer: Mutex<Writer>,
    // Last, so that the directory is let go of after the connections are closed.
    _claim: Claim,
}

impl SqliteStore {
    /// Opens the store in `data_dir`, making both if they aren't there.
    ///
    /// # Errors
    /// If another process has it open, if a later version wrote it, or if it can't be read or made.
    pub fn open(data_dir: &Path, options: Options) -> Result<Self, OpenError> {
        let claim = claim(data_dir)?;
        let connection = open_database(data_dir, &options)?;
        let path = data_dir.join(DATABASE_FILE);
        Ok(Self {
            readers: Readers::new(path.clone()),
            writer: Mutex::new(Writer::new(path, options, connection)),
            _claim: claim,
        })
    }

    fn with_writer<T>(&self, f: impl FnOnce(&mut Writer) -> T) -> T {
        // After a panic the connection is gone and its transaction rolled back; the next use opens another.
        f(&mut self.writer.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Store for SqliteStore {
    fn commit(&self, writes: &[Write]) -> Result<Vec<Result<Written, WriteError>>, StoreError> {
        self.with_writer(|writer| writer.commit(writes))
    }

    fn stat(&self, room: &RoomId, path: &str) -> Result<Option<Entry>, StoreError> {
        self.readers
            .read(|transaction| read::stat(transaction, room, path))
    }

    fn list(&self, room: &RoomId, folder: &str) -> Result<Option<Vec<Entry>>, StoreError> {
        self.readers
            .read(|transaction| read::list(transaction, room, folder))
    }

    fn load(&self, room: &RoomId, path: &str) -> Result<Option<StoredDocument>, StoreError> {
        self.readers
            .read(|transaction| read::load(transaction, room, path))
    }

    fn follow(
        &self,
        document: DocumentId,
        after: Seq,
        limit: usize,
    ) -> Result<Vec<StoredUpdate>, StoreError> {
        self.readers
            .read(|transaction| read::follow(transaction, document, after, limit))
    }

    fn provenance(&self, document: DocumentId) -> Result<Vec<ProvenanceRecord>, StoreError> {
        self.readers
            .read(|transaction| provenance::provenance(transaction, document))
    }

    fn read_file(&self, room: &RoomId, path: &str) -> Result<Option<StoredFile>, StoreError> {
        self.readers
            .read(|transaction| read::read_file(transaction, room, path))
    }

    fn check(&self) -> Result<(), StoreError> {
        self.with_writer(Writer::probe)?;
        self.readers.read(read::probe)
    }

    fn stats(&self) -> Result<StoreStats, StoreError> {
        self.readers.read(read::stats)
    }
}
