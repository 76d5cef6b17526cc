//! Folders with very many entries: the time that all rooms wait for one write is limited.

use meshagent_store::{
    MAX_TOUCHED_ENTRIES, Reach, RoomId, Store as _, Timestamp, Write, WriteError, Written,
};
use meshagent_store_sqlite::DATABASE_FILE;
use rusqlite::Connection;
use tempfile::TempDir;

use crate::open;

fn room() -> RoomId {
    RoomId::new("project", "röom")
}

#[test]
fn write_touches_a_limited_number_of_entries() {
    let directory = TempDir::new().unwrap();
    let store = open(directory.path());
    let put = Write::PutFile {
        room: room(),
        path: "földer/x".to_owned(),
        data: "é".into(),
        mime_type: String::new(),
        overwrite: false,
        at: Timestamp(1),
    };
    store.commit(&[put]).unwrap();
    drop(store);
    // The other entries, inserted quickly.
    let database = Connection::open(directory.path().join(DATABASE_FILE)).unwrap();
    database
        .execute(
            "WITH RECURSIVE numbers (n) AS
                 (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?1)
             INSERT INTO entries (room, path, kind, size, created_at, updated_at)
             SELECT room, 'földer/' || n, kind, size, created_at, updated_at FROM entries, numbers",
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
        source: "földer".to_owned(),
        destination: to.to_owned(),
        overwrite: false,
        reach: Reach::EVERYTHING,
        replaces: Reach::EVERYTHING,
        at: Timestamp(2),
    };
    let too_many = Err(WriteError::TooMany {
        path: "földer".to_owned(),
        max: MAX_TOUCHED_ENTRIES,
    });
    let results = store.commit(&[delete("földer", true), rename("élsewhere")]);
    assert_eq!(results.unwrap(), [too_many.clone(), too_many]);
    assert!(store.stat(&room(), "földer/x").unwrap().is_some());
    // One entry less, and the deletion succeeds.
    let results = store.commit(&[delete("földer/x", false), delete("földer", true)]);
    let results = results.unwrap();
    let Ok(Written::Deleted { entries }) = &results[1] else {
        panic!("the folder was not deleted: {:?}", results[1]);
    };
    assert_eq!(entries.len(), MAX_TOUCHED_ENTRIES);
    assert!(store.stat(&room(), "földer").unwrap().is_none());
}
