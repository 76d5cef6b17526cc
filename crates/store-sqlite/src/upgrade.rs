//! The upgrades from earlier formats. Damage before an upgrade remains detectable after it.

use meshagent_store::{Author, Contribution, Timestamp};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row, params};

use crate::authors::Authors;
use crate::checksum::{Checksum, Data};
use crate::provenance::contributions_text;
use crate::schema::{KEYS, PROVENANCE, UPDATES};
use crate::seal::{Key, Kind};
use crate::write::update_checksum;

/// Upgrades format 1, which had one author for each update, in columns of its row, under one
/// checksum with the update. The author becomes the only contributor. Its operations were not
/// recorded, and can't be read from the update here.
pub(crate) fn from_1(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch("ALTER TABLE updates RENAME TO updates_1")?;
    connection.execute_batch(UPDATES)?;
    connection.execute_batch(PROVENANCE)?;
    {
        let mut select = connection.prepare(
            "SELECT document, seq, at, participant, role, on_behalf_of, connection, data, checksum
             FROM updates_1",
        )?;
        let mut insert = connection.prepare(
            "INSERT INTO updates
                 (document, seq, at, contributions, contributions_checksum, data, checksum)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?;
        let mut authors = Authors::default();
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            let (document, seq): (i64, i64) = (row.get(0)?, row.get(1)?);
            let at = Timestamp(row.get(2)?);
            let contributions = contributions_text(
                connection,
                &mut authors,
                document,
                seq,
                at,
                &[Contribution {
                    author: Author {
                        participant: lossy(row, 3)?.unwrap_or_default(),
                        role: lossy(row, 4)?.unwrap_or_default(),
                        on_behalf_of: lossy(row, 5)?,
                        connection: lossy(row, 6)?.unwrap_or_default(),
                    },
                    at,
                    operations: Vec::new(),
                }],
            )?;
            let data: Vec<u8> = row.get(7)?;
            // A flipped bit makes the checksum wrong again.
            let damage = i64::from(row.get::<_, i64>(8)? != checksum_1(row)?);
            insert.execute(params![
                document,
                seq,
                at.0,
                contributions.text,
                contributions.checksum ^ damage,
                data,
                update_checksum(document, seq, at, Data::Bytes(&data)) ^ damage,
            ])?;
        }
    }
    connection.execute_batch("DROP TABLE updates_1")
}

/// Upgrades format 2, which stored content without sealing. Damaged content is sealed too, and its
/// checksum reveals it as before.
pub(crate) fn from_2(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(KEYS)?;
    connection.execute_batch(
        "INSERT INTO keys (entry, key) SELECT id, randomblob(32) FROM entries ORDER BY id",
    )?;
    for (kind, table, entry, position, content) in [
        (Kind::Update, "updates", "document", "seq", "data"),
        (Kind::Snapshot, "snapshots", "document", "through", "state"),
        (Kind::File, "files", "file", "0", "data"),
    ] {
        let places: Vec<(i64, i64)> = connection
            .prepare(&format!("SELECT {entry}, {position} FROM {table}"))?
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<rusqlite::Result<_>>()?;
        let which = format!("WHERE {entry} = ?1 AND {position} = ?2");
        let mut select =
            connection.prepare(&format!("SELECT {content}, checksum FROM {table} {which}"))?;
        let mut update =
            connection.prepare(&format!("UPDATE {table} SET {content} = ?3 {which}"))?;
        for (entry, position) in places {
            let (mut value, checksum) = select.query_row([entry, position], |row| {
                Ok((row.get::<_, Vec<u8>>(0)?, row.get(1)?))
            })?;
            Key::read(connection, entry)?.apply(kind, position, checksum, &mut value);
            update.execute(params![entry, position, value])?;
        }
    }
    Ok(())
}

/// Returns the checksum that format 1 stored with an update.
fn checksum_1(row: &Row<'_>) -> rusqlite::Result<i64> {
    let checksum = Checksum::default()
        .number(row.get(0)?)
        .number(row.get(1)?)
        .number(row.get(2)?)
        .bytes(bytes(row, 3)?.unwrap_or_default())
        .bytes(bytes(row, 4)?.unwrap_or_default());
    let checksum = match bytes(row, 5)? {
        None => checksum.number(0),
        Some(text) => checksum.number(1).bytes(text),
    };
    Ok(checksum
        .bytes(bytes(row, 6)?.unwrap_or_default())
        .bytes(bytes(row, 7)?.unwrap_or_default())
        .finish())
}

/// Returns text that may be damaged.
fn lossy(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<String>> {
    Ok(bytes(row, column)?.map(|text| String::from_utf8_lossy(text).into_owned()))
}

fn bytes<'a>(row: &'a Row<'_>, column: usize) -> rusqlite::Result<Option<&'a [u8]>> {
    Ok(match row.get_ref(column)? {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Some(bytes),
        _ => None,
    })
}
