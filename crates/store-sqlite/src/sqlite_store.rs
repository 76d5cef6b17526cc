//! The store itself: the writer behind a lock, the readers beside it, the claim on the directory.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use meshagent_store::{
    DocumentId, Entry, FileHead, FileVersion, ProvenanceRecord, RoomId, Seq, Staging, Store,
    StoreError, StoreStats, StoredDocument, StoredFile, StoredUpdate, Write, WriteError, Written,
};

use rusqlite::Connection;
use rusqlite::config::DbConfig;

use crate::files::{self, Opening};
use crate::identity::OpenFiles;
use crate::open::{
    Claim, DATABASE_FILE, Found, LOCK_FILE, OpenError, Opened, Options, claim, first_mark,
    mark_closed, mark_open, open_database, open_keeper,
};
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
    files: Arc<OpenFiles>,
    found: Found,
    unsealed: Option<String>,
    // Closed after the other connections.
    keeper: Mutex<Connection>,
    // Last, so that the directory is let go of after the connections are closed.
    _claim: OpenDirectory,
}

/// A data directory in use.
#[derive(Debug)]
struct OpenDirectory {
    path: PathBuf,
    files: Arc<OpenFiles>,
    _claim: Claim,
}

impl Drop for OpenDirectory {
    fn drop(&mut self) {
        if !self.files.are_lost() {
            mark_closed(&self.path);
        }
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        let writer = self.writer.get_mut();
        let _ = writer.unwrap_or_else(PoisonError::into_inner).look();
        if !self.files.has_log() {
            // The last connection would move what it takes for the log into the database.
            let keeper = self
                .keeper
                .get_mut()
                .unwrap_or_else(PoisonError::into_inner);
            let _ = keeper.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
        }
    }
}

impl SqliteStore {
    /// Opens the store in `data_dir`, making both if they aren't there.
    ///
    /// # Errors
    /// If another process has it open, if a later version wrote it, or if it can't be read or made.
    pub fn open(data_dir: &Path, options: Options) -> Result<Self, OpenError> {
        let claim = claim(data_dir)?;
        let durability = options.durability;
        let Opened {
            connection,
            found,
            unsealed,
        } = open_database(data_dir, &options)?;
        let path = data_dir.join(DATABASE_FILE);
        let keeper = open_keeper(&path)?;
        let files = OpenFiles::open(&path, &[data_dir.join(LOCK_FILE)]).map_err(|source| {
            OpenError::Directory {
                path: path.clone(),
                source,
            }
        })?;
        let files = Arc::new(files);
        let mark = first_mark(data_dir, durability);
        mark_open(data_dir, mark)?;
        let writer = Writer::new(path.clone(), options, Arc::clone(&files), connection);
        if mark != durability && writer.has_erased() {
            mark_open(data_dir, durability)?;
        }
        Ok(Self {
            readers: Readers::new(path, Arc::clone(&files)),
            writer: Mutex::new(writer),
            found,
            unsealed: unsealed.map(|error| error.to_string()),
            keeper: Mutex::new(keeper),
            _claim: OpenDirectory {
                path: data_dir.to_owned(),
                files: Arc::clone(&files),
                _claim: claim,
            },
            files,
        })
    }

    /// What was in the directory when it was opened.
    pub fn found(&self) -> Found {
        self.found
    }

    /// Why remains of content that an earlier format kept without a key are still in the file's free space, if they
    /// are. The next start tries again to write the file anew.
    pub fn unsealed(&self) -> Option<&str> {
        self.unsealed.as_deref()
    }

    /// The projects that have anything in the store, by name.
    ///
    /// # Errors
    /// If the store can't be read.
    pub fn projects(&self) -> Result<Vec<String>, StoreError> {
        self.readers.read(|transaction| read::projects(transaction))
    }

    fn with_writer<T>(&self, f: impl FnOnce(&mut Writer) -> T) -> T {
        // After a panic the connection is gone and its transaction rolled back; the next use opens another.
        f(&mut self.writer.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Store for SqliteStore {
    fn commit(&self, writes: &[Write]) -> Result<Vec<Result<Written, WriteError>>, StoreError> {
        self.with_writer(|writer| writer.commit(writes, None))
    }

    fn stage(&self, writes: &[Write], staging: &Staging) -> Result<bool, StoreError> {
        self.with_writer(|writer| writer.stage(writes, staging))
    }

    fn commit_staged(
        &self,
        writes: &[Write],
        staging: &Staging,
    ) -> Result<Vec<Result<Written, WriteError>>, StoreError> {
        self.with_writer(|writer| writer.commit(writes, Some(staging)))
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
        self.readers
            .read_document(|transaction| read::load(transaction, room, path))
    }

    fn load_by_id(&self, document: DocumentId) -> Result<Option<StoredDocument>, StoreError> {
        self.readers
            .read_document(|transaction| read::load_by_id(transaction, document))
    }

    fn follow(
        &self,
        document: DocumentId,
        after: Seq,
        limit: usize,
    ) -> Result<Vec<StoredUpdate>, StoreError> {
        self.readers
            .read_document(|transaction| read::follow(transaction, document, after, limit))
    }

    fn provenance(&self, document: DocumentId) -> Result<Vec<ProvenanceRecord>, StoreError> {
        self.readers
            .read(|transaction| provenance::provenance(transaction, document))
    }

    fn read_file(&self, room: &RoomId, path: &str) -> Result<Option<StoredFile>, StoreError> {
        self.readers
            .read(|transaction| read::read_file(transaction, room, path))
    }

    fn open_file(&self, room: &RoomId, path: &str) -> Result<Option<FileHead>, StoreError> {
        let mut opening = Opening::default();
        // A moment for each part, so that nobody waits long for the end of a read.
        loop {
            let step = self
                .readers
                .read(|transaction| opening.go_on(transaction, room, path))?;
            if let ControlFlow::Break(head) = step {
                return Ok(head);
            }
        }
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
        // When all readers are lent, they read.
        self.readers.try_read(read::probe).map(drop)
    }

    fn stats(&self) -> Result<StoreStats, StoreError> {
        self.readers.read(read::stats)
    }

    fn tend(&self) -> Result<(), StoreError> {
        self.with_writer(|writer| {
            // Our own readers are short. They are in the way of `erase`, and nothing to be said of.
            if writer.owes_erasing() && !self.readers.are_idle() {
                return writer.look();
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
    fn check_waits_for_no_reader() {
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
            // Long enough for any machine; without a reader's end there would be no answer at all.
            let answer = is_checked.recv_timeout(Duration::from_secs(30));
            drop(ends);
            answer.expect("the check waits for readers").unwrap();
        });
        store.check().unwrap();
    }
}
