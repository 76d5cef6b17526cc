//! Files of earlier versions are upgraded to the present format.

use std::path::Path;

use meshagent_store::{Author, DocumentId, ProvenanceRecord, Seq, Store, StoreError, Timestamp};
use meshagent_store_sqlite::DATABASE_FILE;
use rusqlite::Connection;
use tempfile::TempDir;

use crate::{append, created, open, room, snapshot};

#[test]
fn format_1_is_upgraded() {
    let directory = TempDir::new().unwrap();
    write_format_1(directory.path(), "");
    for _ in 0..2 {
        let store = open(directory.path());
        let a = store.load(&room(), "a").unwrap().unwrap();
        assert_eq!((a.snapshot_seq, a.last_seq), (Seq(1), Seq(3)));
        assert_eq!(a.snapshot.as_deref(), Some(&[9][..]));
        let updates: Vec<(&[u8], i64)> = a
            .updates
            .iter()
            .map(|update| (&update.update[..], update.at.0))
            .collect();
        assert_eq!(updates, [(&[4][..], 2000), (&[5, 6], 3000)]);
        let b = store.load(&room(), "b").unwrap().unwrap();
        assert_eq!((b.updates.len(), b.last_seq), (3, Seq(3)));
        assert_eq!(b.updates[1].contributions[0].author, author("bob", true));
        assert_eq!(b.updates[1].contributions[0].at, Timestamp(2000));
        let file = store.read_file(&room(), "f").unwrap().unwrap();
        assert_eq!(file.data, [8][..]);
        let expected = [
            record("ada", false, 1000),
            record("bob", false, 3000),
            record("bob", true, 2000),
        ];
        assert_eq!(store.provenance(b.document).unwrap(), expected);
        assert_eq!(
            store.provenance(a.document).unwrap(),
            expected[1..],
            "format 1 did not keep the authors of merged updates"
        );
    }

    let store = open(directory.path());
    let b = DocumentId(2);
    let writes = [append(b, &[7]), snapshot(b, 4, &[1])];
    assert!(store.commit(&writes).unwrap().iter().all(Result::is_ok));
    assert_eq!(store.provenance(b).unwrap().len(), 4);
    assert_eq!(
        created(&store, "new"),
        DocumentId(4),
        "numbering of ids continues"
    );
    drop(store);
    assert_eq!(tables(directory.path()), {
        let fresh = TempDir::new().unwrap();
        drop(open(fresh.path()));
        tables(fresh.path())
    });
}

#[test]
fn damage_in_format_1_remains_detectable() {
    for damage in [
        "UPDATE updates SET participant = 'mallory' WHERE document = 2 AND seq = 3",
        "UPDATE updates SET on_behalf_of = CAST(x'ff' AS TEXT) WHERE document = 2 AND seq = 3",
        "UPDATE updates SET data = x'0505' WHERE document = 2 AND seq = 3",
    ] {
        let directory = TempDir::new().unwrap();
        write_format_1(directory.path(), damage);
        let store = open(directory.path());
        assert!(
            matches!(
                store.load(&room(), "b"),
                Err(StoreError::Corrupt {
                    document: Some(DocumentId(2)),
                    ..
                })
            ),
            "{damage}"
        );
        assert!(store.provenance(DocumentId(2)).is_err(), "{damage}");
        assert!(store.load(&room(), "a").unwrap().is_some(), "{damage}");
    }
}

fn author(participant: &str, on_behalf_of_ada: bool) -> Author {
    Author {
        participant: participant.to_owned(),
        role: "user".to_owned(),
        on_behalf_of: on_behalf_of_ada.then(|| "ada \"q\"".to_owned()),
        connection: "c-1".to_owned(),
    }
}

/// Returns a record of format 1, which did not store operations.
fn record(participant: &str, on_behalf_of_ada: bool, at: i64) -> ProvenanceRecord {
    ProvenanceRecord {
        author: author(participant, on_behalf_of_ada),
        operations: None,
        first_at: Timestamp(at),
        last_at: Timestamp(at),
    }
}

/// Returns the definition of each table.
fn tables(directory: &Path) -> Vec<String> {
    let database = Connection::open(directory.join(DATABASE_FILE)).unwrap();
    let mut select = database
        .prepare("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name")
        .unwrap();
    let rows = select.query_map([], |row| row.get(0)).unwrap();
    rows.map(Result::unwrap).collect()
}

/// Writes two documents, the first with a snapshot, and a file.
fn write_format_1(directory: &Path, damage: &str) {
    let database = Connection::open(directory.join(DATABASE_FILE)).unwrap();
    database.pragma_update(None, "journal_mode", "wal").unwrap();
    for text in [FORMAT_1, CONTENT_1, damage] {
        database.execute_batch(text).unwrap();
    }
}

/// The tables of version 0.1.0.
const FORMAT_1: &str = "
    PRAGMA application_id = 0x4d73526d;
    PRAGMA user_version = 1;
    CREATE TABLE rooms (
        id      INTEGER PRIMARY KEY,
        project TEXT NOT NULL,
        name    TEXT NOT NULL,
        UNIQUE (project, name)
    ) STRICT;

    CREATE TABLE entries (
        id         INTEGER PRIMARY KEY AUTOINCREMENT,
        room       INTEGER NOT NULL REFERENCES rooms (id),
        path       TEXT NOT NULL,
        kind       INTEGER NOT NULL CHECK (kind IN (1, 2)),
        size       INTEGER NOT NULL,
        last_seq   INTEGER NOT NULL DEFAULT 0,
        created_at INTEGER NOT NULL,
        updated_at INTEGER NOT NULL,
        UNIQUE (room, path)
    ) STRICT;

    CREATE TABLE schemas (
        document INTEGER PRIMARY KEY REFERENCES entries (id) ON DELETE CASCADE,
        schema   TEXT NOT NULL,
        checksum INTEGER NOT NULL
    ) STRICT;

    CREATE TABLE snapshots (
        document INTEGER PRIMARY KEY REFERENCES entries (id) ON DELETE CASCADE,
        through  INTEGER NOT NULL,
        state    BLOB NOT NULL,
        checksum INTEGER NOT NULL
    ) STRICT;

    CREATE TABLE updates (
        document     INTEGER NOT NULL REFERENCES entries (id) ON DELETE CASCADE,
        seq          INTEGER NOT NULL,
        at           INTEGER NOT NULL,
        participant  TEXT NOT NULL,
        role         TEXT NOT NULL,
        on_behalf_of TEXT,
        connection   TEXT NOT NULL,
        data         BLOB NOT NULL,
        checksum     INTEGER NOT NULL,
        PRIMARY KEY (document, seq)
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE files (
        file      INTEGER PRIMARY KEY REFERENCES entries (id) ON DELETE CASCADE,
        mime_type TEXT NOT NULL,
        data      BLOB NOT NULL,
        checksum  INTEGER NOT NULL
    ) STRICT;

    CREATE TABLE probe (
        id    INTEGER PRIMARY KEY CHECK (id = 1),
        count INTEGER NOT NULL
    ) STRICT;
";

/// Content as version 0.1.0 wrote it, with its checksums.
const CONTENT_1: &str = r#"
    INSERT INTO rooms VALUES (1, 'project', 'room');
    INSERT INTO entries VALUES (1, 1, 'a', 1, 4, 3, 1000, 3000);
    INSERT INTO entries VALUES (2, 1, 'b', 1, 6, 3, 1000, 3000);
    INSERT INTO entries VALUES (3, 1, 'f', 2, 1, 0, 4000, 4000);
    INSERT INTO schemas VALUES (1, '{}', 1858274349);
    INSERT INTO schemas VALUES (2, '{}', 2219170127);
    INSERT INTO snapshots VALUES (1, 1, X'09', 2772826405);
    INSERT INTO updates VALUES (1, 2, 2000, 'bob', 'user', 'ada "q"', 'c-1', X'04', 861056906);
    INSERT INTO updates VALUES (1, 3, 3000, 'bob', 'user', NULL, 'c-1', X'0506', 2858104071);
    INSERT INTO updates VALUES (2, 1, 1000, 'ada', 'user', NULL, 'c-1', X'010203', 1699460058);
    INSERT INTO updates VALUES (2, 2, 2000, 'bob', 'user', 'ada "q"', 'c-1', X'04', 3442143306);
    INSERT INTO updates VALUES (2, 3, 3000, 'bob', 'user', NULL, 'c-1', X'0506', 3824017412);
    INSERT INTO files VALUES (3, 'text/plain', X'08', 1784610749);
    INSERT INTO probe VALUES (1, 0);
"#;
