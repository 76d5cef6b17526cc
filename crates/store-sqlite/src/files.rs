//! Reading files in parts, without holding the whole content in memory.

use bytes::Bytes;
use meshagent_store::{FileHead, FileSum, FileVersion, RoomId, StoreError};
use rusqlite::blob::Blob;
use rusqlite::{Connection, OptionalExtension, params};

use crate::checksum::Checksum;
use crate::contents::Stored;
use crate::error::store_error;
use crate::read::room_row;
use crate::seal::{Key, Kind};

/// The row of a file, without its content.
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

    /// Returns the version of the content. Ids are never reused; content that replaces other
    /// content under the same id is later or has another checksum.
    fn version(&self) -> FileVersion {
        FileVersion([self.id, self.updated_at, self.checksum].map(i64::unsigned_abs))
    }

    fn content<'a>(&self, connection: &'a Connection) -> rusqlite::Result<Content<'a>> {
        let value = connection.blob_open("main", "files", "data", self.id, true)?;
        let in_parts = if value.is_empty() {
            Stored::find(connection, self.id, Kind::File, 0)?
        } else {
            None
        };
        let key = Key::read(connection, self.id)?;
        let checksum = self.checksum;
        Ok(match in_parts {
            None => Content::Value {
                value,
                key,
                checksum,
            },
            Some(stored) => Content::InParts {
                connection,
                stored,
                key,
            },
        })
    }
}

/// The stored content of a file.
enum Content<'a> {
    Value {
        value: Blob<'a>,
        key: Key,
        checksum: i64,
    },
    InParts {
        connection: &'a Connection,
        stored: Stored,
        key: Key,
    },
}

impl Content<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Value { value, .. } => value.len(),
            Self::InParts { stored, .. } => stored.bytes(),
        }
    }

    /// Reads and unseals a part; returns the length that exists.
    fn read_at(&self, start: usize, part: &mut [u8]) -> rusqlite::Result<usize> {
        match self {
            Self::Value {
                value,
                key,
                checksum,
            } => {
                value.read_at_exact(part, start)?;
                key.apply_to_part(*checksum, start, part);
                Ok(part.len())
            }
            Self::InParts {
                connection,
                stored,
                key,
            } => stored.read_at(connection, key, start, part),
        }
    }
}

/// Opens a file; `None` if it does not exist. The cost is the same for each size, because content
/// is compared with its checksum when it is read. Without content, the checksum is compared here.
pub(crate) fn open_file(
    connection: &Connection,
    room: &RoomId,
    path: &str,
) -> Result<Option<FileHead>, StoreError> {
    let find = || {
        let Some(row) = Row::find(connection, room, path)? else {
            return Ok(None);
        };
        let size = row.content(connection)?.len();
        Ok(Some((row, size)))
    };
    let Some((row, size)) = find().map_err(store_error)? else {
        return Ok(None);
    };
    let so_far = Checksum::default()
        .number(row.id)
        .text(&row.mime_type)
        .length(size)
        .value();
    let expected = u32::try_from(row.checksum).ok();
    let expected = expected.filter(|expected| size > 0 || *expected == so_far);
    let Some(expected) = expected else {
        return Err(StoreError::Corrupt {
            document: None,
            what: format!("the checksum of the file {path:?} in room {room} does not match"),
        });
    };
    Ok(Some(FileHead {
        size: size as u64,
        version: row.version(),
        mime_type: row.mime_type,
        sum: Some(FileSum { so_far, expected }),
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
        let read = content.read_at(start, &mut part)?;
        part.truncate(read);
        Ok(Some(Bytes::from(part)))
    };
    find().map_err(store_error)
}
