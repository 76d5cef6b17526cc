//! Long content, which is stored in parts. It can be written and freed a few parts at a time, each
//! time in a transaction of its own, with the commits of other rooms in between.
//!
//! A content belongs to an entry and is sealed under the key of that entry. While it is staged it
//! is detached (`contents.kind` is 0): it is invisible, and if the process ends, the next one frees
//! it. The last, short transaction attaches it as the document's update, its snapshot, or the file.
//! Content that a compaction or a deletion replaces is detached in the same way.
//!
//! For a new document or file, the entry itself is created first, as [garbage](crate::freeing); the
//! last transaction turns it into an entry of a room.

use meshagent_store::{DocumentId, Write};
use rusqlite::{Connection, OptionalExtension as _, params};

use crate::checksum::DataSum;
use crate::freeing::{self, Garbage};
use crate::seal::{Key, Kind};

/// The size of a part. Longer content is stored in parts.
pub(crate) const PART_BYTES: usize = 256 << 10;
/// The number of bytes that one transaction stages.
const STEP_BYTES: usize = 1 << 20;
/// The `contents.kind` of detached content.
const DETACHED: i64 = 0;

/// A content that is written part by part.
#[derive(Clone, Debug)]
pub(crate) struct Content {
    id: i64,
    entry: i64,
    /// Whether the entry was created for this content and is not in a room yet.
    has_new_entry: bool,
    nonce: i64,
    /// The checksum of the parts that are written.
    sum: DataSum,
}

impl Content {
    /// Begins a content for an existing entry, or for a new one.
    pub(crate) fn begin(
        connection: &Connection,
        entry: Option<i64>,
        bytes: usize,
    ) -> rusqlite::Result<Self> {
        let has_new_entry = entry.is_none();
        let entry = match entry {
            Some(entry) => entry,
            None => freeing::insert_entry(connection)?,
        };
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        connection
            .prepare_cached(
                "INSERT INTO contents (entry, kind, position, bytes, nonce)
                 VALUES (?1, ?2, 0, ?3, random() & 0x3fffffffffffffff) RETURNING id, nonce",
            )?
            .query_row([entry, DETACHED, bytes], |row| {
                Ok(Self {
                    id: row.get(0)?,
                    entry,
                    has_new_entry,
                    nonce: row.get(1)?,
                    sum: DataSum::default(),
                })
            })
    }

    /// Writes a whole content for an existing entry.
    pub(crate) fn write(
        connection: &Connection,
        entry: i64,
        data: &[u8],
    ) -> rusqlite::Result<Self> {
        let mut content = Self::begin(connection, Some(entry), data.len())?;
        while !content.write_part(connection, data)? {}
        Ok(content)
    }

    /// Writes the next part, and returns whether it was the last one.
    pub(crate) fn write_part(
        &mut self,
        connection: &Connection,
        data: &[u8],
    ) -> rusqlite::Result<bool> {
        let start = self.sum.length();
        let end = data.len().min(start + PART_BYTES);
        let mut part = data[start..end].to_vec();
        self.sum.add(&part);
        Key::read(connection, self.entry)?.apply_to_content(self.nonce, start, &mut part);
        let start = i64::try_from(start).unwrap_or(i64::MAX);
        connection
            .prepare_cached("INSERT INTO parts (content, start, data) VALUES (?1, ?2, ?3)")?
            .execute(params![self.id, start, part])?;
        Ok(end == data.len())
    }

    /// Attaches the content to its entry.
    pub(crate) fn attach(
        &self,
        connection: &Connection,
        kind: Kind,
        position: i64,
    ) -> rusqlite::Result<()> {
        connection
            .prepare_cached("UPDATE contents SET kind = ?2, position = ?3 WHERE id = ?1")?
            .execute([self.id, kind as i64, position])?;
        Ok(())
    }

    /// Returns whether the content exists, is detached, and contains all of `data`: its entry may
    /// have been deleted in the meantime.
    pub(crate) fn is_complete(
        &self,
        connection: &Connection,
        data: &[u8],
    ) -> rusqlite::Result<bool> {
        Ok(self.sum.length() == data.len() && self.exists(connection)?)
    }

    fn exists(&self, connection: &Connection) -> rusqlite::Result<bool> {
        connection
            .prepare_cached("SELECT 1 FROM contents WHERE id = ?1 AND entry = ?2 AND kind = ?3")?
            .exists([self.id, self.entry, DETACHED])
    }

    pub(crate) fn sum(&self) -> &DataSum {
        &self.sum
    }

    /// Returns the entry that was created for this content.
    pub(crate) fn new_entry(&self) -> Option<i64> {
        self.has_new_entry.then_some(self.entry)
    }

    /// Returns what would be freed of this content if it were not in flight.
    pub(crate) fn garbage(&self) -> impl Iterator<Item = Garbage> {
        let entry = self.new_entry().map(Garbage::Entry);
        entry.into_iter().chain([Garbage::Content(self.id)])
    }
}

/// The staged content of one write.
#[derive(Clone, Debug, Default)]
pub(crate) enum Staged {
    /// The content is not staged yet.
    #[default]
    Nothing,
    /// The content is staged in part.
    Begun(Content),
    /// Staging has ended; `None` if the write has no staged content.
    Done(Option<Content>),
}

impl Staged {
    pub(crate) fn content(&self) -> Option<&Content> {
        match self {
            Self::Begun(content) | Self::Done(Some(content)) => Some(content),
            Self::Nothing | Self::Done(None) => None,
        }
    }
}

/// Returns whether staging a batch helps.
pub(crate) fn is_large_batch(writes: &[Write]) -> bool {
    writes.iter().map(Write::bytes).sum::<usize>() > STEP_BYTES && writes.iter().any(is_long)
}

fn is_long(write: &Write) -> bool {
    write.bytes() > PART_BYTES
}

/// Stages parts of a batch until there are enough for one transaction. `refuses` returns whether a
/// write would be refused at present; such writes are not staged. But earlier writes of the batch
/// may free a path, so a new file or document behind other writes is always staged. An error comes
/// with the index of the write that failed.
pub(crate) fn stage_parts(
    connection: &Connection,
    writes: &[Write],
    staged: &mut [Staged],
    refuses: impl Fn(&Write) -> rusqlite::Result<bool>,
) -> Result<(), (usize, rusqlite::Error)> {
    let mut written = 0;
    for (index, (write, staged)) in writes.iter().zip(staged).enumerate() {
        let is_new = matches!(write, Write::CreateDocument { .. } | Write::PutFile { .. });
        let Some(data) = write.content().filter(|_| is_long(write)) else {
            continue;
        };
        let failed = |error| (index, error);
        while written < STEP_BYTES && !matches!(staged, Staged::Done(_)) {
            let mut content = match std::mem::take(staged) {
                Staged::Begun(content) if content.exists(connection).map_err(failed)? => content,
                Staged::Nothing if index > 0 && is_new || !refuses(write).map_err(failed)? => {
                    let entry = match write {
                        Write::Append { document, .. } | Write::Snapshot { document, .. } => {
                            Some(entry_of(*document))
                        }
                        _ => None,
                    };
                    Content::begin(connection, entry, data.len()).map_err(failed)?
                }
                _ => {
                    *staged = Staged::Done(None);
                    continue;
                }
            };
            let before = content.sum.length();
            let is_last = content.write_part(connection, data).map_err(failed)?;
            written += content.sum.length() - before;
            *staged = if is_last {
                Staged::Done(Some(content))
            } else {
                Staged::Begun(content)
            };
        }
    }
    Ok(())
}

/// Returns whether a batch is completely staged.
pub(crate) fn is_all_staged(writes: &[Write], staged: &[Staged]) -> bool {
    let mut both = writes.iter().zip(staged);
    both.all(|(write, staged)| !is_long(write) || matches!(staged, Staged::Done(_)))
}

/// Returns the id of a document's row. An id outside SQLite's range maps to one that never exists.
fn entry_of(document: DocumentId) -> i64 {
    i64::try_from(document.0).unwrap_or(-1)
}

/// Detaches the contents of a document's snapshot and of its updates through a position.
pub(crate) fn detach_through(
    connection: &Connection,
    document: i64,
    through: i64,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "UPDATE contents SET kind = ?5, position = 0
             WHERE entry = ?1 AND (kind = ?2 OR kind = ?3 AND position <= ?4)",
        )?
        .execute(params![
            document,
            Kind::Snapshot as i64,
            Kind::Update as i64,
            through,
            DETACHED
        ])?;
    Ok(())
}

/// Returns whether an entry has content in parts.
pub(crate) fn has_any(connection: &Connection, entry: i64) -> rusqlite::Result<bool> {
    connection
        .prepare_cached("SELECT 1 FROM contents WHERE entry = ?1")?
        .exists([entry])
}

/// A content to be read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stored {
    id: i64,
    nonce: i64,
    bytes: usize,
}

impl Stored {
    pub(crate) fn find(
        connection: &Connection,
        entry: i64,
        kind: Kind,
        position: i64,
    ) -> rusqlite::Result<Option<Self>> {
        connection
            .prepare_cached(
                "SELECT id, nonce, bytes FROM contents
                 WHERE entry = ?1 AND kind = ?2 AND position = ?3",
            )?
            .query_row([entry, kind as i64, position], |row| {
                Ok(Self {
                    id: row.get(0)?,
                    nonce: row.get(1)?,
                    bytes: usize::try_from(row.get::<_, i64>(2)?).unwrap_or(0),
                })
            })
            .optional()
    }

    /// Returns the length that was recorded for the content.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Reads and unseals all parts that exist. The checksum shows whether any are missing.
    pub(crate) fn read(&self, connection: &Connection, key: &Key) -> rusqlite::Result<Vec<u8>> {
        let mut data = Vec::new();
        let mut select = connection
            .prepare_cached("SELECT start, data FROM parts WHERE content = ?1 ORDER BY start")?;
        let mut rows = select.query([self.id])?;
        while let Some(row) = rows.next()? {
            let start = usize::try_from(row.get::<_, i64>(0)?).unwrap_or(0);
            let part = row.get_ref(1)?.as_blob()?;
            if data.is_empty() {
                data.reserve_exact(self.bytes.min(MAX_RESERVED));
            }
            let length = data.len();
            data.extend_from_slice(part);
            key.apply_to_content(self.nonce, start, &mut data[length..]);
        }
        Ok(data)
    }

    /// Fills `buffer` from `start` on, and returns the length that exists.
    pub(crate) fn read_at(
        &self,
        connection: &Connection,
        key: &Key,
        start: usize,
        buffer: &mut [u8],
    ) -> rusqlite::Result<usize> {
        let mut select = connection.prepare_cached(
            "SELECT start, data FROM parts WHERE content = ?1 AND start <= ?2
             ORDER BY start DESC LIMIT 1",
        )?;
        let mut done = 0;
        while done < buffer.len() {
            let from = start + done;
            let position = i64::try_from(from).unwrap_or(i64::MAX);
            let copied = select
                .query_row([self.id, position], |row| {
                    let first = usize::try_from(row.get::<_, i64>(0)?).unwrap_or(0);
                    let part = row.get_ref(1)?.as_blob()?;
                    let rest = part.get(from - first..).unwrap_or_default();
                    let length = rest.len().min(buffer.len() - done);
                    buffer[done..done + length].copy_from_slice(&rest[..length]);
                    Ok(length)
                })
                .optional()?;
            let Some(length @ 1..) = copied else { break };
            key.apply_to_content(self.nonce, from, &mut buffer[done..done + length]);
            done += length;
        }
        Ok(done)
    }
}

/// The limit on the memory that a damaged row can make a read reserve.
const MAX_RESERVED: usize = 64 << 20;

/// Returns the ids of at most `limit` detached contents.
pub(crate) fn detached(connection: &Connection, limit: i64) -> rusqlite::Result<Vec<i64>> {
    connection
        .prepare_cached("SELECT id FROM contents WHERE kind = 0 ORDER BY id LIMIT ?1")?
        .query_map([limit], |row| row.get(0))?
        .collect()
}

/// Returns the ids of an entry's contents.
pub(crate) fn of_entry(connection: &Connection, entry: i64) -> rusqlite::Result<Vec<i64>> {
    connection
        .prepare_cached("SELECT id FROM contents WHERE entry = ?1")?
        .query_map([entry], |row| row.get(0))?
        .collect()
}

/// Removes parts of a content, and finally the content itself, while `has_time`. Returns whether
/// all of it is removed.
pub(crate) fn free(
    connection: &Connection,
    content: i64,
    has_time: impl Fn() -> bool,
) -> rusqlite::Result<bool> {
    let mut first =
        connection.prepare_cached("SELECT start FROM parts WHERE content = ?1 LIMIT 1")?;
    let mut delete =
        connection.prepare_cached("DELETE FROM parts WHERE content = ?1 AND start = ?2")?;
    loop {
        let start: Option<i64> = first.query_row([content], |row| row.get(0)).optional()?;
        let Some(start) = start else {
            connection
                .prepare_cached("DELETE FROM contents WHERE id = ?1")?
                .execute([content])?;
            return Ok(true);
        };
        delete.execute([content, start])?;
        if !has_time() {
            return Ok(false);
        }
    }
}
