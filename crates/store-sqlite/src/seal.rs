//! The content of each document and file is kept under a key of its own, so that it ends with its key.
//!
//! SQLite overwrites what is deleted, but not all copies of it: a page that is divided keeps remains of rows that went
//! to its neighbours, freed pages keep what was in them, and so does the log. With `PRAGMA secure_delete` they are
//! fewer, for more writing, and still some. So content is written under a key (`ChaCha20`, RFC 8439), and to delete it
//! the key is overwritten where it stands. It stands alone in its table, whose rows are only ever added at the end and
//! overwritten in place: SQLite makes no second copy of such rows but in the log, which is emptied after a deletion.
//!
//! This is for deletion and hides nothing from somebody with the file: the keys are in it.

use chacha20::ChaCha20;
use chacha20::cipher::{KeyIvInit as _, StreamCipher as _, StreamCipherSeek as _};
use rusqlite::{Connection, OptionalExtension as _};

/// What is sealed under an entry's key. No two values of a kind have the same position and checksum, unless they are
/// the same: so no two share a key stream.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    /// Content in parts, at a position that was drawn for it, under checksum 0.
    Content = 0,
    /// At its position in the log.
    Update = 1,
    /// At the position through which it goes.
    Snapshot = 2,
    /// At 0; each content of a file has a new key.
    File = 3,
}

const KEY_BYTES: usize = 32;

/// An entry's key.
pub(crate) struct Key([u8; KEY_BYTES]);

impl Key {
    /// For a new entry.
    pub(crate) fn make(connection: &Connection, entry: i64) -> rusqlite::Result<()> {
        connection
            .prepare_cached("INSERT INTO keys (entry, key) VALUES (?1, randomblob(32))")?
            .execute([entry])?;
        Ok(())
    }

    /// Ends the entry's content, for another that takes its place.
    pub(crate) fn replace(connection: &Connection, entry: i64) -> rusqlite::Result<()> {
        connection
            .prepare_cached("UPDATE keys SET key = randomblob(32) WHERE entry = ?1")?
            .execute([entry])?;
        Ok(())
    }

    /// Ends the entry's content.
    pub(crate) fn forget(connection: &Connection, entry: i64) -> rusqlite::Result<()> {
        connection
            .prepare_cached("UPDATE keys SET key = ?2 WHERE entry = ?1 AND key <> ?2")?
            .execute((entry, [0; KEY_BYTES]))?;
        Ok(())
    }

    /// Ends the content of these entries, whose ids are a JSON array. The rows stay, so that no other row moves.
    pub(crate) fn forget_all(connection: &Connection, entries: &str) -> rusqlite::Result<()> {
        connection
            .prepare_cached(
                "UPDATE keys SET key = ?2 WHERE entry IN (SELECT value FROM json_each(?1))",
            )?
            .execute((entries, [0; KEY_BYTES]))?;
        Ok(())
    }

    /// A key that isn't there, or is damaged, is as good as any other: what was sealed will not have its checksum.
    pub(crate) fn read(connection: &Connection, entry: i64) -> rusqlite::Result<Self> {
        let key = connection
            .prepare_cached("SELECT CAST(key AS BLOB) FROM keys WHERE entry = ?1")?
            .query_row([entry], |row| row.get::<_, Vec<u8>>(0))
            .optional()?;
        let key = key.and_then(|key| key.try_into().ok());
        Ok(Self(key.unwrap_or([0; KEY_BYTES])))
    }

    /// Seals a value, or opens it again.
    pub(crate) fn apply(&self, kind: Kind, position: i64, checksum: i64, value: &mut [u8]) {
        self.cipher(kind, position, checksum).apply_keystream(value);
    }

    /// Seals or opens the part of a file's content that begins at `start`.
    pub(crate) fn apply_to_part(&self, checksum: i64, start: usize, part: &mut [u8]) {
        let mut cipher = self.cipher(Kind::File, 0, checksum);
        cipher.seek(start);
        cipher.apply_keystream(part);
    }

    /// Seals or opens the part of a [content](crate::contents) that begins at `start`.
    pub(crate) fn apply_to_content(&self, nonce: i64, start: usize, part: &mut [u8]) {
        let mut cipher = self.cipher(Kind::Content, nonce, 0);
        // Beyond the end of a key stream lies only what was damaged, which the checksum tells.
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

    /// A sealed copy.
    pub(crate) fn sealed(&self, kind: Kind, position: i64, checksum: i64, value: &[u8]) -> Vec<u8> {
        let mut sealed = value.to_vec();
        self.apply(kind, position, checksum, &mut sealed);
        sealed
    }
}
