//! Large deletions: the entries leave their rooms and lose their keys in one step, which is the deletion; their rows
//! are freed afterwards, some at a time, so that nobody waits for all of it.
//!
//! Until then the entries lie in a room of their own, which no name finds. So a process that ends meanwhile leaves what
//! the next one goes on with.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use rusqlite::Connection;

/// The room's number. Those that have names are positive.
const ROOM: i64 = -1;
/// What is freed within the deletion, as it costs little.
const MAX_ENTRIES: usize = 64;
const MAX_BYTES: i64 = 1 << 20;
/// How long one step takes, and no longer than one entry more.
const STEP: Duration = Duration::from_millis(5);
/// Entries that are looked up together.
const LOOKED_UP: i64 = 256;
/// Entries whose rows are damaged and stay, before no more is freed.
pub(crate) const MAX_KEPT: usize = 100;

/// When rows are freed that are removed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Removal {
    /// At once, whatever it costs: there is no space to do it later.
    AtOnce,
    /// At once if it costs little.
    WhenCheap,
}

/// Whether it takes long to free these entries, whose ids are a JSON array.
pub(crate) fn is_much(
    connection: &Connection,
    entries: usize,
    ids: &str,
) -> rusqlite::Result<bool> {
    if entries > MAX_ENTRIES {
        return Ok(true);
    }
    let bytes: i64 = connection
        .prepare_cached(
            "SELECT coalesce(sum(size), 0) FROM entries WHERE id IN (SELECT value FROM json_each(?1))",
        )?
        .query_row([ids], |row| row.get(0))?;
    Ok(bytes > MAX_BYTES)
}

/// Takes entries out of their rooms, to be freed later. None of them is a document any more, so no id finds one.
pub(crate) fn set_aside(connection: &Connection, ids: &str) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT OR IGNORE INTO rooms (id, project, name) VALUES (?1, '', ' freed')",
        )?
        .execute([ROOM])?;
    connection
        .prepare_cached(
            "UPDATE entries SET room = ?2, path = printf('%020d', id), kind = 2
             WHERE id IN (SELECT value FROM json_each(?1))",
        )?
        .execute((ids, ROOM))?;
    Ok(())
}

/// An entry whose rows could not be removed.
pub(crate) struct Unfreed {
    pub(crate) entry: Option<i64>,
    pub(crate) error: rusqlite::Error,
}

impl From<rusqlite::Error> for Unfreed {
    fn from(error: rusqlite::Error) -> Self {
        Self { entry: None, error }
    }
}

/// Whether anything is to be freed but what is `kept`.
pub(crate) fn is_owed(connection: &Connection, kept: &HashSet<i64>) -> rusqlite::Result<bool> {
    Ok(!next(connection, kept, 1)?.is_empty())
}

/// Removes the rows of some entries, and returns whether none are left but those that are `kept`.
pub(crate) fn free_some(connection: &Connection, kept: &HashSet<i64>) -> Result<bool, Unfreed> {
    let started = Instant::now();
    let mut delete = connection.prepare_cached("DELETE FROM entries WHERE id = ?1")?;
    loop {
        let entries = next(connection, kept, LOOKED_UP)?;
        if entries.is_empty() {
            return Ok(true);
        }
        for entry in entries {
            delete.execute([entry]).map_err(|error| Unfreed {
                entry: Some(entry),
                error,
            })?;
            if started.elapsed() >= STEP {
                return Ok(false);
            }
        }
    }
}

fn next(connection: &Connection, kept: &HashSet<i64>, entries: i64) -> rusqlite::Result<Vec<i64>> {
    let more = i64::try_from(kept.len()).unwrap_or(0);
    let ids = connection
        .prepare_cached("SELECT id FROM entries WHERE room = ?1 ORDER BY path LIMIT ?2")?
        .query_map([ROOM, entries + more], |row| row.get(0))?
        .collect::<rusqlite::Result<Vec<i64>>>()?;
    Ok(ids.into_iter().filter(|id| !kept.contains(id)).collect())
}
