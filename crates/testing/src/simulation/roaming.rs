//! Roaming documents: clients move, replace, delete and recreate them, alone or with their folder,
//! while others have them open.
//!
//! The creator of a document puts a name into an attribute of its root. The name identifies the
//! document at every path. The document has to contain everything that was acknowledged or shown,
//! unless a client may have removed the document.

use std::collections::{BTreeMap, BTreeSet};

use meshagent_document::MeshDocument;
use meshagent_protocol::Content;
use meshagent_server::simulation::SimServer;
use meshagent_store::{EntryKind, Store};
use serde_json::json;

use super::board;
use super::random::Random;
use super::record::{self, Place};

const ROOT: &str = "roam";
const FOLDERS: [&str; 2] = ["roam/a", "roam/ö"];
const NAMES: [&str; 2] = ["1.board", "2.board"];

/// The maximum number of roaming documents in a room at any time.
pub(super) const DOCUMENTS: u64 = 4;

/// The paths at which roaming documents can be.
pub(super) fn paths() -> impl Iterator<Item = String> {
    let in_folder = |folder| NAMES.map(|name| format!("{folder}/{name}"));
    FOLDERS.into_iter().flat_map(in_folder)
}

/// Whether the documents at this path are roaming ones.
pub(super) fn is_roaming(path: &str) -> bool {
    path.starts_with(ROOT)
}

/// A document, identified by its room and its name.
pub(super) type Identity = (String, String);

/// The number of promised operations, by client.
pub(super) type Clocks = BTreeMap<u64, u64>;

/// A request that moves or deletes documents.
#[derive(Clone, Debug)]
pub(super) enum Relocation {
    Move {
        source: String,
        destination: String,
        overwrite: bool,
    },
    Delete {
        path: String,
        recursive: bool,
    },
}

impl Relocation {
    /// A random request that affects the document at a path.
    pub(super) fn of(path: &str, random: &mut Random) -> Self {
        let (folder, name) = path.rsplit_once('/').unwrap_or((ROOT, path));
        let other = FOLDERS.into_iter().find(|other| *other != folder);
        let other = other.unwrap_or(FOLDERS[0]);
        let overwrite = !random.one_in(3);
        match random.below(10) {
            0 => Self::Delete {
                path: folder.to_owned(),
                recursive: !random.one_in(4),
            },
            1 => Self::Delete {
                path: path.to_owned(),
                recursive: false,
            },
            2..5 => Self::Move {
                source: folder.to_owned(),
                destination: other.to_owned(),
                overwrite,
            },
            5..8 => Self::Move {
                source: path.to_owned(),
                destination: format!("{other}/{name}"),
                overwrite,
            },
            _ => Self::Move {
                source: path.to_owned(),
                destination: format!("{folder}/{}", NAMES[random.index(NAMES.len())]),
                overwrite,
            },
        }
    }

    /// The name of the tool and its input.
    pub(super) fn call(&self) -> (&'static str, Content) {
        match self {
            Self::Move {
                source,
                destination,
                overwrite,
            } => {
                let input = json!({
                    "source_path": source,
                    "destination_path": destination,
                    "overwrite": overwrite,
                });
                ("move", Content::Json(input))
            }
            Self::Delete { path, recursive } => {
                let input = json!({"path": path, "recursive": recursive});
                ("delete", Content::Json(input))
            }
        }
    }

    /// The new path of what is at `path`; `None` if the request does not move it.
    pub(super) fn destination(&self, path: &str) -> Option<String> {
        match self {
            Self::Move {
                source,
                destination,
                ..
            } => {
                let rest = path.strip_prefix(source.as_str())?;
                (rest.is_empty() || rest.starts_with('/')).then(|| format!("{destination}{rest}"))
            }
            Self::Delete { .. } => None,
        }
    }

    /// Whether the request may remove what is at the path.
    fn may_remove(&self, path: &str) -> bool {
        let covers = |folder: &str| {
            let rest = path.strip_prefix(folder);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        match self {
            Self::Move {
                destination,
                overwrite,
                ..
            } => *overwrite && covers(destination),
            Self::Delete { path: deleted, .. } => covers(deleted),
        }
    }
}

/// The roaming documents of a run, and all requests to move or delete them.
#[derive(Debug, Default)]
pub(super) struct Roamers {
    documents: BTreeMap<Identity, Roamer>,
    relocations: Vec<Sent>,
}

/// The record of one roaming document.
#[derive(Debug)]
struct Roamer {
    /// Everything in it that was shown to a client or acknowledged.
    promised: MeshDocument,
    /// The paths at which a client has seen it.
    seen_at: BTreeSet<String>,
    /// A time at which, or after which, it existed.
    alive: u64,
}

/// A request to move or delete documents, with its answer.
#[derive(Debug)]
struct Sent {
    room: String,
    relocation: Relocation,
    /// When the sender received the answer. Without it, the time of the change is unknown.
    answered: Option<u64>,
    is_refused: bool,
}

impl Roamers {
    /// Records that an update was shown or acknowledged to a client at a path, for a request that
    /// was sent at `since`.
    pub(super) fn promise(
        &mut self,
        identity: &Identity,
        path: &str,
        update: &[u8],
        since: u64,
    ) -> Result<(), String> {
        let roamer = self
            .documents
            .entry(identity.clone())
            .or_insert_with(|| Roamer {
                promised: board::lax(1),
                seen_at: BTreeSet::new(),
                alive: 0,
            });
        roamer.alive = roamer.alive.max(since);
        if !roamer.seen_at.contains(path) {
            roamer.seen_at.insert(path.to_owned());
        }
        if update.is_empty() {
            return Ok(());
        }
        record::apply(&mut roamer.promised, update)
            .map_err(|error| format!("{identity:?}: a promised update is invalid: {error}"))
    }

    /// The promised operations of each document of a room, by the document's name.
    pub(super) fn clocks(&self, room: &str) -> BTreeMap<String, Clocks> {
        let of_room = self.documents.iter().filter(|((of, _), _)| of == room);
        of_room
            .map(|((_, name), roamer)| (name.clone(), roamer.promised.clocks().collect()))
            .collect()
    }

    /// Records a request and returns its number for [`answered`](Self::answered).
    pub(super) fn sent(&mut self, room: &str, relocation: Relocation) -> usize {
        self.relocations.push(Sent {
            room: room.to_owned(),
            relocation,
            answered: None,
            is_refused: false,
        });
        self.relocations.len() - 1
    }

    /// Records the answer to a request.
    pub(super) fn answered(&mut self, number: usize, now: u64, is_refused: bool) {
        if let Some(sent) = self.relocations.get_mut(number) {
            sent.answered = Some(now);
            sent.is_refused = is_refused;
        }
    }

    /// Compares the record with what a server would load from the store.
    pub(super) fn check(&self, store: &dyn Store) -> Result<(), String> {
        let mut stored = BTreeMap::<Identity, (String, MeshDocument)>::new();
        let rooms: BTreeSet<&String> = self.documents.keys().map(|(room, _)| room).collect();
        for room in rooms {
            for path in documents_below(store, room, ROOT)? {
                let place: Place = (room.clone(), path.clone());
                let Some(document) = record::load(store, &place)? else {
                    continue;
                };
                let Some(name) = board::identity(&document) else {
                    return Err(format!("{place:?} has lost its name"));
                };
                let identity = (room.clone(), name);
                if let Some((other, _)) = stored.insert(identity.clone(), (path.clone(), document))
                {
                    return Err(format!("{identity:?} is at {other:?} and at {path:?}"));
                }
            }
        }
        for (identity, roamer) in &self.documents {
            match stored.get_mut(identity) {
                Some((path, document)) => record::check_content(document, &roamer.promised)
                    .map_err(|error| format!("{identity:?}, now at {path:?}, {error}"))?,
                None if self.may_be_removed(identity, roamer) => {}
                None => {
                    return Err(format!(
                        "{identity:?}, seen at {:?}, is gone, and no client removed it",
                        roamer.seen_at
                    ));
                }
            }
        }
        Ok(())
    }

    /// Whether a client may have removed the document after it was last known to exist.
    fn may_be_removed(&self, identity: &Identity, roamer: &Roamer) -> bool {
        let possible: Vec<&Sent> = self
            .relocations
            .iter()
            .filter(|sent| sent.room == identity.0 && !sent.is_refused)
            .collect();
        let mut places = roamer.seen_at.clone();
        loop {
            let before = places.len();
            for sent in &possible {
                let further = places
                    .iter()
                    .filter_map(|path| sent.relocation.destination(path));
                let further: Vec<String> = further.collect();
                places.extend(further);
            }
            if places.len() == before {
                break;
            }
        }
        possible.iter().any(|sent| {
            sent.answered
                .is_none_or(|answered| answered >= roamer.alive)
                && places.iter().any(|path| sent.relocation.may_remove(path))
        })
    }
}

/// The paths of all documents in a folder of the store, at any depth.
fn documents_below(store: &dyn Store, room: &str, folder: &str) -> Result<Vec<String>, String> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = store
            .list(&SimServer::room_id(room), &folder, usize::MAX)
            .map_err(|error| format!("{folder:?} can't be listed: {error}"))?;
        for entry in entries.unwrap_or_default() {
            let path = format!("{folder}/{}", entry.name);
            match entry.kind {
                EntryKind::Folder => folders.push(path),
                EntryKind::Document => found.push(path),
                EntryKind::File => {}
            }
        }
    }
    Ok(found)
}
