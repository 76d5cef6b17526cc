//! Who may use a data directory, and with which files.

use std::fs;

use meshagent_store::Store;
use meshagent_store_sqlite::{DATABASE_FILE, OpenError, Options, SqliteStore};
use rusqlite::Connection;
use tempfile::TempDir;

use crate::{created, open};

#[test]
fn directory_belongs_to_one_store_at_a_time() {
    let directory = TempDir::new().unwrap();
    let first = open(directory.path());
    match SqliteStore::open(directory.path(), Options::default()) {
        Err(OpenError::InUse { path }) => assert_eq!(path, directory.path()),
        other => panic!("{other:?}"),
    }
    created(&first, "a");
    drop(first);
    assert_eq!(open(directory.path()).stats().unwrap().documents, 1);
}

#[cfg(unix)]
#[test]
fn files_are_for_their_owner_only() {
    use std::os::unix::fs::PermissionsExt;

    let parent = TempDir::new().unwrap();
    let directory = parent.path().join("made/on the way");
    let store = open(&directory);
    created(&store, "a");
    store.stats().unwrap();
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&directory), 0o700);
    let mut files = 0;
    for file in fs::read_dir(&directory).unwrap() {
        let path = file.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
        files += 1;
    }
    assert_eq!(files, 4, "the database, its WAL and index, the lock");
}

#[test]
fn later_format_is_refused_and_left_alone() {
    let directory = TempDir::new().unwrap();
    drop(open(directory.path()));
    let path = directory.path().join(DATABASE_FILE);
    Connection::open(&path)
        .unwrap()
        .pragma_update(None, "user_version", 99)
        .unwrap();
    let before = fs::read(&path).unwrap();
    match SqliteStore::open(directory.path(), Options::default()) {
        Err(error @ OpenError::NewerFormat { found: 99, .. }) => {
            assert!(error.to_string().contains("later version"));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn another_programs_database_is_refused_and_left_alone() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join(DATABASE_FILE);
    Connection::open(&path)
        .unwrap()
        .execute_batch("CREATE TABLE theirs (x)")
        .unwrap();
    let before = fs::read(&path).unwrap();
    assert!(matches!(
        SqliteStore::open(directory.path(), Options::default()),
        Err(OpenError::Foreign { .. })
    ));
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn directory_that_cannot_be_made_is_an_error() {
    let parent = TempDir::new().unwrap();
    fs::write(parent.path().join("file"), "").unwrap();
    let error =
        SqliteStore::open(&parent.path().join("file/below"), Options::default()).unwrap_err();
    assert!(matches!(&error, OpenError::Directory { .. }), "{error:?}");
}
