//! Behaviour on a full disk, and after space is free again.

use meshagent_store::{Reach, Store, StoreError, Write};
use meshagent_store_sqlite::{DATABASE_FILE, Durability, Options, SqliteStore};
use tempfile::TempDir;

use crate::{append, created, put, room};

#[test]
fn full_store_refuses_whole_batches_and_recovers() {
    let directory = TempDir::new().unwrap();
    let mut options = Options::default();
    options.durability = Durability::Os;
    options.max_bytes = Some(1 << 20);
    let store = SqliteStore::open(directory.path(), options).unwrap();
    let document = created(&store, "a");
    store
        .commit(&[put("small", vec![1; 400_000])])
        .unwrap()
        .remove(0)
        .unwrap();

    for _ in 0..3 {
        let batch = [append(document, b"1"), put("large", vec![2; 900_000])];
        assert!(matches!(store.commit(&batch), Err(StoreError::Full(_))));
    }
    let loaded = store.load(&room(), "a").unwrap().unwrap();
    assert_eq!(loaded.updates.len(), 0, "a failed batch has no effect");
    assert_eq!(store.stat(&room(), "large").unwrap(), None);
    assert_eq!(
        store
            .read_file(&room(), "small")
            .unwrap()
            .unwrap()
            .data
            .len(),
        400_000
    );

    store
        .commit(&[append(document, b"1")])
        .unwrap()
        .remove(0)
        .unwrap();
    store
        .commit(&[Write::Delete {
            room: room(),
            path: "small".into(),
            recursive: false,
            reach: Reach::EVERYTHING,
        }])
        .unwrap();
    store
        .commit(&[put("large", vec![2; 900_000])])
        .unwrap()
        .remove(0)
        .unwrap();
    store.check().unwrap();
    assert_eq!(store.stats().unwrap().bytes, 900_001);
}

#[test]
fn check_does_not_extend_the_database_beyond_its_limit() {
    const LIMIT: u64 = 1 << 20;
    let directory = TempDir::new().unwrap();
    let mut options = Options::default();
    options.durability = Durability::Os;
    options.max_bytes = Some(LIMIT);
    let store = SqliteStore::open(directory.path(), options).unwrap();
    for size in [100_000, 3_000] {
        let mut number = 0;
        while store
            .commit(&[put(&format!("{size} {number}"), vec![1; size])])
            .is_ok()
        {
            number += 1;
        }
    }
    store.check().unwrap();
    let database = directory.path().join(DATABASE_FILE);
    let bytes = std::fs::metadata(database).unwrap().len();
    assert!(bytes <= LIMIT, "{bytes}");
}
