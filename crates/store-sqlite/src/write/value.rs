//! Values of rows: their size limit, and how they are sealed.

use meshagent_store::WriteError;
use rusqlite::Connection;

use crate::checksum::Data;
use crate::contents::{Content, PART_BYTES};
use crate::seal::{Key, Kind};

/// The largest value of a row, well below SQLite's own limit of 10⁹ bytes for a whole row.
const MAX_VALUE_BYTES: u64 = 512 << 20;

/// A content as stored in its row: an empty value if it is stored in parts.
pub(super) struct Sealed {
    pub(super) value: Vec<u8>,
    pub(super) checksum: i64,
}

impl Sealed {
    pub(super) fn new(
        connection: &Connection,
        entry: i64,
        kind: Kind,
        position: i64,
        data: &[u8],
        staged: Option<&Content>,
        checksum: impl FnOnce(Data<'_>) -> i64,
    ) -> rusqlite::Result<Self> {
        let written;
        let content = match staged {
            Some(content) => content,
            None if data.len() > PART_BYTES => {
                written = Content::write(connection, entry, data)?;
                &written
            }
            None => {
                let checksum = checksum(Data::Bytes(data));
                let key = Key::read(connection, entry)?;
                let value = key.sealed(kind, position, checksum, data);
                return Ok(Self { value, checksum });
            }
        };
        content.attach(connection, kind, position)?;
        Ok(Self {
            value: Vec::new(),
            checksum: checksum(Data::Sum(content.sum())),
        })
    }
}

pub(super) fn check_size(bytes: usize) -> Result<i64, WriteError> {
    let bytes = bytes as u64;
    match i64::try_from(bytes) {
        Ok(size) if bytes <= MAX_VALUE_BYTES => Ok(size),
        _ => Err(WriteError::TooLarge {
            bytes,
            max_bytes: MAX_VALUE_BYTES,
        }),
    }
}
