//! The disk below a simulated server, and what a power cut leaves of it.
//!
//! Most runs have a log in memory: each commit is one checksummed record, behind what is synced anything may be
//! torn. Some have the real `SqliteStore`, whose write-ahead log is cut off.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use meshagent_store::{
    DocumentId, Entry, FileHead, FileVersion, MemoryStore, ProvenanceRecord, RoomId, Seq, Store,
    StoreError, StoreStats, StoredDocument, StoredFile, StoredUpdate, Write, WriteError, Written,
};
use meshagent_store_sqlite::{DATABASE_FILE, Durability, Options, SqliteStore};
use tempfile::TempDir;

use super::random::Random;

/// A bug put into the store on purpose, to see that the simulation finds it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Plant {
    /// None: the store keeps its promises.
    #[default]
    Nothing,
    /// It says that a commit is durable, and syncs only every fourth.
    EarlyAnswer,
    /// It says that it appended every ninth update, and did not.
    LostWrite,
    /// It says that a commit failed, every fifth time, and did it.
    FalseFailure,
}

/// What survives a power cut.
#[derive(Debug)]
pub(super) enum Disk {
    Log(Arc<LogStore>),
    Sqlite {
        directory: TempDir,
        store: Arc<SqliteStore>,
        /// The files as they were before the commit that the power cut falls into.
        before: Option<Files>,
    },
}

#[derive(Debug)]
pub(super) struct Files {
    database: Vec<u8>,
    wal: Vec<u8>,
}

impl Disk {
    pub(super) fn log(plant: Plant) -> Self {
        Self::Log(Arc::new(LogStore::new(Vec::new(), &[], plant)))
    }

    pub(super) fn sqlite() -> Result<Self, String> {
        let directory = TempDir::new().map_err(|error| error.to_string())?;
        Self::open(directory)
    }

    fn open(directory: TempDir) -> Result<Self, String> {
        let mut options = Options::default();
        // A cut takes away what the WAL has got, synced or not: real syncing would only take time.
        options.durability = Durability::Os;
        let store =
            SqliteStore::open(directory.path(), options).map_err(|error| error.to_string())?;
        Ok(Self::Sqlite {
            directory,
            store: Arc::new(store),
            before: None,
        })
    }

    pub(super) fn store(&self) -> Arc<dyn Store> {
        match self {
            Self::Log(store) => Arc::clone(store) as Arc<dyn Store>,
            Self::Sqlite { store, .. } => Arc::clone(store) as Arc<dyn Store>,
        }
    }

    /// Whether something holds the store's log, as a backup does. The real store is never held: what it does then follows
    /// from the clock.
    /// Returns whether it is held.
    pub(super) fn hold_log(&self, is_held: bool) -> bool {
        match self {
            Self::Log(store) => {
                store.disk().is_held = is_held;
                is_held
            }
            Self::Sqlite { .. } => false,
        }
    }

    /// The power will go during the next commit; its answer is not to be believed.
    pub(super) fn begin_torn(&mut self) -> Result<(), String> {
        match self {
            Self::Log(store) => store.disk().tearing = true,
            Self::Sqlite {
                directory, before, ..
            } => *before = Some(Files::read(directory.path())?),
        }
        Ok(())
    }

    /// The power goes and comes back: what is left is opened anew. Returns also whether a commit was torn.
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

/// Length and checksum of a record's payload.
const HEADER_BYTES: usize = 8;
/// What is written at once, or not.
const PAGE_BYTES: usize = 512;

/// A store that keeps each commit as one record of a log.
#[derive(Debug)]
pub(super) struct LogStore {
    disk: Mutex<LogDisk>,
    memory: MemoryStore,
    plant: Plant,
}

#[derive(Debug, Default)]
struct LogDisk {
    bytes: Vec<u8>,
    /// What a power cut leaves in any case.
    synced: usize,
    /// What the records say, in a form that needs no decoding. The bytes decide how many of them there are after
    /// a power cut.
    records: Vec<Vec<Write>>,
    tearing: bool,
    /// Whether something keeps the log from being emptied of what was deleted.
    is_held: bool,
    commits: u64,
    appends: u64,
}

impl LogStore {
    fn new(bytes: Vec<u8>, records: &[Vec<Write>], plant: Plant) -> Self {
        let memory = MemoryStore::new();
        for writes in records {
            // The memory store refuses single writes, as it did the first time, and never a batch.
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
            plant,
        }
    }

    fn disk(&self) -> MutexGuard<'_, LogDisk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is found on the disk after a power cut.
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
        // Pages reach the disk in any order: some of the last ones hold something else.
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
        (
            Self::new(bytes, &records[..whole.len()], self.plant),
            is_torn,
        )
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

/// Where each record ends, up to the first that is damaged.
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

impl Store for LogStore {
    fn commit(&self, writes: &[Write]) -> Result<Vec<Result<Written, WriteError>>, StoreError> {
        let mut disk = self.disk();
        disk.commits += 1;
        let mut kept = Vec::with_capacity(writes.len());
        let mut lost = Vec::new();
        for write in writes {
            let is_append = matches!(write, Write::Append { .. });
            disk.appends += u64::from(is_append);
            if self.plant == Plant::LostWrite && is_append && disk.appends.is_multiple_of(9) {
                lost.push(kept.len() + lost.len());
            } else {
                kept.push(write.clone());
            }
        }
        disk.append(&kept);
        let late = self.plant == Plant::EarlyAnswer && !disk.commits.is_multiple_of(4);
        if !disk.tearing && !late {
            disk.synced = disk.bytes.len();
        }
        let mut results = self.memory.commit(&kept)?;
        for index in lost {
            results.insert(index, Ok(Written::Appended { seq: Seq(0) }));
        }
        if self.plant == Plant::FalseFailure && disk.commits.is_multiple_of(5) {
            return Err(StoreError::Unavailable("planted".into()));
        }
        Ok(results)
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
