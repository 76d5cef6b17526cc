//! Deletion is complete: neither the content nor its key is in any file of the data directory.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use meshagent_store::{DocumentId, Reach, Store, StoreError, Timestamp, Write};
use meshagent_store_sqlite::DATABASE_FILE;
use rusqlite::Connection;
use tempfile::TempDir;

use crate::history::Random;
use crate::{StopOnDrop, append, created, open, put, room, snapshot};

const TEXT: &str = "top secret – 極秘 – é – ";

/// Creates documents with many short updates in turns, which are compacted now and then: so pages
/// were split, joined and freed, and copies of rows are all over the file.
fn worked_on(store: &dyn Store, seed: u64) -> Vec<DocumentId> {
    let mut random = Random(seed);
    let documents: Vec<DocumentId> = (0..6)
        .map(|number| created(store, &format!("d/{number}")))
        .collect();
    let mut last = [0; 6];
    for _ in 0..600 {
        let which = usize::try_from(random.below(6)).unwrap();
        let times = usize::try_from(random.below(30) + 1).unwrap();
        let mut writes = vec![append(documents[which], TEXT.repeat(times).as_bytes())];
        last[which] += 1;
        if random.below(20) == 0 {
            let state = TEXT.repeat(times * 20);
            writes.push(snapshot(
                documents[which],
                last[which] - 1,
                state.as_bytes(),
            ));
        }
        assert!(store.commit(&writes).unwrap().iter().all(Result::is_ok));
    }
    documents
}

#[test]
fn deleted_content_is_in_no_file() {
    for seed in 0..1 {
        let directory = TempDir::new().unwrap();
        let store = open(directory.path());
        let documents = worked_on(&store, seed);
        let file = TEXT.repeat(5_000).into_bytes();
        for path in ["f", "g", "x/1", "x/2"] {
            let put = put(path, file.clone());
            store.commit(&[put]).unwrap().remove(0).unwrap();
        }
        let delete = |path: &str, recursive| Write::Delete {
            room: room(),
            path: path.to_owned(),
            recursive,
            reach: Reach::EVERYTHING,
        };
        let rename = Write::Move {
            room: room(),
            source: "d/1".to_owned(),
            destination: "d/2".to_owned(),
            overwrite: true,
            reach: Reach::EVERYTHING,
            replaces: Reach::EVERYTHING,
            at: Timestamp(0),
        };
        for (write, entries) in [
            (delete("d/0", false), vec![documents[0].0]),
            (rename, vec![documents[2].0]),
            (delete("f", false), vec![7]),
            (delete("x", true), vec![9, 10]),
        ] {
            let context = format!("seed {seed}, {write:?}");
            let keys: Vec<Vec<u8>> = entries
                .iter()
                .map(|entry| key(directory.path(), *entry))
                .collect();
            for key in &keys {
                assert!(
                    found(directory.path(), key),
                    "{context}: its key was not in a file"
                );
            }
            store.commit(&[write]).unwrap().remove(0).unwrap();
            for key in &keys {
                assert!(
                    !found(directory.path(), key),
                    "{context}: its key is still in a file"
                );
            }
            // Nor is the unsealed content.
            assert!(!found(directory.path(), TEXT.as_bytes()), "{context}");
        }
        for path in ["d/2", "d/3", "d/4", "d/5"] {
            assert!(store.load(&room(), path).unwrap().is_some(), "{path}");
        }
        assert_eq!(store.read_file(&room(), "g").unwrap().unwrap().data, file);
        drop(store);
        let store = open(directory.path());
        assert_eq!(store.stats().unwrap().documents, 4);
    }
}

#[test]
fn reader_that_holds_the_wal_delays_erasure() {
    let directory = TempDir::new().unwrap();
    let store = open(directory.path());
    let put = put("f", TEXT.repeat(500).into_bytes());
    store.commit(&[put]).unwrap().remove(0).unwrap();
    let key = key(directory.path(), 1);

    let mut reader = Connection::open(directory.path().join(DATABASE_FILE)).unwrap();
    let held = reader.transaction().unwrap();
    let _: i64 = held
        .query_row("SELECT count(*) FROM entries", [], |row| row.get(0))
        .unwrap();
    let delete = Write::Delete {
        room: room(),
        path: "f".to_owned(),
        recursive: false,
        reach: Reach::EVERYTHING,
    };
    store.commit(&[delete]).unwrap().remove(0).unwrap();
    assert!(found(directory.path(), &key), "the reader still holds it");
    assert!(!store.erase().unwrap());
    match store.tend() {
        Err(StoreError::Unavailable(error)) => {
            assert!(error.to_string().contains("a reader holds it"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    drop(held);
    store.tend().unwrap();
    assert!(!found(directory.path(), &key));
}

/// There are so many reads that one is always in flight, and each is long.
#[test]
fn erasure_succeeds_among_our_own_readers() {
    let directory = TempDir::new().unwrap();
    let store = open(directory.path());
    let large = put("lärge", vec![7; 1 << 20]);
    let secret = put("f", TEXT.repeat(500).into_bytes());
    for result in store.commit(&[large, secret]).unwrap() {
        result.unwrap();
    }
    let key = key(directory.path(), 2);
    let (stop, opened) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        for _ in 0..8 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    store.read_file(&room(), "lärge").unwrap().unwrap();
                    opened.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        while opened.load(Ordering::Relaxed) < 8 {
            std::thread::sleep(Duration::from_millis(1));
        }
        let delete = Write::Delete {
            room: room(),
            path: "f".to_owned(),
            recursive: false,
            reach: Reach::EVERYTHING,
        };
        store.commit(&[delete]).unwrap().remove(0).unwrap();
        while !store.erase().unwrap() {
            let opened = opened.load(Ordering::Relaxed);
            assert!(opened < 500, "not erased after {opened} reads");
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(!found(directory.path(), &key));
    });
}

/// A killed process leaves its WAL as it is, with content to be erased.
#[test]
fn start_completes_erasure_of_a_killed_process() {
    let (killed, after) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let store = open(killed.path());
    let mut keys = Vec::new();
    for data in ["first – 第一", "second – 第二"] {
        store.commit(&[put("f", data.into())]).unwrap();
        keys.push(key(killed.path(), 1));
    }
    for file in fs::read_dir(killed.path()).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), after.path().join(file.file_name())).unwrap();
    }
    assert!(found(after.path(), &keys[0]), "the key is in the WAL");
    let store = open(after.path());
    assert!(!found(after.path(), &keys[0]));
    let file = store.read_file(&room(), "f").unwrap().unwrap();
    assert_eq!(file.data, "second – 第二".as_bytes());
}

#[test]
fn overwritten_file_has_a_new_key() {
    let directory = TempDir::new().unwrap();
    let store = open(directory.path());
    for data in ["first", "second"] {
        let put = put("f", data.into());
        store.commit(&[put]).unwrap().remove(0).unwrap();
    }
    let before = key(directory.path(), 1);
    store.commit(&[put("f", b"third".to_vec())]).unwrap();
    assert_ne!(key(directory.path(), 1), before);
    assert_eq!(
        store.read_file(&room(), "f").unwrap().unwrap().data,
        "third"
    );
}

fn key(directory: &Path, entry: u64) -> Vec<u8> {
    Connection::open(directory.join(DATABASE_FILE))
        .unwrap()
        .query_row(
            "SELECT key FROM keys WHERE entry = ?1",
            [entry.cast_signed()],
            |row| row.get(0),
        )
        .unwrap()
}

/// Returns whether the bytes are in any file of a directory.
fn found(directory: &Path, bytes: &[u8]) -> bool {
    fs::read_dir(directory).unwrap().any(|file| {
        let content = fs::read(file.unwrap().path()).unwrap();
        // The first byte is compared first, as these are megabytes.
        let starts = content
            .iter()
            .enumerate()
            .filter(|(_, byte)| **byte == bytes[0]);
        let mut starts = starts.map(|(start, _)| start);
        starts.any(|start| content[start..].starts_with(bytes))
    })
}
