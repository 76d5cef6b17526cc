//! Writes of files.

use meshagent_store::{RoomId, Timestamp, WriteError, Written};
use rusqlite::{Connection, params};

use super::Failure;
use super::entries::{Leaf, insert_entry, leaf, place_entry, room_or_insert};
use super::tree::remove;
use super::value::{Sealed, check_size};
use crate::checksum::{Checksum, Data};
use crate::contents::{self, Content};
use crate::freeing::Removal;
use crate::schema::FILE;
use crate::seal::{Key, Kind};

/// A file to be written.
#[derive(Clone, Copy)]
pub(super) struct File<'a> {
    pub(super) data: &'a [u8],
    pub(super) mime_type: &'a str,
    pub(super) at: Timestamp,
    pub(super) staged: Option<&'a Content>,
}

pub(super) fn put_file(
    connection: &Connection,
    room: &RoomId,
    path: &str,
    file: File<'_>,
    overwrite: bool,
    removal: Removal,
) -> Result<Written, Failure> {
    let room = room_or_insert(connection, room)?;
    let found = leaf(connection, room, path)?;
    check_replaceable(found, path, overwrite)?;
    let size = check_size(file.data.len())?;
    let at = file.at;
    let new_entry = file.staged.and_then(Content::new_entry);
    let id = match found {
        Some(leaf) if new_entry.is_none() && !contents::has_any(connection, leaf.id)? => {
            connection
                .prepare_cached("UPDATE entries SET size = ?2, updated_at = ?3 WHERE id = ?1")?
                .execute(params![leaf.id, size, at.0])?;
            Key::replace(connection, leaf.id)?;
            leaf.id
        }
        // A new entry replaces this one, as content in parts is freed with its entry.
        Some(leaf) => {
            let created_at = connection
                .prepare_cached("SELECT created_at FROM entries WHERE id = ?1")?
                .query_row([leaf.id], |row| row.get(0))?;
            remove(connection, vec![(path.to_owned(), leaf)], removal)?;
            let created_at = Timestamp(created_at);
            let id = match new_entry {
                Some(id) => place_entry(connection, id, room, path, FILE, size, created_at)?,
                None => insert_entry(connection, room, path, FILE, size, created_at)?,
            };
            connection
                .prepare_cached("UPDATE entries SET updated_at = ?2 WHERE id = ?1")?
                .execute([id, at.0])?;
            id
        }
        None => match new_entry {
            Some(id) => place_entry(connection, id, room, path, FILE, size, at)?,
            None => insert_entry(connection, room, path, FILE, size, at)?,
        },
    };
    let sealed = Sealed::new(
        connection,
        id,
        Kind::File,
        0,
        file.data,
        file.staged,
        |data| file_checksum(id, file.mime_type, data),
    )?;
    connection
        .prepare_cached(
            "INSERT INTO files (file, mime_type, data, checksum) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (file) DO UPDATE SET mime_type = ?2, data = ?3, checksum = ?4",
        )?
        .execute(params![id, file.mime_type, sealed.value, sealed.checksum])?;
    Ok(Written::Put {
        replaced: found.is_some(),
    })
}

pub(super) fn check_replaceable(
    found: Option<Leaf>,
    path: &str,
    overwrite: bool,
) -> Result<(), WriteError> {
    let path = || path.to_owned();
    match found {
        Some(_) if !overwrite => Err(WriteError::AlreadyExists { path: path() }),
        Some(leaf) if leaf.document().is_some() => Err(WriteError::IsDocument { path: path() }),
        _ => Ok(()),
    }
}

pub(crate) fn file_checksum(file: i64, mime_type: &str, data: Data<'_>) -> i64 {
    Checksum::default()
        .number(file)
        .text(mime_type)
        .data(data)
        .finish()
}
