//! Damage to one document's rows is named when it is read, and does not affect other documents.

use meshagent_store::{DocumentId, Reach, Seq, Store, StoreError, Write, WriteError, Written};
use meshagent_store_sqlite::{DATABASE_FILE, Options, SqliteStore};
use rusqlite::Connection;
use tempfile::TempDir;

use crate::{append, contribution, created, open, put, read_in_parts, room, snapshot};

#[test]
fn damaged_document_is_named_and_others_load() {
    for damage in [
        "UPDATE updates SET data = CAST('other' AS BLOB) WHERE document = ?1 AND seq = 3",
        "UPDATE updates SET at = 30 WHERE document = ?1 AND seq = 3",
        "UPDATE updates SET seq = 30 WHERE document = ?1 AND seq = 3",
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
            let updates = [1, 2, 3, 4].map(|byte| append(document, &[byte]));
            assert!(store.commit(&updates).unwrap().iter().all(Result::is_ok));
            store
                .commit(&[snapshot(document, 2, b"state")])
                .unwrap()
                .remove(0)
                .unwrap();
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
                what,
            }) => {
                assert_eq!(document, documents[1], "{damage}");
                assert!(what.contains("\"b\" in room project/room"), "{what}");
            }
            other => panic!("{damage}: {other:?}"),
        }
        for path in ["a", "c"] {
            assert_eq!(
                store.load(&room(), path).unwrap().unwrap().updates.len(),
                2,
                "{damage}"
            );
        }
        // The document can be moved aside for inspection, which frees the path.
        let aside = Write::Move {
            room: room(),
            source: "b".into(),
            destination: "damaged/b".into(),
            overwrite: false,
            reach: Reach::EVERYTHING,
            replaces: Reach::EVERYTHING,
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
fn corrupt_provenance_keeps_document_readable() {
    for (damage, at) in [
        (
            "UPDATE updates SET contributions = '[]' WHERE document = ?1 AND seq = 3",
            3,
        ),
        (
            "UPDATE updates SET contributions = replace(contributions, '[1,0,1]', '[1,0,2]')
             WHERE document = ?1 AND seq = 3",
            3,
        ),
        (
            "UPDATE updates SET contributions = replace(contributions, '[1,0,1]', '')
             WHERE document = ?1 AND seq = 3",
            3,
        ),
        (
            "UPDATE updates SET contributions = CAST(x'ff' AS TEXT)
             WHERE document = ?1 AND seq = 3",
            3,
        ),
        (
            "UPDATE updates SET contributions_checksum = 0 WHERE document = ?1 AND seq = 3",
            3,
        ),
        (
            "UPDATE provenance SET participant = 'eve' WHERE document = ?1",
            1,
        ),
        (
            "UPDATE provenance SET role = CAST(x'ff' AS TEXT) WHERE document = ?1",
            1,
        ),
        ("UPDATE provenance SET client = NULL WHERE document = ?1", 1),
        (
            "UPDATE provenance SET clock_start = NULL WHERE document = ?1",
            1,
        ),
        (
            "UPDATE provenance SET last_at = last_at + 1 WHERE document = ?1",
            1,
        ),
        ("UPDATE provenance SET number = 2 WHERE document = ?1", 2),
        ("UPDATE provenance SET number = 7 WHERE document = ?1", 7),
        (
            "UPDATE provenance SET number = 9223372036854775807 WHERE document = ?1",
            i64::MAX,
        ),
    ] {
        let directory = TempDir::new().unwrap();
        let store = open(directory.path());
        let documents = ["a", "b"].map(|path| created(&store, path));
        for document in documents {
            let updates = [1, 2, 3, 4].map(|byte| append(document, &[byte]));
            assert!(store.commit(&updates).unwrap().iter().all(Result::is_ok));
            store
                .commit(&[snapshot(document, 2, b"state")])
                .unwrap()
                .remove(0)
                .unwrap();
        }
        let [damaged, sound] = documents;
        let database = Connection::open(directory.path().join(DATABASE_FILE)).unwrap();
        let changed = database.execute(damage, [damaged.0.cast_signed()]);
        assert_eq!(changed.unwrap(), 1, "{damage}");

        let reported = match store.provenance(damaged) {
            Err(StoreError::Corrupt {
                document: Some(document),
                what,
            }) => {
                assert_eq!(document, damaged, "{damage}");
                what
            }
            other => panic!("{damage}: {other:?}"),
        };
        assert!(
            reported.contains(&format!(" {at} ")),
            "{damage}: {reported}"
        );
        assert_eq!(store.provenance(sound).unwrap().len(), 1);
        // It can still be loaded, written and compacted.
        let loaded = store.load(&room(), "a").unwrap().unwrap();
        let [third, fourth] = &loaded.updates[..] else {
            panic!("{damage}: {:?}", loaded.updates);
        };
        let known = usize::from(at != 3);
        assert_eq!(third.contributions.len(), known, "{damage}");
        assert_eq!(fourth.contributions, [contribution("bob")], "{damage}");
        let writes = [
            snapshot(damaged, 3, b"state"),
            append(damaged, &[5]),
            snapshot(damaged, 5, b"state"),
        ];
        assert!(store.commit(&writes).unwrap().iter().all(Result::is_ok));
        assert_eq!(
            store.load(&room(), "a").unwrap().unwrap().last_seq.0,
            5,
            "{damage}"
        );
        if at == 3 {
            let records = store.provenance(damaged).unwrap();
            let names: Vec<&str> = records
                .iter()
                .map(|record| &*record.author.participant)
                .collect();
            assert_eq!(
                names,
                ["", "bob"],
                "{damage}: an unknown author made an update"
            );
        } else {
            assert!(
                store.provenance(damaged).is_err(),
                "{damage}: the corrupt row stays"
            );
        }
    }
}

#[test]
fn corrupt_author_affects_only_its_updates() {
    for damage in [
        "UPDATE authors SET participant = 'eve' WHERE document = ?1",
        "UPDATE authors SET role = CAST(x'ff' AS TEXT) WHERE document = ?1",
        "UPDATE authors SET on_behalf_of = '' WHERE document = ?1",
        "UPDATE authors SET document = 2 WHERE document = ?1",
        "UPDATE authors SET id = 9223372036854775807 WHERE document = ?1",
        "DELETE FROM authors WHERE document = ?1",
    ] {
        let directory = TempDir::new().unwrap();
        let store = open(directory.path());
        let documents = ["a", "b"].map(|path| created(&store, path));
        for document in documents {
            let updates = [append(document, b"1"), append(document, b"2")];
            assert!(store.commit(&updates).unwrap().iter().all(Result::is_ok));
        }
        drop(store);
        let database = Connection::open(directory.path().join(DATABASE_FILE)).unwrap();
        let changed = database.execute(damage, [documents[0].0.cast_signed()]);
        assert_eq!(changed.unwrap(), 1, "{damage}");
        drop(database);

        let store = open(directory.path());
        let [damaged, sound] = documents;
        match store.provenance(damaged) {
            Err(StoreError::Corrupt {
                document: Some(document),
                what,
            }) => assert!(
                document == damaged && what.contains("update 1"),
                "{damage}: {what}"
            ),
            other => panic!("{damage}: {other:?}"),
        }
        assert_eq!(store.provenance(sound).unwrap().len(), 1, "{damage}");
        let loaded = store.load(&room(), "a").unwrap().unwrap();
        let known: Vec<usize> = loaded
            .updates
            .iter()
            .map(|update| update.contributions.len())
            .collect();
        assert_eq!(known, [0, 0], "{damage}");
        // The author's later updates have provenance again.
        let writes = [append(damaged, b"3"), snapshot(damaged, 2, b"state")];
        assert!(store.commit(&writes).unwrap().iter().all(Result::is_ok));
        let loaded = store.load(&room(), "a").unwrap().unwrap();
        assert_eq!(
            loaded.updates[0].contributions,
            [contribution("bob")],
            "{damage}"
        );
        let records = store.provenance(damaged).unwrap();
        let names: Vec<&str> = records
            .iter()
            .map(|record| &*record.author.participant)
            .collect();
        assert_eq!(
            names,
            ["", "bob"],
            "{damage}: an unknown author made an update"
        );
        assert_eq!(store.provenance(sound).unwrap().len(), 1, "{damage}");
    }
}

/// Returns a directory with three documents, `a`, `b` and `c`, whose updates fill several pages.
fn with_long_documents() -> (TempDir, [DocumentId; 3]) {
    let directory = TempDir::new().unwrap();
    let store = open(directory.path());
    let documents = ["a", "b", "c"].map(|path| created(&store, path));
    let text = "ünïcode of several pages – ".repeat(20);
    for document in documents {
        for _ in 0..40 {
            let write = append(document, text.as_bytes());
            store.commit(&[write]).unwrap().remove(0).unwrap();
        }
    }
    (directory, documents)
}

/// Overwrites the beginning of a page; pages are counted from 1.
fn damage_page(path: &std::path::Path, number: usize) {
    let mut file = std::fs::read(path).unwrap();
    let page = &mut file[(number - 1) * 4096..number * 4096];
    page[0] = 0x77;
    page[1..200].fill(0xee);
    std::fs::write(path, &file).unwrap();
}

/// The damaged row may be the first one of a table.
#[test]
fn store_opens_with_a_damaged_first_document() {
    let (directory, _) = with_long_documents();
    let path = directory.path().join(DATABASE_FILE);
    let first = pages_of_updates(&path)[0];
    damage_page(&path, first);

    let store = open(directory.path());
    assert!(store.load(&room(), "a").is_err());
    assert!(store.load(&room(), "c").is_ok());
}

/// On the disk, the page of the updates table with the end of one document is overwritten: writes
/// to that document are refused, and the other writes of the batch are committed.
#[test]
fn damaged_page_fails_the_writes_that_need_it() {
    let (directory, documents) = with_long_documents();
    let path = directory.path().join(DATABASE_FILE);
    let damaged = last_page_of(&path, documents[1].0.cast_signed());
    damage_page(&path, damaged);

    let store = open(directory.path());
    let batch = [
        append(documents[0], "before – é".as_bytes()),
        append(documents[1], "damaged – é".as_bytes()),
        put("file", b"data".to_vec()),
        append(documents[1], "behind – é".as_bytes()),
        append(documents[2], "after – é".as_bytes()),
    ];
    for round in 1..=2 {
        let results = store.commit(&batch).unwrap();
        for (index, result) in results.iter().enumerate() {
            match result {
                Ok(_) => assert!(![1, 3].contains(&index), "round {round}: {index}"),
                Err(WriteError::Damaged { .. }) => assert_eq!(index, 1, "round {round}"),
                Err(WriteError::Behind { .. }) => assert_eq!(index, 3, "round {round}"),
                Err(error) => panic!("round {round}: {index}: {error:?}"),
            }
        }
        // The first rows of the third document may be on that page, too.
        for document in [documents[0], documents[2]] {
            let later = store.follow(document, Seq(39), 100).unwrap();
            assert_eq!(later.len(), 1 + round, "{document}");
        }
        assert!(store.load(&room(), "b").is_err());
    }
    store.check().unwrap();
}

#[test]
fn writes_behind_a_refused_update_are_refused() {
    let directory = TempDir::new().unwrap();
    let store = open(directory.path());
    let [one, other] = ["ä", "b"].map(|path| created(&store, path));
    // The bytes are never accessed, so they take no memory.
    let too_large = Write::Append {
        document: one,
        end: None,
        update: vec![0; (512 << 20) + 1].into(),
        contributions: vec![contribution("bob")],
        at: meshagent_store::Timestamp(0),
    };
    let batch = [
        append(one, "before – é".as_bytes()),
        too_large,
        append(other, b"other"),
        append(one, "behind – é".as_bytes()),
        snapshot(one, 1, b"state"),
        put("file", b"data".to_vec()),
    ];
    let results = store.commit(&batch).unwrap();
    let behind = Err(WriteError::Behind { document: one });
    assert!(matches!(results[0], Ok(Written::Appended { .. })));
    assert!(matches!(results[1], Err(WriteError::TooLarge { .. })));
    assert!(matches!(results[2], Ok(Written::Appended { .. })));
    assert_eq!(results[3..5], [behind.clone(), behind]);
    assert_eq!(results[5], Ok(Written::Put { replaced: false }));
    // In the next batch nothing is behind a refused update.
    let results = store
        .commit(&[append(one, "later – é".as_bytes())])
        .unwrap();
    assert_eq!(results, [Ok(Written::Appended { seq: Seq(2) })]);
    let stored = store.load(&room(), "ä").unwrap().unwrap();
    let updates: Vec<&[u8]> = stored.updates.iter().map(|one| &one.update[..]).collect();
    assert_eq!(updates, ["before – é", "later – é"].map(str::as_bytes));
}

#[test]
fn many_damaged_documents_affect_no_other_document() {
    let directory = TempDir::new().unwrap();
    let store = open(directory.path());
    let documents: Vec<_> = (0..50)
        .map(|number| created(&store, &format!("ä/{number}")))
        .collect();
    let sound = [0, 31, 49];
    let database = Connection::open(directory.path().join(DATABASE_FILE)).unwrap();
    for (number, document) in documents.iter().enumerate() {
        if !sound.contains(&number) {
            // There is no next position.
            let sql = "UPDATE entries SET last_seq = 9223372036854775807 WHERE id = ?1";
            let changed = database.execute(sql, [document.0.cast_signed()]);
            assert_eq!(changed.unwrap(), 1);
        }
    }
    for round in 1..=2 {
        let mut batch: Vec<Write> = documents
            .iter()
            .map(|document| append(*document, "lärge".as_bytes()))
            .collect();
        batch.push(put("file", b"data".to_vec()));
        let results = store.commit(&batch).unwrap();
        assert_eq!(results.len(), batch.len());
        for (number, result) in results.iter().enumerate() {
            let is_sound = sound.contains(&number) || number == documents.len();
            match result {
                Ok(_) => assert!(is_sound, "round {round}: {number}"),
                Err(WriteError::Damaged { .. }) => assert!(!is_sound, "round {round}: {number}"),
                Err(error) => panic!("round {round}: {number}: {error:?}"),
            }
        }
        for number in sound {
            let updates = store.follow(documents[number], Seq(0), 100).unwrap();
            assert_eq!(updates.len(), round, "{number}");
        }
    }
}

/// Returns the leaf pages of the updates table, in the order of their rows.
fn pages_of_updates(path: &std::path::Path) -> Vec<usize> {
    let database = Connection::open(path).unwrap();
    let mut pages = database
        .prepare(
            "SELECT pageno FROM dbstat WHERE name = 'updates' AND pagetype = 'leaf' ORDER BY path",
        )
        .unwrap();
    let pages = pages.query_map([], |row| row.get::<_, i64>(0)).unwrap();
    pages
        .map(|page| usize::try_from(page.unwrap()).unwrap())
        .collect()
}

/// Returns the page with the last update of a document, by SQLite's own table of pages.
fn last_page_of(path: &std::path::Path, document: i64) -> usize {
    let file = std::fs::read(path).unwrap();
    let pages = pages_of_updates(path);
    // The first cell of a page is: length, header, document, …
    let first_document = |page: usize| {
        let page = &file[(page - 1) * 4096..page * 4096];
        let cell = usize::from(u16::from_be_bytes([page[8], page[9]]));
        let header = if page[cell] < 0x80 {
            cell + 1
        } else {
            cell + 2
        };
        i64::from(page[header + usize::from(page[header])])
    };
    // The last page that begins with the document contains at most the first rows of the next one.
    let with_it = pages
        .iter()
        .filter(|page| first_document(**page) == document);
    let with_it: Vec<usize> = with_it.copied().collect();
    assert!(with_it.len() > 2, "{with_it:?}");
    *with_it.last().unwrap()
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
    match read_in_parts(&store, "x/f", 2) {
        Err(StoreError::Corrupt {
            document: None,
            what,
        }) => assert!(what.contains("x/f"), "{what}"),
        other => panic!("{other:?}"),
    }
    assert!(store.read_file(&room(), "x/g").unwrap().is_some());
    assert_eq!(read_in_parts(&store, "x/g", 3).unwrap(), b"data");
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
fn file_that_is_not_a_database_is_refused() {
    let directory = TempDir::new().unwrap();
    std::fs::write(directory.path().join(DATABASE_FILE), vec![b'x'; 10_000]).unwrap();
    let error = SqliteStore::open(directory.path(), Options::default());
    assert!(error.unwrap_err().to_string().contains(DATABASE_FILE));
}

/// As if `cp` had written over the database while the server was stopped.
#[test]
fn garbage_in_place_of_the_database_is_refused() {
    let (stopped, killed) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let store = open(stopped.path());
    for number in 0..300 {
        created(&store, &format!("ä{number}"));
    }
    for file in std::fs::read_dir(stopped.path()).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), killed.path().join(file.file_name())).unwrap();
    }
    drop(store);
    for (directory, context) in [(&stopped, "stopped"), (&killed, "killed")] {
        let path = directory.path().join(DATABASE_FILE);
        let whole = std::fs::read(&path).unwrap();
        let mut random = crate::history::Random(1);
        let mut garbage = |from: usize| {
            let mut bytes = whole.clone();
            bytes[from..].fill_with(|| random.next().to_le_bytes()[0]);
            bytes
        };
        let behind_the_first_page = garbage(4096);
        let mut damaged = vec![
            ("garbage", garbage(0)),
            ("text", b"not a database\n".repeat(1_000)),
            ("zeros", vec![0; whole.len()]),
        ];
        if context == "stopped" {
            // Otherwise the WAL contains the pages, which hides the damage.
            damaged.push(("garbage after the first page", behind_the_first_page));
            damaged.push(("the first page", whole[..4096].to_vec()));
        }
        for (what, bytes) in damaged {
            std::fs::write(&path, &bytes).unwrap();
            let error = SqliteStore::open(directory.path(), Options::default());
            let error = error.expect_err(&format!("{context}: {what} was opened"));
            assert!(error.to_string().contains(DATABASE_FILE), "{error}");
            assert!(std::fs::read(&path).unwrap() == bytes, "{what}: changed");
        }
        std::fs::write(&path, &whole).unwrap();
        let store = open(directory.path());
        assert_eq!(store.stats().unwrap().documents, 300, "{context}");
    }
}
