//! Large content, which is stored in parts: remains of uncommitted content, damage to parts, full
//! disks, and delays of other writes beside it.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use chacha20::ChaCha20;
use chacha20::cipher::{KeyIvInit as _, StreamCipher as _};
use meshagent_store::{Reach, RoomId, Seq, Staging, Store, StoreError, Timestamp, Write};
use meshagent_store_sqlite::{DATABASE_FILE, Durability, Options, SqliteStore};
use rusqlite::Connection;
use tempfile::TempDir;

use crate::{
    append, assert_intact, contribution, created, open, put, read_in_parts, room, snapshot,
};

fn large(bytes: usize) -> Vec<u8> {
    "larger than one part – é – "
        .bytes()
        .cycle()
        .take(bytes)
        .collect()
}

fn create_large(path: &str) -> Write {
    Write::CreateDocument {
        room: room(),
        path: path.to_owned(),
        schema: "{}".to_owned(),
        state: large(1_300_000).into(),
        contributions: vec![contribution("ada")],
        at: Timestamp(0),
    }
}

fn delete(path: &str) -> Write {
    Write::Delete {
        room: room(),
        path: path.to_owned(),
        recursive: true,
        reach: Reach::EVERYTHING,
    }
}

fn commit_in_steps(store: &dyn Store, writes: &[Write]) -> Result<(), StoreError> {
    let staging = Staging::default();
    while !store.stage(writes, &staging)? {}
    let results = store.commit_staged(writes, &staging)?;
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    Ok(())
}

fn count(directory: &Path, table: &str) -> i64 {
    Connection::open(directory.join(DATABASE_FILE))
        .unwrap()
        .query_row(&format!("SELECT count(*) FROM {table}"), [], |row| {
            row.get(0)
        })
        .unwrap()
}

#[test]
fn process_killed_while_staging_leaves_nothing() {
    let directory = TempDir::new().unwrap();
    let store = open(directory.path());
    let document = created(&store, "ä");
    let writes = [
        create_large("new"),
        put("file", large(700_000)),
        append(document, &large(600_000)),
        snapshot(document, 0, &large(500_000)),
    ];
    let staging = Staging::default();
    let mut steps = 0;
    loop {
        let is_staged = store.stage(&writes, &staging).unwrap();
        // The state that a process leaves that is killed now.
        let killed = TempDir::new().unwrap();
        for file in fs::read_dir(directory.path()).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), killed.path().join(file.file_name())).unwrap();
        }
        assert!(count(killed.path(), "parts") > 0, "nothing is staged");
        let after = open(killed.path());
        let context = format!("after {steps} steps");
        assert_eq!(after.stats().unwrap().bytes, 0, "{context}");
        assert_eq!(after.stats().unwrap().documents, 1, "{context}");
        while !after.free_some().unwrap() {}
        for (table, rows) in [("parts", 0), ("contents", 0), ("entries", 1)] {
            assert_eq!(count(killed.path(), table), rows, "{context}: {table}");
        }
        assert_intact(killed.path(), &context);
        commit_in_steps(&after, &writes).unwrap();
        assert_eq!(
            after.load_by_id(document).unwrap().unwrap().last_seq,
            Seq(1)
        );
        if is_staged {
            break;
        }
        steps += 1;
    }
    assert!(steps > 2, "in {steps} steps");
    let results = store.commit_staged(&writes, &staging).unwrap();
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    assert_intact(directory.path(), "committed");
}

#[test]
fn discarded_content_is_freed_and_its_key_erased() {
    let directory = TempDir::new().unwrap();
    let store = open(directory.path());
    let kept = create_large("kept");
    commit_in_steps(&store, &[kept]).unwrap();
    let staging = Staging::default();
    let writes = [create_large("new")];
    while !store.stage(&writes, &staging).unwrap() {}
    while !store.free_some().unwrap() {}
    assert_eq!(count(directory.path(), "contents"), 2, "freed too early");
    drop(staging);
    while !store.free_some().unwrap() {}
    assert_eq!(count(directory.path(), "contents"), 1);
    assert_eq!(count(directory.path(), "parts"), 5);
    assert_eq!(count(directory.path(), "keys WHERE key = zeroblob(32)"), 1);
    store.commit(&[delete("kept")]).unwrap().remove(0).unwrap();
    assert_eq!(count(directory.path(), "keys WHERE key = zeroblob(32)"), 2);
    assert_eq!(
        count(directory.path(), "parts"),
        5,
        "freed within the deletion"
    );
    while !store.free_some().unwrap() {}
    assert_eq!(count(directory.path(), "parts"), 0);
}

#[test]
fn damaged_part_is_named_and_affects_no_other() {
    for damage in [
        "DELETE FROM parts WHERE content = ?1 AND start > 0",
        "DELETE FROM parts WHERE content = ?1 AND start = 0",
        "UPDATE parts SET data = x'00' WHERE content = ?1 AND start = 0",
        "UPDATE parts SET data = zeroblob(length(data)) WHERE content = ?1 AND start > 300000",
        "UPDATE parts SET start = start + 9000000000000000000 WHERE content = ?1 AND start > 0",
        "UPDATE parts SET start = 1 WHERE content = ?1 AND start = 0",
        "UPDATE contents SET bytes = 9000000000000000000 WHERE id = ?1",
        "UPDATE contents SET bytes = -1 WHERE id = ?1",
        "UPDATE contents SET nonce = nonce + 1 WHERE id = ?1",
        "UPDATE contents SET kind = 0 WHERE id = ?1",
        "DELETE FROM contents WHERE id = ?1",
    ] {
        let directory = TempDir::new().unwrap();
        let store = open(directory.path());
        let writes = [
            create_large("a"),
            put("f", large(1 << 20)),
            create_large("b"),
            put("g", large(1 << 20)),
        ];
        commit_in_steps(&store, &writes).unwrap();
        let database = Connection::open(directory.path().join(DATABASE_FILE)).unwrap();
        database.pragma_update(None, "foreign_keys", true).unwrap();
        for content in [1, 2] {
            let changed = database.execute(damage, [content]).unwrap();
            assert!(changed > 0, "{damage}");
        }
        // The parts of a document determine its length.
        let is_damage = !damage.contains("bytes");
        match store.load(&room(), "a") {
            Err(StoreError::Corrupt { document, .. }) if is_damage => {
                assert!(document.is_some(), "{damage}");
            }
            Ok(Some(_)) if !is_damage => {}
            other => panic!("{damage}: {:?}", other.map(|found| found.map(drop))),
        }
        for length in [100_000, 256 << 10, 1 << 20, 2 << 20] {
            match read_in_parts(&store, "f", length) {
                Err(StoreError::Corrupt { what, .. }) => assert!(what.contains("\"f\""), "{what}"),
                other => panic!("{damage}: {:?}", other.map(|data| data.len())),
            }
            assert!(read_in_parts(&store, "g", length).unwrap() == large(1 << 20));
        }
        assert!(store.load(&room(), "b").unwrap().is_some(), "{damage}");
        assert!(store.read_file(&room(), "g").unwrap().is_some(), "{damage}");
        for path in ["a", "f"] {
            store.commit(&[delete(path)]).unwrap().remove(0).unwrap();
        }
        while !store.free_some().unwrap() {}
        assert_eq!(count(directory.path(), "contents"), 2, "{damage}");
        assert_intact(directory.path(), damage);
    }
}

#[test]
fn staged_space_is_available_to_other_writes() {
    let directory = TempDir::new().unwrap();
    let mut options = Options::default();
    options.durability = Durability::Os;
    options.max_bytes = Some(3 << 20);
    let store = SqliteStore::open(directory.path(), options).unwrap();
    let document = created(&store, "ä");
    let too_large = [put("too large", large(8 << 20))];
    for _ in 0..2 {
        let failed = commit_in_steps(&store, &too_large).unwrap_err();
        assert!(matches!(failed, StoreError::Full(_)), "{failed:?}");
        let fits = [put("fits", large(1_800_000))];
        commit_in_steps(&store, &fits).unwrap();
        store.commit(&[delete("fits")]).unwrap().remove(0).unwrap();
    }

    // One staged batch has all the space; a small batch gets it.
    let staging = Staging::default();
    let staged = loop {
        match store.stage(&too_large, &staging) {
            Ok(false) => {}
            other => break other,
        }
    };
    assert!(matches!(staged, Err(StoreError::Full(_))), "{staged:?}");
    for number in 0..4 {
        let small = [
            append(document, b"x"),
            put(&format!("small {number}"), large(200_000)),
        ];
        let results = store.commit(&small).unwrap();
        assert!(results.iter().all(Result::is_ok), "{results:?}");
    }
    for failed in [
        store.stage(&too_large, &staging).map(drop),
        store.commit_staged(&too_large, &staging).map(drop),
    ] {
        let failed = failed.unwrap_err();
        assert!(matches!(failed, StoreError::Full(_)), "{failed:?}");
    }
    drop(staging);
    while !store.free_some().unwrap() {}
    assert_eq!(count(directory.path(), "parts"), 0);
    assert_intact(directory.path(), "in the end");
}

#[test]
fn staged_content_of_a_deleted_document_is_freed_in_steps() {
    let directory = TempDir::new().unwrap();
    let store = open(directory.path());
    let document = created(&store, "ä");
    let batch = [delete("ä"), append(document, &large(4 << 20))];
    let staging = Staging::default();
    while !store.stage(&batch, &staging).unwrap() {}
    let parts = count(directory.path(), "parts");
    assert!(parts >= 16, "{parts}");
    let results = store.commit_staged(&batch, &staging).unwrap();
    assert!(results[0].is_ok() && results[1].is_err(), "{results:?}");
    assert_eq!(count(directory.path(), "parts"), parts, "freed at once");
    drop(staging);
    while !store.free_some().unwrap() {}
    assert_eq!(count(directory.path(), "parts"), 0);
    assert_intact(directory.path(), "in the end");
}

/// Format 3 of version 0.1.0 stored content in one value, sealed under the key of its entry.
#[test]
fn long_value_of_format_3_is_read_and_replaced() {
    let directory = TempDir::new().unwrap();
    let store = open(directory.path());
    let document = created(&store, "ä");
    for write in [append(document, b"1"), put("file", b"x".to_vec())] {
        store.commit(&[write]).unwrap().remove(0).unwrap();
    }
    drop(store);
    let data = large(3_000_000);
    {
        let database = Connection::open(directory.path().join(DATABASE_FILE)).unwrap();
        let key = |entry: i64| -> [u8; 32] {
            database
                .query_row("SELECT key FROM keys WHERE entry = ?1", [entry], |row| {
                    row.get(0)
                })
                .unwrap()
        };
        let checksum = |numbers: &[i64]| {
            let mut hasher = crc32fast::Hasher::new();
            for number in numbers {
                hasher.update(&number.to_le_bytes());
            }
            hasher.update(&data);
            i64::from(hasher.finalize())
        };
        let seal = |entry: i64, place: u64, checksum: i64| {
            let mut nonce = [0; 12];
            nonce[..8].copy_from_slice(&place.to_le_bytes());
            nonce[8..].copy_from_slice(&checksum.to_le_bytes()[..4]);
            let mut sealed = data.clone();
            ChaCha20::new(&key(entry).into(), &nonce.into()).apply_keystream(&mut sealed);
            sealed
        };
        let length = i64::try_from(data.len()).unwrap();
        // Document, position, instant; file and the length of its media type.
        let update = checksum(&[1, 1, 0, length]);
        let file = checksum(&[2, 0, length]);
        for (sql, value, checksum) in [
            (
                "UPDATE updates SET data = ?1, checksum = ?2",
                seal(1, 1 << 2 | 1, update),
                update,
            ),
            (
                "UPDATE files SET data = ?1, checksum = ?2",
                seal(2, 3, file),
                file,
            ),
        ] {
            assert_eq!(database.execute(sql, (value, checksum)).unwrap(), 1);
        }
        database
            .execute_batch(
                "DROP TABLE parts; DROP TABLE contents; PRAGMA user_version = 3;
                 UPDATE entries SET size = 3000000",
            )
            .unwrap();
    }
    for _ in 0..2 {
        let store = open(directory.path());
        let loaded = store.load(&room(), "ä").unwrap().unwrap();
        assert!(loaded.updates[0].update == data);
        assert!(store.read_file(&room(), "file").unwrap().unwrap().data == data);
        let head = store.open_file(&room(), "file").unwrap().unwrap();
        assert!(read_in_parts(&store, "file", 300_001).unwrap() == data);
        let part = store
            .read_file_range(&room(), "file", head.version, 299_999, 1_000)
            .unwrap();
        assert!(part.unwrap() == data[299_999..300_999]);
    }
    let store = open(directory.path());
    let writes = [
        append(document, &large(400_000)),
        put("file", large(2_000_000)),
    ];
    commit_in_steps(&store, &writes).unwrap();
    store
        .commit(&[snapshot(document, 2, &large(500_000))])
        .unwrap()
        .remove(0)
        .unwrap();
    while !store.free_some().unwrap() {}
    assert_eq!(store.stats().unwrap().bytes, 2_500_000);
    let file = store.read_file(&room(), "file").unwrap().unwrap();
    assert!(file.data == large(2_000_000));
    assert_eq!(count(directory.path(), "contents"), 2);
    assert_intact(directory.path(), "replaced");
}

/// Measures the delay of small commits beside large ones, in turns with steps as in the committer,
/// and prints it for changes of that. The assertion is about the size of the WAL, as times depend
/// on the machine.
#[test]
fn small_commits_continue_beside_large_ones() {
    let directory = TempDir::new().unwrap();
    let store = SqliteStore::open(directory.path(), Options::default()).unwrap();
    let other = RoomId::new("project", "another röom");
    let document = created(&store, "ä");
    let (mut small, mut steps, mut frees) = (Vec::new(), Vec::new(), Vec::new());
    let mut wal_bytes = 0;
    for round in 0..4 {
        let writes = [Write::PutFile {
            room: other.clone(),
            path: format!("large {}", round % 3),
            data: vec![round; 6 << 20].into(),
            mime_type: String::new(),
            overwrite: true,
            at: Timestamp(0),
        }];
        let staging = Staging::default();
        let mut is_done = false;
        while !is_done {
            let started = Instant::now();
            store.commit(&[append(document, "é".as_bytes())]).unwrap();
            small.push(started.elapsed());
            let started = Instant::now();
            if store.stage(&writes, &staging).unwrap() {
                let results = store.commit_staged(&writes, &staging).unwrap();
                assert!(results.iter().all(Result::is_ok));
                is_done = true;
            }
            steps.push(started.elapsed());
            let started = Instant::now();
            let _ = store.free_some().unwrap();
            frees.push(started.elapsed());
            wal_bytes = wal_bytes.max(store.log_bytes());
        }
    }
    writeln!(
        std::io::stdout(),
        "small {}\nsteps {}\nfrees {}\nWAL {wal_bytes}",
        figures(small),
        figures(steps),
        figures(frees)
    )
    .unwrap();
    assert!(
        wal_bytes < 16 << 20,
        "the WAL does not restart: {wal_bytes} bytes"
    );
}

fn figures(mut times: Vec<Duration>) -> String {
    times.sort();
    let at = |share: usize| times[(times.len() - 1) * share / 100];
    format!(
        "{}: p50 {:?} p99 {:?} max {:?}",
        times.len(),
        at(50),
        at(99),
        at(100)
    )
}

#[test]
fn file_is_staged_if_its_batch_frees_the_path() {
    let directory = TempDir::new().unwrap();
    let store = open(directory.path());
    store.commit(&[put("ä", b"x".to_vec())]).unwrap();
    let mut new = put("ä", large(5 << 20));
    if let Write::PutFile { overwrite, .. } = &mut new {
        *overwrite = false;
    }
    let writes = [delete("ä"), new];
    let staging = Staging::default();
    while !store.stage(&writes, &staging).unwrap() {}
    assert!(
        count(directory.path(), "parts") >= 20,
        "in steps of their own"
    );
    let results = store.commit_staged(&writes, &staging).unwrap();
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    let file = store.read_file(&room(), "ä").unwrap().unwrap();
    assert!(file.data == large(5 << 20));
}
