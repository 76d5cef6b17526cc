//! Large deletions: in one step, which is the deletion, the entries leave their rooms and lose
//! their keys; their rows are freed afterwards, some at a time, so that other rooms don't wait for
//! all of it.
//!
//! Until then the entries are in a room of their own, which no name finds. If the process ends
//! before all are freed, the next process continues.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::contents;
use crate::seal::Key;

/// The id of that room. Rooms with names have positive ids.
const ROOM: i64 = -1;
/// The limits of what a deletion frees itself, as it costs little.
const MAX_ENTRIES: usize = 64;
const MAX_BYTES: i64 = 1 << 20;
/// The duration of one step; it may exceed this by one entry.
const STEP: Duration = Duration::from_millis(5);
/// The number of entries that are looked up together.
const LOOKED_UP: i64 = 256;
/// The number of entries whose rows are damaged and stay. With more of them, freeing stops.
pub(crate) const MAX_DAMAGED: usize = 100;

/// When the rows of removed entries are freed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Removal {
    /// Immediately at any cost, because there is no space to do it later.
    Immediate,
    /// Immediately if that costs little, else later.
    ImmediateIfCheap,
}

/// Returns whether it takes long to free these entries, whose ids are a JSON array.
pub(crate) fn is_expensive(
    connection: &Connection,
    entries: usize,
    ids: &str,
) -> rusqlite::Result<bool> {
    if entries > MAX_ENTRIES {
        return Ok(true);
    }
    let bytes: i64 = connection
        .prepare_cached(
            // Staged content does not count to the size of its entry.
            "SELECT coalesce(sum(max(size,
                 (SELECT coalesce(sum(bytes), 0) FROM contents WHERE entry = entries.id))), 0)
             FROM entries WHERE id IN (SELECT value FROM json_each(?1))",
        )?
        .query_row([ids], |row| row.get(0))?;
    Ok(bytes > MAX_BYTES)
}

/// Takes entries out of their rooms, to be freed later. None of them counts as a document any more,
/// so their ids are not found.
pub(crate) fn set_aside(connection: &Connection, ids: &str) -> rusqlite::Result<()> {
    create_room(connection)?;
    connection
        .prepare_cached(
            "UPDATE entries SET room = ?2, path = printf('%020d', id), kind = 2
             WHERE id IN (SELECT value FROM json_each(?1))",
        )?
        .execute((ids, ROOM))?;
    Ok(())
}

fn create_room(connection: &Connection) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT OR IGNORE INTO rooms (id, project, name) VALUES (?1, '', ' freed')",
        )?
        .execute([ROOM])?;
    Ok(())
}

/// Creates an entry that will be freed unless it leaves this room: for [content](crate::contents)
/// that is written before its document or file exists.
pub(crate) fn insert_entry(connection: &Connection) -> rusqlite::Result<i64> {
    create_room(connection)?;
    let entry = connection
        .prepare_cached(
            "INSERT INTO entries (room, path, kind, size, created_at, updated_at)
             VALUES (?1, hex(randomblob(16)), 2, 0, 0, 0)",
        )?
        .insert([ROOM])?;
    Key::create(connection, entry)?;
    Ok(entry)
}

/// Garbage: an object to be freed.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Garbage {
    /// An entry with all its rows.
    Entry(i64),
    /// A content of an entry that may stay.
    Content(i64),
}

/// A failure to free an object's rows.
pub(crate) struct FreeingError {
    pub(crate) garbage: Option<Garbage>,
    pub(crate) error: rusqlite::Error,
}

impl From<rusqlite::Error> for FreeingError {
    fn from(error: rusqlite::Error) -> Self {
        Self {
            garbage: None,
            error,
        }
    }
}

/// Returns whether there is anything to free except `excluded` objects.
pub(crate) fn has_garbage(
    connection: &Connection,
    excluded: &HashSet<Garbage>,
) -> rusqlite::Result<bool> {
    Ok(!next(connection, excluded, 1)?.is_empty())
}

/// Removes the rows of some entries and contents, and returns whether only those in `excluded`
/// are left.
pub(crate) fn free_some(
    connection: &Connection,
    excluded: &HashSet<Garbage>,
) -> Result<bool, FreeingError> {
    let started = Instant::now();
    let has_time = || started.elapsed() < STEP;
    loop {
        let all = next(connection, excluded, LOOKED_UP)?;
        if all.is_empty() {
            return Ok(true);
        }
        for garbage in all {
            let freed = match garbage {
                Garbage::Entry(entry) => free_entry(connection, entry, has_time),
                Garbage::Content(content) => contents::free(connection, content, has_time),
            };
            freed.map_err(|error| FreeingError {
                garbage: Some(garbage),
                error,
            })?;
            if !has_time() {
                return Ok(false);
            }
        }
    }
}

/// Frees an entry, content in parts first. Returns whether all of it is freed.
fn free_entry(
    connection: &Connection,
    entry: i64,
    has_time: impl Fn() -> bool,
) -> rusqlite::Result<bool> {
    // The entry of a discarded staged batch still has its key.
    Key::erase(connection, entry)?;
    for content in contents::of_entry(connection, entry)? {
        if !contents::free(connection, content, &has_time)? {
            return Ok(false);
        }
    }
    connection
        .prepare_cached("DELETE FROM entries WHERE id = ?1")?
        .execute([entry])?;
    Ok(true)
}

fn next(
    connection: &Connection,
    excluded: &HashSet<Garbage>,
    limit: i64,
) -> rusqlite::Result<Vec<Garbage>> {
    let more = i64::try_from(excluded.len()).unwrap_or(0);
    let limit = limit + more;
    let mut garbage: Vec<Garbage> = connection
        .prepare_cached("SELECT id FROM entries WHERE room = ?1 ORDER BY path LIMIT ?2")?
        .query_map([ROOM, limit], |row| row.get(0).map(Garbage::Entry))?
        .collect::<rusqlite::Result<_>>()?;
    garbage.retain(|one| !excluded.contains(one));
    if garbage.is_empty() {
        let contents = contents::detached(connection, limit)?;
        garbage.extend(contents.into_iter().map(Garbage::Content));
        garbage.retain(|one| !excluded.contains(one));
    }
    Ok(garbage)
}
