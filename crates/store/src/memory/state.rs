//! The data of a memory store, and how each write changes it.

use std::collections::{BTreeMap, HashMap};
use std::mem;
use std::ops::Bound;

use bytes::Bytes;

use crate::path::{MAX_BYTES, below, is_below, name};
use crate::provenance;
use crate::write::Touched;
use crate::{
    Contribution, DocumentId, Entry, EntryKind, Epoch, FileVersion, MovedEntry, ProvenanceRecord,
    Reach, Removed, RoomId, Seq, StoreError, StoredDocument, StoredFile, StoredUpdate, Timestamp,
    Write, WriteError, Written,
};

pub(super) type Tree = BTreeMap<String, Node>;

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) rooms: HashMap<RoomId, Tree>,
    // Invariant: exactly the documents that a `Node::Document` of some room names.
    pub(super) documents: HashMap<DocumentId, Document>,
    /// The epochs of the rooms that had an owner.
    epochs: HashMap<RoomId, Epoch>,
    last_document: u64,
    last_file: u64,
}

#[derive(Clone, Debug)]
pub(super) enum Node {
    Document(DocumentId),
    File(StoredFile, FileVersion),
}

#[derive(Debug)]
pub(super) struct Document {
    schema: String,
    snapshot: Option<Bytes>,
    pub(super) snapshot_seq: Seq,
    pub(super) updates: BTreeMap<Seq, StoredUpdate>,
    /// The provenance of the updates that the snapshot replaced.
    pub(super) provenance: Vec<ProvenanceRecord>,
    last_seq: Seq,
    created_at: Timestamp,
    updated_at: Timestamp,
}

impl Document {
    pub(super) fn stored(&self, id: DocumentId) -> StoredDocument {
        StoredDocument {
            document: id,
            schema: self.schema.clone(),
            snapshot: self.snapshot.clone(),
            snapshot_seq: self.snapshot_seq,
            updates: self.updates.values().cloned().collect(),
            last_seq: self.last_seq,
            created_at: self.created_at,
            updated_at: self.updated_at,
        }
    }

    fn check_end(&self, id: DocumentId, expected: Option<Seq>) -> Result<(), WriteError> {
        match expected {
            Some(expected) if expected != self.last_seq => Err(WriteError::WrongEnd {
                document: id,
                end: self.last_seq,
                expected,
            }),
            _ => Ok(()),
        }
    }

    pub(super) fn size(&self) -> u64 {
        let updates = self
            .updates
            .values()
            .map(|update| update.update.len() as u64)
            .sum::<u64>();
        updates + self.snapshot.as_ref().map_or(0, |state| state.len() as u64)
    }
}

impl State {
    pub(super) fn epoch(&self, room: &RoomId) -> Epoch {
        self.epochs.get(room).copied().unwrap_or_default()
    }

    pub(super) fn take_over(
        &mut self,
        room: &RoomId,
        from: Option<Epoch>,
    ) -> Result<Epoch, StoreError> {
        let epoch = self.epochs.entry(room.clone()).or_default();
        if from.is_some_and(|from| from != *epoch) {
            return Err(StoreError::Fenced { epoch: *epoch });
        }
        epoch.0 += 1;
        Ok(*epoch)
    }

    pub(super) fn file(&self, room: &RoomId, path: &str) -> Option<(&StoredFile, FileVersion)> {
        match self.rooms.get(room)?.get(path)? {
            Node::File(file, version) => Some((file, *version)),
            Node::Document(_) => None,
        }
    }

    pub(super) fn apply(&mut self, write: &Write) -> Result<Written, WriteError> {
        match write {
            Write::CreateDocument {
                room,
                path,
                schema,
                state,
                contributions,
                at,
            } => {
                let first = (!state.is_empty()).then(|| StoredUpdate {
                    seq: Seq(1),
                    update: state.clone(),
                    contributions: bounded(contributions),
                    at: *at,
                });
                self.create(room, path, schema, first, *at)
            }
            Write::Append {
                document,
                end,
                update,
                contributions,
                at,
            } => {
                let id = *document;
                let document = self
                    .documents
                    .get_mut(&id)
                    .ok_or(WriteError::NoSuchDocument { document: id })?;
                document.check_end(id, *end)?;
                let seq = Seq(document.last_seq.0 + 1);
                let update = StoredUpdate {
                    seq,
                    update: update.clone(),
                    contributions: bounded(contributions),
                    at: *at,
                };
                document.updates.insert(seq, update);
                document.last_seq = seq;
                document.updated_at = *at;
                Ok(Written::Appended { seq })
            }
            Write::Snapshot {
                document,
                end,
                through,
                state,
                fold_before,
            } => {
                let id = *document;
                let document = self
                    .documents
                    .get_mut(&id)
                    .ok_or(WriteError::NoSuchDocument { document: id })?;
                document.check_end(id, *end)?;
                if *through < document.snapshot_seq || *through > document.last_seq {
                    return Err(WriteError::SnapshotOutOfRange {
                        document: id,
                        through: *through,
                    });
                }
                document.snapshot = Some(state.clone());
                document.snapshot_seq = *through;
                let rest = document.updates.split_off(&Seq(through.0 + 1));
                let merged = mem::replace(&mut document.updates, rest);
                let mut records = mem::take(&mut document.provenance);
                records.extend(records_of(merged.values()));
                document.provenance = provenance::fold(records, *fold_before);
                Ok(Written::Snapshotted)
            }
            Write::PutFile {
                room,
                path,
                data,
                mime_type,
                overwrite,
                at,
            } => self.put_file(room, path, data, mime_type, *overwrite, *at),
            Write::Delete {
                room,
                path,
                recursive,
                reach,
            } => self.delete(room, path, *recursive, *reach),
            Write::Move {
                room,
                source,
                destination,
                overwrite,
                reach,
                replaces,
                at,
            } => {
                let overwrite = overwrite.then_some(*replaces);
                self.rename(room, source, destination, overwrite, *reach, *at)
            }
        }
    }

    fn create(
        &mut self,
        room: &RoomId,
        path: &str,
        schema: &str,
        first: Option<StoredUpdate>,
        at: Timestamp,
    ) -> Result<Written, WriteError> {
        if path.is_empty() {
            return Err(WriteError::IsRoot);
        }
        let tree = self.rooms.entry(room.clone()).or_default();
        if tree.contains_key(path) {
            return Err(WriteError::AlreadyExists {
                path: path.to_owned(),
            });
        }
        self.last_document += 1;
        let id = DocumentId(self.last_document);
        let seq = first.as_ref().map_or(Seq(0), |update| update.seq);
        tree.insert(path.to_owned(), Node::Document(id));
        let document = Document {
            schema: schema.to_owned(),
            snapshot: None,
            snapshot_seq: Seq(0),
            updates: first
                .into_iter()
                .map(|update| (update.seq, update))
                .collect(),
            provenance: Vec::new(),
            last_seq: seq,
            created_at: at,
            updated_at: at,
        };
        self.documents.insert(id, document);
        Ok(Written::Created { document: id, seq })
    }

    fn put_file(
        &mut self,
        room: &RoomId,
        path: &str,
        data: &Bytes,
        mime_type: &str,
        overwrite: bool,
        at: Timestamp,
    ) -> Result<Written, WriteError> {
        if path.is_empty() {
            return Err(WriteError::IsRoot);
        }
        let tree = self.rooms.entry(room.clone()).or_default();
        let created_at = match tree.get(path) {
            None => None,
            Some(_) if !overwrite => {
                return Err(WriteError::AlreadyExists {
                    path: path.to_owned(),
                });
            }
            Some(Node::Document(_)) => {
                return Err(WriteError::IsDocument {
                    path: path.to_owned(),
                });
            }
            Some(Node::File(file, _)) => Some(file.created_at),
        };
        self.last_file += 1;
        let version = FileVersion([self.last_file, 0, 0]);
        let file = StoredFile {
            data: data.clone(),
            mime_type: mime_type.to_owned(),
            created_at: created_at.unwrap_or(at),
            updated_at: at,
        };
        tree.insert(path.to_owned(), Node::File(file, version));
        Ok(Written::Put {
            replaced: created_at.is_some(),
        })
    }

    fn delete(
        &mut self,
        room: &RoomId,
        path: &str,
        recursive: bool,
        reach: Reach,
    ) -> Result<Written, WriteError> {
        let tree = self.rooms.entry(room.clone()).or_default();
        let mut paths = Vec::new();
        if tree.contains_key(path) {
            paths.push(path.to_owned());
        }
        if recursive {
            paths.extend(children(tree, path).map(|(path, _)| path.clone()));
        }
        Touched::check(path, paths.iter().map(String::as_str))?;
        if paths.is_empty() {
            return Err(match children(tree, path).next() {
                Some(_) => WriteError::RecursiveRequired {
                    path: path.to_owned(),
                },
                None => WriteError::NotFound {
                    path: path.to_owned(),
                },
            });
        }
        for found in &paths {
            reach.check(found, found != path, is_document(tree, found))?;
        }
        Ok(Written::Deleted {
            entries: self.remove(room, paths),
        })
    }

    fn rename(
        &mut self,
        room: &RoomId,
        source: &str,
        destination: &str,
        overwrite: Option<Reach>,
        reach: Reach,
        at: Timestamp,
    ) -> Result<Written, WriteError> {
        let tree = self.rooms.entry(room.clone()).or_default();
        let sources: Vec<String> = if tree.contains_key(source) {
            vec![source.to_owned()]
        } else {
            children(tree, source)
                .map(|(path, _)| path.clone())
                .collect()
        };
        if sources.is_empty() {
            return Err(WriteError::NotFound {
                path: source.to_owned(),
            });
        }
        Touched::check(source, sources.iter().map(String::as_str))?;
        let is_folder = !tree.contains_key(source);
        if source == destination || is_folder && is_below(destination, source) {
            return Err(WriteError::IntoItself);
        }
        if destination.is_empty() && !is_folder {
            return Err(WriteError::IsRoot);
        }
        for path in &sources {
            reach.check(path, is_folder, is_document(tree, path))?;
        }
        let moves: Vec<(String, String)> = sources
            .into_iter()
            .map(|path| {
                let moved = format!("{destination}{}", &path[source.len()..]);
                // Only a folder that moves to the root loses the slash.
                let moved = if destination.is_empty() {
                    moved[1..].to_owned()
                } else {
                    moved
                };
                (path, moved)
            })
            .collect();
        let is_too_long = |(from, to): &&(String, String)| to.len() > MAX_BYTES.max(from.len());
        if let Some((_, path)) = moves.iter().find(is_too_long) {
            let path = path.clone();
            return Err(WriteError::PathTooLong { path });
        }

        // Entries that move themselves are not in the way.
        let stays = |path: &str| !(path == source || is_folder && is_below(path, source));
        let in_the_way: Vec<String> = moves
            .iter()
            .map(|(_, destination)| destination)
            .filter(|path| tree.contains_key(*path) && stays(path))
            .cloned()
            .collect();
        for path in &in_the_way {
            match overwrite {
                Some(replaces) => replaces.check(path, is_folder, is_document(tree, path))?,
                None => return Err(WriteError::AlreadyExists { path: path.clone() }),
            }
        }

        let targets = moves.iter().map(|(_, target)| target.as_str());
        Touched::check(source, targets)?;

        let replaced = self.remove(room, in_the_way);
        let tree = self.rooms.entry(room.clone()).or_default();
        let taken: Vec<(String, String, Node)> = moves
            .into_iter()
            .filter_map(|(source, destination)| {
                tree.remove(&source).map(|node| (source, destination, node))
            })
            .collect();
        let mut entries = Vec::with_capacity(taken.len());
        for (source, destination, mut node) in taken {
            let document = match &mut node {
                Node::Document(id) => {
                    if let Some(document) = self.documents.get_mut(id) {
                        document.updated_at = at;
                    }
                    Some(*id)
                }
                Node::File(file, _) => {
                    file.updated_at = at;
                    None
                }
            };
            tree.insert(destination.clone(), node);
            entries.push(MovedEntry {
                source,
                destination,
                document,
            });
        }
        Ok(Written::Moved { entries, replaced })
    }

    fn remove(&mut self, room: &RoomId, paths: Vec<String>) -> Vec<Removed> {
        let mut removed = Vec::with_capacity(paths.len());
        let Some(tree) = self.rooms.get_mut(room) else {
            return removed;
        };
        for path in paths {
            let document = match tree.remove(&path) {
                Some(Node::Document(id)) => {
                    self.documents.remove(&id);
                    Some(id)
                }
                Some(Node::File(..)) | None => None,
            };
            removed.push(Removed { path, document });
        }
        removed
    }

    pub(super) fn document(&self, id: DocumentId) -> &Document {
        self.documents
            .get(&id)
            .expect("a node and its document come and go together")
    }

    pub(super) fn entry(&self, path: &str, node: &Node) -> Entry {
        let (kind, size, created_at, updated_at) = match node {
            Node::Document(id) => {
                let document = self.document(*id);
                (
                    EntryKind::Document,
                    document.size(),
                    document.created_at,
                    document.updated_at,
                )
            }
            Node::File(file, _) => (
                EntryKind::File,
                file.data.len() as u64,
                file.created_at,
                file.updated_at,
            ),
        };
        Entry {
            name: name(path).to_owned(),
            kind,
            size: Some(size),
            created_at: Some(created_at),
            updated_at: Some(updated_at),
        }
    }
}

fn bounded(contributions: &[Contribution]) -> Vec<Contribution> {
    let bounded = |contribution: &Contribution| contribution.bounded().into_owned();
    contributions.iter().map(bounded).collect()
}

pub(super) fn records_of<'a>(
    updates: impl Iterator<Item = &'a StoredUpdate>,
) -> impl Iterator<Item = ProvenanceRecord> {
    updates
        .flat_map(|update| &update.contributions)
        .flat_map(Contribution::records)
}

fn is_document(tree: &Tree, path: &str) -> bool {
    matches!(tree.get(path), Some(Node::Document(_)))
}

/// Everything below a folder, at any depth, in byte order of paths.
pub(super) fn children<'a>(
    tree: &'a Tree,
    folder: &str,
) -> impl Iterator<Item = (&'a String, &'a Node)> {
    let (start, end) = below(folder);
    let end = end.map_or(Bound::Unbounded, Bound::Excluded);
    tree.range((Bound::Included(start), end))
}
