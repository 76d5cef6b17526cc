//! Large deletions: they take effect immediately, and their space is freed step by step, even after
//! a crash.

use std::fs;

use meshagent_store::{DocumentId, Reach, Store, StoreError, Write, WriteError, Written};
use meshagent_store_sqlite::{DATABASE_FILE, Durability, Options, SqliteStore};
use rusqlite::Connection;
use tempfile::TempDir;

use crate::{append, assert_intact, created, open, put, room, snapshot};

fn delete(path: &str) -> Write {
    Write::Delete {
        room: room(),
        path: path.to_owned(),
        recursive: true,
        reach: Reach::EVERYTHING,
    }
}

/// Creates two documents and more files than a deletion frees itself, below `földer`, and one file
/// beside it.
fn filled(store: &dyn Store) -> Vec<DocumentId> {
    let documents = vec![created(store, "földer/a"), created(store, "földer/é")];
    for document in &documents {
        let writes = [
            append(*document, b"one"),
            append(*document, b"two"),
            snapshot(*document, 1, b"state"),
        ];
        assert!(store.commit(&writes).unwrap().iter().all(Result::is_ok));
    }
    let mut writes: Vec<Write> = (0..300)
        .map(|number| put(&format!("földer/{number}"), vec![3; 5_000]))
        .collect();
    writes.push(put("kept", vec![4; 100]));
    assert!(store.commit(&writes).unwrap().iter().all(Result::is_ok));
    documents
}

fn rows(directory: &TempDir, table: &str) -> i64 {
    Connection::open(directory.path().join(DATABASE_FILE))
        .unwrap()
        .query_row(&format!("SELECT count(*) FROM {table}"), [], |row| {
            row.get(0)
        })
        .unwrap()
}

fn assert_gone(store: &SqliteStore, documents: &[DocumentId]) {
    let list = store.list(&room(), "", 100).unwrap().unwrap();
    let names: Vec<&str> = list.iter().map(|entry| &*entry.name).collect();
    assert_eq!(names, ["kept"]);
    assert_eq!(store.stat(&room(), "földer/7").unwrap(), None);
    assert_eq!(store.load(&room(), "földer/a").unwrap(), None);
    let stats = store.stats().unwrap();
    assert_eq!((stats.documents, stats.files, stats.bytes), (0, 1, 100));
    assert_eq!(store.projects().unwrap(), ["project"]);
    for document in documents {
        assert_eq!(store.load_by_id(*document).unwrap(), None);
        let gone = StoreError::NoSuchDocument {
            document: *document,
        };
        for found in [
            store.provenance(*document).map(drop),
            store
                .load_since(*document, meshagent_store::Seq(0))
                .map(drop),
        ] {
            assert_eq!(found.unwrap_err().to_string(), gone.to_string());
        }
        for write in [append(*document, b"x"), snapshot(*document, 2, b"x")] {
            let refused = store.commit(&[write]).unwrap().remove(0).unwrap_err();
            assert!(
                matches!(refused, WriteError::NoSuchDocument { .. }),
                "{refused}"
            );
        }
    }
}

#[test]
fn large_deletion_takes_effect_immediately_and_frees_space_later() {
    let (directory, killed) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let store = open(directory.path());
    let documents = filled(&store);
    assert!(store.free_some().unwrap(), "nothing was deleted");
    let Ok(Written::Deleted { entries }) = store.commit(&[delete("földer")]).unwrap().remove(0)
    else {
        panic!("the folder was not deleted");
    };
    assert_eq!(entries.len(), 302);
    assert_gone(&store, &documents);
    assert_eq!(rows(&directory, "files"), 301, "freed within the deletion");
    assert_intact(directory.path(), "set aside");
    // The state that a process leaves that is killed now.
    for file in fs::read_dir(directory.path()).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), killed.path().join(file.file_name())).unwrap();
    }
    let after_kill = open(killed.path());
    for (store, directory) in [(store, &directory), (after_kill, &killed)] {
        assert_gone(&store, &documents);
        // The paths are free, and new entries have new ids.
        let new = created(&store, "földer/a");
        assert!(!documents.contains(&new));
        while !store.free_some().unwrap() {}
        for (table, expected) in [
            ("entries", 2),
            ("files", 1),
            ("updates", 0),
            ("snapshots", 0),
            ("schemas", 1),
            ("authors", 0),
            ("provenance", 0),
        ] {
            assert_eq!(rows(directory, table), expected, "{table}");
        }
        assert!(store.load_by_id(new).unwrap().is_some());
        store
            .commit(&[delete("földer")])
            .unwrap()
            .remove(0)
            .unwrap();
        assert_gone(&store, &documents);
        assert_intact(directory.path(), "freed");
    }
}

#[test]
fn space_to_be_freed_is_available_to_writes() {
    let directory = TempDir::new().unwrap();
    let mut options = Options::default();
    options.durability = Durability::Os;
    options.max_bytes = Some(2 << 20);
    let store = SqliteStore::open(directory.path(), options).unwrap();
    for round in 0..2 {
        let large = put("lärge", vec![round; 1_200_000]);
        store.commit(&[large]).unwrap().remove(0).unwrap();
        // The store is completely full: a deletion needs no space.
        for bytes in [100_000, 4_000] {
            let mut number = 0;
            let full = loop {
                let path = format!("é {bytes}/{number}");
                number += 1;
                if let Err(error) = store.commit(&[put(&path, vec![1; bytes])]) {
                    break error;
                }
            };
            assert!(matches!(full, StoreError::Full(_)), "{full:?}");
        }
        store.commit(&[delete("")]).unwrap().remove(0).unwrap();
    }
    assert_intact(directory.path(), "in the end");
}

#[test]
fn damaged_deleted_rows_do_not_block_freeing() {
    let directory = TempDir::new().unwrap();
    let store = open(directory.path());
    filled(&store);
    store
        .commit(&[delete("földer")])
        .unwrap()
        .remove(0)
        .unwrap();
    let database = Connection::open(directory.path().join(DATABASE_FILE)).unwrap();
    let damaged: i64 = database
        .query_row(
            "SELECT id FROM entries WHERE room < 0 LIMIT 1 OFFSET 5",
            [],
            |row| row.get(0),
        )
        .unwrap();
    // A row that refers to it and is never removed.
    database
        .execute_batch(&format!(
            "CREATE TABLE holds (entry INTEGER REFERENCES entries (id)) STRICT;
             INSERT INTO holds VALUES ({damaged})"
        ))
        .unwrap();
    while !store.free_some().unwrap() {}
    assert_eq!(rows(&directory, "entries WHERE room < 0"), 1);
}
