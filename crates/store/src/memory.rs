//! A store in memory: all data is in maps. It serves tests, simulations and rooms that need
//! not last.

mod state;

use std::collections::{BTreeMap, HashSet};
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use self::state::{Node, State, children, records_of};
use crate::path::name;
use crate::provenance;
use crate::{
    Batch, DocumentId, Entry, EntryKind, Epoch, FileHead, FileVersion, ProvenanceRecord, RoomId,
    Seq, Staging, Store, StoreError, StoreStats, StoredDocument, StoredFile, StoredUpdate, Write,
    WriteError, Written,
};

/// A store in memory. It never fills up and is always available.
#[derive(Debug, Default)]
pub struct MemoryStore {
    state: Mutex<State>,
}

impl MemoryStore {
    /// Creates an empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each write checks everything before it changes anything, so a panic leaves no write
        // half applied.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for MemoryStore {
    fn commit_batches(
        &self,
        writes: &[Write],
        batches: &[Batch],
        _staging: Option<&Staging>,
    ) -> Result<Vec<Result<Written, WriteError>>, StoreError> {
        let mut state = self.state();
        let fenced = Batch::fenced(batches, |room| state.epoch(room));
        // A later update of a document builds on the refused one.
        let mut broken: HashSet<DocumentId> = HashSet::new();
        let result = |(index, write): (usize, &Write)| {
            let document = match write {
                Write::Append { document, .. } | Write::Snapshot { document, .. } => {
                    Some(*document)
                }
                _ => None,
            };
            let result = match (fenced.get(&index), document) {
                (Some(error), _) => Err(error.clone()),
                (None, Some(document)) if broken.contains(&document) => {
                    Err(WriteError::Behind { document })
                }
                (None, _) => state.apply(write),
            };
            if let (Write::Append { document, .. }, Err(error)) = (write, &result)
                && error.breaks_document()
            {
                broken.insert(*document);
            }
            result
        };
        Ok(writes.iter().enumerate().map(result).collect())
    }

    fn take_over(&self, room: &RoomId, from: Option<Epoch>) -> Result<Epoch, StoreError> {
        self.state().take_over(room, from)
    }

    fn stat(&self, room: &RoomId, path: &str) -> Result<Option<Entry>, StoreError> {
        let state = self.state();
        if path.is_empty() {
            return Ok(Some(folder("")));
        }
        let Some(tree) = state.rooms.get(room) else {
            return Ok(None);
        };
        let leaf = tree.get(path).map(|node| state.entry(path, node));
        Ok(leaf.or_else(|| children(tree, path).next().map(|_| folder(name(path)))))
    }

    fn list(
        &self,
        room: &RoomId,
        path: &str,
        max: usize,
    ) -> Result<Option<Vec<Entry>>, StoreError> {
        let state = self.state();
        let mut entries = Vec::new();
        if let Some(tree) = state.rooms.get(room) {
            let prefix = if path.is_empty() { 0 } else { path.len() + 1 };
            let mut last_folder = None;
            for (child, node) in children(tree, path) {
                if entries.len() == max {
                    break;
                }
                match child[prefix..].split_once('/') {
                    None => entries.push(state.entry(child, node)),
                    Some((name, _)) if last_folder == Some(name) => {}
                    Some((name, _)) => {
                        last_folder = Some(name);
                        entries.push(folder(name));
                    }
                }
            }
        }
        if entries.is_empty() && !path.is_empty() {
            return Ok(None);
        }
        entries.sort_by(|a, b| (&a.name, a.kind).cmp(&(&b.name, b.kind)));
        Ok(Some(entries))
    }

    fn load(&self, room: &RoomId, path: &str) -> Result<Option<StoredDocument>, StoreError> {
        let state = self.state();
        let Some(Node::Document(id)) = state.rooms.get(room).and_then(|tree| tree.get(path)) else {
            return Ok(None);
        };
        Ok(Some(state.document(*id).stored(*id)))
    }

    fn load_by_id(&self, document: DocumentId) -> Result<Option<StoredDocument>, StoreError> {
        let state = self.state();
        let found = state.documents.get(&document);
        Ok(found.map(|found| found.stored(document)))
    }

    fn follow(
        &self,
        document: DocumentId,
        after: Seq,
        limit: usize,
    ) -> Result<Vec<StoredUpdate>, StoreError> {
        let state = self.state();
        let found = state
            .documents
            .get(&document)
            .ok_or(StoreError::NoSuchDocument { document })?;
        if after < found.snapshot_seq {
            return Err(StoreError::Compacted {
                document,
                through: found.snapshot_seq,
            });
        }
        let later = (Bound::Excluded(after), Bound::Unbounded);
        Ok(found
            .updates
            .range(later)
            .take(limit)
            .map(|(_, update)| update.clone())
            .collect())
    }

    fn provenance(&self, document: DocumentId) -> Result<Vec<ProvenanceRecord>, StoreError> {
        let state = self.state();
        let found = state
            .documents
            .get(&document)
            .ok_or(StoreError::NoSuchDocument { document })?;
        let mut records = found.provenance.clone();
        records.extend(records_of(found.updates.values()));
        Ok(provenance::merge(records))
    }

    fn read_file(&self, room: &RoomId, path: &str) -> Result<Option<StoredFile>, StoreError> {
        let state = self.state();
        Ok(state.file(room, path).map(|(file, _)| file.clone()))
    }

    fn open_file(&self, room: &RoomId, path: &str) -> Result<Option<FileHead>, StoreError> {
        let state = self.state();
        Ok(state.file(room, path).map(|(file, version)| FileHead {
            size: file.data.len() as u64,
            mime_type: file.mime_type.clone(),
            version,
            sum: None,
        }))
    }

    fn read_file_range(
        &self,
        room: &RoomId,
        path: &str,
        version: FileVersion,
        start: u64,
        length: usize,
    ) -> Result<Option<Bytes>, StoreError> {
        let state = self.state();
        Ok(match state.file(room, path) {
            Some((file, found)) if found == version => {
                let end = file.data.len();
                let start = usize::try_from(start).unwrap_or(end).min(end);
                Some(
                    file.data
                        .slice(start..end.min(start.saturating_add(length))),
                )
            }
            _ => None,
        })
    }

    fn check(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn stats(&self) -> Result<StoreStats, StoreError> {
        let state = self.state();
        let mut stats = StoreStats::default();
        for node in state.rooms.values().flat_map(BTreeMap::values) {
            match node {
                Node::Document(id) => {
                    stats.documents += 1;
                    stats.bytes += state.document(*id).size();
                }
                Node::File(file, _) => {
                    stats.files += 1;
                    stats.bytes += file.data.len() as u64;
                }
            }
        }
        Ok(stats)
    }
}

fn folder(name: &str) -> Entry {
    Entry {
        name: name.to_owned(),
        kind: EntryKind::Folder,
        size: None,
        created_at: None,
        updated_at: None,
    }
}
