//! Reading files in parts, without holding the whole content in memory.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use bytes::Bytes;
use meshagent_store::{FileHead, FileVersion, RoomId, StoreError};
use rusqlite::blob::Blob;
use rusqlite::{Connection, OptionalExtension, params};

use crate::checksum::Checksum;
use crate::contents::{PART_BYTES, Stored};
use crate::error::store_error;
use crate::read::room_row;
use crate::seal::{Key, Kind};

/// The duration of one read while a file is compared with its checksum. A longer one would hold the
/// WAL longer: new reads wait for it when the WAL is to be emptied.
const SLICE: Duration = Duration::from_millis(10);
/// The number of times that a file may be replaced while it is compared, before the comparison
/// takes place in one read.
const MAX_RESTARTS: u32 = 4;

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

/// A file that is being opened: its content is compared with its checksum.
#[derive(Default)]
pub(crate) struct Opening {
    /// The version of the content that was compared so far.
    version: Option<FileVersion>,
    checksum: Checksum,
    start: usize,
    restarts: u32,
}

impl Opening {
    /// Compares the next part, and continues if there are more. Ends with `None` if the file does
    /// not exist.
    pub(crate) fn step(
        &mut self,
        connection: &Connection,
        room: &RoomId,
        path: &str,
    ) -> Result<ControlFlow<Option<FileHead>>, StoreError> {
        let Some(row) = Row::find(connection, room, path).map_err(store_error)? else {
            return Ok(ControlFlow::Break(None));
        };
        let Some(size) = self.compare(connection, &row).map_err(store_error)? else {
            return Ok(ControlFlow::Continue(()));
        };
        let checksum = std::mem::take(&mut self.checksum);
        if checksum.finish() != row.checksum {
            return Err(StoreError::Corrupt {
                document: None,
                what: format!("the checksum of the file {path:?} in room {room} does not match"),
            });
        }
        Ok(ControlFlow::Break(Some(FileHead {
            size,
            version: row.version(),
            mime_type: row.mime_type,
        })))
    }

    /// Compares content until the time is up; returns its size at the end.
    fn compare(&mut self, connection: &Connection, row: &Row) -> rusqlite::Result<Option<u64>> {
        let content = row.content(connection)?;
        if self.version != Some(row.version()) {
            self.restarts += u32::from(self.version.is_some());
            self.version = Some(row.version());
            self.start = 0;
            self.checksum = Checksum::default()
                .number(row.id)
                .text(&row.mime_type)
                .length(content.len());
        }
        let (started, end) = (Instant::now(), content.len());
        let may_pause = self.restarts <= MAX_RESTARTS;
        let mut part = vec![0; PART_BYTES.min(content.len())];
        while self.start < end {
            let length = part.len().min(end - self.start);
            let read = content.read_at(self.start, &mut part[..length])?;
            self.checksum = std::mem::take(&mut self.checksum).part(&part[..read]);
            self.start += read;
            if read < length {
                // A part is missing, which the checksum will show.
                break;
            }
            if may_pause && self.start < end && started.elapsed() >= SLICE {
                return Ok(None);
            }
        }
        Ok(Some(end as u64))
    }
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
