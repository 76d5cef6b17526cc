//! Damage to one document's rows is named when it is read, and costs no other document.

use meshagent_store::{Seq, Store, StoreError, Write, Written};
use meshagent_store_sqlite::DATABASE_FILE;
use rusqlite::Connection;
use tempfile::TempDir;

use crate::{append, created, open, put, room};

#[test]
fn damaged_document_is_named_and_others_load() {
    for damage in [
        "UPDATE updates SET data = CAST('other' AS BLOB) WHERE document = ?1 AND seq = 3",
        "UPDATE updates SET participant = 'mallory' WHERE document = ?1 AND seq = 3",
        "UPDATE updates SET seq = 30 WHERE document = ?1 AND seq = 3",
        "UPDATE updates SET participant = CAST(x'ff' AS TEXT) WHERE document = ?1 AND seq = 3",
        "DELETE FROM updates WHERE document = ?1 AND seq = 3",
        "DELETE FROM updates WHERE document = ?1 AND seq = 4",
        "UPDATE snapshots SET state = x'00' WHERE document = ?1",
        "UPDATE snapshots SET through = 1 WHERE document = ?1",
        "DELETE FROM snapshots WHERE document = ?1",
        "UPDATE schemas SET schema = '{ }' WHERE document = ?1",
        "DELETE FROM schemas WHERE document = ?1",
    ] {
        let directory = TempDir::new().unwrap();
        let store = open(directory.path());
        let documents = ["a", "b", "c"].map(|path| created(&store, path));
        for document in documents {
            let snapshot = Write::Snapshot {
                document,
                through: Seq(2),
                state: b"state".to_vec().into(),
            };
            let updates = [1, 2, 3, 4].map(|byte| append(document, &[byte]));
            assert!(store.commit(&updates).unwrap().iter().all(Result::is_ok));
            store.commit(&[snapshot]).unwrap().remove(0).unwrap();
        }
        let database = Connection::open(directory.path().join(DATABASE_FILE)).unwrap();
        assert_eq!(
            database
                .execute(damage, [documents[1].0.cast_signed()])
                .unwrap(),
            1,
            "{damage}"
        );

        match store.load(&room(), "b") {
            Err(StoreError::Corrupt {
                document: Some(document),
                ..
            }) => assert_eq!(document, documents[1], "{damage}"),
            other => panic!("{damage}: {other:?}"),
        }
        for path in ["a", "c"] {
            assert_eq!(
                store.load(&room(), path).unwrap().unwrap().updates.len(),
                2,
                "{damage}"
            );
        }
        // Out of the way, for whoever wants to look at it, and the path is free.
        let aside = Write::Move {
            room: room(),
            source: "b".into(),
            destination: "damaged/b".into(),
            overwrite: false,
            at: meshagent_store::Timestamp(0),
        };
        assert!(matches!(
            store.commit(&[aside]).unwrap().remove(0),
            Ok(Written::Moved { .. })
        ));
        created(&store, "b");
    }
}

#[test]
fn damaged_file_is_named() {
    let directory = TempDir::new().unwrap();
    let store = open(directory.path());
    store
        .commit(&[put("x/f", b"data".to_vec()), put("x/g", b"data".to_vec())])
        .unwrap();
    let database = Connection::open(directory.path().join(DATABASE_FILE)).unwrap();
    database
        .execute("UPDATE files SET data = x'00' WHERE file = 1", [])
        .unwrap();
    match store.read_file(&room(), "x/f") {
        Err(StoreError::Corrupt {
            document: None,
            what,
        }) => assert!(what.contains("x/f"), "{what}"),
        other => panic!("{other:?}"),
    }
    assert!(store.read_file(&room(), "x/g").unwrap().is_some());
    store
        .commit(&[put("x/f", b"new".to_vec())])
        .unwrap()
        .remove(0)
        .unwrap();
    assert_eq!(
        store.read_file(&room(), "x/f").unwrap().unwrap().data,
        "new"
    );
}

#[test]
fn file_that_is_no_database_is_an_error() {
    let directory = TempDir::new().unwrap();
    std::fs::write(directory.path().join(DATABASE_FILE), vec![b'x'; 10_000]).unwrap();
    let error = meshagent_store_sqlite::SqliteStore::open(
        directory.path(),
        meshagent_store_sqlite::Options::default(),
    );
    assert!(error.unwrap_err().to_string().contains(DATABASE_FILE));
}
