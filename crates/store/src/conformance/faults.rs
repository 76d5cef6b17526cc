//! A random history in which calls fail and are retried, or results are lost and the store
//! is reopened.

use bytes::Bytes;

use super::random::{Ids, Random, compare};
use super::{Subject, commit_in_steps};
use crate::{
    Batch, DocumentId, Entry, Epoch, FailingStore, Fault, FileHead, FileVersion, MemoryStore,
    ProvenanceRecord, RoomId, Seq, Staging, Store, StoreError, StoreStats, StoredDocument,
    StoredFile, StoredUpdate, Write, WriteError, Written,
};

/// The number of attempts of a call, which exceeds the length of any failure here: those of reads
/// may be adjacent, up to 43 of them.
const PATIENCE: u32 = 50;

/// Runs [`run_random`](super::run_random) through a store that fails. A commit that fails with
/// [`StoreError::Full`] or [`StoreError::Unavailable`] has changed nothing and is retried; reads
/// are retried. After a commit whose result was lost the store is reopened and contains the
/// whole batch.
///
/// # Panics
/// The store and the model differ. The message names the seed.
pub fn run_faulty<S: Subject>(make: impl Fn() -> S, seed: u64, batches: usize) {
    let mut subject = make();
    let model = MemoryStore::new();
    let mut random = Random(seed);
    let mut ids = Ids::default();
    let mut step = 0;
    while step < batches {
        let mut lost = false;
        {
            let store = FailingStore::new(Attempts {
                store: subject.store(),
                max: 1,
            });
            let patient = Attempts {
                store: &store,
                max: PATIENCE,
            };
            while step < batches && !lost {
                let context = format!("seed {seed}, batch {step}");
                step += 1;
                let writes = random.batch(&ids);
                let theirs: Vec<Write> = writes.iter().map(|write| ids.translate(write)).collect();
                let next = store.commits();
                match random.below(8) {
                    0 => {
                        lost = true;
                        store.fail_commits(next..next + 1, Fault::Lost);
                    }
                    1 => store.fail_commits(next..next + 1 + random.below(3), Fault::Full),
                    2 => store.fail_commits(next..next + 1 + random.below(3), Fault::Unavailable),
                    _ => {}
                }
                let next = store.stages();
                match random.below(8) {
                    // A failed stage would prevent the commit whose result is to be lost.
                    _ if lost => {}
                    0 => store.fail_stages(next..next + 1, Fault::Full),
                    1 => store.fail_stages(next..next + 3, Fault::Unavailable),
                    _ => {}
                }
                let next = store.reads() + random.below(40);
                store.fail_reads(next..next + 1 + random.below(3), Fault::Unavailable);

                let mut result = commit_in_steps(&store, &theirs);
                for _ in 0..PATIENCE {
                    if lost || result.is_ok() {
                        break;
                    }
                    compare(
                        &patient,
                        &model,
                        &ids,
                        &format!("{context}, after a failure"),
                    );
                    result = commit_in_steps(&store, &theirs);
                }
                let expected = model.commit(&writes).expect("the model never fails");
                match result {
                    Ok(results) => ids.translate_results(&writes, results, expected, &context),
                    Err(StoreError::Unknown(_)) if lost => {}
                    Err(error) => panic!("{context}: {error:?}"),
                }
                if !lost && random.below(10) == 0 {
                    compare(&patient, &model, &ids, &context);
                }
            }
        }
        subject.reopen();
        let context = format!("seed {seed}, reopened after batch {}", step - 1);
        ids.map_by_path(subject.store(), &model, &context);
        compare(subject.store(), &model, &ids, &context);
    }
}

/// A wrapper that tries each call of another store up to `max` times.
#[derive(Debug)]
struct Attempts<'a> {
    store: &'a dyn Store,
    max: u32,
}

impl Attempts<'_> {
    fn attempt<T>(
        &self,
        call: impl Fn(&dyn Store) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        for _ in 1..self.max {
            match call(self.store) {
                Err(StoreError::Full(_) | StoreError::Unavailable(_)) => {}
                result => return result,
            }
        }
        call(self.store)
    }
}

impl Store for Attempts<'_> {
    fn commit_batches(
        &self,
        writes: &[Write],
        batches: &[Batch],
        staging: Option<&Staging>,
    ) -> Result<Vec<Result<Written, WriteError>>, StoreError> {
        self.attempt(|store| store.commit_batches(writes, batches, staging))
    }

    fn take_over(&self, room: &RoomId, from: Option<Epoch>) -> Result<Epoch, StoreError> {
        self.attempt(|store| store.take_over(room, from))
    }

    fn stage(&self, writes: &[Write], staging: &Staging) -> Result<bool, StoreError> {
        self.attempt(|store| store.stage(writes, staging))
    }

    fn stat(&self, room: &RoomId, path: &str) -> Result<Option<Entry>, StoreError> {
        self.attempt(|store| store.stat(room, path))
    }

    fn list(
        &self,
        room: &RoomId,
        folder: &str,
        max: usize,
    ) -> Result<Option<Vec<Entry>>, StoreError> {
        self.attempt(|store| store.list(room, folder, max))
    }

    fn load(&self, room: &RoomId, path: &str) -> Result<Option<StoredDocument>, StoreError> {
        self.attempt(|store| store.load(room, path))
    }

    fn load_by_id(&self, document: DocumentId) -> Result<Option<StoredDocument>, StoreError> {
        self.attempt(|store| store.load_by_id(document))
    }

    fn follow(
        &self,
        document: DocumentId,
        after: Seq,
        limit: usize,
    ) -> Result<Vec<StoredUpdate>, StoreError> {
        self.attempt(|store| store.follow(document, after, limit))
    }

    fn provenance(&self, document: DocumentId) -> Result<Vec<ProvenanceRecord>, StoreError> {
        self.attempt(|store| store.provenance(document))
    }

    fn read_file(&self, room: &RoomId, path: &str) -> Result<Option<StoredFile>, StoreError> {
        self.attempt(|store| store.read_file(room, path))
    }

    fn open_file(&self, room: &RoomId, path: &str) -> Result<Option<FileHead>, StoreError> {
        self.attempt(|store| store.open_file(room, path))
    }

    fn read_file_range(
        &self,
        room: &RoomId,
        path: &str,
        version: FileVersion,
        start: u64,
        length: usize,
    ) -> Result<Option<Bytes>, StoreError> {
        self.attempt(|store| store.read_file_range(room, path, version, start, length))
    }

    fn check(&self) -> Result<(), StoreError> {
        self.attempt(|store| store.check())
    }

    fn stats(&self) -> Result<StoreStats, StoreError> {
        self.attempt(|store| store.stats())
    }
}
