//! Decodes the bytes of a journal.

use std::collections::BTreeSet;

use meshagent_document::{MeshDocument, MeshSchema};
use serde_json::Value;

use super::record::{self, BLANK, EDIT, HEAD, MAGIC, MERGED, SAVED, STATE};
use super::{RoomKey, Unsent};
use crate::accepted::accepted;
use crate::replica::Replica;

/// The content of a journal.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) path: String,
    schema: MeshSchema,
    identity: Option<String>,
    updates: Vec<Vec<u8>>,
    unsaved: Vec<Unsaved>,
}

/// An unacknowledged update, and how many edits are merged in it.
#[derive(Debug)]
struct Unsaved {
    edits: u32,
    is_blank: bool,
    update: Vec<u8>,
}

/// Decodes a document's journal into a replica; `None` if nothing was ever written.
pub(super) fn replica_of(
    bytes: &[u8],
    room: &RoomKey,
    document: &str,
    client_id: u64,
) -> Result<Option<Replica>, Fault> {
    let Some(recovered) = recover(bytes, room)? else {
        return Ok(None);
    };
    if recovered.path != document {
        return Err(format!("it is that of {:?}", recovered.path).into());
    }
    recovered.into_replica(client_id).map(Some)
}

/// Why a journal's bytes can't be used.
pub(super) enum Fault {
    /// A later version of this library wrote it.
    Newer,
    Damaged(String),
}

impl From<String> for Fault {
    fn from(reason: String) -> Self {
        Self::Damaged(reason)
    }
}

/// Decodes a journal of this room; `None` if nothing was ever written.
pub(super) fn recover(bytes: &[u8], room: &RoomKey) -> Result<Option<Recovered>, Fault> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let is_old = !bytes.starts_with(&MAGIC[..7]);
    if !is_old && !bytes.starts_with(MAGIC) {
        return match bytes.get(7) {
            Some(b'3'..=b'9') => Err(Fault::Newer),
            _ => Err(Fault::Damaged("its first bytes are damaged".to_owned())),
        };
    }
    let records = if is_old {
        record::old_records(bytes)
    } else {
        record::records(bytes)
    };
    let records = records.map_err(|damage| damage.to_string())?;
    let Some(((HEAD, head, head_end), rest)) = records.split_first() else {
        return Err(Fault::Damaged("it does not begin as a journal".to_owned()));
    };
    let head: Value =
        serde_json::from_slice(head).map_err(|error| format!("its head is not JSON: {error}"))?;
    let is_ours = if is_old {
        head["room"] == room.url
    } else {
        head["project"] == room.project && head["room"] == room.room
    };
    let (true, Some(path)) = (is_ours, head["path"].as_str()) else {
        return Err(Fault::Damaged("it is that of another room".to_owned()));
    };
    let schema =
        MeshSchema::from_json(&head["schema"]).map_err(|error| format!("its schema: {error}"))?;
    let (mut updates, mut edits, mut saved) = (Vec::new(), Vec::new(), 0);
    let mut blanks = BTreeSet::new();
    for (kind, payload, end) in rest {
        let damaged = || format!("the record that ends at byte {end} is too short");
        match *kind {
            STATE => updates.push(payload.to_vec()),
            EDIT => {
                let (number, rest) = payload.split_at_checked(8).ok_or_else(damaged)?;
                let (merged, update) = if is_old {
                    (1, rest)
                } else {
                    let (merged, update) = rest.split_at_checked(4).ok_or_else(damaged)?;
                    let merged = merged.try_into().map_err(|_| damaged())?;
                    (u32::from_le_bytes(merged), update)
                };
                let number = number.try_into().map_err(|_| damaged())?;
                edits.push((u64::from_le_bytes(number), merged, update.to_vec(), false));
            }
            SAVED => {
                let number = (*payload).try_into().map_err(|_| damaged())?;
                saved = u64::from_le_bytes(number);
            }
            BLANK => {
                let number = (*payload).try_into().map_err(|_| damaged())?;
                blanks.insert(u64::from_le_bytes(number));
            }
            MERGED => {
                let (first, last) = payload.split_at_checked(8).ok_or_else(damaged)?;
                let [first, last] = [first, last].map(TryInto::try_into);
                let first = u64::from_le_bytes(first.map_err(|_| damaged())?);
                let last = u64::from_le_bytes(last.map_err(|_| damaged())?);
                for (number, _, _, is_merged) in &mut edits {
                    *is_merged |= (first..last).contains(number);
                }
            }
            // A kind of a later version.
            _ => {}
        }
    }
    let end = rest.last().map_or(*head_end, |(_, _, end)| *end);
    // The records that were written with the head were on disk before the file got its name.
    let base_bytes = head["base_bytes"].as_u64().unwrap_or(0);
    if ((end - head_end) as u64) < base_bytes {
        return Err(Fault::Damaged(format!("it is cut off at byte {end}")));
    }
    // Acknowledged edits are part of the document, too.
    let mut unsaved = Vec::new();
    for (number, merged, update, is_merged) in edits {
        updates.push(update.clone());
        if number > saved && !is_merged {
            unsaved.push(Unsaved {
                edits: merged,
                is_blank: blanks.contains(&number),
                update,
            });
        }
    }
    Ok(Some(Recovered {
        path: path.to_owned(),
        schema,
        identity: head["identity"].as_str().map(str::to_owned),
        updates,
        unsaved,
    }))
}

impl Recovered {
    /// The unacknowledged edits.
    pub(super) fn unsent(&self) -> Option<Unsent> {
        let unsaved = self.unsaved.iter();
        Unsent::of(&self.path, unsaved.map(|one| (one.edits, &one.update[..])))
    }

    /// Builds the replica.
    fn into_replica(self, client_id: u64) -> Result<Replica, Fault> {
        let mut document = MeshDocument::with_limits(self.schema, client_id, accepted());
        let unreadable = |error| format!("an update in it: {error}");
        for update in &self.updates {
            if !update.is_empty() {
                document.apply_update(update).map_err(unreadable)?;
            }
        }
        let mut replica = Replica::new(document);
        if let Some(identity) = &self.identity {
            replica.set_identity(identity);
        }
        for unsaved in self.unsaved {
            replica
                .adopt_kept(unsaved.update, unsaved.edits, unsaved.is_blank)
                .map_err(unreadable)?;
        }
        Ok(replica)
    }
}
