//! The rows of rooms and entries.

use meshagent_store::path::below;
use meshagent_store::{DocumentId, MAX_TOUCHED_ENTRIES, RoomId, Timestamp, Touched, WriteError};
use rusqlite::{Connection, OptionalExtension, params};

use super::Failure;
use crate::read::{self, END_OF_TEXT};
use crate::schema::DOCUMENT;
use crate::seal::Key;

/// The row of a document or file.
#[derive(Clone, Copy)]
pub(super) struct Leaf {
    pub(super) id: i64,
    kind: i64,
}

impl Leaf {
    pub(super) fn document(self) -> Option<DocumentId> {
        (self.kind == DOCUMENT).then(|| DocumentId(self.id.unsigned_abs()))
    }
}

/// Returns the document or file at a path. Refuses the root, which is always a folder.
pub(super) fn leaf(
    connection: &Connection,
    room: i64,
    path: &str,
) -> Result<Option<Leaf>, Failure> {
    if path.is_empty() {
        return Err(WriteError::IsRoot.into());
    }
    let leaf = connection
        .prepare_cached("SELECT id, kind FROM entries WHERE room = ?1 AND path = ?2")?
        .query_row(params![room, path], |row| {
            Ok(Leaf {
                id: row.get(0)?,
                kind: row.get(1)?,
            })
        })
        .optional()?;
    Ok(leaf)
}

/// Returns the document or file at a path of a room that may not exist.
pub(super) fn leaf_of(
    connection: &Connection,
    room: &RoomId,
    path: &str,
) -> Result<Option<Leaf>, Failure> {
    // An id that no room has.
    let room = read::room_row(connection, room)?.unwrap_or(0);
    leaf(connection, room, path)
}

pub(super) fn leaves_below(
    connection: &Connection,
    room: i64,
    folder: &str,
) -> Result<Vec<(String, Leaf)>, Failure> {
    let (start, end) = below(folder);
    let mut select = connection.prepare_cached(
        "SELECT path, id, kind FROM entries
         WHERE room = ?1 AND path >= ?2 AND path < coalesce(?3, ?4) ORDER BY path LIMIT ?5",
    )?;
    let limit = i64::try_from(MAX_TOUCHED_ENTRIES).unwrap_or(i64::MAX);
    let limit = limit.saturating_add(1);
    let rows = select.query_map(params![room, start, end, END_OF_TEXT, limit], |row| {
        Ok((
            row.get::<_, String>(0)?,
            Leaf {
                id: row.get(1)?,
                kind: row.get(2)?,
            },
        ))
    })?;
    let mut touched = Touched::default();
    let mut leaves = Vec::new();
    for row in rows {
        let (path, leaf) = row?;
        touched.add(folder, &path)?;
        leaves.push((path, leaf));
    }
    Ok(leaves)
}

pub(super) fn insert_entry(
    connection: &Connection,
    room: i64,
    path: &str,
    kind: i64,
    size: i64,
    at: Timestamp,
) -> rusqlite::Result<i64> {
    let id = connection
        .prepare_cached(
            "INSERT INTO entries (room, path, kind, size, created_at, updated_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?5)",
        )?
        .insert(params![room, path, kind, size, at.0])?;
    Key::create(connection, id)?;
    Ok(id)
}

/// Moves an existing entry, which is not in a room yet, to a path of a room.
pub(super) fn place_entry(
    connection: &Connection,
    id: i64,
    room: i64,
    path: &str,
    kind: i64,
    size: i64,
    at: Timestamp,
) -> rusqlite::Result<i64> {
    connection
        .prepare_cached(
            "UPDATE entries
             SET room = ?2, path = ?3, kind = ?4, size = ?5, created_at = ?6, updated_at = ?6
             WHERE id = ?1",
        )?
        .execute(params![id, room, path, kind, size, at.0])?;
    Ok(id)
}

pub(super) fn room_or_insert(connection: &Connection, room: &RoomId) -> rusqlite::Result<i64> {
    if let Some(row) = read::room_row(connection, room)? {
        return Ok(row);
    }
    connection
        // SQLite by itself would continue from the room of entries to be freed. If that room comes
        // first, the next id would be 0.
        .prepare_cached(
            "INSERT INTO rooms (id, project, name)
             VALUES ((SELECT max(0, coalesce(max(id), 0)) + 1 FROM rooms), ?1, ?2)",
        )?
        .insert(params![room.project, room.room])
}
