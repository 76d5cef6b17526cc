//! What of a document outlives the program: its content, and the edits that the server has not acknowledged.
//!
//! A journal is a file of records, each behind its length and checksum, that is only appended to, and rewritten when
//! it has become long. A record that was cut off by a crash ends it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use meshagent_document::{Limits, MeshDocument, MeshSchema};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::replica::Replica;

/// An open journal. Another program can't open it meanwhile.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    /// Held open for its lock. The journal itself is replaced when it is written anew, and whoever opened the old file just
    /// before would get a lock on what nobody reads.
    _lock: File,
    room: String,
    document: String,
    /// The number of the last edit that is written down.
    written: u64,
    /// Up to which number edits are known to be done.
    saved: u64,
    bytes: u64,
    base_bytes: u64,
}

/// What a journal held.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) schema: MeshSchema,
    pub(crate) updates: Vec<Vec<u8>>,
    pub(crate) unsaved: Vec<Vec<u8>>,
}

const HEAD: u8 = 1;
const STATE: u8 = 2;
const EDIT: u8 = 3;
const SAVED: u8 = 4;

/// Length, checksum, kind.
const RECORD_HEAD: usize = 9;

/// How much longer than right after it was written anew a journal may become.
const SLACK_BYTES: u64 = 256 << 10;

impl Journal {
    /// Opens the journal of a document, and reads it; `None` if there is nothing in it.
    pub(crate) fn open(
        directory: &Path,
        room: &str,
        document: &str,
    ) -> io::Result<(Self, Option<Recovered>)> {
        fs::create_dir_all(directory)?;
        let name = Uuid::new_v5(
            &Uuid::NAMESPACE_URL,
            format!("{room}\n{document}").as_bytes(),
        );
        let path = directory.join(format!("{name}.journal"));
        let lock = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path.with_extension("lock"))?;
        lock.try_lock()?;
        let mut file = OpenOptions::new()
            .create(true)
            .read(true)
            .append(true)
            .open(&path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let recovered = recover(&bytes, room, document);
        let journal = Self {
            path,
            file,
            _lock: lock,
            room: room.to_owned(),
            document: document.to_owned(),
            written: 0,
            saved: 0,
            bytes: bytes.len() as u64,
            base_bytes: 0,
        };
        Ok((journal, recovered))
    }

    /// Appends the edits that are not in it yet.
    pub(crate) fn write_edits(&mut self, replica: &Replica) -> io::Result<()> {
        if self.base_bytes == 0 {
            // The first record is the schema, which is known now.
            return self.rewrite(replica);
        }
        let mut records = Vec::new();
        for (number, update) in replica.edits_after(self.written) {
            let mut payload = number.to_le_bytes().to_vec();
            payload.extend_from_slice(update);
            record(&mut records, EDIT, &payload);
        }
        self.written = replica.last_number();
        self.append(&records)
    }

    /// Appends what was received, and how far the server is.
    pub(crate) fn write_progress(
        &mut self,
        replica: &Replica,
        received: Option<&[u8]>,
    ) -> io::Result<()> {
        if self.base_bytes == 0 || self.bytes > 2 * self.base_bytes + SLACK_BYTES {
            return self.rewrite(replica);
        }
        let mut records = Vec::new();
        if let Some(update) = received.filter(|update| !update.is_empty()) {
            record(&mut records, STATE, update);
        }
        let saved = replica.saved_number();
        if saved > self.saved {
            record(&mut records, SAVED, &saved.to_le_bytes());
            self.saved = saved;
        }
        self.append(&records)
    }

    /// Writes it anew, as short as it can be, and in the old one's place at once.
    pub(crate) fn rewrite(&mut self, replica: &Replica) -> io::Result<()> {
        let document = replica.document();
        let head = json!({
            "room": self.room,
            "path": self.document,
            "schema": document.schema().to_json(),
        });
        let mut records = Vec::new();
        record(&mut records, HEAD, head.to_string().as_bytes());
        record(&mut records, STATE, &document.encode_state());
        if let Some(waiting) = document.encode_pending() {
            record(&mut records, STATE, &waiting);
        }
        for (number, update) in replica.edits_after(0) {
            let mut payload = number.to_le_bytes().to_vec();
            payload.extend_from_slice(update);
            record(&mut records, EDIT, &payload);
        }
        let new_path = self.path.with_extension("new");
        let mut file = File::create(&new_path)?;
        file.write_all(&records)?;
        file.sync_data()?;
        fs::rename(&new_path, &self.path)?;
        self.file = file;
        self.bytes = records.len() as u64;
        self.base_bytes = self.bytes;
        self.written = replica.last_number();
        self.saved = replica.saved_number();
        Ok(())
    }

    fn append(&mut self, records: &[u8]) -> io::Result<()> {
        self.file.write_all(records)?;
        self.bytes += records.len() as u64;
        Ok(())
    }
}

fn record(out: &mut Vec<u8>, kind: u8, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&checksum(kind, payload).to_le_bytes());
    out.push(kind);
    out.extend_from_slice(payload);
}

fn checksum(kind: u8, payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&[kind]);
    hasher.update(payload);
    hasher.finalize()
}

/// Reads whole records up to the first that is not whole.
fn records(mut bytes: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let (head, rest) = bytes.split_at_checked(RECORD_HEAD)?;
        let word = |at: usize| {
            let word = head.get(at..at + 4)?;
            Some(u32::from_le_bytes(word.try_into().ok()?))
        };
        let (payload, rest) = rest.split_at_checked(word(0)? as usize)?;
        let kind = head[8];
        if word(4)? != checksum(kind, payload) {
            return None;
        }
        bytes = rest;
        Some((kind, payload))
    })
}

fn recover(bytes: &[u8], room: &str, path: &str) -> Option<Recovered> {
    let mut records = records(bytes);
    let (HEAD, head) = records.next()? else {
        return None;
    };
    let head: Value = serde_json::from_slice(head).ok()?;
    if head["room"] != room || head["path"] != path {
        return None;
    }
    let schema = MeshSchema::from_json(&head["schema"]).ok()?;
    let (mut updates, mut edits, mut saved) = (Vec::new(), Vec::new(), 0);
    for (kind, payload) in records {
        match kind {
            STATE => updates.push(payload.to_vec()),
            EDIT => {
                let (number, update) = payload.split_at_checked(8)?;
                edits.push((u64::from_le_bytes(number.try_into().ok()?), update.to_vec()));
            }
            SAVED => saved = u64::from_le_bytes(payload.try_into().ok()?),
            // Of a later version.
            _ => {}
        }
    }
    // What is saved is in the document all the same.
    let mut unsaved = Vec::new();
    for (number, update) in edits {
        updates.push(update.clone());
        if number > saved {
            unsaved.push(update);
        }
    }
    Some(Recovered {
        schema,
        updates,
        unsaved,
    })
}

impl Recovered {
    /// The replica that it describes.
    pub(crate) fn into_replica(self, client_id: u64) -> Option<Replica> {
        let mut limits = Limits::NONE;
        limits.depth = Limits::default().depth;
        let mut document = MeshDocument::with_limits(self.schema, client_id, limits);
        for update in &self.updates {
            if !update.is_empty() {
                document.apply_update(update).ok()?;
            }
        }
        let mut replica = Replica::new(document);
        for update in self.unsaved {
            replica.adopt(update).ok()?;
        }
        Some(replica)
    }
}

#[cfg(test)]
mod restarts;

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use meshagent_document::{MeshDocument, MeshSchema};
    use serde_json::json;

    use super::Journal;
    use crate::replica::Replica;

    #[test]
    fn nobody_else_opens_a_journal_while_it_is_written_anew() {
        let directory = tempfile::tempdir().unwrap();
        let open = || Journal::open(directory.path(), "room", "a.document");
        let schema = MeshSchema::infer(&json!({ "doc": {} })).unwrap();
        let replica = Replica::new(MeshDocument::new(schema, 1));
        let (mut journal, _) = open().unwrap();
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let other = scope.spawn(|| {
                let (mut tries, mut opened) = (0_u64, 0_u64);
                // At least one try follows the last rewriting.
                loop {
                    let last = done.load(Ordering::Acquire);
                    tries += 1;
                    opened += u64::from(open().is_ok());
                    if last {
                        return (tries, opened);
                    }
                }
            });
            for _ in 0..300 {
                journal.rewrite(&replica).unwrap();
            }
            done.store(true, Ordering::Release);
            let (tries, opened) = other.join().unwrap();
            assert_eq!(opened, 0, "of {tries} tries");
        });
        drop(journal);
        let (_, recovered) = open().unwrap();
        assert!(recovered.is_some(), "what was written is there");
    }
}
