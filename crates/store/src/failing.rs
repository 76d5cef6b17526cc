//! A store that fails on demand, for tests of how callers handle failures.

use std::collections::{HashSet, VecDeque};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use crate::{
    Batch, BoxError, DocumentId, Entry, Epoch, FileHead, FileVersion, ProvenanceRecord, RoomId,
    Seq, Staging, Store, StoreError, StoreStats, StoredDocument, StoredFile, StoredUpdate, Write,
    WriteError, Written,
};

/// The ways in which a call fails.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Fault {
    /// The call fails with [`StoreError::Corrupt`] and has no effect.
    Corrupt,
    /// The commit fails with [`StoreError::Unknown`] and has no effect.
    Dropped,
    /// The call fails with [`StoreError::Full`] and has no effect.
    Full,
    /// The commit fails with [`StoreError::Unknown`], and takes effect when [`FailingStore::land`]
    /// is called.
    Late,
    /// The commit fails with [`StoreError::Unknown`] although it took effect.
    Lost,
    /// The call fails with [`StoreError::Unavailable`] and has no effect.
    Unavailable,
}

/// The limit that the refusal of an append names.
const REFUSED_BYTES: u64 = 1;

/// The number of refused appends that are kept for [`FailingStore::take_refused`].
const KEPT_REFUSED: usize = 64;

/// A store that wraps another, makes planned calls fail and refuses planned writes.
#[derive(Debug)]
pub struct FailingStore<S> {
    inner: S,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    commits: Plan,
    reads: Plan,
    stages: Plan,
    appends: u64,
    refused: Vec<Range<u64>>,
    refused_updates: VecDeque<(DocumentId, Bytes)>,
    late: Vec<(Vec<Write>, Vec<Batch>)>,
}

#[derive(Debug, Default)]
struct Plan {
    calls: u64,
    faults: Vec<(Range<u64>, Fault)>,
}

impl<S: Store> FailingStore<S> {
    /// Wraps a store. All calls succeed until a failure is planned.
    pub fn new(inner: S) -> Self {
        Self {
            inner,
            state: Mutex::default(),
        }
    }

    /// Makes these commits fail. They are numbered from 0, since the store was created;
    /// [`Store::check`] counts as one.
    pub fn fail_commits(&self, calls: Range<u64>, fault: Fault) {
        self.with(|state| state.commits.faults.push((calls, fault)));
    }

    /// Makes these reads fail. They are numbered from 0, since the store was created.
    pub fn fail_reads(&self, calls: Range<u64>, fault: Fault) {
        self.with(|state| state.reads.faults.push((calls, fault)));
    }

    /// Makes these calls of [`Store::stage`] fail. They are numbered from 0, since the store
    /// was created.
    pub fn fail_stages(&self, calls: Range<u64>, fault: Fault) {
        self.with(|state| state.stages.faults.push((calls, fault)));
    }

    /// Refuses these appends with [`WriteError::TooLarge`], and the writes that follow them in
    /// their batch for the same document with [`WriteError::Behind`]; the other writes of the batch
    /// take effect. Appends are numbered from 0, since the store was created, without those of
    /// failed commits.
    pub fn refuse_appends(&self, appends: Range<u64>) {
        self.with(|state| state.refused.push(appends));
    }

    /// Returns the appends that were refused since the last call, or the latest of them.
    pub fn take_refused(&self) -> Vec<(DocumentId, Bytes)> {
        self.with(|state| state.refused_updates.drain(..).collect())
    }

    /// Makes the commits arrive that are late, and returns their results.
    ///
    /// # Errors
    /// The wrapped store fails.
    pub fn land(&self) -> Result<Vec<Result<Written, WriteError>>, StoreError> {
        let mut results = Vec::new();
        for (writes, batches) in self.with(|state| std::mem::take(&mut state.late)) {
            results.extend(self.inner.commit_batches(&writes, &batches, None)?);
        }
        Ok(results)
    }

    /// Cancels all planned failures.
    pub fn recover(&self) {
        self.with(|state| {
            state.commits.faults.clear();
            state.reads.faults.clear();
            state.stages.faults.clear();
            state.refused.clear();
        });
    }

    /// Returns the number of commits so far, including failed ones.
    pub fn commits(&self) -> u64 {
        self.with(|state| state.commits.calls)
    }

    /// Returns the number of appends so far, including refused ones.
    pub fn appends(&self) -> u64 {
        self.with(|state| state.appends)
    }

    /// Returns the number of reads so far, including failed ones.
    pub fn reads(&self) -> u64 {
        self.with(|state| state.reads.calls)
    }

    /// Returns the number of calls of [`Store::stage`] so far, including failed ones.
    pub fn stages(&self) -> u64 {
        self.with(|state| state.stages.calls)
    }

    /// Returns the wrapped store.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn commit_with<T>(&self, f: impl FnOnce(&S) -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.write_with(self.with(|state| state.commits.next()), f)
    }

    fn write_with<T>(
        &self,
        fault: Option<Fault>,
        f: impl FnOnce(&S) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        match fault {
            None => f(&self.inner),
            Some(Fault::Lost) => {
                f(&self.inner)?;
                Err(StoreError::Unknown(planned()))
            }
            Some(Fault::Dropped | Fault::Late) => Err(StoreError::Unknown(planned())),
            Some(Fault::Corrupt) => Err(corrupt()),
            Some(Fault::Full) => Err(StoreError::Full(planned())),
            Some(Fault::Unavailable) => Err(StoreError::Unavailable(planned())),
        }
    }

    fn commit_planned(
        &self,
        writes: &[Write],
        batches: &[Batch],
        staging: Option<&Staging>,
    ) -> Result<Vec<Result<Written, WriteError>>, StoreError> {
        let fault = self.with(|state| state.commits.next());
        if fault == Some(Fault::Late) {
            self.with(|state| state.late.push((writes.to_vec(), batches.to_vec())));
        }
        self.write_with(fault, |store| {
            let refusals = self.refusals(writes);
            if refusals.iter().all(Option::is_none) {
                return store.commit_batches(writes, batches, staging);
            }
            let kept = writes
                .iter()
                .zip(&refusals)
                .filter(|(_, refusal)| refusal.is_none());
            let kept: Vec<Write> = kept.map(|(write, _)| write.clone()).collect();
            let mut rest = refusals.iter();
            let batches: Vec<Batch> = batches
                .iter()
                .map(|batch| {
                    let refusals = rest.by_ref().take(batch.writes);
                    Batch {
                        writes: refusals.filter(|refusal| refusal.is_none()).count(),
                        ..batch.clone()
                    }
                })
                .collect();
            let mut written = store.commit_batches(&kept, &batches, None)?.into_iter();
            let result = |refusal: Option<WriteError>| match refusal {
                Some(error) => Some(Err(error)),
                None => written.next(),
            };
            Ok(refusals.into_iter().filter_map(result).collect())
        })
    }

    /// Returns for each write why it is refused, or `None`.
    fn refusals(&self, writes: &[Write]) -> Vec<Option<WriteError>> {
        let mut broken = HashSet::new();
        self.with(|state| {
            let refusal = |write: &Write| match write {
                Write::Append {
                    document, update, ..
                } => {
                    let number = state.appends;
                    state.appends += 1;
                    let mut planned = state.refused.iter();
                    let refusal = if planned.any(|appends| appends.contains(&number)) {
                        broken.insert(*document);
                        WriteError::TooLarge {
                            bytes: update.len() as u64,
                            max_bytes: REFUSED_BYTES,
                        }
                    } else if broken.contains(document) {
                        behind(*document)
                    } else {
                        return None;
                    };
                    if state.refused_updates.len() == KEPT_REFUSED {
                        state.refused_updates.pop_front();
                    }
                    state.refused_updates.push_back((*document, update.clone()));
                    Some(refusal)
                }
                Write::Snapshot { document, .. } => {
                    broken.contains(document).then(|| behind(*document))
                }
                _ => None,
            };
            writes.iter().map(refusal).collect()
        })
    }

    fn read_with<T>(&self, f: impl FnOnce(&S) -> Result<T, StoreError>) -> Result<T, StoreError> {
        match self.with(|state| state.reads.next()) {
            None => f(&self.inner),
            Some(Fault::Corrupt) => Err(corrupt()),
            Some(Fault::Full) => Err(StoreError::Full(planned())),
            Some(Fault::Dropped | Fault::Late | Fault::Lost | Fault::Unavailable) => {
                Err(StoreError::Unavailable(planned()))
            }
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

fn corrupt() -> StoreError {
    StoreError::Corrupt {
        document: None,
        what: planned().to_string(),
    }
}

fn behind(document: DocumentId) -> WriteError {
    WriteError::Behind { document }
}

fn planned() -> BoxError {
    "a planned failure".into()
}

impl<S: Store> Store for FailingStore<S> {
    fn commit_batches(
        &self,
        writes: &[Write],
        batches: &[Batch],
        staging: Option<&Staging>,
    ) -> Result<Vec<Result<Written, WriteError>>, StoreError> {
        self.commit_planned(writes, batches, staging)
    }

    fn take_over(&self, room: &RoomId, from: Option<Epoch>) -> Result<Epoch, StoreError> {
        self.inner.take_over(room, from)
    }

    fn release(&self, room: &RoomId, epoch: Epoch) {
        self.inner.release(room, epoch);
    }

    fn stage(&self, writes: &[Write], staging: &Staging) -> Result<bool, StoreError> {
        let fault = self.with(|state| state.stages.next());
        self.write_with(fault, |store| store.stage(writes, staging))
    }

    fn stat(&self, room: &RoomId, path: &str) -> Result<Option<Entry>, StoreError> {
        self.read_with(|store| store.stat(room, path))
    }

    fn list(
        &self,
        room: &RoomId,
        folder: &str,
        max: usize,
    ) -> Result<Option<Vec<Entry>>, StoreError> {
        self.read_with(|store| store.list(room, folder, max))
    }

    fn load(&self, room: &RoomId, path: &str) -> Result<Option<StoredDocument>, StoreError> {
        self.read_with(|store| store.load(room, path))
    }

    fn load_by_id(&self, document: DocumentId) -> Result<Option<StoredDocument>, StoreError> {
        self.read_with(|store| store.load_by_id(document))
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

    fn open_file(&self, room: &RoomId, path: &str) -> Result<Option<FileHead>, StoreError> {
        self.read_with(|store| store.open_file(room, path))
    }

    fn read_file_range(
        &self,
        room: &RoomId,
        path: &str,
        version: FileVersion,
        start: u64,
        length: usize,
    ) -> Result<Option<Bytes>, StoreError> {
        self.read_with(|store| store.read_file_range(room, path, version, start, length))
    }

    fn check(&self) -> Result<(), StoreError> {
        self.commit_with(S::check)
    }

    fn stats(&self) -> Result<StoreStats, StoreError> {
        self.read_with(S::stats)
    }

    fn tend(&self) -> Result<(), StoreError> {
        self.inner.tend()
    }

    fn free_some(&self) -> Result<bool, StoreError> {
        self.inner.free_some()
    }

    fn erase(&self) -> Result<bool, StoreError> {
        self.inner.erase()
    }

    fn log_bytes(&self) -> u64 {
        self.inner.log_bytes()
    }
}
