//! The data directory: its lock, its permissions, and its files while a store is open.

use std::fs;

use meshagent_store::{Reach, Seq, Store, StoreError, Timestamp, Write};
use meshagent_store_sqlite::{DATABASE_FILE, OpenError, Options, RESERVE_FILE, SqliteStore};
use rusqlite::Connection;
use tempfile::TempDir;

use crate::{append, created, open, room};

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
    let directory = parent.path().join("created/on the way");
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
    assert_eq!(
        files, 6,
        "the database, its WAL and index, the lock, the mark, the reserve"
    );
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
fn directory_that_cannot_be_created_is_an_error() {
    let parent = TempDir::new().unwrap();
    fs::write(parent.path().join("file"), "").unwrap();
    let error =
        SqliteStore::open(&parent.path().join("file/below"), Options::default()).unwrap_err();
    assert!(matches!(&error, OpenError::Directory { .. }), "{error:?}");
}

/// A change to the files of an open store.
#[cfg(unix)]
type Damage = fn(&std::path::Path);

#[cfg(unix)]
const DAMAGES: [(&str, Damage); 3] = [
    ("all are deleted", |directory| {
        for suffix in ["", "-wal", "-shm"] {
            fs::remove_file(directory.join(format!("{DATABASE_FILE}{suffix}"))).unwrap();
        }
    }),
    ("a copy replaces the database", |directory| {
        fs::copy(directory.join(DATABASE_FILE), directory.join("copy")).unwrap();
        fs::rename(directory.join("copy"), directory.join(DATABASE_FILE)).unwrap();
    }),
    ("the WAL is deleted", |directory| {
        fs::remove_file(directory.join(format!("{DATABASE_FILE}-wal"))).unwrap();
    }),
];

#[cfg(unix)]
#[test]
fn write_refused_after_file_loss_is_never_visible() {
    for (what, damage) in DAMAGES {
        let directory = TempDir::new().unwrap();
        let store = open(directory.path());
        let document = created(&store, "é-document");
        let appended = store.commit(&[append(document, "before".as_bytes())]);
        appended.unwrap().remove(0).unwrap();
        // The connection of this read stays open.
        assert!(store.load(&room(), "é-document").unwrap().is_some());
        damage(directory.path());
        for attempt in 0..3 {
            let context = format!("{what}, attempt {attempt}");
            let refused = store.commit(&[append(document, "以前".as_bytes())]);
            let is_lost = matches!(refused, Err(StoreError::Replaced(_)));
            assert!(is_lost, "{context}: {refused:?}");
            for read in [
                store.load(&room(), "é-document"),
                store.load_by_id(document),
                store.follow(document, Seq(1), 9).map(|_| None),
            ] {
                let is_lost = matches!(read, Err(StoreError::Replaced(_)));
                assert!(is_lost, "{context}: {read:?}");
            }
            // Data that can still be saved elsewhere contains nothing of the refused writes.
            let entry = store.stat(&room(), "é-document").unwrap().unwrap();
            assert_eq!(entry.size, Some(6), "{context}");
        }
    }
}

/// The link leads to another directory with the same database, whose other files are copies. So
/// the database itself has its name, but a restart would read another WAL.
#[cfg(unix)]
#[test]
fn link_to_another_directory_with_the_database_is_noticed_before_the_next_answer() {
    use std::os::unix::fs::symlink;

    let parent = TempDir::new().unwrap();
    let at = |name: &str| parent.path().join(name);
    fs::create_dir(at("data")).unwrap();
    fs::create_dir(at("änderung")).unwrap();
    symlink(at("data"), at("link")).unwrap();
    let store = open(&at("link"));
    let document = created(&store, "é-document");
    let name = |suffix: &str| format!("{DATABASE_FILE}{suffix}");
    for suffix in ["-wal", "-shm"] {
        let (from, to) = (at("data"), at("änderung"));
        fs::copy(from.join(name(suffix)), to.join(name(suffix))).unwrap();
    }
    let (from, to) = (at("data"), at("änderung"));
    fs::hard_link(from.join(DATABASE_FILE), to.join(DATABASE_FILE)).unwrap();
    symlink(at("änderung"), at("next")).unwrap();
    fs::rename(at("next"), at("link")).unwrap();
    let refused = store.commit(&[append(document, "後".as_bytes())]);
    let is_lost = matches!(refused, Err(StoreError::Replaced(_)));
    assert!(is_lost, "{refused:?}");
}

/// A link leads to the directory, and a file replaces the link now and then. Then the files in the
/// directory can't be checked, while the open files still work.
#[cfg(unix)]
#[test]
fn failed_batch_has_no_effect() {
    use std::os::unix::fs::symlink;
    use std::sync::atomic::{AtomicBool, Ordering};

    use crate::{StopOnDrop, put};

    let parent = TempDir::new().unwrap();
    let at = |name: &str| parent.path().join(name);
    fs::create_dir(at("data")).unwrap();
    symlink(at("data"), at("link")).unwrap();
    let store = open(&at("link"));
    let set = |is_there: bool| {
        if is_there {
            symlink(at("data"), at("next")).unwrap();
        } else {
            fs::write(at("next"), "").unwrap();
        }
        // In one step: something is always in the link's place.
        fs::rename(at("next"), at("link")).unwrap();
    };
    let moved = |number: u64, source: &str, destination: &str| Write::Move {
        room: room(),
        source: format!("{source}{number}"),
        destination: format!("{destination}{number}"),
        overwrite: false,
        reach: Reach::EVERYTHING,
        replaces: Reach::EVERYTHING,
        at: Timestamp(0),
    };
    store.commit(&[put("a0", vec![])]).unwrap();
    assert!(store.read_file(&room(), "a0").unwrap().is_some());
    set(false);
    for _ in 0..2 {
        let failed = store.commit(&[moved(0, "a", "ä")]);
        let may_pass = matches!(failed, Err(StoreError::Unavailable(_)));
        assert!(may_pass, "{failed:?}");
        assert!(store.check().is_err(), "not ready");
        assert!(store.read_file(&room(), "a0").unwrap().is_some());
    }
    set(true);
    let again = store.commit(&[moved(0, "a", "ä")]).unwrap();
    assert!(again[0].is_ok(), "{again:?}");

    let stop = AtomicBool::new(false);
    let (mut done, mut failed) = (0, 0);
    std::thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                set(false);
                set(true);
            }
        });
        for number in 1..400 {
            let put = put(&format!("b{number}"), vec![]);
            let result = store.commit(&[put]);
            let is_there = store.read_file(&room(), &format!("b{number}"));
            match (result, is_there) {
                (Ok(_), Ok(there)) => {
                    assert!(there.is_some(), "{number}");
                    done += 1;
                }
                (Err(StoreError::Unavailable(_)), Ok(there)) => {
                    assert!(there.is_none(), "{number} was reported as failed");
                    failed += 1;
                }
                // A connection could not be opened.
                (Ok(_) | Err(StoreError::Unavailable(_)), Err(StoreError::Unavailable(_))) => {}
                other => panic!("{number}: {other:?}"),
            }
        }
    });
    assert!(done > 0, "{failed} failed");
}

/// Cuts the WAL as a program other than SQLite would.
#[cfg(unix)]
fn cut_wal(directory: &std::path::Path, keep: u64) {
    let path = directory.join(format!("{DATABASE_FILE}-wal"));
    let wal = fs::OpenOptions::new().write(true).open(path).unwrap();
    assert!(wal.metadata().unwrap().len() > keep);
    wal.set_len(keep).unwrap();
}

/// This includes writes so large that SQLite puts pages of them into the WAL before they
/// are committed.
#[cfg(unix)]
#[test]
fn cut_wal_refuses_writes_and_keeps_the_database() {
    use crate::{assert_intact, put};

    for keep in [0, 20_000] {
        for size in [8, 4 << 20] {
            let context = format!("{keep} bytes are kept, {size} are written");
            let directory = TempDir::new().unwrap();
            let document = {
                let store = open(directory.path());
                let document = created(&store, "é-document");
                let kept = append(document, "before".as_bytes());
                store.commit(&[kept]).unwrap().remove(0).unwrap();
                document
            };
            let store = open(directory.path());
            for _ in 0..9 {
                let lost = append(document, "以前".as_bytes());
                store.commit(&[lost]).unwrap().remove(0).unwrap();
            }
            store.check().unwrap();
            cut_wal(directory.path(), keep);
            for _ in 0..3 {
                let writes = [
                    append(document, "後".as_bytes()),
                    put("後", vec![0xe5; size]),
                ];
                match store.commit(&writes) {
                    Err(StoreError::Replaced(what)) => {
                        assert!(what.to_string().contains("-wal"), "{context}: {what}");
                    }
                    other => panic!("{context}: {other:?}"),
                }
                let loaded = store.load(&room(), "é-document");
                let is_lost = matches!(loaded, Err(StoreError::Replaced(_)));
                assert!(is_lost, "{context}: {loaded:?}");
                assert!(!matches!(store.stat(&room(), "後"), Ok(Some(_))));
                assert!(store.check().is_err(), "{context}: not ready");
            }
            drop(store);

            let store = open(directory.path());
            assert!(store.stat(&room(), "後").unwrap().is_none(), "{context}");
            let loaded = store.load(&room(), "é-document").unwrap().unwrap();
            assert_eq!(loaded.updates[0].update, "before".as_bytes(), "{context}");
            assert!((1..=10).contains(&loaded.updates.len()), "{context}");
            drop(store);
            assert_intact(directory.path(), &context);
        }
    }
}

#[cfg(unix)]
#[test]
fn wal_cut_before_a_stop_is_not_moved_into_the_database() {
    use crate::assert_intact;

    let directory = TempDir::new().unwrap();
    let store = open(directory.path());
    let document = created(&store, "é-document");
    drop(store);
    let store = open(directory.path());
    for number in 0..60 {
        created(&store, &format!("document {number}"));
    }
    cut_wal(directory.path(), 60_000);
    drop(store);
    let store = open(directory.path());
    assert!(store.load_by_id(document).unwrap().is_some());
    drop(store);
    assert_intact(directory.path(), "");
}

/// Another SQLite program that finds no WAL index creates one, and then neither sees the
/// other's writes.
#[cfg(unix)]
#[test]
fn wal_without_its_index_refuses_writes() {
    use crate::assert_intact;

    let directory = TempDir::new().unwrap();
    let store = open(directory.path());
    let document = created(&store, "é-document");
    fs::remove_file(directory.path().join(format!("{DATABASE_FILE}-shm"))).unwrap();
    let refused = store.commit(&[append(document, "後".as_bytes())]);
    assert!(
        matches!(refused, Err(StoreError::Replaced(_))),
        "{refused:?}"
    );
    drop(store);
    let store = open(directory.path());
    let loaded = store.load(&room(), "é-document").unwrap().unwrap();
    assert!(loaded.updates.is_empty());
    drop(store);
    assert_intact(directory.path(), "");
}

/// SQLite itself shortens or restarts the WAL in all these ways, while others read.
#[cfg(unix)]
#[test]
fn wal_shortened_by_sqlite_counts_as_complete() {
    use crate::put;

    let directory = TempDir::new().unwrap();
    let store = open(directory.path());
    let other = Connection::open(directory.path().join(DATABASE_FILE)).unwrap();
    for (round, mode) in ["PASSIVE", "FULL", "RESTART", "TRUNCATE"]
        .into_iter()
        .cycle()
        .take(12)
        .enumerate()
    {
        let path = format!("ä{round}");
        store.commit(&[put(&path, vec![7; 30_000])]).unwrap();
        let checkpoint = format!("PRAGMA wal_checkpoint({mode})");
        other
            .query_row(&checkpoint, [], |row| row.get::<_, i64>(0))
            .unwrap();
        if round % 2 == 0 {
            // When the WAL restarts, this connection shortens it to what is needed.
            other.pragma_update(None, "journal_size_limit", 0).unwrap();
            other
                .execute("UPDATE probe SET count = count + 1", [])
                .unwrap();
        }
        store.check().unwrap();
        assert!(store.open_file(&room(), &path).unwrap().is_some());
        store.tend().unwrap();
        if round % 3 == 2 {
            // This empties the WAL.
            let delete = Write::Delete {
                room: room(),
                path,
                recursive: false,
                reach: Reach::EVERYTHING,
            };
            store.commit(&[delete]).unwrap().remove(0).unwrap();
        }
    }
}

/// The rest of the WAL is older than the database then, and would hide half of it.
#[cfg(unix)]
#[test]
fn rest_of_a_moved_wal_does_not_hide_the_database() {
    use crate::assert_intact;

    for is_looked_at in [true, false] {
        let directory = TempDir::new().unwrap();
        let store = open(directory.path());
        let documents: Vec<_> = (0..60)
            .map(|number| created(&store, &format!("document {number}")))
            .collect();
        let other = Connection::open(directory.path().join(DATABASE_FILE)).unwrap();
        other
            .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| {
                row.get::<_, i64>(0)
            })
            .unwrap();
        drop(other);
        cut_wal(directory.path(), 200_000);
        if is_looked_at {
            assert!(store.check().is_err());
        }
        drop(store);
        let store = open(directory.path());
        for document in documents {
            assert!(store.load_by_id(document).unwrap().is_some(), "{document}");
        }
        drop(store);
        assert_intact(directory.path(), "");
    }
}

/// The lock and the WAL of each name would be others, and two servers would write into one file.
#[cfg(unix)]
#[test]
fn database_with_two_names_is_refused_under_both() {
    let (directory, linked) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    drop(open(directory.path()));
    let names = [directory.path(), linked.path()].map(|path| path.join(DATABASE_FILE));
    fs::hard_link(&names[0], &names[1]).unwrap();
    for (data, name) in [directory.path(), linked.path()].iter().zip(&names) {
        match SqliteStore::open(data, Options::default()) {
            Err(error @ OpenError::Linked { .. }) => {
                let said = error.to_string();
                assert!(said.contains(name.to_str().unwrap()), "{said}");
            }
            other => panic!("{other:?}"),
        }
    }
    fs::remove_file(&names[1]).unwrap();
    created(&open(directory.path()), "ä");
}

/// The WAL would be beside the link's target, where other servers do not look for it.
#[cfg(unix)]
#[test]
fn link_in_place_of_the_database_is_refused() {
    let (directory, linked) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    drop(open(directory.path()));
    let link = linked.path().join(DATABASE_FILE);
    for target in [directory.path().join(DATABASE_FILE), "nowhere".into()] {
        std::os::unix::fs::symlink(&target, &link).unwrap();
        match SqliteStore::open(linked.path(), Options::default()) {
            Err(error @ OpenError::NoFile { .. }) => {
                let said = error.to_string();
                assert!(said.contains(link.to_str().unwrap()), "{said}");
            }
            other => panic!("{other:?}"),
        }
        assert!(!linked.path().join("nowhere").exists());
        fs::remove_file(&link).unwrap();
    }
    fs::create_dir(&link).unwrap();
    assert!(matches!(
        SqliteStore::open(linked.path(), Options::default()),
        Err(OpenError::NoFile { .. })
    ));
    // The directory itself may be a link.
    fs::remove_dir(&link).unwrap();
    let alias = linked.path().join("alias");
    std::os::unix::fs::symlink(directory.path(), &alias).unwrap();
    created(&open(&alias), "ä");
}

/// A failed restore may leave an empty file, and a start would take it for a new database.
#[test]
fn empty_or_missing_database_beside_its_reserve_is_refused() {
    let directory = TempDir::new().unwrap();
    created(&open(directory.path()), "é-document");
    let database = directory.path().join(DATABASE_FILE);
    fs::write(&database, "").unwrap();
    match SqliteStore::open(directory.path(), Options::default()) {
        Err(OpenError::Empty { path, left }) => {
            assert_eq!(path, database);
            assert_eq!(left, directory.path().join(RESERVE_FILE));
        }
        other => panic!("{other:?}"),
    }
    fs::remove_file(&database).unwrap();
    let missing = SqliteStore::open(directory.path(), Options::default());
    assert!(matches!(missing, Err(OpenError::Missing { .. })));
    assert!(!database.exists());
    fs::create_dir(&database).unwrap();
    let no_file = SqliteStore::open(directory.path(), Options::default());
    assert!(matches!(no_file, Err(OpenError::NoFile { .. })));
    // The creation of a database that was interrupted.
    let new = TempDir::new().unwrap();
    fs::write(new.path().join(DATABASE_FILE), "").unwrap();
    created(&open(new.path()), "é-document");
}
