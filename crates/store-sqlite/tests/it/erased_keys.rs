//! Rows of erased keys are removed, and leave no copy of a key that is in use.

use std::fs;
use std::path::Path;

use meshagent_store::{Reach, Store, Write};
use meshagent_store_sqlite::{DATABASE_FILE, SqliteStore};
use rusqlite::Connection;
use tempfile::TempDir;

use crate::{assert_intact, created, open, put, room};

fn delete(path: &str) -> Write {
    Write::Delete {
        room: room(),
        path: path.to_owned(),
        recursive: true,
        reach: Reach::EVERYTHING,
    }
}

fn commit(store: &SqliteStore, writes: &[Write]) {
    assert!(store.commit(writes).unwrap().iter().all(Result::is_ok));
}

fn fill(store: &SqliteStore, folder: &str, files: usize) {
    let put = |number| put(&format!("{folder}/{number}"), b"x".to_vec());
    let writes: Vec<Write> = (0..files).map(put).collect();
    commit(store, &writes);
}

fn keys(directory: &Path) -> i64 {
    Connection::open(directory.join(DATABASE_FILE))
        .unwrap()
        .query_row("SELECT count(*) FROM keys", [], |row| row.get(0))
        .unwrap()
}

/// The copies of a key in all files of the directory.
fn copies(directory: &Path, key: &[u8]) -> usize {
    fs::read_dir(directory)
        .unwrap()
        .map(|file| {
            let bytes = fs::read(file.unwrap().path()).unwrap();
            bytes.windows(key.len()).filter(|at| *at == key).count()
        })
        .sum()
}

/// The state that a process leaves that is killed now.
fn killed(directory: &Path) -> TempDir {
    let copy = TempDir::new().unwrap();
    for file in fs::read_dir(directory).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
    }
    copy
}

#[test]
fn no_row_of_an_erased_key_is_left() {
    let directory = TempDir::new().unwrap();
    let store = open(directory.path());
    fill(&store, "a", 6_000);
    commit(&store, &[delete("a")]);
    assert_eq!(keys(directory.path()), 6_000);
    let mut killed_at = vec![killed(directory.path())];
    while !store.free_some().unwrap() {
        let left = keys(directory.path());
        if left < 5_000 && killed_at.len() == 1 || left < 2_000 && killed_at.len() == 2 {
            killed_at.push(killed(directory.path()));
        }
    }
    assert_eq!(keys(directory.path()), 0);
    assert_eq!(killed_at.len(), 3);
    for directory in &killed_at {
        let store = open(directory.path());
        while !store.free_some().unwrap() {}
        assert_eq!(keys(directory.path()), 0, "after a restart");
        created(&store, "neu");
        assert_intact(directory.path(), "after a restart");
    }
    // Small deletions are followed by a sweep, too.
    for round in 0..3 {
        fill(&store, "b", 20);
        commit(&store, &[delete("b")]);
        while !store.free_some().unwrap() {}
        assert_eq!(keys(directory.path()), 0, "{round}");
    }
    fill(&store, "c", 20);
    assert_eq!(store.stats().unwrap().files, 20);
    while !store.free_some().unwrap() {}
    assert_eq!(keys(directory.path()), 20);
}

#[test]
fn keys_in_use_are_not_copied() {
    let directory = TempDir::new().unwrap();
    let store = open(directory.path());
    let mut kept = Vec::new();
    for (number, files) in [3_000, 100, 1, 2_000, 500, 4_000].into_iter().enumerate() {
        fill(&store, &format!("a/{number}"), files / 2);
        fill(&store, &format!("b/{number}"), files.div_ceil(2));
        let path = format!("kept/{number}");
        commit(&store, &[put(&path, b"content".to_vec())]);
        kept.push(path);
    }
    let in_use = |path: &str| -> Vec<u8> {
        let entry = "SELECT key FROM keys JOIN entries ON id = entry WHERE path = ?1";
        let database = Connection::open(directory.path().join(DATABASE_FILE)).unwrap();
        database.query_row(entry, [path], |row| row.get(0)).unwrap()
    };
    let secrets: Vec<Vec<u8>> = kept.iter().map(|path| in_use(path)).collect();
    let before = keys(directory.path());
    commit(&store, &[delete("a"), delete("b")]);
    while !store.free_some().unwrap() {}
    let left = keys(directory.path());
    assert!(left < before / 2 && left < 6 * 800, "{left} of {before}");
    for (path, secret) in kept.iter().zip(&secrets) {
        assert_eq!(&in_use(path), secret);
        let file = store.read_file(&room(), path).unwrap().unwrap();
        assert_eq!(file.data, "content", "{path}");
    }
    // Each deletion erases the only copy.
    for (path, secret) in kept.iter().zip(&secrets) {
        assert!(copies(directory.path(), secret) > 0, "{path}");
        commit(&store, &[delete(path)]);
        assert_eq!(copies(directory.path(), secret), 0, "{path}");
        while !store.free_some().unwrap() {}
        assert_eq!(copies(directory.path(), secret), 0, "{path}");
    }
    // What few deletions leave is removed after a start.
    drop(store);
    let store = open(directory.path());
    while !store.free_some().unwrap() {}
    assert_eq!(keys(directory.path()), 0);
    assert_intact(directory.path(), "swept");
}
