//! Reading a file from its start to its end, in parts, each compared as it is read.

use bytes::Bytes;
use crc32fast::Hasher;

use crate::entry::{FileHead, FileVersion};
use crate::id::RoomId;
use crate::store::StoreError;
use crate::waiting::AsyncStore;

/// The checksum of a file's content, as far as it has been read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FileSum {
    /// The CRC-32 of what precedes the unread content.
    pub so_far: u32,
    /// The CRC-32 after all of the content.
    pub expected: u32,
}

impl FileSum {
    fn add(&mut self, part: &[u8]) {
        let mut hasher = Hasher::new_with_initial(self.so_far);
        hasher.update(part);
        self.so_far = hasher.finalize();
    }
}

/// A file that is read from its start to its end. Opening it reads no content, so the content is
/// compared with its checksum on the way. The last part is only returned if all of them together
/// are what was written.
#[derive(Clone, Debug)]
pub struct FileReading {
    version: FileVersion,
    size: u64,
    read: u64,
    sum: Option<FileSum>,
}

impl FileReading {
    /// Begins at the start of an [opened](crate::Store::open_file) file.
    #[must_use]
    pub fn new(head: &FileHead) -> Self {
        Self {
            version: head.version,
            size: head.size,
            read: 0,
            sum: head.sum,
        }
    }

    /// The version of the content.
    #[must_use]
    pub fn version(&self) -> FileVersion {
        self.version
    }

    /// The bytes that have been read.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.read
    }

    /// The bytes that have not been read.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        self.size - self.read
    }

    /// Reads the next `length` bytes, or those that remain; `None` if `path` has another version
    /// by now, or no file.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if bytes are missing, or if this is the last part and the content
    /// differs from what was written.
    pub async fn next(
        &mut self,
        store: &dyn AsyncStore,
        room: &RoomId,
        path: &str,
        length: usize,
    ) -> Result<Option<Bytes>, StoreError> {
        let length = usize::try_from(self.remaining()).map_or(length, |left| left.min(length));
        let part = store.read_file_range(room, path, self.version, self.read, length);
        let Some(part) = part.await? else {
            return Ok(None);
        };
        let corrupt = |what: &str| StoreError::Corrupt {
            document: None,
            what: format!("{what}, of the file {path:?} in room {room}"),
        };
        if part.len() != length {
            return Err(corrupt("content is missing"));
        }
        self.read += length as u64;
        if let Some(sum) = &mut self.sum {
            sum.add(&part);
            if self.read == self.size && sum.so_far != sum.expected {
                return Err(corrupt("the checksum does not match"));
            }
        }
        Ok(Some(part))
    }
}
