//! Journals: they keep a document's content and unacknowledged edits when the program ends.
//!
//! A journal is a file of records (`record`). Records are appended, and the file is rewritten when
//! it has become long. A record that a crash cut off ends the journal; a file with any other damage
//! is set aside. [`Pending`] computes the next [`Batch`] to write from the replica, without I/O.

mod kept;
mod list;
mod lock;
mod pending;
mod private;
mod record;
mod recovered;
mod writer;

use std::fs::{self, File, OpenOptions, TryLockError};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use uuid::Uuid;

use self::kept::{keep_damaged, keep_replaced};
pub(crate) use self::list::Listed;
use self::lock::lock;
pub(crate) use self::pending::{Batch, Pending};
use self::private::{make_private, private};
use self::recovered::{Fault, replica_of};
pub(crate) use self::writer::{Journals, Writer};
use crate::replica::Replica;

/// Why a document's journal can't be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// Another program, or another client in this program, has the document open in this directory.
    #[error("the document's journal is in use by another program")]
    InUse,
    /// The file is damaged and was set aside as a whole. Opening the document again reads it from
    /// the server. This is reported until somebody has received it.
    #[error(
        "the document's journal is damaged ({reason}); it was kept as {}, open the document again \
         to read it from the server",
        kept.display()
    )]
    Damaged {
        /// The path of the damaged file now.
        kept: PathBuf,
        /// The kind of damage.
        reason: String,
    },
    /// The file can't be read or written.
    #[error("the document's journal can't be read or written: {reason}")]
    Io {
        /// The operating system's error.
        reason: String,
    },
}

impl From<io::Error> for JournalError {
    fn from(error: io::Error) -> Self {
        let reason = error.to_string();
        Self::Io { reason }
    }
}

impl From<TryLockError> for JournalError {
    fn from(error: TryLockError) -> Self {
        match error {
            TryLockError::WouldBlock => Self::InUse,
            TryLockError::Error(error) => error.into(),
        }
    }
}

/// The room to which journals belong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct RoomKey {
    /// The project's id; empty if the token does not contain it.
    pub(crate) project: String,
    pub(crate) room: String,
    /// The room's URL, by which the first version named journals.
    pub(crate) url: String,
}

impl RoomKey {
    /// The prefix of the room's journal names.
    fn prefix(&self) -> String {
        let name = format!("{}\n{}", self.project, self.room);
        Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes())
            .simple()
            .to_string()
    }

    fn file_name(&self, path: &str) -> String {
        let document = Uuid::new_v5(&Uuid::NAMESPACE_OID, path.as_bytes()).simple();
        format!("{}-{document}.journal", self.prefix())
    }

    fn old_file_name(&self, path: &str) -> String {
        let name = format!("{}\n{path}", self.url);
        let name = Uuid::new_v5(&Uuid::NAMESPACE_URL, name.as_bytes());
        format!("{name}.journal")
    }
}

/// An open journal. It is locked, so no other program can open it.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    /// `None` before the first write.
    file: Option<File>,
    /// Held for its lock. A rewrite replaces the journal itself, so a program that opened the old
    /// file just before would lock a file that is no longer in use.
    _lock: File,
    /// A file of the first version, and its lock. It is removed once this journal has its content.
    old: Option<(PathBuf, File)>,
    /// The length of the file's whole records.
    bytes: u64,
    /// Whether the end of the file is unknown after a failed write, so that only a rewrite helps.
    is_broken: bool,
    /// Whether the next rewrite already has its copy of the old file.
    is_old_kept: bool,
    /// The size of the simulated disk; `None` for no limit.
    #[cfg(test)]
    pub(crate) quota: Option<u64>,
}

/// A document's edits that the server has not acknowledged, as returned by
/// [`RoomClient::unsent`](crate::RoomClient::unsent).
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Unsent {
    /// The document's path.
    pub path: String,
    /// The number of edits; 0 if the updates only repeat what a restored server lacks.
    pub edits: u64,
    /// The size of the edits in bytes, as sent.
    pub bytes: u64,
    /// A hash of them, to tell them from others that are as long.
    pub(crate) digest: u64,
}

impl Unsent {
    /// Counts updates; `None` if there are none.
    pub(crate) fn of<'a>(
        path: &str,
        updates: impl Iterator<Item = (u32, &'a [u8])>,
    ) -> Option<Self> {
        let mut is_some = false;
        let (mut edits, mut bytes) = (0, 0);
        let mut hasher = DefaultHasher::new();
        for (merged, update) in updates {
            is_some = true;
            edits += u64::from(merged);
            bytes += update.len() as u64;
            (merged, update).hash(&mut hasher);
        }
        is_some.then(|| Self {
            path: path.to_owned(),
            edits,
            bytes,
            digest: hasher.finish(),
        })
    }
}

#[cfg(feature = "simulation")]
impl Batch {
    /// Writes the batch to a file in memory.
    pub(crate) fn write_to(&self, file: &mut Vec<u8>) -> crate::simulation::SimWrite {
        if self.is_whole {
            file.clear();
        }
        file.extend_from_slice(&self.records);
        if self.is_whole {
            crate::simulation::SimWrite::Rewritten
        } else {
            crate::simulation::SimWrite::Appended
        }
    }
}

/// Reads the bytes of a journal; `None` if nothing was ever written.
#[cfg(feature = "simulation")]
pub(crate) fn read_bytes(
    bytes: &[u8],
    room: &RoomKey,
    document: &str,
    client_id: u64,
) -> Result<Option<Replica>, String> {
    let replica = replica_of(bytes, room, document, client_id);
    replica.map_err(|fault| match fault {
        Fault::Newer => "it was written by a newer version".to_owned(),
        Fault::Damaged(reason) => reason,
    })
}

impl Journal {
    /// Opens and reads the journal of a document. The replica is `None` if the journal is empty. A
    /// damaged file stays in place until [`remove_reported`] is called.
    pub(crate) fn open(
        directory: &Path,
        room: &RoomKey,
        document: &str,
        client_id: u64,
    ) -> Result<(Self, Option<Replica>), JournalError> {
        fs::create_dir_all(directory)?;
        let path = directory.join(room.file_name(document));
        let own_lock = lock(&path)?;
        let mut journal = Self {
            path,
            file: None,
            _lock: own_lock,
            old: None,
            bytes: 0,
            is_broken: false,
            is_old_kept: false,
            #[cfg(test)]
            quota: None,
        };
        let old_path = directory.join(room.old_file_name(document));
        let (from, bytes) = match read(&journal.path)? {
            Some(bytes) => (journal.path.clone(), bytes),
            None if old_path.try_exists()? => {
                // A program with the first version may have it open.
                journal.old = Some((old_path.clone(), lock(&old_path)?));
                let bytes = read(&old_path)?.unwrap_or_default();
                (old_path, bytes)
            }
            None => return Ok((journal, None)),
        };
        match replica_of(&bytes, room, document, client_id) {
            Ok(replica) => Ok((journal, replica)),
            Err(Fault::Newer) => Err(JournalError::Io {
                reason: format!("{} was written by a newer version", from.display()),
            }),
            Err(Fault::Damaged(reason)) => {
                let kept = keep_damaged(&from)?;
                Err(JournalError::Damaged { kept, reason })
            }
        }
    }

    /// Writes a batch to stable storage. If that fails, the earlier content is still there.
    pub(crate) fn write(&mut self, batch: &Batch) -> io::Result<()> {
        if batch.is_whole {
            if batch.keeps_old && !self.is_old_kept && self.path.try_exists()? {
                keep_replaced(&self.path)?;
                // A failed rewrite is retried, and its copy exists already.
                self.is_old_kept = true;
            }
            self.rewrite(&batch.records)?;
            self.is_old_kept = false;
            return Ok(());
        }
        let Some(file) = self.file.as_mut().filter(|_| !self.is_broken) else {
            return Err(io::Error::other("it has to be rewritten"));
        };
        #[cfg(test)]
        let room = self.quota.map(|quota| quota.saturating_sub(self.bytes));
        #[cfg(not(test))]
        let room = None;
        let written = write_within(file, &batch.records, room).and_then(|()| {
            file.sync_data().inspect_err(|_| {
                // It is unknown which bytes are on disk, and a second sync would not reveal it.
                self.is_broken = true;
            })
        });
        if let Err(error) = written {
            // No record may follow a partial one.
            self.is_broken |= file.set_len(self.bytes).is_err();
            return Err(error);
        }
        self.bytes += batch.records.len() as u64;
        Ok(())
    }

    /// Whether only a rewrite helps.
    pub(crate) fn is_broken(&self) -> bool {
        self.is_broken
    }

    /// Atomically replaces the file with one that has exactly these records.
    fn rewrite(&mut self, records: &[u8]) -> io::Result<()> {
        let new_path = self.path.with_extension("new");
        let mut options = private();
        let new = options.write(true).create(true).truncate(true);
        let new = new.open(&new_path);
        let written = new.and_then(|mut file| {
            // An older one may be readable by others.
            make_private(&file)?;
            #[cfg(test)]
            let room = self.quota;
            #[cfg(not(test))]
            let room = None;
            write_within(&mut file, records, room)?;
            file.sync_data()?;
            drop(file);
            fs::rename(&new_path, &self.path)?;
            sync_directory(&self.path)?;
            OpenOptions::new().append(true).open(&self.path)
        });
        let file = match written {
            Ok(file) => file,
            Err(error) => {
                // The partial file would take space that others need. It may not exist.
                let _removed = fs::remove_file(&new_path);
                self.is_broken = true;
                return Err(error);
            }
        };
        self.file = Some(file);
        self.is_broken = false;
        self.bytes = records.len() as u64;
        if let Some((old, _lock)) = self.old.take() {
            // This journal has its content. If the removal fails, the old file is not read while
            // this one exists.
            let _removed = fs::remove_file(&old);
            let _removed = fs::remove_file(old.with_extension("lock"));
        }
        Ok(())
    }
}

fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

/// Writes all bytes, or as many as fit, like a full disk does.
fn write_within(file: &mut File, bytes: &[u8], room: Option<u64>) -> io::Result<()> {
    let room = room.map_or(usize::MAX, |room| {
        usize::try_from(room).unwrap_or(usize::MAX)
    });
    file.write_all(&bytes[..bytes.len().min(room)])?;
    if bytes.len() > room {
        return Err(io::ErrorKind::StorageFull.into());
    }
    Ok(())
}

/// Makes a new name in a directory survive a power cut.
fn sync_directory(path: &Path) -> io::Result<()> {
    #[cfg(unix)]
    if let Some(directory) = path.parent() {
        File::open(directory)?.sync_all()?;
    }
    #[cfg(not(unix))]
    let _ = path;
    Ok(())
}

#[cfg(test)]
mod restarts;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use meshagent_document::{MeshDocument, MeshSchema, Target};
    use serde_json::json;

    use super::kept::remove_reported;
    use super::{Journal, JournalError, Pending, RoomKey, record};
    use crate::replica::Replica;

    fn room() -> RoomKey {
        RoomKey {
            project: "project".to_owned(),
            room: "räume 🌿".to_owned(),
            url: "ws://here/rooms/r".to_owned(),
        }
    }

    fn open(directory: &Path) -> Result<(Journal, Option<Replica>), JournalError> {
        let opened = Journal::open(directory, &room(), "ä.document", 7);
        if let Err(JournalError::Damaged { kept, .. }) = &opened {
            remove_reported(kept);
        }
        opened
    }

    fn append(replica: &mut Replica, text: &str) {
        let element = json!({ "body": { "text": text } });
        replica
            .edit(|d| d.append_child(Target::Root, element))
            .unwrap();
    }

    fn builtin() -> Replica {
        let schema = MeshSchema::builtin("document").unwrap();
        Replica::new(MeshDocument::new(schema, 1))
    }

    /// A journal of three edits, each written separately, and its file.
    fn three_edits(directory: &Path) -> (Replica, PathBuf) {
        let (mut journal, _) = open(directory).unwrap();
        let mut pending = Pending::new(Arc::new(room()), "ä.document");
        pending.start_over();
        let mut replica = builtin();
        for text in ["eins", "zwei", "drei 🌿"] {
            append(&mut replica, text);
            let batch = pending.take(&replica).unwrap();
            journal.write(&batch).unwrap();
            pending.wrote(&batch);
        }
        (replica, journal.path)
    }

    #[test]
    fn damage_within_a_journal_sets_it_aside() {
        let directory = tempfile::tempdir().unwrap();
        let (replica, path) = three_edits(directory.path());
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x10;
            fs::write(&path, &damaged).unwrap();
            let error = match open(directory.path()) {
                Err(error) => error,
                Ok((_, found)) => panic!("byte {at} of {}: {found:?}", whole.len()),
            };
            let JournalError::Damaged { kept, .. } = &error else {
                // The magic of a later version.
                assert!(
                    at == 7 && matches!(error, JournalError::Io { .. }),
                    "{at}: {error}"
                );
                continue;
            };
            let name = kept.file_name().unwrap().to_str().unwrap();
            assert!(name.contains(".damaged-"), "{name}");
            assert!(error.to_string().contains(name), "{error}");
            assert_eq!(fs::read(kept).unwrap(), damaged);
            let (_, found) = open(directory.path()).unwrap();
            assert!(found.is_none(), "a new journal is empty");
            fs::remove_file(kept).unwrap();
        }
        fs::write(&path, &whole).unwrap();
        let found = open(directory.path()).unwrap().1.unwrap();
        assert_eq!(
            found.document().to_json(true),
            replica.document().to_json(true)
        );
    }

    #[test]
    fn damage_before_a_last_edit_of_zeros_sets_a_journal_aside() {
        let directory = tempfile::tempdir().unwrap();
        let (mut journal, _) = open(directory.path()).unwrap();
        let mut pending = Pending::new(Arc::new(room()), "ä.document");
        pending.start_over();
        let mut replica = builtin();
        let mut write = |pending: &mut Pending, replica: &Replica| {
            let batch = pending.take(replica).unwrap();
            journal.write(&batch).unwrap();
            pending.wrote(&batch);
        };
        for text in ["eins", "zwei"] {
            append(&mut replica, text);
            write(&mut pending, &replica);
            // Otherwise it would be merged with the last one.
            let next = replica.next_to_send().unwrap();
            replica.acknowledged(next.number);
            write(&mut pending, &replica);
        }
        let mut zeros = builtin();
        append(&mut zeros, &"\0".repeat(8 << 10));
        replica.adopt(zeros.document().encode_state()).unwrap();
        write(&mut pending, &replica);
        let path = journal.path.clone();
        drop(journal);
        let whole = fs::read(&path).unwrap();
        let records = record::records(&whole).unwrap();
        let [.., (_, _, last), (record::EDIT, _, _)] = records[..] else {
            panic!("the edit is the last record");
        };
        for at in (0..last).filter(|at| *at != 7) {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x10;
            fs::write(&path, &damaged).unwrap();
            match open(directory.path()) {
                Err(JournalError::Damaged { kept, .. }) => fs::remove_file(kept).unwrap(),
                opened => panic!("byte {at} of {last}: {opened:?}"),
            }
        }
        // The last record is torn, as far as can be seen.
        let mut torn = whole.clone();
        torn[last + 64] ^= 0x10;
        fs::write(&path, &torn).unwrap();
        let found = open(directory.path()).unwrap().1.unwrap();
        assert_eq!(found.document().root().child_count(), 2);
    }

    #[test]
    fn edits_that_are_merged_after_they_were_written_count_once() {
        let directory = tempfile::tempdir().unwrap();
        let (mut journal, _) = open(directory.path()).unwrap();
        let mut pending = Pending::new(Arc::new(room()), "ä.document");
        pending.start_over();
        let mut replica = builtin();
        for text in ["eins", "zwei", "drei 🌿"] {
            append(&mut replica, text);
            // Edits are merged to be sent, and the connection breaks.
            replica.next_to_send();
            replica.unsent();
            let batch = pending.take(&replica).unwrap();
            journal.write(&batch).unwrap();
            pending.wrote(&batch);
        }
        assert_eq!((replica.kept(), replica.unsaved_edits()), (1, 3));
        let path = journal.path.clone();
        drop(journal);
        let (_, found) = open(directory.path()).unwrap();
        let found = found.unwrap();
        assert_eq!((found.kept(), found.unsaved_edits()), (1, 3));
        assert_eq!(
            found.document().to_json(true),
            replica.document().to_json(true)
        );
        // The file is cut within the last record, which notes the merge.
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        let (_, found) = open(directory.path()).unwrap();
        assert_eq!(
            found.unwrap().document().to_json(true),
            replica.document().to_json(true)
        );
    }

    #[test]
    fn journal_of_a_replaced_document_is_copied_once_while_the_disk_is_full() {
        let directory = tempfile::tempdir().unwrap();
        let (_, path) = three_edits(directory.path());
        let whole = fs::read(&path).unwrap();
        let copies = || {
            let entries = fs::read_dir(directory.path()).unwrap();
            let paths = entries.map(|entry| entry.unwrap().path());
            let copies = paths.filter(|path| path.to_string_lossy().contains(".replaced-"));
            copies.collect::<Vec<PathBuf>>()
        };
        let (mut journal, found) = open(directory.path()).unwrap();
        let mut replica = found.unwrap();
        let mut pending = Pending::new(Arc::new(room()), "ä.document");
        replica.replace(builtin().document().snapshot());
        pending.replace();
        journal.quota = Some(10);
        for _ in 0..3 {
            append(&mut replica, "vier");
            let batch = pending.take(&replica).unwrap();
            let error = journal.write(&batch).unwrap_err();
            pending.failed(&batch, journal.is_broken(), error.to_string());
            assert_eq!(copies().len(), 1);
        }
        journal.quota = None;
        // A replacement during or after the rewrite concerns another journal.
        for copied in 1..=3 {
            let batch = pending.take(&replica).unwrap();
            journal.write(&batch).unwrap();
            let is_during = copied == 1;
            if is_during {
                pending.replace();
            }
            pending.wrote(&batch);
            if !is_during {
                pending.replace();
            }
            assert_eq!(copies().len(), copied);
        }
        assert!(copies().iter().any(|copy| fs::read(copy).unwrap() == whole));
    }

    #[test]
    fn cut_within_the_last_record_ends_a_journal() {
        let directory = tempfile::tempdir().unwrap();
        let (_, path) = three_edits(directory.path());
        let whole = fs::read(&path).unwrap();
        let ends: Vec<usize> = record::records(&whole)
            .unwrap()
            .iter()
            .map(|one| one.2)
            .collect();
        // The first edit was written together with the head.
        let base = ends[ends.len() - 3];
        for cut in 0..whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            match open(directory.path()) {
                Ok((_, None)) => assert_eq!(cut, 0),
                Ok((_, Some(found))) => {
                    assert!(cut >= base, "{cut} of {base}");
                    let edits = ends
                        .iter()
                        .filter(|end| **end <= cut && **end > base)
                        .count();
                    assert_eq!(found.document().root().child_count(), 1 + edits, "{cut}");
                }
                Err(JournalError::Damaged { kept, .. }) => {
                    assert!(0 < cut && cut < base, "{cut} of {base}");
                    fs::remove_file(kept).unwrap();
                }
                Err(error) => panic!("{cut}: {error}"),
            }
        }
        // Blocks that a power cut left unwritten.
        let mut hole = whole[..ends[ends.len() - 2]].to_vec();
        hole.resize(8192, 0);
        fs::write(&path, &hole).unwrap();
        let found = open(directory.path()).unwrap().1.unwrap();
        assert_eq!(found.document().root().child_count(), 2);
    }

    /// Writes a record of the first version.
    fn old_record(out: &mut Vec<u8>, kind: u8, payload: &[u8]) {
        out.extend(u32::try_from(payload.len()).unwrap().to_le_bytes());
        let checksum = crc32fast::hash(&[&[kind], payload].concat());
        out.extend(checksum.to_le_bytes());
        out.push(kind);
        out.extend(payload);
    }

    #[test]
    fn journal_of_the_first_version_is_taken_over() {
        let directory = tempfile::tempdir().unwrap();
        let mut replica = builtin();
        append(&mut replica, "alt 🌿");
        let head = json!({
            "room": room().url,
            "path": "ä.document",
            "schema": replica.document().schema().to_json(),
        });
        let mut old = Vec::new();
        old_record(&mut old, record::HEAD, head.to_string().as_bytes());
        let head_end = old.len();
        for one in replica.edits_after(0) {
            let payload = [&one.number.to_le_bytes()[..], one.update].concat();
            old_record(&mut old, record::EDIT, &payload);
        }
        old_record(&mut old, record::SAVED, &0_u64.to_le_bytes());
        let old_path = directory.path().join(room().old_file_name("ä.document"));
        let mut damaged = old.clone();
        // Damage in a length.
        damaged[head_end + 2] ^= 1;
        fs::write(&old_path, &damaged).unwrap();
        let error = open(directory.path()).unwrap_err();
        assert!(matches!(error, JournalError::Damaged { .. }), "{error}");

        fs::write(&old_path, &old).unwrap();
        let (mut journal, found) = open(directory.path()).unwrap();
        let found = found.unwrap();
        assert_eq!(
            found.document().to_json(true),
            replica.document().to_json(true)
        );
        assert_eq!(found.unsaved_edits(), 1);
        let mut pending = Pending::new(Arc::new(room()), "ä.document");
        pending.start_over();
        journal.write(&pending.take(&found).unwrap()).unwrap();
        assert!(!old_path.exists());
        drop(journal);
        let found = open(directory.path()).unwrap().1.unwrap();
        assert_eq!(found.unsaved_edits(), 1);
    }

    #[test]
    fn nobody_else_opens_a_journal_while_it_is_written_anew() {
        let directory = tempfile::tempdir().unwrap();
        let open = || open(directory.path());
        let schema = MeshSchema::infer(&json!({ "doc": {} })).unwrap();
        let replica = Replica::new(MeshDocument::new(schema, 1));
        let (mut journal, _) = open().unwrap();
        let mut pending = Pending::new(Arc::new(room()), "ä.document");
        pending.start_over();
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let other = scope.spawn(|| {
                let (mut tries, mut opened) = (0_u64, 0_u64);
                // At least one attempt follows the last rewrite.
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
                pending.start_over();
                journal.write(&pending.take(&replica).unwrap()).unwrap();
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
