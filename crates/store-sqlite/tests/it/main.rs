//! The embedded store against the conformance suite, and against what can happen to files: killed
//! processes, torn copies, backups, damage, earlier formats, a full disk, another process in the
//! same directory.

#![expect(
    clippy::unwrap_used,
    reason = "in a test, a step that fails is the test that fails"
)]

mod authors;
mod backup;
mod crash;
// This module reads files that are locked on other systems.
#[cfg(unix)]
mod cuts;
mod damage;
mod damaged_wal;
mod directory;
mod erase;
mod erased_keys;
mod folders;
mod format;
mod freeing;
mod history;
mod large;
#[cfg(unix)]
mod limit;
mod load;
mod provenance;
#[cfg(target_os = "linux")]
mod small_disk;
mod space;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use meshagent_store::conformance::{self, Subject};
use meshagent_store::{
    Author, Contribution, DocumentId, Embedded, FileReading, OperationRange, RoomId, Seq, Store,
    StoreError, Timestamp, Write, Written, block_on,
};
use meshagent_store_sqlite::{DATABASE_FILE, Durability, Options, SqliteStore};
use rusqlite::Connection;
use tempfile::TempDir;

/// A store in a temporary directory.
struct InDirectory {
    store: Option<SqliteStore>,
    directory: TempDir,
}

impl InDirectory {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        Self {
            store: Some(open(directory.path())),
            directory,
        }
    }
}

impl Subject for InDirectory {
    fn store(&self) -> &dyn Store {
        self.store.as_ref().unwrap()
    }

    fn reopen(&mut self) {
        self.store = None;
        self.store = Some(open(self.directory.path()));
    }
}

#[test]
fn sqlite_store_conforms() {
    conformance::run(InDirectory::new);
}

#[test]
fn random_histories_match_the_memory_store() {
    for seed in 0..3 {
        conformance::run_random(InDirectory::new, seed, 300);
    }
}

#[test]
fn failing_calls_lose_nothing() {
    for seed in 0..2 {
        conformance::run_faulty(InDirectory::new, seed, 100);
    }
}

/// Reads a file as a download does, from its start to its end.
fn read_in_parts(store: &SqliteStore, path: &str, length: usize) -> Result<Vec<u8>, StoreError> {
    let head = store.open_file(&room(), path)?.unwrap();
    let mut reading = FileReading::new(&head);
    let mut data = Vec::new();
    while reading.remaining() > 0 {
        let part = block_on(reading.next(&Embedded(store), &room(), path, length));
        data.extend(part?.unwrap());
    }
    Ok(data)
}

/// Opens a store that does not wait for the disk, as no test here cuts the power.
fn open(directory: &Path) -> SqliteStore {
    let mut options = Options::default();
    options.durability = Durability::Os;
    SqliteStore::open(directory, options).unwrap()
}

/// Stops the threads that watch the flag, even when the test fails.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Asserts that SQLite finds the database intact.
#[track_caller]
fn assert_intact(directory: &Path, context: &str) {
    let database = Connection::open(directory.join(DATABASE_FILE)).unwrap();
    let verdict: String = database
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .unwrap();
    assert_eq!(verdict, "ok", "{context}");
    let mut dangling = database.prepare("PRAGMA foreign_key_check").unwrap();
    assert!(
        !dangling.exists([]).unwrap(),
        "{context}: rows refer to missing rows"
    );
}

fn room() -> RoomId {
    RoomId::new("project", "room")
}

fn create(path: &str) -> Write {
    Write::CreateDocument {
        room: room(),
        path: path.to_owned(),
        schema: "{}".to_owned(),
        state: Vec::new().into(),
        contributions: vec![contribution("ada")],
        at: Timestamp(0),
    }
}

fn contribution(participant: &str) -> Contribution {
    Contribution {
        author: Author {
            participant: participant.to_owned(),
            ..Author::default()
        },
        at: Timestamp(0),
        operations: vec![OperationRange {
            client: 1,
            start: 0,
            end: 1,
        }],
    }
}

fn created(store: &dyn Store, path: &str) -> DocumentId {
    match store.commit(&[create(path)]).unwrap().remove(0) {
        Ok(Written::Created { document, .. }) => document,
        other => panic!("expected a document, got {other:?}"),
    }
}

fn append(document: DocumentId, update: &[u8]) -> Write {
    Write::Append {
        document,
        end: None,
        update: update.to_vec().into(),
        contributions: vec![contribution("bob")],
        at: Timestamp(0),
    }
}

fn snapshot(document: DocumentId, through: u64, state: &[u8]) -> Write {
    Write::Snapshot {
        document,
        end: None,
        through: Seq(through),
        state: state.to_vec().into(),
        fold_before: Timestamp(i64::MIN),
    }
}

fn put(path: &str, data: Vec<u8>) -> Write {
    Write::PutFile {
        room: room(),
        path: path.to_owned(),
        data: data.into(),
        mime_type: String::new(),
        overwrite: true,
        at: Timestamp(0),
    }
}
