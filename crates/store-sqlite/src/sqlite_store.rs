//! The store: the writer behind a lock, the readers beside it, the lock on the directory.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use meshagent_store::{
    Batch, DocumentId, Entry, Epoch, FileHead, FileVersion, ProvenanceRecord, RoomId, Seq, Staging,
    Store, StoreError, StoreStats, StoredDocument, StoredFile, StoredUpdate, Write, WriteError,
    Written,
};

use rusqlite::Connection;
use rusqlite::config::DbConfig;

use crate::files;
use crate::identity::OpenFiles;
use crate::open::{
    DATABASE_FILE, DirectoryLock, Found, LOCK_FILE, OpenError, Opened, Options, first_mark,
    lock_directory, mark_closed, mark_open, open_database, open_keeper,
};
use crate::owners::Owners;
use crate::provenance;
use crate::read;
use crate::readers::Readers;
use crate::reserve::{Reserve, Use};
use crate::writer::Writer;

/// A store in one SQLite file.
///
/// Dropping it moves the WAL into the database file and unlocks the data directory.
#[derive(Debug)]
pub struct SqliteStore {
    readers: Readers,
    writer: Mutex<Writer>,
    files: Arc<OpenFiles>,
    owners: Owners,
    found: Found,
    unsealed: Option<String>,
    // Closed after the other connections.
    keeper: Mutex<Connection>,
    // The last field, so that the directory is unlocked after the connections are closed.
    _lock: OpenDirectory,
}

/// A data directory that is in use.
#[derive(Debug)]
struct OpenDirectory {
    path: PathBuf,
    files: Arc<OpenFiles>,
    _lock: DirectoryLock,
}

impl Drop for OpenDirectory {
    fn drop(&mut self) {
        if !self.files.is_lost() {
            mark_closed(&self.path);
        }
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        let writer = self.writer.get_mut();
        let _ = writer.unwrap_or_else(PoisonError::into_inner).check_files();
        if !self.files.has_valid_wal() {
            // The last connection would move a WAL that is not valid into the database.
            let keeper = self
                .keeper
                .get_mut()
                .unwrap_or_else(PoisonError::into_inner);
            let _ = keeper.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
        }
    }
}

impl SqliteStore {
    /// Opens the store in `data_dir`; creates both if they don't exist.
    ///
    /// # Errors
    /// Another process has it open, a later version wrote it, or it can't be read or created.
    pub fn open(data_dir: &Path, options: Options) -> Result<Self, OpenError> {
        let lock = lock_directory(data_dir)?;
        // A relative path would follow the working directory when that is moved, but a restart
        // would not. Errors of the start name the path as it was given.
        let absolute = std::path::absolute(data_dir).map_err(|source| OpenError::Directory {
            path: data_dir.to_owned(),
            source,
        })?;
        let durability = options.durability;
        let mut reserve = Reserve::open(&absolute);
        let mut opened = open_database(data_dir, &options);
        // The WAL index needs space, and an upgrade needs more of it.
        for purpose in [Use::Start, Use::Other] {
            if opened.as_ref().is_err_and(OpenError::is_out_of_space) && reserve.release(purpose) {
                opened = open_database(data_dir, &options);
            }
        }
        let Opened {
            connection,
            found,
            unsealed,
        } = opened?;
        let path = absolute.join(DATABASE_FILE);
        let keeper = open_keeper(&path)?;
        let files = OpenFiles::open(&path, &[absolute.join(LOCK_FILE)]).map_err(|source| {
            OpenError::Directory {
                path: path.clone(),
                source,
            }
        })?;
        let files = Arc::new(files);
        let mark = first_mark(data_dir, durability);
        mark_open(data_dir, mark)?;
        let writer = Writer::new(
            path.clone(),
            options,
            Arc::clone(&files),
            connection,
            reserve,
        );
        if mark != durability && writer.is_wal_clean() {
            mark_open(data_dir, durability)?;
        }
        Ok(Self {
            readers: Readers::new(path, Arc::clone(&files)),
            writer: Mutex::new(writer),
            owners: Owners::default(),
            found,
            unsealed: unsealed.map(|error| error.to_string()),
            keeper: Mutex::new(keeper),
            _lock: OpenDirectory {
                path: absolute,
                files: Arc::clone(&files),
                _lock: lock,
            },
            files,
        })
    }

    /// Returns the state in which the directory was found.
    pub fn found(&self) -> Found {
        self.found
    }

    /// Returns the reason why unsealed content of an earlier format is still in the file's free
    /// space, if it is. The next start tries again to rewrite the file.
    pub fn unsealed(&self) -> Option<&str> {
        self.unsealed.as_deref()
    }

    /// Returns the projects that have rooms in the store, sorted by name.
    ///
    /// # Errors
    /// The store can't be read.
    pub fn projects(&self) -> Result<Vec<String>, StoreError> {
        self.readers.read(|transaction| read::projects(transaction))
    }

    fn with_writer<T>(&self, f: impl FnOnce(&mut Writer) -> T) -> T {
        // A panic has dropped the connection, which rolls back its transaction; the next use
        // opens another.
        f(&mut self.writer.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Store for SqliteStore {
    fn commit_batches(
        &self,
        writes: &[Write],
        batches: &[Batch],
        staging: Option<&Staging>,
    ) -> Result<Vec<Result<Written, WriteError>>, StoreError> {
        self.with_writer(|writer| {
            let (fenced, _committing) = self.owners.begin(batches);
            writer.commit(writes, fenced, staging)
        })
    }

    fn take_over(&self, room: &RoomId, from: Option<Epoch>) -> Result<Epoch, StoreError> {
        self.owners.take_over(room, from)
    }

    fn release(&self, room: &RoomId, epoch: Epoch) {
        self.owners.release(room, epoch);
    }

    fn stage(&self, writes: &[Write], staging: &Staging) -> Result<bool, StoreError> {
        self.with_writer(|writer| writer.stage(writes, staging))
    }

    fn stat(&self, room: &RoomId, path: &str) -> Result<Option<Entry>, StoreError> {
        self.readers
            .read(|transaction| read::stat(transaction, room, path))
    }

    fn list(
        &self,
        room: &RoomId,
        folder: &str,
        max: usize,
    ) -> Result<Option<Vec<Entry>>, StoreError> {
        self.readers
            .read(|transaction| read::list(transaction, room, folder, max))
    }

    fn load(&self, room: &RoomId, path: &str) -> Result<Option<StoredDocument>, StoreError> {
        self.readers.read_document(|transaction| {
            read::load(transaction, room, path).map_err(read::named(transaction))
        })
    }

    fn load_by_id(&self, document: DocumentId) -> Result<Option<StoredDocument>, StoreError> {
        self.readers.read_document(|transaction| {
            read::load_by_id(transaction, document).map_err(read::named(transaction))
        })
    }

    fn follow(
        &self,
        document: DocumentId,
        after: Seq,
        limit: usize,
    ) -> Result<Vec<StoredUpdate>, StoreError> {
        self.readers.read_document(|transaction| {
            read::follow(transaction, document, after, limit).map_err(read::named(transaction))
        })
    }

    fn provenance(&self, document: DocumentId) -> Result<Vec<ProvenanceRecord>, StoreError> {
        self.readers.read(|transaction| {
            provenance::provenance(transaction, document).map_err(read::named(transaction))
        })
    }

    fn read_file(&self, room: &RoomId, path: &str) -> Result<Option<StoredFile>, StoreError> {
        self.readers
            .read(|transaction| read::read_file(transaction, room, path))
    }

    fn open_file(&self, room: &RoomId, path: &str) -> Result<Option<FileHead>, StoreError> {
        self.readers
            .read(|transaction| files::open_file(transaction, room, path))
    }

    fn read_file_range(
        &self,
        room: &RoomId,
        path: &str,
        version: FileVersion,
        start: u64,
        length: usize,
    ) -> Result<Option<Bytes>, StoreError> {
        self.readers.read(|transaction| {
            files::read_file_range(transaction, room, path, version, start, length)
        })
    }

    fn check(&self) -> Result<(), StoreError> {
        self.with_writer(Writer::probe)?;
        // If all readers are in use, reading works.
        self.readers.try_read(read::probe).map(drop)
    }

    fn stats(&self) -> Result<StoreStats, StoreError> {
        self.readers.read(read::stats)
    }

    fn tend(&self) -> Result<(), StoreError> {
        self.with_writer(|writer| {
            // This process's reads are short. They delay the erasure, but are not worth a report.
            if writer.is_erasure_due() && !self.readers.are_idle() {
                return writer.check_files();
            }
            writer.tend()
        })
    }

    fn free_some(&self) -> Result<bool, StoreError> {
        self.with_writer(Writer::free_some)
    }

    fn erase(&self) -> Result<bool, StoreError> {
        self.with_writer(|writer| {
            let mut is_free = false;
            let erased = writer.try_erase(|| {
                is_free = self.readers.are_idle();
                is_free
            });
            if is_free {
                self.readers.release();
            }
            erased
        })
    }

    fn log_bytes(&self) -> u64 {
        self.files.wal_bytes()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use crate::readers::MAX_READERS;

    use super::*;

    #[test]
    fn check_does_not_wait_for_readers() {
        let directory = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(directory.path(), Options::default()).unwrap();
        let all_read = Barrier::new(MAX_READERS + 1);
        let (checked, is_checked) = channel();
        std::thread::scope(|scope| {
            let mut ends = Vec::new();
            for _ in 0..MAX_READERS {
                let (end, is_over) = channel::<()>();
                ends.push(end);
                let (store, all_read) = (&store, &all_read);
                scope.spawn(move || {
                    store.readers.read(|transaction| {
                        read::probe(transaction)?;
                        all_read.wait();
                        let _ = is_over.recv();
                        Ok(())
                    })
                });
            }
            all_read.wait();
            scope.spawn(|| checked.send(store.check()));
            // Long enough for any machine; if the check waited for a reader, it would never return.
            let answer = is_checked.recv_timeout(Duration::from_secs(30));
            drop(ends);
            answer
                .expect("the check does not wait for readers")
                .unwrap();
        });
        store.check().unwrap();
    }
}
