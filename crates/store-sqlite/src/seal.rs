//! Sealing: the content of each document and file is encrypted under a key of its own, so that
//! erasing the key erases the content.
//!
//! SQLite overwrites deleted rows, but not all copies of them: a page that was split keeps remains
//! of rows that moved to its neighbours, free pages keep their old content, and so does the WAL.
//! `PRAGMA secure_delete` leaves fewer copies, for more writes, but still some. So content is
//! written under a key (`ChaCha20`, RFC 8439), and a deletion overwrites the key in place. Keys are
//! in a table of their own, whose rows are only appended and overwritten in place, until
//! [erased ones](crate::erased_keys) are removed: SQLite makes no second copy of a key except in
//! the WAL, which is emptied after a deletion.
//!
//! Sealing serves deletion only. It hides nothing from a reader of the file, because the keys are
//! in it.

use chacha20::ChaCha20;
use chacha20::cipher::{KeyIvInit as _, StreamCipher as _, StreamCipherSeek as _};
use rusqlite::{Connection, OptionalExtension as _};

/// The kinds of values that are sealed under an entry's key. Two different values of one kind never
/// have the same position and checksum, so two different values never share a key stream.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    /// Content in parts, at a position that was drawn for it, with checksum 0.
    Content = 0,
    /// An update, at its position in the log.
    Update = 1,
    /// A snapshot, at the position of the last update in it.
    Snapshot = 2,
    /// A file, at position 0; each content of a file has a new key.
    File = 3,
}

pub(crate) const KEY_BYTES: usize = 32;

/// The key of an entry.
pub(crate) struct Key([u8; KEY_BYTES]);

impl Key {
    /// Creates the key of a new entry.
    pub(crate) fn create(connection: &Connection, entry: i64) -> rusqlite::Result<()> {
        connection
            .prepare_cached("INSERT INTO keys (entry, key) VALUES (?1, randomblob(32))")?
            .execute([entry])?;
        Ok(())
    }

    /// Erases the entry's content by a new key, for the content that replaces it.
    pub(crate) fn replace(connection: &Connection, entry: i64) -> rusqlite::Result<()> {
        connection
            .prepare_cached("UPDATE keys SET key = randomblob(32) WHERE entry = ?1")?
            .execute([entry])?;
        Ok(())
    }

    /// Erases the entry's content.
    pub(crate) fn erase(connection: &Connection, entry: i64) -> rusqlite::Result<()> {
        connection
            .prepare_cached("UPDATE keys SET key = ?2 WHERE entry = ?1 AND key <> ?2")?
            .execute((entry, [0; KEY_BYTES]))?;
        Ok(())
    }

    /// Erases the content of these entries, whose ids are a JSON array. The rows stay, so that
    /// other rows do not move.
    pub(crate) fn erase_all(connection: &Connection, entries: &str) -> rusqlite::Result<()> {
        connection
            .prepare_cached(
                "UPDATE keys SET key = ?2 WHERE entry IN (SELECT value FROM json_each(?1))",
            )?
            .execute((entries, [0; KEY_BYTES]))?;
        Ok(())
    }

    /// Reads the key of an entry. If it is missing or damaged, any key will do: the checksum of
    /// unsealed content will not match.
    pub(crate) fn read(connection: &Connection, entry: i64) -> rusqlite::Result<Self> {
        let key = connection
            .prepare_cached("SELECT CAST(key AS BLOB) FROM keys WHERE entry = ?1")?
            .query_row([entry], |row| row.get::<_, Vec<u8>>(0))
            .optional()?;
        let key = key.and_then(|key| key.try_into().ok());
        Ok(Self(key.unwrap_or([0; KEY_BYTES])))
    }

    /// Seals or unseals a value.
    pub(crate) fn apply(&self, kind: Kind, position: i64, checksum: i64, value: &mut [u8]) {
        self.cipher(kind, position, checksum).apply_keystream(value);
    }

    /// Seals or unseals the part of a file's content that begins at `start`.
    pub(crate) fn apply_to_part(&self, checksum: i64, start: usize, part: &mut [u8]) {
        let mut cipher = self.cipher(Kind::File, 0, checksum);
        cipher.seek(start);
        cipher.apply_keystream(part);
    }

    /// Seals or unseals the part of a [content](crate::contents) that begins at `start`.
    pub(crate) fn apply_to_content(&self, nonce: i64, start: usize, part: &mut [u8]) {
        let mut cipher = self.cipher(Kind::Content, nonce, 0);
        // Only damaged content reaches beyond the end of a key stream, and the checksum reveals it.
        let _ = cipher
            .try_seek(start)
            .map(|()| cipher.try_apply_keystream(part));
    }

    fn cipher(&self, kind: Kind, position: i64, checksum: i64) -> ChaCha20 {
        let mut nonce = [0; 12];
        let place = position.cast_unsigned() << 2 | kind as u64;
        nonce[..8].copy_from_slice(&place.to_le_bytes());
        // A checksum has 32 bits.
        nonce[8..].copy_from_slice(&checksum.to_le_bytes()[..4]);
        ChaCha20::new(&self.0.into(), &nonce.into())
    }

    /// Returns a sealed copy.
    pub(crate) fn sealed(&self, kind: Kind, position: i64, checksum: i64, value: &[u8]) -> Vec<u8> {
        let mut sealed = value.to_vec();
        self.apply(kind, position, checksum, &mut sealed);
        sealed
    }
}
