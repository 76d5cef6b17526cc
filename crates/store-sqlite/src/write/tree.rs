//! Deletions and moves, of one entry or of a folder.

use meshagent_store::path::{MAX_BYTES, below, is_below};
use meshagent_store::{
    MovedEntry, Reach, Removed, RoomId, Timestamp, Touched, WriteError, Written,
};
use rusqlite::{Connection, params};

use super::Failure;
use super::entries::{Leaf, leaf, leaves_below};
use crate::freeing::{self, Removal};
use crate::read::{self, END_OF_TEXT};
use crate::seal::Key;

pub(super) fn delete(
    connection: &Connection,
    room: &RoomId,
    path: &str,
    recursive: bool,
    reach: Reach,
    removal: Removal,
) -> Result<Written, Failure> {
    let Some(room) = read::room_row(connection, room)? else {
        return Err(WriteError::NotFound {
            path: path.to_owned(),
        }
        .into());
    };
    let mut entries = Vec::new();
    if !path.is_empty() {
        entries.extend(leaf(connection, room, path)?.map(|leaf| (path.to_owned(), leaf)));
    }
    if recursive {
        entries.extend(leaves_below(connection, room, path)?);
    }
    if entries.is_empty() {
        let error = if read::has_children(connection, room, path)? {
            WriteError::RecursiveRequired {
                path: path.to_owned(),
            }
        } else {
            WriteError::NotFound {
                path: path.to_owned(),
            }
        };
        return Err(error.into());
    }
    for (found, leaf) in &entries {
        reach.check(found, found != path, leaf.document().is_some())?;
    }
    Ok(Written::Deleted {
        entries: remove(connection, entries, removal)?,
    })
}

#[expect(clippy::too_many_arguments, reason = "one for each part of the write")]
pub(super) fn rename(
    connection: &Connection,
    room: &RoomId,
    source: &str,
    destination: &str,
    overwrite: Option<Reach>,
    reach: Reach,
    at: Timestamp,
    removal: Removal,
) -> Result<Written, Failure> {
    let not_found = || WriteError::NotFound {
        path: source.to_owned(),
    };
    let room = read::room_row(connection, room)?.ok_or_else(not_found)?;
    let single = if source.is_empty() {
        None
    } else {
        leaf(connection, room, source)?
    };
    let is_folder = single.is_none();
    let moving = match single {
        Some(leaf) => vec![(source.to_owned(), leaf)],
        None => leaves_below(connection, room, source)?,
    };
    if moving.is_empty() {
        return Err(not_found().into());
    }
    if source == destination || is_folder && is_below(destination, source) {
        return Err(WriteError::IntoItself.into());
    }
    if destination.is_empty() && !is_folder {
        return Err(WriteError::IsRoot.into());
    }

    for (path, leaf) in &moving {
        reach.check(path, is_folder, leaf.document().is_some())?;
    }
    // A folder often moves to a free path; then there is nothing to look up, entry by entry.
    let may_collide =
        !is_folder || destination.is_empty() || read::has_children(connection, room, destination)?;
    let mut moves = Vec::with_capacity(moving.len());
    let mut in_the_way = Vec::new();
    for (path, found) in moving {
        let rest = &path[source.len()..];
        // Only a folder that moves to the root loses the slash.
        let rest = if destination.is_empty() {
            rest.trim_start_matches('/')
        } else {
            rest
        };
        let target = format!("{destination}{rest}");
        if target.len() > MAX_BYTES.max(path.len()) {
            return Err(WriteError::PathTooLong { path: target }.into());
        }
        // Entries that move themselves are not in the way.
        let stays = !(is_folder && is_below(&target, source));
        if may_collide
            && stays
            && let Some(other) = leaf(connection, room, &target)?
        {
            let Some(replaces) = overwrite else {
                return Err(WriteError::AlreadyExists { path: target }.into());
            };
            replaces.check(&target, is_folder, other.document().is_some())?;
            in_the_way.push((target.clone(), other));
        }
        moves.push((
            MovedEntry {
                source: path,
                destination: target,
                document: found.document(),
            },
            found.id,
        ));
    }

    let targets = moves.iter().map(|(entry, _)| entry.destination.as_str());
    Touched::check(source, targets)?;

    let replaced = remove(connection, in_the_way, removal)?;
    if is_folder && !destination.is_empty() && !is_below(source, destination) {
        rename_folder(connection, room, source, destination, at)?;
    } else {
        rename_each(connection, &moves, at)?;
    }
    Ok(Written::Moved {
        entries: moves.into_iter().map(|(entry, _)| entry).collect(),
        replaced,
    })
}

/// Gives all entries below a folder their new paths in one statement, which works if no path is
/// both a source and a destination.
fn rename_folder(
    connection: &Connection,
    room: i64,
    source: &str,
    destination: &str,
    at: Timestamp,
) -> rusqlite::Result<()> {
    let (start, end) = below(source);
    // SQLite counts characters, from 1.
    let rest = i64::try_from(source.chars().count()).unwrap_or(i64::MAX) + 1;
    connection
        .prepare_cached(
            "UPDATE entries SET path = ?5 || substr(path, ?6), updated_at = ?7
             WHERE room = ?1 AND path >= ?2 AND path < coalesce(?3, ?4)",
        )?
        .execute(params![
            room,
            start,
            end,
            END_OF_TEXT,
            destination,
            rest,
            at.0
        ])?;
    Ok(())
}

/// Gives entries their new paths one by one. A path that is both a source and a destination must be
/// left before it is taken. That happens when a folder moves to one of its parents; then the entry
/// that leaves has the shorter path.
fn rename_each(
    connection: &Connection,
    moves: &[(MovedEntry, i64)],
    at: Timestamp,
) -> rusqlite::Result<()> {
    let mut order: Vec<&(MovedEntry, i64)> = moves.iter().collect();
    order.sort_by_key(|(entry, _)| entry.source.len());
    let mut update =
        connection.prepare_cached("UPDATE entries SET path = ?2, updated_at = ?3 WHERE id = ?1")?;
    for (entry, id) in order {
        update.execute(params![id, entry.destination, at.0])?;
    }
    Ok(())
}

/// Removes rows and, by foreign keys, all rows that belong to them: immediately, or if they are
/// many, [later](crate::freeing).
pub(super) fn remove(
    connection: &Connection,
    entries: Vec<(String, Leaf)>,
    removal: Removal,
) -> rusqlite::Result<Vec<Removed>> {
    // The ids as JSON, which SQLite accepts as a table.
    let ids: Vec<String> = entries
        .iter()
        .map(|(_, leaf)| leaf.id.to_string())
        .collect();
    let ids = format!("[{}]", ids.join(","));
    if removal == Removal::ImmediateIfCheap
        && freeing::is_expensive(connection, entries.len(), &ids)?
    {
        freeing::set_aside(connection, &ids)?;
    } else {
        connection
            .prepare_cached("DELETE FROM entries WHERE id IN (SELECT value FROM json_each(?1))")?
            .execute([&ids])?;
    }
    Key::erase_all(connection, &ids)?;
    let removed = entries.into_iter().map(|(path, leaf)| Removed {
        path,
        document: leaf.document(),
    });
    Ok(removed.collect())
}
