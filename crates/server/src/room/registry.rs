//! Which documents of a room are in memory, by id, and what the room knows of each path.
//!
//! A document keeps its id wherever it is moved; its path is only where it stands now. So whatever has to find it
//! later (a write on its way, a reader, a read of the store) names the id.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};

use meshagent_store::DocumentId;

use super::Conn;
use super::documents::Document;
use super::opening::Waiter;

/// A read with this number is none: what was read is not used before the batch under way is settled.
const PARKED: u64 = 0;

/// Paths that are remembered of documents that were deleted or moved.
const MAX_LEFT: usize = 1024;

/// What the room knows of a path.
#[derive(Debug)]
enum Slot {
    /// Being read from the store, by the read with this number.
    Loading {
        fetch: u64,
        waiters: Vec<Waiter>,
    },
    /// Not in the store; one request is creating it.
    Creating(Vec<Waiter>),
    Open(DocumentId),
}

/// See the [module's text](self).
#[derive(Debug, Default)]
pub(super) struct Documents {
    // Ordered, so that a run can be repeated from its seed.
    open: BTreeMap<DocumentId, Box<Document>>,
    // Invariant: each document of `open` has exactly one `Slot::Open`, at its path, and there are no others.
    slots: BTreeMap<String, Slot>,
    /// From where documents were deleted or moved last.
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

    /// The document in memory that stands at a path now.
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

    /// How many documents are in memory.
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// How many paths are in use: those of documents in memory, on their way in, or being created.
    #[cfg(feature = "simulation")]
    pub(super) fn paths(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Whether a document stands at the path, or is looked for or created there.
    pub(super) fn knows(&self, path: &str) -> bool {
        self.slots.contains_key(path)
    }

    /// Adds a document at its path; returns those who wait for one there. Nothing else is open at that path.
    pub(super) fn insert(&mut self, document: Box<Document>) -> Vec<Waiter> {
        let (id, path) = (document.id, document.path.to_string());
        self.open.insert(id, document);
        match self.slots.insert(path, Slot::Open(id)) {
            Some(Slot::Loading { waiters, .. } | Slot::Creating(waiters)) => waiters,
            Some(Slot::Open(_)) | None => Vec::new(),
        }
    }

    /// Where a document in memory stands.
    pub(super) fn path_of(&self, id: DocumentId) -> Option<&str> {
        self.open.get(&id).map(|document| &*document.path)
    }

    /// Takes a document out, and leaves its path free.
    pub(super) fn remove(&mut self, id: DocumentId) -> Option<Box<Document>> {
        let document = self.open.remove(&id)?;
        self.slots.remove(&*document.path);
        Some(document)
    }

    /// Notes that a document was deleted, or moved to another path.
    pub(super) fn note_left(&mut self, path: &str) {
        if self.left.len() == MAX_LEFT {
            self.left.pop_front();
        }
        self.left.push_back(path.to_owned());
    }

    /// Whether it is known why no document stands at the path.
    pub(super) fn has_left(&self, path: &str) -> bool {
        self.left.iter().any(|left| left == path)
    }

    /// Lets somebody wait for the document that is looked for or created at the path. Gives it back if none is.
    pub(super) fn join(&mut self, path: &str, waiter: Waiter) -> Option<Waiter> {
        match self.slots.get_mut(path) {
            Some(Slot::Loading { waiters, .. } | Slot::Creating(waiters)) => {
                waiters.push(waiter);
                None
            }
            Some(Slot::Open(_)) | None => Some(waiter),
        }
    }

    /// The connections that wait for a document that is being read, in their order.
    pub(super) fn waiting_at(&self, path: &str) -> impl Iterator<Item = Conn> + '_ {
        let waiters = match self.slots.get(path) {
            Some(Slot::Loading { waiters, .. }) => waiters.as_slice(),
            _ => &[],
        };
        waiters.iter().map(Waiter::conn)
    }

    /// The document at the path is read by the read with this number. No document is open there.
    pub(super) fn set_loading(&mut self, path: &str, fetch: u64, waiters: Vec<Waiter>) {
        self.slots
            .insert(path.to_owned(), Slot::Loading { fetch, waiters });
    }

    /// A document is created at the path, where none is open.
    pub(super) fn set_creating(&mut self, path: &str, waiters: Vec<Waiter>) {
        self.slots.insert(path.to_owned(), Slot::Creating(waiters));
    }

    /// Whether it is this read that decides what stands at the path.
    pub(super) fn is_loading(&self, path: &str, number: u64) -> bool {
        matches!(self.slots.get(path), Some(Slot::Loading { fetch, .. }) if *fetch == number)
    }

    pub(super) fn is_creating(&self, path: &str) -> bool {
        matches!(self.slots.get(path), Some(Slot::Creating(_)))
    }

    /// What was read at the path is not used; it is read again later.
    pub(super) fn park(&mut self, path: &str) {
        if let Some(Slot::Loading { fetch, .. }) = self.slots.get_mut(path) {
            *fetch = PARKED;
        }
    }

    pub(super) fn is_parked(&self, path: &str) -> bool {
        self.is_loading(path, PARKED)
    }

    /// Those who wait at a path that is being read; it is free afterwards.
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

    /// Those who wait at a path that is being read, or where a document is being created; it is free afterwards.
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
