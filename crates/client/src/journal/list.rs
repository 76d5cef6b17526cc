//! Lists the journals in a directory.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::recovered::{Fault, recover};
use super::{JournalError, RoomKey, Unsent, keep_damaged, lock, read};

/// The unacknowledged edits in a room's journals.
#[derive(Debug, Default)]
pub(crate) struct Listed {
    pub(crate) unsent: Vec<Unsent>,
    /// Damaged files, with the reason.
    pub(crate) damaged: Vec<(PathBuf, String)>,
    /// Files that can't be read now.
    pub(crate) unreadable: Vec<(PathBuf, io::Error)>,
}

/// Reads the journals of a room, including those of the first version.
pub(super) fn list(directory: &Path, room: &RoomKey) -> Result<Listed, JournalError> {
    let mut listed = Listed::default();
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(listed),
        Err(error) => return Err(error.into()),
    };
    let prefix = format!("{}-", room.prefix());
    for entry in entries {
        let path = match entry {
            Ok(entry) => entry.path(),
            Err(error) => {
                listed.unreadable.push((directory.to_owned(), error));
                break;
            }
        };
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let Some(stem) = name.strip_suffix(".journal") else {
            continue;
        };
        let is_ours = stem.starts_with(&prefix);
        // Journals of the first version are named by a hash of the room's URL and the path.
        if !is_ours && Uuid::try_parse(stem).is_err() {
            continue;
        }
        let bytes = match read(&path) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => continue,
            // The edits in the other journals can still be sent.
            Err(error) => {
                listed.unreadable.push((path, error));
                continue;
            }
        };
        match recover(&bytes, room) {
            Ok(Some(recovered)) => {
                let is_replaced =
                    !is_ours && directory.join(room.file_name(&recovered.path)).exists();
                if !is_replaced {
                    listed.unsent.extend(recovered.unsent());
                }
            }
            Err(Fault::Damaged(reason)) if is_ours => listed.damaged.push((path, reason)),
            // It may belong to another room.
            Ok(None) | Err(_) => {}
        }
    }
    listed
        .unsent
        .sort_by(|one, other| one.path.cmp(&other.path));
    Ok(listed)
}

/// The unacknowledged edits in a journal of this room, or its damage.
fn unsent_in(path: &Path, room: &RoomKey) -> io::Result<Result<Option<Unsent>, String>> {
    let bytes = read(path)?.unwrap_or_default();
    Ok(match recover(&bytes, room) {
        Ok(recovered) => Ok(recovered.and_then(|one| one.unsent())),
        Err(Fault::Newer) => Ok(None),
        Err(Fault::Damaged(reason)) => Err(reason),
    })
}

/// The listed edits. The first damaged journal is kept under another name and reported as an error.
/// Otherwise an unreadable journal is an error, because its edits are not known.
///
/// A damaged journal that is in use is [`JournalError::InUse`], unless it is skipped.
pub(super) fn settle_damage(
    listed: Listed,
    room: &RoomKey,
    skips_used: bool,
) -> Result<Vec<Unsent>, JournalError> {
    let Listed {
        mut unsent,
        mut unreadable,
        ..
    } = listed;
    for (path, _) in listed.damaged {
        let _lock = match lock(&path) {
            Ok(lock) => lock,
            // Another program has it open. That program read the file before the damage, and
            // rewrites it.
            Err(JournalError::InUse) if skips_used => continue,
            Err(JournalError::InUse) => return Err(JournalError::InUse),
            Err(error) => {
                unreadable.push((path, io::Error::other(error)));
                continue;
            }
        };
        // The list was made without the lock, so another program may have replaced the file since.
        match unsent_in(&path, room) {
            Ok(Ok(found)) => unsent.extend(found),
            Ok(Err(reason)) => match keep_damaged(&path) {
                Ok(kept) => return Err(JournalError::Damaged { kept, reason }),
                Err(error) => unreadable.push((path, error)),
            },
            Err(error) => unreadable.push((path, error)),
        }
    }
    if let Some((path, error)) = unreadable.first() {
        let reason = format!("{}: {error}", path.display());
        return Err(JournalError::Io { reason });
    }
    unsent.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(unsent)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use meshagent_document::{MeshDocument, MeshSchema, Target};
    use serde_json::json;

    use super::*;
    use crate::journal::kept::remove_reported;
    use crate::journal::{Journal, Pending};
    use crate::replica::Replica;

    const PATH: &str = "ä.document";

    /// Writes an edit into a new journal; there must not be one yet.
    fn write(directory: &Path, room: &RoomKey) {
        let (mut journal, found) = Journal::open(directory, room, PATH, 1).unwrap();
        assert!(found.is_none());
        let schema = MeshSchema::builtin("document").unwrap();
        let mut replica = Replica::new(MeshDocument::new(schema, 1));
        let tea = json!({ "body": { "text": "茶" } });
        replica
            .edit(|d| d.append_child(Target::Root, tea))
            .expect("it fits the schema");
        let mut pending = Pending::new(Arc::new(room.clone()), PATH);
        pending.start_over();
        let batch = pending.take(&replica).unwrap();
        journal.write(&batch).unwrap();
    }

    fn room() -> RoomKey {
        RoomKey {
            project: "project".to_owned(),
            room: "room".to_owned(),
            url: "ws://here/rooms/room".to_owned(),
        }
    }

    #[test]
    fn journal_that_can_not_be_read_keeps_no_other_from_being_listed() {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path(), &room());
        for other in ["a.document", "z.document"] {
            fs::create_dir(directory.path().join(room().file_name(other))).unwrap();
        }
        let listed = list(directory.path(), &room()).unwrap();
        assert_eq!((listed.unsent.len(), listed.unreadable.len()), (1, 2));
        let unsent = settle_damage(listed, &room(), true);
        assert!(matches!(unsent, Err(JournalError::Io { .. })), "{unsent:?}");
    }

    #[test]
    fn damaged_journal_is_left_for_whoever_is_to_learn_of_it() {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path(), &room());
        let path = directory.path().join(room().file_name(PATH));
        let mut bytes = fs::read(&path).unwrap();
        bytes[20] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let opened = Journal::open(directory.path(), &room(), PATH, 1);
        assert!(matches!(opened, Err(JournalError::Damaged { .. })));
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }

    #[test]
    fn journal_that_was_written_again_after_it_was_listed_as_damaged_is_not_set_aside() {
        let directory = tempfile::tempdir().unwrap();
        let room = room();
        let listed = || list(directory.path(), &room).unwrap();
        write(directory.path(), &room);
        let path = directory.path().join(room.file_name(PATH));
        let mut bytes = fs::read(&path).unwrap();
        bytes[20] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let damaged = listed();
        assert_eq!(damaged.damaged.len(), 1);
        // Another program finds the damage first, and continues with the document.
        let found = settle_damage(listed(), &room, true);
        let Err(JournalError::Damaged { kept, .. }) = found else {
            panic!("{found:?}");
        };
        remove_reported(&kept);
        write(directory.path(), &room);
        let good = fs::read(&path).unwrap();
        let unsent = settle_damage(damaged, &room, true).unwrap();
        assert_eq!((&unsent[0].path[..], unsent[0].edits), (PATH, 1));
        assert_eq!(fs::read(&path).unwrap(), good);
        // The file may also have been removed.
        let mut damaged = listed();
        damaged.unsent.clear();
        damaged.damaged.push((path.clone(), "damaged".to_owned()));
        fs::remove_file(&path).unwrap();
        assert_eq!(settle_damage(damaged, &room, true).unwrap(), []);
    }
}
