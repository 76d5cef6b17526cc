//! A store that fails on demand, for tests of what its users do then.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use crate::{
    BoxError, DocumentId, Entry, ProvenanceRecord, RoomId, Seq, Store, StoreError, StoreStats,
    StoredDocument, StoredFile, StoredUpdate, Write, WriteError, Written,
};

/// How a call fails.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Fault {
    /// With [`StoreError::Full`]; nothing happened.
    Full,
    /// With [`StoreError::Unavailable`], although it *did* happen: as if the process ended before the answer came.
    ///
    /// No store may do this while it runs, so whoever plans it restarts its user next.
    Lost,
    /// With [`StoreError::Unavailable`]; nothing happened.
    Unavailable,
}

/// A store around another that lets chosen calls fail.
#[derive(Debug)]
pub struct FailingStore<S> {
    inner: S,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    commits: Plan,
    reads: Plan,
}

#[derive(Debug, Default)]
struct Plan {
    calls: u64,
    faults: Vec<(Range<u64>, Fault)>,
}

impl<S: Store> FailingStore<S> {
    /// Passes every call on, until told otherwise.
    pub fn new(inner: S) -> Self {
        Self {
            inner,
            state: Mutex::default(),
        }
    }

    /// Lets these commits fail. They are numbered from 0, since the store was made; [`Store::check`] counts as one.
    pub fn fail_commits(&self, calls: Range<u64>, fault: Fault) {
        self.with(|state| state.commits.faults.push((calls, fault)));
    }

    /// Lets these reads fail. They are numbered from 0, since the store was made.
    pub fn fail_reads(&self, calls: Range<u64>, fault: Fault) {
        self.with(|state| state.reads.faults.push((calls, fault)));
    }

    /// Forgets all that was planned.
    pub fn recover(&self) {
        self.with(|state| {
            state.commits.faults.clear();
            state.reads.faults.clear();
        });
    }

    /// Commits so far, failed ones included.
    pub fn commits(&self) -> u64 {
        self.with(|state| state.commits.calls)
    }

    /// Reads so far, failed ones included.
    pub fn reads(&self) -> u64 {
        self.with(|state| state.reads.calls)
    }

    /// The store that does the work.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn commit_with<T>(&self, f: impl FnOnce(&S) -> Result<T, StoreError>) -> Result<T, StoreError> {
        match self.with(|state| state.commits.next()) {
            None => f(&self.inner),
            Some(Fault::Lost) => {
                f(&self.inner)?;
                Err(StoreError::Unavailable(planned()))
            }
            Some(Fault::Full) => Err(StoreError::Full(planned())),
            Some(Fault::Unavailable) => Err(StoreError::Unavailable(planned())),
        }
    }

    fn read_with<T>(&self, f: impl FnOnce(&S) -> Result<T, StoreError>) -> Result<T, StoreError> {
        match self.with(|state| state.reads.next()) {
            None => f(&self.inner),
            Some(Fault::Full) => Err(StoreError::Full(planned())),
            Some(Fault::Lost | Fault::Unavailable) => Err(StoreError::Unavailable(planned())),
        }
    }
}

impl Plan {
    fn next(&mut self) -> Option<Fault> {
        let call = self.calls;
        self.calls += 1;
        self.faults
            .iter()
            .find(|(calls, _)| calls.contains(&call))
            .map(|(_, fault)| *fault)
    }
}

fn planned() -> BoxError {
    "a planned failure".into()
}

impl<S: Store> Store for FailingStore<S> {
    fn commit(&self, writes: &[Write]) -> Result<Vec<Result<Written, WriteError>>, StoreError> {
        self.commit_with(|store| store.commit(writes))
    }

    fn stat(&self, room: &RoomId, path: &str) -> Result<Option<Entry>, StoreError> {
        self.read_with(|store| store.stat(room, path))
    }

    fn list(&self, room: &RoomId, folder: &str) -> Result<Option<Vec<Entry>>, StoreError> {
        self.read_with(|store| store.list(room, folder))
    }

    fn load(&self, room: &RoomId, path: &str) -> Result<Option<StoredDocument>, StoreError> {
        self.read_with(|store| store.load(room, path))
    }

    fn follow(
        &self,
        document: DocumentId,
        after: Seq,
        limit: usize,
    ) -> Result<Vec<StoredUpdate>, StoreError> {
        self.read_with(|store| store.follow(document, after, limit))
    }

    fn provenance(&self, document: DocumentId) -> Result<Vec<ProvenanceRecord>, StoreError> {
        self.read_with(|store| store.provenance(document))
    }

    fn read_file(&self, room: &RoomId, path: &str) -> Result<Option<StoredFile>, StoreError> {
        self.read_with(|store| store.read_file(room, path))
    }

    fn check(&self) -> Result<(), StoreError> {
        self.commit_with(S::check)
    }

    fn stats(&self) -> Result<StoreStats, StoreError> {
        self.read_with(S::stats)
    }
}
