//! Large deletions: the entries leave their rooms and lose their keys in one step, which is the deletion; their rows
//! are freed afterwards, some at a time, so that nobody waits for all of it.
//!
//! Until then the entries lie in a room of their own, which no name finds. So a process that ends meanwhile leaves what
//! the next one goes on with.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::contents;
use crate::seal::Key;

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
    make_room(connection)?;
    connection
        .prepare_cached(
            "UPDATE entries SET room = ?2, path = printf('%020d', id), kind = 2
             WHERE id IN (SELECT value FROM json_each(?1))",
        )?
        .execute((ids, ROOM))?;
    Ok(())
}

fn make_room(connection: &Connection) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT OR IGNORE INTO rooms (id, project, name) VALUES (?1, '', ' freed')",
        )?
        .execute([ROOM])?;
    Ok(())
}

/// Makes an entry that is to be freed, unless it leaves the room of these: for
/// [content](crate::contents) that is written before its document or file is there.
pub(crate) fn insert_entry(connection: &Connection) -> rusqlite::Result<i64> {
    make_room(connection)?;
    let entry = connection
        .prepare_cached(
            "INSERT INTO entries (room, path, kind, size, created_at, updated_at)
             VALUES (?1, hex(randomblob(16)), 2, 0, 0, 0)",
        )?
        .insert([ROOM])?;
    Key::make(connection, entry)?;
    Ok(entry)
}

/// What is to be freed.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Doomed {
    /// With all that belongs to it.
    Entry(i64),
    /// Of an entry that may stay.
    Content(i64),
}

/// Something whose rows could not be removed.
pub(crate) struct Unfreed {
    pub(crate) doomed: Option<Doomed>,
    pub(crate) error: rusqlite::Error,
}

impl From<rusqlite::Error> for Unfreed {
    fn from(error: rusqlite::Error) -> Self {
        Self {
            doomed: None,
            error,
        }
    }
}

/// Whether anything is to be freed but what is `kept`.
pub(crate) fn is_owed(connection: &Connection, kept: &HashSet<Doomed>) -> rusqlite::Result<bool> {
    Ok(!next(connection, kept, 1)?.is_empty())
}

/// Removes the rows of some entries and contents, and returns whether none are left but those that are `kept`.
pub(crate) fn free_some(connection: &Connection, kept: &HashSet<Doomed>) -> Result<bool, Unfreed> {
    let started = Instant::now();
    let goes_on = || started.elapsed() < STEP;
    loop {
        let all = next(connection, kept, LOOKED_UP)?;
        if all.is_empty() {
            return Ok(true);
        }
        for doomed in all {
            let freed = match doomed {
                Doomed::Entry(entry) => free_entry(connection, entry, goes_on),
                Doomed::Content(content) => contents::free(connection, content, goes_on),
            };
            freed.map_err(|error| Unfreed {
                doomed: Some(doomed),
                error,
            })?;
            if !goes_on() {
                return Ok(false);
            }
        }
    }
}

/// Frees what is in parts first. Returns whether the entry is gone.
fn free_entry(
    connection: &Connection,
    entry: i64,
    goes_on: impl Fn() -> bool,
) -> rusqlite::Result<bool> {
    // What was given up before it was an entry of a room still has it.
    Key::forget(connection, entry)?;
    for content in contents::of_entry(connection, entry)? {
        if !contents::free(connection, content, &goes_on)? {
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
    kept: &HashSet<Doomed>,
    limit: i64,
) -> rusqlite::Result<Vec<Doomed>> {
    let more = i64::try_from(kept.len()).unwrap_or(0);
    let limit = limit + more;
    let mut doomed: Vec<Doomed> = connection
        .prepare_cached("SELECT id FROM entries WHERE room = ?1 ORDER BY path LIMIT ?2")?
        .query_map([ROOM, limit], |row| row.get(0).map(Doomed::Entry))?
        .collect::<rusqlite::Result<_>>()?;
    doomed.retain(|one| !kept.contains(one));
    if doomed.is_empty() {
        let contents = contents::detached(connection, limit)?;
        doomed.extend(contents.into_iter().map(Doomed::Content));
        doomed.retain(|one| !kept.contains(one));
    }
    Ok(doomed)
}
