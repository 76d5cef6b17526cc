//! Folders with very many entries: what all rooms wait for has a bound.

use meshagent_store::{
    MAX_TOUCHED_ENTRIES, Reach, RoomId, Store as _, Timestamp, Write, WriteError, Written,
};
use meshagent_store_sqlite::DATABASE_FILE;
use rusqlite::Connection;
use tempfile::TempDir;

use crate::open;

fn room() -> RoomId {
    RoomId::new("project", "räum")
}

#[test]
fn a_write_touches_no_more_entries_than_are_agreed() {
    let directory = TempDir::new().unwrap();
    let store = open(directory.path());
    let put = Write::PutFile {
        room: room(),
        path: "ördner/x".to_owned(),
        data: "é".into(),
        mime_type: String::new(),
        overwrite: false,
        at: Timestamp(1),
    };
    store.commit(&[put]).unwrap();
    drop(store);
    // The others, quickly.
    let database = Connection::open(directory.path().join(DATABASE_FILE)).unwrap();
    database
        .execute(
            "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?1)
             INSERT INTO entries (room, path, kind, size, created_at, updated_at)
             SELECT room, 'ördner/' || n, kind, size, created_at, updated_at FROM entries, numbers",
            [i64::try_from(MAX_TOUCHED_ENTRIES).unwrap()],
        )
        .unwrap();
    drop(database);

    let store = open(directory.path());
    let delete = |path: &str, recursive| Write::Delete {
        room: room(),
        path: path.to_owned(),
        recursive,
        reach: Reach::EVERYTHING,
    };
    let rename = |to: &str| Write::Move {
        room: room(),
        source: "ördner".to_owned(),
        destination: to.to_owned(),
        overwrite: false,
        reach: Reach::EVERYTHING,
        replaces: Reach::EVERYTHING,
        at: Timestamp(2),
    };
    let too_many = Err(WriteError::TooMany {
        path: "ördner".to_owned(),
        max: MAX_TOUCHED_ENTRIES,
    });
    let results = store.commit(&[delete("ördner", true), rename("änders")]);
    assert_eq!(results.unwrap(), [too_many.clone(), too_many]);
    assert!(store.stat(&room(), "ördner/x").unwrap().is_some());
    // One less, and it is taken.
    let results = store.commit(&[delete("ördner/x", false), delete("ördner", true)]);
    let results = results.unwrap();
    assert!(
        matches!(&results[1], Ok(Written::Deleted { entries }) if entries.len() == MAX_TOUCHED_ENTRIES)
    );
    assert!(store.stat(&room(), "ördner").unwrap().is_none());
}
