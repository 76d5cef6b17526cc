//! Files that are read part by part: the whole content is never in memory at once.

use bytes::Bytes;
use meshagent_store::{FileHead, FileVersion, RoomId, StoreError};
use rusqlite::blob::Blob;
use rusqlite::{Connection, OptionalExtension, params};

use crate::checksum::Checksum;
use crate::error::store_error;
use crate::read::room_row;
use crate::seal::Key;

/// Bytes that are in memory while a content is compared with its checksum.
const PART_BYTES: usize = 256 << 10;

/// A file's row, without its content.
struct Row {
    id: i64,
    updated_at: i64,
    mime_type: String,
    checksum: i64,
}

impl Row {
    fn find(connection: &Connection, room: &RoomId, path: &str) -> rusqlite::Result<Option<Self>> {
        let Some(room) = room_row(connection, room)? else {
            return Ok(None);
        };
        connection
            .prepare_cached(
                "SELECT id, updated_at, mime_type, checksum FROM entries JOIN files ON file = id
                 WHERE room = ?1 AND path = ?2",
            )?
            .query_row(params![room, path], |row| {
                Ok(Self {
                    id: row.get(0)?,
                    updated_at: row.get(1)?,
                    mime_type: row.get(2)?,
                    checksum: row.get(3)?,
                })
            })
            .optional()
    }

    /// Ids are never given twice; the content that replaces another under the same id comes later, or is another by
    /// its checksum.
    fn version(&self) -> FileVersion {
        FileVersion([self.id, self.updated_at, self.checksum].map(i64::unsigned_abs))
    }

    fn content<'a>(&self, connection: &'a Connection) -> rusqlite::Result<Blob<'a>> {
        connection.blob_open("main", "files", "data", self.id, true)
    }
}

pub(crate) fn open_file(
    connection: &Connection,
    room: &RoomId,
    path: &str,
) -> Result<Option<FileHead>, StoreError> {
    let find = || {
        let Some(row) = Row::find(connection, room, path)? else {
            return Ok(None);
        };
        let content = row.content(connection)?;
        let key = Key::read(connection, row.id)?;
        let mut checksum = Checksum::default()
            .number(row.id)
            .text(&row.mime_type)
            .length(content.len());
        let mut part = vec![0; PART_BYTES.min(content.len())];
        let mut start = 0;
        while start < content.len() {
            let length = part.len().min(content.len() - start);
            content.read_at_exact(&mut part[..length], start)?;
            key.apply_to_part(row.checksum, start, &mut part[..length]);
            checksum = checksum.part(&part[..length]);
            start += length;
        }
        let size = content.len() as u64;
        Ok(Some((row, checksum.finish(), size)))
    };
    let Some((row, checksum, size)) = find().map_err(store_error)? else {
        return Ok(None);
    };
    if checksum != row.checksum {
        return Err(StoreError::Corrupt {
            document: None,
            what: format!(
                "the file {path:?} of room {room} has another checksum than when it was written"
            ),
        });
    }
    Ok(Some(FileHead {
        size,
        version: row.version(),
        mime_type: row.mime_type,
    }))
}

pub(crate) fn read_file_range(
    connection: &Connection,
    room: &RoomId,
    path: &str,
    version: FileVersion,
    start: u64,
    length: usize,
) -> Result<Option<Bytes>, StoreError> {
    let find = || {
        let row = Row::find(connection, room, path)?;
        let Some(row) = row.filter(|row| row.version() == version) else {
            return Ok(None);
        };
        let content = row.content(connection)?;
        let start = usize::try_from(start)
            .unwrap_or(usize::MAX)
            .min(content.len());
        let mut part = vec![0; length.min(content.len() - start)];
        content.read_at_exact(&mut part, start)?;
        Key::read(connection, row.id)?.apply_to_part(row.checksum, start, &mut part);
        Ok(Some(Bytes::from(part)))
    };
    find().map_err(store_error)
}
