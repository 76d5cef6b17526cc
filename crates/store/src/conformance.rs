//! What every store has to do, as checks that each store's own tests call.
//!
//! [`run`] goes through the promises of [`Store`] one by one, closing and opening the store in between.
//! [`run_random`] compares it with [`MemoryStore`](crate::MemoryStore) over a random
//! history, and [`run_faulty`] does so while calls fail. A surprise in one
//! store becomes a case here, so that all of them are asked.

mod documents;
mod faults;
mod large;
mod moves;
mod namespace;
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

/// A store that can be closed and opened again.
pub trait Subject {
    /// The store.
    fn store(&self) -> &dyn Store;
    /// Closes it and opens it again, on the same data.
    fn reopen(&mut self);
}

/// Asks everything. Each question gets an empty store of its own.
///
/// # Panics
/// If the store breaks a promise.
pub fn run<S: Subject>(make: impl Fn() -> S) {
    let questions = [
        documents::QUESTIONS,
        namespace::QUESTIONS,
        moves::QUESTIONS,
        reach::QUESTIONS,
        large::QUESTIONS,
        provenance::QUESTIONS,
    ];
    for question in questions.concat() {
        question(&mut make());
    }
}

type Question = fn(&mut dyn Subject);

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

/// One that only deleted.
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
        update: Bytes::copy_from_slice(update),
        contributions: vec![contribution("bob", 2)],
        at: Timestamp(2),
    }
}

fn snapshot(document: DocumentId, through: u64, state: &[u8]) -> Write {
    Write::Snapshot {
        document,
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

/// One write in a batch of its own.
#[track_caller]
fn commit(store: &dyn Store, write: Write) -> Result<Written, WriteError> {
    let mut results = store.commit(&[write]).expect("the store is in order");
    assert_eq!(results.len(), 1, "one result for each write");
    results.remove(0)
}

/// A batch as a server commits it: what is large is staged first.
fn commit_in_steps(
    store: &dyn Store,
    writes: &[Write],
) -> Result<Vec<Result<Written, WriteError>>, StoreError> {
    let staging = Staging::default();
    while !store.stage(writes, &staging)? {}
    store.commit_staged(writes, &staging)
}

/// One write that has to succeed.
#[track_caller]
fn done(store: &dyn Store, write: Write) -> Written {
    commit(store, write).expect("nothing stands against it")
}

#[track_caller]
fn created(store: &dyn Store, path: &str, state: &[u8]) -> DocumentId {
    match done(store, create(path, state)) {
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

/// The names in a folder, folders with a slash at the end.
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
    reason = "it stands beside what `names` returns"
)]
fn list(names: &[&str]) -> Option<Vec<String>> {
    Some(names.iter().map(ToString::to_string).collect())
}
