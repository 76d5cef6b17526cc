//! Which documents of a room are in memory, by id, and what the room knows of each path.
//!
//! A document keeps its id when it is moved; its path is only its present place. So everything that
//! has to find it later (a write in flight, a reader, a read of the store) refers to the id.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};

use meshagent_store::DocumentId;

use super::Conn;
use super::documents::Document;
use super::opening::Waiter;

/// Marks a path that is read again when the batch in flight is settled. Reads are numbered from 1,
/// so none has this number.
const PARKED: u64 = 0;

/// The maximum number of paths that are remembered after their documents were deleted or moved.
const MAX_LEFT: usize = 1024;

/// What the room knows of a path.
#[derive(Debug)]
enum Slot {
    /// The read with this number loads the document from the store.
    Loading {
        fetch: u64,
        waiters: Vec<Waiter>,
    },
    /// The store has no document here, and one request is creating it.
    Creating(Vec<Waiter>),
    Open(DocumentId),
}

/// The documents of a room; see the [module](self).
#[derive(Debug, Default)]
pub(super) struct Documents {
    // Ordered, so that a run can be repeated from its seed.
    open: BTreeMap<DocumentId, Box<Document>>,
    // Invariant: each document of `open` has exactly one `Slot::Open`, at its path, and there are
    // no others.
    slots: BTreeMap<String, Slot>,
    /// The paths from which documents were deleted or moved last.
    left: VecDeque<String>,
}

impl Documents {
    pub(super) fn get(&self, id: DocumentId) -> Option<&Document> {
        self.open.get(&id).map(|document| &**document)
    }

    pub(super) fn get_mut(&mut self, id: DocumentId) -> Option<&mut Document> {
        self.open.get_mut(&id).map(|document| &mut **document)
    }

    pub(super) fn contains(&self, id: DocumentId) -> bool {
        self.open.contains_key(&id)
    }

    /// The id of the document in memory whose present path this is.
    pub(super) fn id_at(&self, path: &str) -> Option<DocumentId> {
        match self.slots.get(path) {
            Some(Slot::Open(id)) => Some(*id),
            _ => None,
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Document> {
        self.open.values().map(|document| &**document)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Document> {
        self.open.values_mut().map(|document| &mut **document)
    }

    /// The number of documents in memory.
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// The number of paths in use: of documents that are in memory, being loaded or being created.
    #[cfg(feature = "simulation")]
    pub(super) fn paths(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Whether a document is open, being loaded or being created at the path.
    pub(super) fn knows(&self, path: &str) -> bool {
        self.slots.contains_key(path)
    }

    /// Adds a document at its path, where no other may be open. Returns the requests that wait
    /// there.
    pub(super) fn insert(&mut self, document: Box<Document>) -> Vec<Waiter> {
        let (id, path) = (document.id, document.path.to_string());
        self.open.insert(id, document);
        match self.slots.insert(path, Slot::Open(id)) {
            Some(Slot::Loading { waiters, .. } | Slot::Creating(waiters)) => waiters,
            Some(Slot::Open(_)) | None => Vec::new(),
        }
    }

    /// The present path of a document in memory.
    pub(super) fn path_of(&self, id: DocumentId) -> Option<&str> {
        self.open.get(&id).map(|document| &*document.path)
    }

    /// Removes a document and frees its path.
    pub(super) fn remove(&mut self, id: DocumentId) -> Option<Box<Document>> {
        let document = self.open.remove(&id)?;
        self.slots.remove(&*document.path);
        Some(document)
    }

    /// Records that a document was deleted from this path or moved away.
    pub(super) fn note_left(&mut self, path: &str) {
        if self.left.len() == MAX_LEFT {
            self.left.pop_front();
        }
        self.left.push_back(path.to_owned());
    }

    /// Whether a document was recently deleted from this path or moved away.
    pub(super) fn has_left(&self, path: &str) -> bool {
        self.left.iter().any(|left| left == path)
    }

    /// Adds a request to those that wait for the document being loaded or created at the path.
    /// Returns it if there is none.
    pub(super) fn join(&mut self, path: &str, waiter: Waiter) -> Option<Waiter> {
        match self.slots.get_mut(path) {
            Some(Slot::Loading { waiters, .. } | Slot::Creating(waiters)) => {
                waiters.push(waiter);
                None
            }
            Some(Slot::Open(_)) | None => Some(waiter),
        }
    }

    /// The connections that wait for a document being loaded, in order of arrival.
    pub(super) fn waiting_at(&self, path: &str) -> impl Iterator<Item = Conn> + '_ {
        let waiters = match self.slots.get(path) {
            Some(Slot::Loading { waiters, .. }) => waiters.as_slice(),
            _ => &[],
        };
        waiters.iter().map(Waiter::conn)
    }

    /// Records that the read with this number loads the document at the path. No document may be
    /// open there.
    pub(super) fn set_loading(&mut self, path: &str, fetch: u64, waiters: Vec<Waiter>) {
        self.slots
            .insert(path.to_owned(), Slot::Loading { fetch, waiters });
    }

    /// Records that a document is being created at the path. No document may be open there.
    pub(super) fn set_creating(&mut self, path: &str, waiters: Vec<Waiter>) {
        self.slots.insert(path.to_owned(), Slot::Creating(waiters));
    }

    /// Whether the result of this read decides what is at the path.
    pub(super) fn is_loading(&self, path: &str, number: u64) -> bool {
        matches!(self.slots.get(path), Some(Slot::Loading { fetch, .. }) if *fetch == number)
    }

    pub(super) fn is_creating(&self, path: &str) -> bool {
        matches!(self.slots.get(path), Some(Slot::Creating(_)))
    }

    /// Discards the result of a read at the path. The path is read again later.
    pub(super) fn park(&mut self, path: &str) {
        if let Some(Slot::Loading { fetch, .. }) = self.slots.get_mut(path) {
            *fetch = PARKED;
        }
    }

    pub(super) fn is_parked(&self, path: &str) -> bool {
        self.is_loading(path, PARKED)
    }

    /// Frees a path that is being loaded, and returns the requests that wait there.
    pub(super) fn take_loading(&mut self, path: &str) -> Option<Vec<Waiter>> {
        match self.slots.entry(path.to_owned()) {
            Entry::Occupied(slot) if matches!(slot.get(), Slot::Loading { .. }) => {
                match slot.remove() {
                    Slot::Loading { waiters, .. } => Some(waiters),
                    Slot::Creating(_) | Slot::Open(_) => None,
                }
            }
            _ => None,
        }
    }

    /// Frees a path where a document is being loaded or created, and returns the requests that wait
    /// there.
    pub(super) fn take_waiters(&mut self, path: &str) -> Option<Vec<Waiter>> {
        match self.slots.entry(path.to_owned()) {
            Entry::Occupied(slot) if !matches!(slot.get(), Slot::Open(_)) => match slot.remove() {
                Slot::Loading { waiters, .. } | Slot::Creating(waiters) => Some(waiters),
                Slot::Open(_) => None,
            },
            _ => None,
        }
    }
}
