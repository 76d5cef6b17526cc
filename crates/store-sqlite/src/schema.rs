//! The tables, and the versions of their format.

use rusqlite::{Connection, Error, TransactionBehavior};

use crate::upgrade;

/// Marks a file as a database of this program (`PRAGMA application_id`), the letters `MsRm`.
pub(crate) const APPLICATION_ID: i32 = 0x4d73_526d;
/// The format that this code writes (`PRAGMA user_version`). Raise it with every change of the
/// tables, and add the upgrade from the version before to [`prepare`].
pub(crate) const FORMAT: i32 = 4;

/// The `entries.kind` of a document.
pub(crate) const DOCUMENT: i64 = 1;
/// The `entries.kind` of a file.
pub(crate) const FILE: i64 = 2;

/// Paths compare byte by byte (SQLite's default collation).
///
/// Ids are never reused (`AUTOINCREMENT`), since a server may still hold the id of a deleted
/// document. An append rewrites the document's row in `entries`, so everything long is in
/// other tables.
const TABLES: &str = "
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
    INSERT INTO probe (id, count) VALUES (1, 0);
";

/// The log of each document, and the authors that it refers to. `contributions` is JSON, in the
/// form of `provenance.rs`. It precedes `data`, so that it can be read without reading that.
pub(crate) const UPDATES: &str = "
    CREATE TABLE updates (
        document               INTEGER NOT NULL REFERENCES entries (id) ON DELETE CASCADE,
        seq                    INTEGER NOT NULL,
        at                     INTEGER NOT NULL,
        contributions          TEXT NOT NULL,
        contributions_checksum INTEGER NOT NULL,
        data                   BLOB NOT NULL,
        checksum               INTEGER NOT NULL,
        PRIMARY KEY (document, seq)
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE authors (
        id           INTEGER PRIMARY KEY,
        document     INTEGER NOT NULL REFERENCES entries (id) ON DELETE CASCADE,
        participant  TEXT NOT NULL,
        role         TEXT NOT NULL,
        on_behalf_of TEXT,
        connection   TEXT NOT NULL
    ) STRICT;
    CREATE INDEX authors_of_document ON authors (document);
";

/// The provenance of merged updates. The range is that of `client`'s clocks; without one, the
/// record is of deletions or was folded. A client above 2⁶³ shows as a negative number.
pub(crate) const PROVENANCE: &str = "
    CREATE TABLE provenance (
        document     INTEGER NOT NULL REFERENCES entries (id) ON DELETE CASCADE,
        connection   TEXT NOT NULL,
        number       INTEGER NOT NULL,
        participant  TEXT NOT NULL,
        role         TEXT NOT NULL,
        on_behalf_of TEXT,
        client       INTEGER,
        clock_start  INTEGER,
        clock_end    INTEGER,
        first_at     INTEGER NOT NULL,
        last_at      INTEGER NOT NULL,
        checksum     INTEGER NOT NULL,
        PRIMARY KEY (document, connection, number)
    ) STRICT, WITHOUT ROWID;
";

/// The key that seals an entry's content, see `seal.rs`. The row outlives its entry, see
/// `erased_keys.rs`.
pub(crate) const KEYS: &str = "
    CREATE TABLE keys (
        entry INTEGER PRIMARY KEY,
        key   BLOB NOT NULL
    ) STRICT;
";

/// Content in parts, see `contents.rs`. The row that it belongs to (in `updates`, `snapshots` or
/// `files`) has an empty value and the checksum of the whole content.
pub(crate) const CONTENTS: &str = "
    CREATE TABLE contents (
        id       INTEGER PRIMARY KEY AUTOINCREMENT,
        entry    INTEGER NOT NULL REFERENCES entries (id) ON DELETE CASCADE,
        kind     INTEGER NOT NULL,
        position INTEGER NOT NULL,
        bytes    INTEGER NOT NULL,
        nonce    INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX contents_of_entry ON contents (entry, kind, position);
    CREATE INDEX detached_contents ON contents (id) WHERE kind = 0;

    CREATE TABLE parts (
        content INTEGER NOT NULL REFERENCES contents (id) ON DELETE CASCADE,
        start   INTEGER NOT NULL,
        data    BLOB NOT NULL,
        PRIMARY KEY (content, start)
    ) STRICT, WITHOUT ROWID;
";

/// A table that exists as long as free pages may contain unsealed content of earlier formats.
const VACUUM_OWED: &str = "vacuum_owed";

/// The format that a database file has.
#[derive(Debug)]
pub(crate) enum Format {
    /// The current format.
    Current {
        /// The reason why unsealed content of earlier formats is still in the file's free pages, if
        /// it is.
        unsealed: Option<Error>,
    },
    /// The database of another program.
    Foreign,
    /// The format of a later version of this program.
    Newer(i32),
}

/// Creates the tables in an empty file and upgrades an earlier format. Does not change a file that
/// this version can't write.
pub(crate) fn prepare(connection: &mut Connection) -> Result<Format, Error> {
    let format = upgrade(connection)?;
    Ok(match format {
        Format::Current { .. } => Format::Current {
            unsealed: vacuum_if_owed(connection).err(),
        },
        other => other,
    })
}

/// Creates or upgrades the tables in one transaction, without the vacuum that is owed afterwards.
fn upgrade(connection: &mut Connection) -> Result<Format, Error> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let application_id: i32 =
        transaction.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let format: i32 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let tables: i64 =
        transaction.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    let current = Format::Current { unsealed: None };
    match (application_id, format) {
        (0, 0) if tables == 0 => {
            for tables in [TABLES, UPDATES, PROVENANCE, KEYS, CONTENTS] {
                transaction.execute_batch(tables)?;
            }
            transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
            transaction.pragma_update(None, "user_version", FORMAT)?;
            transaction.commit()?;
            Ok(current)
        }
        (APPLICATION_ID, FORMAT) => Ok(current),
        (APPLICATION_ID, 1..=3) => {
            if format == 1 {
                upgrade::from_1(&transaction)?;
            }
            if format < 3 {
                upgrade::from_2(&transaction)?;
                // Unsealed content is still in free pages. The mark is written in the same step, so
                // that a crash does not lose it.
                transaction.execute_batch(&format!(
                    "CREATE TABLE {VACUUM_OWED} (since INTEGER) STRICT"
                ))?;
            }
            // Format 3 stored each content in one value.
            transaction.execute_batch(CONTENTS)?;
            transaction.pragma_update(None, "user_version", FORMAT)?;
            transaction.commit()?;
            Ok(current)
        }
        (APPLICATION_ID, newer) if newer > FORMAT => Ok(Format::Newer(newer)),
        _ => Ok(Format::Foreign),
    }
}

/// Rewrites the file if that is owed. Without space for it, it remains owed.
fn vacuum_if_owed(connection: &Connection) -> Result<(), Error> {
    let owes: bool = connection.query_row(
        "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?1)",
        [VACUUM_OWED],
        |row| row.get(0),
    )?;
    if owes {
        connection.execute_batch("VACUUM")?;
        connection.execute_batch(&format!("DROP TABLE {VACUUM_OWED}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    const TEXT: &str = "unsealed – 封なし – é – ";

    fn is_in(file: &Path) -> bool {
        let bytes = fs::read(file).unwrap();
        let mut places = bytes.windows(TEXT.len());
        places.any(|place| place == TEXT.as_bytes())
    }

    fn unsealed(path: &Path) -> Option<Error> {
        let mut connection = Connection::open(path).unwrap();
        connection.busy_timeout(std::time::Duration::ZERO).unwrap();
        match prepare(&mut connection).unwrap() {
            Format::Current { unsealed } => unsealed,
            other => panic!("{other:?}"),
        }
    }

    /// Writes a file of format 2 with deleted content.
    fn write_format_2(path: &Path) {
        assert!(unsealed(path).is_none());
        let connection = Connection::open(path).unwrap();
        connection
            .pragma_update(None, "secure_delete", false)
            .unwrap();
        let text = TEXT.repeat(5_000);
        connection
            .execute_batch(&format!(
                "INSERT INTO rooms VALUES (1, 'p', 'r');
                 INSERT INTO entries VALUES (1, 1, 'ä', 2, 1, 0, 0, 0);
                 INSERT INTO files VALUES (1, '', CAST('{text}' AS BLOB), 0);
                 DELETE FROM files;
                 DROP TABLE keys;
                 DROP TABLE parts;
                 DROP TABLE contents;
                 PRAGMA user_version = 2;"
            ))
            .unwrap();
    }

    #[test]
    fn next_start_rewrites_the_file_after_a_crash() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ä.db");
        write_format_2(&path);
        assert!(is_in(&path), "the unsealed content is in the file");
        upgrade(&mut Connection::open(&path).unwrap()).unwrap();
        assert!(is_in(&path), "the upgrade itself leaves the content");
        // Another connection uses the file, so it can't be rewritten yet.
        let mut other = Connection::open(&path).unwrap();
        let used = other.transaction().unwrap();
        let _: i64 = used
            .query_row("SELECT count(*) FROM entries", [], |row| row.get(0))
            .unwrap();
        assert!(unsealed(&path).is_some());
        assert!(is_in(&path));
        drop(used);
        for _ in 0..2 {
            assert!(unsealed(&path).is_none());
            assert!(!is_in(&path));
        }
        let tables: i64 = other
            .query_row(
                "SELECT count(*) FROM sqlite_schema WHERE name = ?1",
                [VACUUM_OWED],
                |row| row.get(0),
            )
            .unwrap();
        assert_eq!(tables, 0);
    }
}
