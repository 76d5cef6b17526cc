//! A WAL that is damaged after an unclean stop is distinguished from one that a crash leaves: the
//! store refuses to open the former, as acknowledged data would be lost silently, and opens the
//! latter without a warning.

use std::fs;
use std::path::{Path, PathBuf};

use meshagent_store::Store;
use meshagent_store_sqlite::{DATABASE_FILE, Durability, Found, OpenError, Options, SqliteStore};
use rusqlite::Connection;
use rusqlite::config::DbConfig;
use tempfile::TempDir;

use crate::history::Random;
use crate::{assert_intact, created, put};

const MARK: &str = "meshagent.open";
const DOCUMENTS: usize = 30;
/// Lengths of the WAL's parts; each frame has a page.
const HEADER: usize = 32;
const FRAME: usize = 24 + 4096;
const SECTOR: usize = 512;

/// The files of a store that was not closed.
#[derive(Clone)]
struct Left {
    database: Vec<u8>,
    wal: Vec<u8>,
    mark: &'static str,
    /// The end of the WAL after each document.
    ends: Vec<usize>,
}

impl Left {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let store = open_as(directory.path(), Durability::Fsync).unwrap();
        let wal = wal_in(directory.path());
        assert_eq!(fs::read(directory.path().join(MARK)).unwrap(), b"fsync\n");
        let mut ends = Vec::new();
        for number in 0..DOCUMENTS {
            created(&store, &format!("ä{number}"));
            ends.push(usize::try_from(fs::metadata(&wal).unwrap().len()).unwrap());
        }
        assert!(ends.is_sorted() && ends[0] > HEADER, "{ends:?}");
        Self {
            database: fs::read(directory.path().join(DATABASE_FILE)).unwrap(),
            wal: fs::read(&wal).unwrap(),
            mark: "fsync\n",
            ends,
        }
    }

    fn write_to_directory(&self) -> TempDir {
        let directory = TempDir::new().unwrap();
        fs::write(directory.path().join(DATABASE_FILE), &self.database).unwrap();
        fs::write(wal_in(directory.path()), &self.wal).unwrap();
        fs::write(directory.path().join(MARK), self.mark).unwrap();
        directory
    }

    /// Returns the number of documents that end before this byte.
    fn documents_before(&self, at: usize) -> usize {
        self.ends.iter().filter(|end| **end <= at).count()
    }

    /// Asserts that the files open without a warning, and contain this number of documents.
    #[track_caller]
    fn assert_opens_with(&self, documents: usize, context: &str) {
        let directory = self.write_to_directory();
        let store = open_as(directory.path(), Durability::Fsync).unwrap();
        assert_eq!(store.found(), Found::Database, "{context}");
        assert_eq!(documents_in(&store), documents, "{context}");
    }
}

fn wal_in(directory: &Path) -> PathBuf {
    directory.join(format!("{DATABASE_FILE}-wal"))
}

fn open_as(directory: &Path, durability: Durability) -> Result<SqliteStore, OpenError> {
    let mut options = Options::default();
    options.durability = durability;
    SqliteStore::open(directory, options)
}

fn documents_in(store: &SqliteStore) -> usize {
    usize::try_from(store.stats().unwrap().documents).unwrap()
}

fn garbage(random: &mut Random, bytes: &mut [u8]) {
    bytes.fill_with(|| random.next().to_le_bytes()[0]);
}

#[test]
fn wal_without_valid_header_is_refused() {
    let left = Left::new();
    let mut random = Random(1);
    let mut damage = |what: &str| {
        let mut left = left.clone();
        match what {
            "garbage" => garbage(&mut random, &mut left.wal),
            "zeros" => left.wal.fill(0),
            "a header of garbage" => garbage(&mut random, &mut left.wal[..HEADER]),
            "another salt" => left.wal[17] ^= 1,
            "another page size" => left.wal[8..12].copy_from_slice(&3_u32.to_be_bytes()),
            "text" => left.wal = b"not a WAL\n".repeat(100),
            other => panic!("{other}"),
        }
        left
    };
    for what in [
        "garbage",
        "zeros",
        "a header of garbage",
        "another salt",
        "another page size",
        "text",
    ] {
        let left = damage(what);
        // A power failure leaves that in neither mode.
        for durability in [Durability::Fsync, Durability::Os] {
            let directory = left.write_to_directory();
            let wal = wal_in(directory.path());
            match open_as(directory.path(), durability) {
                Err(error @ OpenError::LogHeader { .. }) => {
                    let said = error.to_string();
                    assert!(said.contains(wal.to_str().unwrap()), "{what}: {said}");
                }
                other => panic!("{what}: {other:?}"),
            }
            assert_eq!(
                fs::read(&wal).unwrap(),
                left.wal,
                "{what}: the file was changed"
            );
            let database = fs::read(directory.path().join(DATABASE_FILE)).unwrap();
            assert!(database == left.database, "{what}: the file was changed");

            // The remedy of the error's hint.
            fs::rename(&wal, directory.path().join("away")).unwrap();
            let store = open_as(directory.path(), durability).unwrap();
            assert_eq!(store.found(), Found::DatabaseWithoutLog, "{what}");
            assert_eq!(documents_in(&store), 0, "{what}");
        }
    }
}

#[test]
fn wal_damaged_before_its_end_is_refused() {
    let left = Left::new();
    let mut random = Random(2);
    // Far enough from the end to hit more than the last document, and the commit before it.
    let last = left.ends[DOCUMENTS - 4];
    for length in [1, 24, 4096, 20_000] {
        for round in 0..12 {
            let range = HEADER..last - length;
            let start = match round {
                0 => HEADER,
                1 => last - length,
                _ => range.start + usize::try_from(random.below(range.len() as u64)).unwrap(),
            };
            let context = format!("{length} bytes at {start}");
            let mut left = left.clone();
            let damaged = &mut left.wal[start..start + length];
            match length {
                1 => damaged[0] ^= 4,
                // Pages have many zeros.
                24 => damaged.iter_mut().for_each(|byte| *byte = !*byte),
                _ => garbage(&mut random, damaged),
            }
            let directory = left.write_to_directory();
            let at = match open_as(directory.path(), Durability::Fsync) {
                Err(OpenError::LogGap { path, at }) => {
                    assert_eq!(path, wal_in(directory.path()), "{context}");
                    usize::try_from(at).unwrap()
                }
                other => panic!("{context}: {other:?}"),
            };
            assert_eq!(at, HEADER + (start - HEADER) / FRAME * FRAME, "{context}");
            assert!(
                fs::read(wal_in(directory.path())).unwrap() == left.wal,
                "{context}: the file was changed"
            );

            // The remedy of the error's hint keeps what precedes the damage.
            let before = left.documents_before(at);
            let mut cut = left.clone();
            cut.wal.truncate(at);
            cut.assert_opens_with(before, &context);

            // A power failure may leave that if commits don't wait for the disk.
            left.mark = "os\n";
            for durability in [Durability::Fsync, Durability::Os] {
                let directory = left.write_to_directory();
                let store = open_as(directory.path(), durability).unwrap();
                let found = Found::DatabaseWithCutLog { at: at as u64 };
                assert_eq!(store.found(), found, "{context}");
                assert_eq!(documents_in(&store), before, "{context}");
                drop(store);
                assert_intact(directory.path(), &context);
            }
        }
    }
}

#[test]
fn durability_of_the_wal_decides_about_gaps() {
    let mut left = Left::new();
    left.wal[HEADER + 1_000] ^= 1;
    for (mark, durability, is_refused) in [
        ("fsync\n", Durability::Os, true),
        ("os\n", Durability::Fsync, false),
        ("", Durability::Fsync, true),
        ("", Durability::Os, false),
    ] {
        left.mark = mark;
        let directory = left.write_to_directory();
        let opened = open_as(directory.path(), durability);
        assert_eq!(opened.is_err(), is_refused, "{mark:?}: {opened:?}");
        if let Ok(store) = opened {
            let marked = fs::read(directory.path().join(MARK)).unwrap();
            let expected = match durability {
                Durability::Fsync => "fsync\n",
                Durability::Os => "os\n",
            };
            assert_eq!(marked, expected.as_bytes());
            drop(store);
            assert!(!directory.path().join(MARK).exists());
        }
    }
}

/// The durability of the previous server applies to the WAL until it is emptied: this server has
/// acknowledged nothing in a WAL that can't be emptied.
#[test]
fn mark_keeps_durability_until_the_wal_is_emptied() {
    let mut left = Left::new();
    let damaged = left.ends[DOCUMENTS / 2] + 1_000;
    left.wal[damaged] ^= 1;
    left.mark = "os\n";
    let directory = left.write_to_directory();
    // This reader holds the WAL.
    let reader = Connection::open(directory.path().join(DATABASE_FILE)).unwrap();
    reader.execute_batch("BEGIN").unwrap();
    let _: i64 = reader
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .unwrap();
    fs::write(wal_in(directory.path()), &left.wal).unwrap();
    let store = open_as(directory.path(), Durability::Fsync).unwrap();
    let mark = fs::read_to_string(directory.path().join(MARK)).unwrap();
    assert_eq!(mark, "os\n", "the WAL was not emptied");
    drop(store);
    reader.execute_batch("COMMIT").unwrap();
    drop(reader);
    let directory = left.write_to_directory();
    let _store = open_as(directory.path(), Durability::Fsync).unwrap();
    let mark = fs::read_to_string(directory.path().join(MARK)).unwrap();
    assert_eq!(mark, "fsync\n");
    assert_eq!(fs::metadata(wal_in(directory.path())).unwrap().len(), 0);
}

#[test]
fn wal_that_ends_anywhere_opens_with_acknowledged_documents() {
    let left = Left::new();
    let edges = (0..40).chain(HEADER..HEADER + 30);
    let anywhere = (0..left.wal.len()).step_by(9_001);
    for length in edges.step_by(3).chain(anywhere).chain([left.wal.len()]) {
        let mut cut = left.clone();
        cut.wal.truncate(length);
        cut.assert_opens_with(left.documents_before(length), &format!("cut at {length}"));
    }
}

/// Any sectors of the last write, which was not acknowledged, may exist.
#[test]
fn torn_transaction_at_the_end_opens_without_warning() {
    let before = Left::new();
    let mut random = Random(3);
    // After the end of the WAL there is nothing, zeros, or frames of an earlier round.
    for remains in ["nothing", "zeros", "an earlier round"] {
        let (left, wal) = {
            let mut left = before.clone();
            let old = left.wal.clone();
            let directory = left.write_to_directory();
            if remains == "an earlier round" {
                // The WAL is read, moved into the database and restarted with other salts.
                let store = raw(directory.path());
                let moved = "PRAGMA wal_checkpoint(PASSIVE)";
                store.query_row(moved, [], |_| Ok(())).unwrap();
                store
                    .execute_batch("UPDATE probe SET count = count + 1")
                    .unwrap();
                left.database = fs::read(directory.path().join(DATABASE_FILE)).unwrap();
                left.wal = fs::read(wal_in(directory.path())).unwrap();
                assert_eq!(left.wal.len(), old.len());
                assert_ne!(left.wal[16..24], old[16..24], "the same salts");
            }
            let store = raw(directory.path());
            store.execute_batch(LARGE).unwrap();
            let wal = fs::read(wal_in(directory.path())).unwrap();
            left.wal.resize(wal.len(), 0);
            (left, wal)
        };
        let changed: Vec<usize> = (0..wal.len())
            .step_by(SECTOR)
            .filter(|at| wal[*at..].chunks(SECTOR).next() != left.wal[*at..].chunks(SECTOR).next())
            .collect();
        assert!(changed.len() > 30, "{remains}: {}", changed.len());
        for round in 0..40 {
            let mut torn = left.clone();
            let odds = 2 + round % 8;
            for at in &changed {
                if random.below(odds) != 0 {
                    let end = (at + SECTOR).min(wal.len());
                    torn.wal[*at..end].copy_from_slice(&wal[*at..end]);
                }
            }
            if remains == "nothing" {
                let kept = changed[0] + usize::try_from(random.below(60_000)).unwrap();
                torn.wal.truncate(kept);
            }
            torn.assert_opens_with(DOCUMENTS, &format!("{remains}, round {round}"));
        }
    }
}

/// Transactions whose sync failed remain after the end of the WAL, with its salts and each with a
/// commit, until others overwrite them.
#[test]
fn remains_of_failed_commits_are_not_damage() {
    let mut left = Left::new();
    let end = left.wal.len();
    for sql in [
        LARGE,
        "CREATE TABLE b (x); INSERT INTO b VALUES (randomblob(20000))",
        "BEGIN; CREATE TABLE c (x); INSERT INTO c VALUES (randomblob(9000)); COMMIT",
        "UPDATE probe SET count = count + 1",
    ] {
        // Each continues from the end of the WAL, as if the one before did not exist.
        let mut copy = left.clone();
        copy.wal.truncate(end);
        let directory = copy.write_to_directory();
        raw(directory.path()).execute_batch(sql).unwrap();
        let wal = fs::read(wal_in(directory.path())).unwrap();
        assert_eq!(wal[..end], left.wal[..end]);
        let written = wal.len().max(left.wal.len());
        left.wal.resize(written, 0);
        left.wal[..wal.len()].copy_from_slice(&wal);
    }
    let commits_behind = left.wal[end + FRAME..]
        .chunks_exact(FRAME)
        .filter(|frame| frame[8..16] == left.wal[16..24] && frame[4..8] != [0; 4])
        .count();
    assert!(commits_behind > 1, "{commits_behind}");
    left.assert_opens_with(DOCUMENTS, "");
}

const LARGE: &str = "BEGIN; CREATE TABLE a (x); INSERT INTO a VALUES (randomblob(60000)); COMMIT";

/// Opens a connection that moves nothing into the database by itself.
fn raw(directory: &Path) -> Connection {
    let connection = Connection::open(directory.join(DATABASE_FILE)).unwrap();
    connection
        .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
        .unwrap();
    connection
        .pragma_update(None, "wal_autocheckpoint", 0)
        .unwrap();
    connection
}

/// Root may access any file, so a directory is in the file's place.
#[test]
fn unusable_file_beside_the_database_is_named() {
    for suffix in ["-wal", "-shm"] {
        let directory = Left::new().write_to_directory();
        let path = directory.path().join(format!("{DATABASE_FILE}{suffix}"));
        let _ = fs::remove_file(&path);
        fs::create_dir_all(path.join("not empty")).unwrap();
        match open_as(directory.path(), Durability::Fsync) {
            Err(error @ OpenError::File { .. }) => {
                let said = error.to_string();
                assert!(said.contains(path.to_str().unwrap()), "{said}");
            }
            other => panic!("{suffix}: {other:?}"),
        }
    }
}

/// A store that continued after a damaged WAL has a complete WAL again.
#[test]
fn store_continued_after_a_gap_is_complete() {
    let mut left = Left::new();
    left.wal[HEADER + 5 * FRAME] ^= 1;
    left.mark = "os\n";
    let directory = left.write_to_directory();
    let store = open_as(directory.path(), Durability::Os).unwrap();
    assert!(matches!(store.found(), Found::DatabaseWithCutLog { .. }));
    store.commit(&[put("after – é", vec![7; 9_000])]).unwrap();
    let next = Left {
        database: fs::read(directory.path().join(DATABASE_FILE)).unwrap(),
        wal: fs::read(wal_in(directory.path())).unwrap(),
        mark: "os\n",
        ends: Vec::new(),
    };
    next.assert_opens_with(documents_in(&store), "");
}
