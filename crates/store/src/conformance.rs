//! A conformance suite: checks that the tests of every store run.
//!
//! [`run`] checks the promises of [`Store`] one by one, and closes and reopens the store in
//! between. [`run_random`] compares it with [`MemoryStore`](crate::MemoryStore) over a random
//! history, and [`run_faulty`] does so while calls fail. Unexpected behaviour found in one store
//! becomes a check here, so that it is checked in all stores.

mod documents;
mod faults;
mod large;
mod moves;
mod namespace;
mod owners;
mod provenance;
mod random;
mod reach;

use bytes::Bytes;

use crate::{
    Author, Contribution, DocumentId, Reach, RoomId, Seq, Staging, Store, StoreError,
    StoredDocument, Timestamp, Write, WriteError, Written,
};

pub use faults::run_faulty;
pub use random::run_random;

/// A store under test, which can be closed and reopened.
pub trait Subject {
    /// Returns the store.
    fn store(&self) -> &dyn Store;
    /// Closes the store and reopens it on the same data.
    fn reopen(&mut self);
}

/// Runs all checks. Each check gets an empty store of its own.
///
/// # Panics
/// The store breaks a promise.
pub fn run<S: Subject>(make: impl Fn() -> S) {
    let checks = [
        documents::CHECKS,
        owners::CHECKS,
        namespace::CHECKS,
        moves::CHECKS,
        reach::CHECKS,
        large::CHECKS,
        provenance::CHECKS,
    ];
    for check in checks.concat() {
        check(&mut make());
    }
}

type Check = fn(&mut dyn Subject);

fn room() -> RoomId {
    RoomId::new("3f1f8d2e-6a30-4d3c-9d1a-0f9f4a1c7b55", "lobby")
}

fn author(participant: &str) -> Author {
    Author {
        participant: participant.to_owned(),
        role: "user".to_owned(),
        on_behalf_of: None,
        connection: "c-1".to_owned(),
    }
}

/// Returns a contribution that only deleted.
fn contribution(participant: &str, at: i64) -> Contribution {
    Contribution {
        author: author(participant),
        at: Timestamp(at),
        operations: Vec::new(),
    }
}

fn create(path: &str, state: &[u8]) -> Write {
    Write::CreateDocument {
        room: room(),
        path: path.to_owned(),
        schema: r#"{"root": "thread" }"#.to_owned(),
        state: Bytes::copy_from_slice(state),
        contributions: vec![contribution("ada", 1)],
        at: Timestamp(1),
    }
}

fn append(document: DocumentId, update: &[u8]) -> Write {
    Write::Append {
        document,
        end: None,
        update: Bytes::copy_from_slice(update),
        contributions: vec![contribution("bob", 2)],
        at: Timestamp(2),
    }
}

fn snapshot(document: DocumentId, through: u64, state: &[u8]) -> Write {
    Write::Snapshot {
        document,
        end: None,
        through: Seq(through),
        state: Bytes::copy_from_slice(state),
        fold_before: Timestamp(i64::MIN),
    }
}

fn put(path: &str, data: &[u8], overwrite: bool) -> Write {
    Write::PutFile {
        room: room(),
        path: path.to_owned(),
        data: Bytes::copy_from_slice(data),
        mime_type: "text/plain".to_owned(),
        overwrite,
        at: Timestamp(3),
    }
}

fn delete(path: &str, recursive: bool) -> Write {
    Write::Delete {
        room: room(),
        path: path.to_owned(),
        recursive,
        reach: Reach::EVERYTHING,
    }
}

fn rename(source: &str, destination: &str, overwrite: bool) -> Write {
    Write::Move {
        room: room(),
        source: source.to_owned(),
        destination: destination.to_owned(),
        overwrite,
        reach: Reach::EVERYTHING,
        replaces: Reach::EVERYTHING,
        at: Timestamp(4),
    }
}

/// Commits one write in a batch of its own.
#[track_caller]
fn commit(store: &dyn Store, write: Write) -> Result<Written, WriteError> {
    let mut results = store.commit(&[write]).expect("the store is in order");
    assert_eq!(results.len(), 1, "one result for each write");
    results.remove(0)
}

/// Commits a batch as a server does: large content is staged first.
fn commit_in_steps(
    store: &dyn Store,
    writes: &[Write],
) -> Result<Vec<Result<Written, WriteError>>, StoreError> {
    let staging = Staging::default();
    while !store.stage(writes, &staging)? {}
    store.commit_staged(writes, &staging)
}

/// Commits one write that must succeed.
#[track_caller]
fn commit_ok(store: &dyn Store, write: Write) -> Written {
    commit(store, write).expect("the write is valid")
}

#[track_caller]
fn created(store: &dyn Store, path: &str, state: &[u8]) -> DocumentId {
    match commit_ok(store, create(path, state)) {
        Written::Created { document, .. } => document,
        other => panic!("expected a document, got {other:?}"),
    }
}

#[track_caller]
fn load(store: &dyn Store, path: &str) -> StoredDocument {
    store
        .load(&room(), path)
        .expect("the store is in order")
        .expect("the document is there")
}

/// Returns the names in a folder; those of folders end in a slash.
#[track_caller]
fn names(store: &dyn Store, folder: &str) -> Option<Vec<String>> {
    let entries = store
        .list(&room(), folder, usize::MAX)
        .expect("the store is in order")?;
    let name = |entry: crate::Entry| match entry.kind {
        crate::EntryKind::Folder => entry.name + "/",
        _ => entry.name,
    };
    Some(entries.into_iter().map(name).collect())
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "it is compared with the result of `names`"
)]
fn list(names: &[&str]) -> Option<Vec<String>> {
    Some(names.iter().map(ToString::to_string).collect())
}
