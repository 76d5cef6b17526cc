//! The disk below a simulated server, and the effects of a power cut on it.
//!
//! In most runs, the disk is a log in memory: each commit is one checksummed record, and a power
//! cut can tear everything behind the synced part. Some runs use the real `SqliteStore`, whose
//! write-ahead log a power cut truncates.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use meshagent_store::{
    Batch, DocumentId, Entry, Epoch, FileHead, FileVersion, MemoryStore, ProvenanceRecord, RoomId,
    Seq, Staging, Store, StoreError, StoreStats, StoredDocument, StoredFile, StoredUpdate, Write,
    WriteError, Written,
};
use meshagent_store_sqlite::{DATABASE_FILE, Durability, Options, SqliteStore};
use tempfile::TempDir;

use super::random::Random;

/// A bug in the store, for the test that the simulation finds such bugs.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum StoreBug {
    /// The store is correct.
    #[default]
    None,
    /// The store reports every commit as durable, but syncs only every fourth.
    EarlyAnswer,
    /// The store drops every ninth update, but reports it as appended.
    LostWrite,
    /// The store reports every fifth commit as failed, although it succeeded.
    FalseFailure,
}

/// The store of a run, with the state that survives a power cut.
#[derive(Debug)]
pub(super) enum Disk {
    Log(Arc<LogStore>),
    Sqlite {
        directory: TempDir,
        store: Arc<SqliteStore>,
        /// The files before the commit during which the power is cut.
        before: Option<Files>,
    },
}

/// The files of the database of a `SqliteStore`.
#[derive(Debug)]
pub(super) struct Files {
    database: Vec<u8>,
    wal: Vec<u8>,
}

impl Disk {
    /// Creates an empty disk with a log in memory.
    pub(super) fn log(bug: StoreBug) -> Self {
        Self::Log(Arc::new(LogStore::new(Vec::new(), &[], bug)))
    }

    /// Creates a disk with an empty `SqliteStore`, in a temporary directory.
    pub(super) fn sqlite() -> Result<Self, String> {
        let directory = TempDir::new().map_err(|error| error.to_string())?;
        Self::open(directory)
    }

    fn open(directory: TempDir) -> Result<Self, String> {
        let mut options = Options::default();
        // `cut` truncates the WAL whether it is synced or not: real syncing would only take time.
        options.durability = Durability::Os;
        let store =
            SqliteStore::open(directory.path(), options).map_err(|error| error.to_string())?;
        Ok(Self::Sqlite {
            directory,
            store: Arc::new(store),
            before: None,
        })
    }

    /// The store on this disk.
    pub(super) fn store(&self) -> Arc<dyn Store> {
        match self {
            Self::Log(store) => Arc::clone(store) as Arc<dyn Store>,
            Self::Sqlite { store, .. } => Arc::clone(store) as Arc<dyn Store>,
        }
    }

    /// Sets whether something holds the store's log, as a backup does, and returns whether the log
    /// is held. `SqliteStore` is never held: its behaviour would depend on the clock.
    pub(super) fn hold_log(&self, is_held: bool) -> bool {
        match self {
            Self::Log(store) => {
                store.disk().is_held = is_held;
                is_held
            }
            Self::Sqlite { .. } => false,
        }
    }

    /// Announces that the power is cut during the next commit, whose result does not count.
    pub(super) fn begin_torn(&mut self) -> Result<(), String> {
        match self {
            Self::Log(store) => store.disk().tearing = true,
            Self::Sqlite {
                directory, before, ..
            } => *before = Some(Files::read(directory.path())?),
        }
        Ok(())
    }

    /// Cuts the power and opens what is left of the disk. Also returns whether a commit was torn.
    pub(super) fn cut(self, random: &mut Random) -> Result<(Self, bool), String> {
        match self {
            Self::Log(store) => {
                let (left, is_torn) = store.cut(random);
                Ok((Self::Log(Arc::new(left)), is_torn))
            }
            Self::Sqlite {
                directory, before, ..
            } => {
                let mut left = Files::read(directory.path())?;
                let mut is_torn = false;
                if let Some(before) = before
                    && before.database == left.database
                    && left.wal.starts_with(&before.wal)
                {
                    let written = left.wal.len() - before.wal.len();
                    let kept = random.index(written + 1);
                    is_torn = kept < written;
                    left.wal.truncate(before.wal.len() + kept);
                }
                let copy = TempDir::new().map_err(|error| error.to_string())?;
                left.write(copy.path())?;
                Ok((Self::open(copy)?, is_torn))
            }
        }
    }
}

impl Files {
    fn read(directory: &Path) -> Result<Self, String> {
        let path = directory.join(DATABASE_FILE);
        let database = fs::read(&path).map_err(|error| error.to_string())?;
        // There is no WAL before the first write.
        let wal = fs::read(path.with_file_name(format!("{DATABASE_FILE}-wal"))).unwrap_or_default();
        Ok(Self { database, wal })
    }

    fn write(&self, directory: &Path) -> Result<(), String> {
        let path = directory.join(DATABASE_FILE);
        let wal = path.with_file_name(format!("{DATABASE_FILE}-wal"));
        fs::write(path, &self.database)
            .and_then(|()| fs::write(wal, &self.wal))
            .map_err(|error| error.to_string())
    }
}

/// The size of a record's header: length and checksum of the payload.
const HEADER_BYTES: usize = 8;
/// The unit in which unsynced bytes reach the disk or not.
const PAGE_BYTES: usize = 512;

/// A store that keeps each commit as one record of a log.
#[derive(Debug)]
pub(super) struct LogStore {
    disk: Mutex<LogDisk>,
    memory: MemoryStore,
    bug: StoreBug,
}

#[derive(Debug, Default)]
struct LogDisk {
    bytes: Vec<u8>,
    /// The length of the part that every power cut leaves intact.
    synced: usize,
    /// The content of the records, so that nothing has to decode the bytes. The bytes decide how
    /// many records a power cut leaves.
    records: Vec<Vec<Write>>,
    /// Whether the power is cut during the next commit.
    tearing: bool,
    /// Whether something prevents the erasure of deleted content from the log.
    is_held: bool,
    commits: u64,
    appends: u64,
}

impl LogStore {
    fn new(bytes: Vec<u8>, records: &[Vec<Write>], bug: StoreBug) -> Self {
        let memory = MemoryStore::new();
        for writes in records {
            // The memory store refuses the same single writes as the first time, but never a batch.
            let _ = memory.commit(writes);
        }
        let disk = LogDisk {
            synced: bytes.len(),
            bytes,
            records: records.to_vec(),
            ..LogDisk::default()
        };
        Self {
            disk: Mutex::new(disk),
            memory,
            bug,
        }
    }

    fn disk(&self) -> MutexGuard<'_, LogDisk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The store as a power cut leaves it, and whether a commit was torn.
    fn cut(&self, random: &mut Random) -> (Self, bool) {
        let mut disk = self.disk();
        let LogDisk {
            mut bytes,
            synced,
            records,
            ..
        } = std::mem::take(&mut *disk);
        let unsynced = bytes.len() - synced;
        bytes.truncate(synced + random.index(unsynced + 1));
        // Pages reach the disk in any order, so some of the last ones have other content.
        for page in (synced..bytes.len()).step_by(PAGE_BYTES) {
            if random.one_in(4) {
                let end = bytes.len().min(page + PAGE_BYTES);
                let garbage = random.bytes(end - page);
                bytes[page..end].copy_from_slice(&garbage);
            }
        }
        let whole = whole_records(&bytes);
        let end = whole.last().copied().unwrap_or_default();
        bytes.truncate(end);
        let is_torn = whole.len() < records.len();
        (Self::new(bytes, &records[..whole.len()], self.bug), is_torn)
    }
}

impl LogDisk {
    fn append(&mut self, writes: &[Write]) {
        let mut payload = Vec::new();
        for write in writes {
            let bytes: &[u8] = match write {
                Write::CreateDocument { state: bytes, .. }
                | Write::Append { update: bytes, .. }
                | Write::Snapshot { state: bytes, .. }
                | Write::PutFile { data: bytes, .. } => bytes,
                Write::Delete { .. } | Write::Move { .. } => &[],
            };
            payload
                .extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
            payload.extend_from_slice(bytes);
        }
        self.records.push(writes.to_vec());
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        self.bytes.extend_from_slice(&length.to_le_bytes());
        self.bytes
            .extend_from_slice(&crc32fast::hash(&payload).to_le_bytes());
        self.bytes.extend_from_slice(&payload);
    }
}

/// The end of each record before the first damaged one.
fn whole_records(bytes: &[u8]) -> Vec<usize> {
    let mut ends = Vec::new();
    let mut start = 0;
    loop {
        let rest = &bytes[start..];
        let Some((header, payload)) = rest.split_at_checked(HEADER_BYTES) else {
            return ends;
        };
        let number = |at: usize| {
            u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let Some(payload) = payload.get(..number(0) as usize) else {
            return ends;
        };
        if crc32fast::hash(payload) != number(4) {
            return ends;
        }
        start += HEADER_BYTES + payload.len();
        ends.push(start);
    }
}

/// Takes the write with this index out of its batch.
fn shorten(batches: &mut [Batch], index: usize) {
    let mut end = 0;
    for batch in batches {
        end += batch.writes;
        if index < end {
            batch.writes -= 1;
            return;
        }
    }
}

impl Store for LogStore {
    fn commit_batches(
        &self,
        writes: &[Write],
        batches: &[Batch],
        _staging: Option<&Staging>,
    ) -> Result<Vec<Result<Written, WriteError>>, StoreError> {
        let mut disk = self.disk();
        disk.commits += 1;
        let mut batches = batches.to_vec();
        let mut kept = Vec::with_capacity(writes.len());
        let mut lost = Vec::new();
        for (index, write) in writes.iter().enumerate() {
            let is_append = matches!(write, Write::Append { .. });
            disk.appends += u64::from(is_append);
            if self.bug == StoreBug::LostWrite && is_append && disk.appends.is_multiple_of(9) {
                lost.push(index);
                shorten(&mut batches, kept.len());
            } else {
                kept.push(write.clone());
            }
        }
        let mut results = self.memory.commit_batches(&kept, &batches, None)?;
        // The log is replayed without owners, so it has only what took effect.
        let mut is_kept = results.iter().map(Result::is_ok);
        kept.retain(|_| is_kept.next().unwrap_or(true));
        disk.append(&kept);
        let late = self.bug == StoreBug::EarlyAnswer && !disk.commits.is_multiple_of(4);
        if !disk.tearing && !late {
            disk.synced = disk.bytes.len();
        }
        for index in lost {
            results.insert(index, Ok(Written::Appended { seq: Seq(0) }));
        }
        if self.bug == StoreBug::FalseFailure && disk.commits.is_multiple_of(5) {
            return Err(StoreError::Unavailable("a bug of the test".into()));
        }
        Ok(results)
    }

    fn take_over(&self, room: &RoomId, from: Option<Epoch>) -> Result<Epoch, StoreError> {
        self.memory.take_over(room, from)
    }

    fn stat(&self, room: &RoomId, path: &str) -> Result<Option<Entry>, StoreError> {
        self.memory.stat(room, path)
    }

    fn list(
        &self,
        room: &RoomId,
        folder: &str,
        max: usize,
    ) -> Result<Option<Vec<Entry>>, StoreError> {
        self.memory.list(room, folder, max)
    }

    fn load(&self, room: &RoomId, path: &str) -> Result<Option<StoredDocument>, StoreError> {
        self.memory.load(room, path)
    }

    fn load_by_id(&self, document: DocumentId) -> Result<Option<StoredDocument>, StoreError> {
        self.memory.load_by_id(document)
    }

    fn follow(
        &self,
        document: DocumentId,
        after: Seq,
        limit: usize,
    ) -> Result<Vec<StoredUpdate>, StoreError> {
        self.memory.follow(document, after, limit)
    }

    fn provenance(&self, document: DocumentId) -> Result<Vec<ProvenanceRecord>, StoreError> {
        self.memory.provenance(document)
    }

    fn read_file(&self, room: &RoomId, path: &str) -> Result<Option<StoredFile>, StoreError> {
        self.memory.read_file(room, path)
    }

    fn open_file(&self, room: &RoomId, path: &str) -> Result<Option<FileHead>, StoreError> {
        self.memory.open_file(room, path)
    }

    fn read_file_range(
        &self,
        room: &RoomId,
        path: &str,
        version: FileVersion,
        start: u64,
        length: usize,
    ) -> Result<Option<Bytes>, StoreError> {
        self.memory
            .read_file_range(room, path, version, start, length)
    }

    fn check(&self) -> Result<(), StoreError> {
        self.memory.check()
    }

    fn erase(&self) -> Result<bool, StoreError> {
        Ok(!self.disk().is_held)
    }

    fn stats(&self) -> Result<StoreStats, StoreError> {
        self.memory.stats()
    }
}
