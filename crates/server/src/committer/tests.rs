//! The thread, and its work step by step, with stores that fail or block.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use meshagent_store::{
    Batch, DocumentId, Embedded, Entry, Epoch, FailingStore, Fault, FileHead, FileVersion,
    MemoryStore, ProvenanceRecord, Reach, RoomId, Seq, Staging, Store, StoreStats, StoredDocument,
    StoredFile, StoredUpdate, Timestamp,
};

use super::*;

fn put(path: &str, data: &'static str) -> Write {
    Write::PutFile {
        room: RoomId::new("project", "room"),
        path: path.to_owned(),
        data: data.into(),
        mime_type: String::new(),
        overwrite: false,
        at: Timestamp(0),
    }
}

/// The owner of a room that no other batch has.
fn owner() -> Arc<Owner> {
    static ROOMS: AtomicU64 = AtomicU64::new(0);
    let room = ROOMS.fetch_add(1, Ordering::Relaxed);
    Owner::new(RoomId::new("project", room.to_string()))
}

/// Commits batches of different rooms.
pub(super) fn commit_rooms(store: &dyn Store, batches: &[Vec<Write>]) -> Vec<BatchResult> {
    let parts: Vec<Part> = batches.iter().map(|batch| (owner(), batch.len())).collect();
    commit(&Embedded(store), &batches.concat(), &parts, &Metrics::new())
}

fn written(results: &[BatchResult]) -> Vec<usize> {
    let length = |result: &BatchResult| result.as_ref().map_or(0, Vec::len);
    results.iter().map(length).collect()
}

#[test]
fn a_batch_that_finds_no_space_costs_the_others_nothing() {
    let store = FailingStore::new(MemoryStore::new());
    // The commit of all batches together, then of the largest alone.
    store.fail_commits(0..1, Fault::Full);
    store.fail_commits(3..4, Fault::Full);
    let batches = vec![
        vec![put("ä", "1"), put("b", "2")],
        vec![put("large", "größer als die anderen")],
        vec![put("c", "3")],
    ];
    let results = commit_rooms(&store, &batches);
    assert_eq!(written(&results), [2, 0, 1]);
    assert_eq!(store.stats().unwrap().files, 3);
}

#[test]
fn a_batch_that_makes_the_store_fail_costs_the_others_nothing() {
    for fault in [Fault::Corrupt, Fault::Unavailable] {
        let store = FailingStore::new(MemoryStore::new());
        store.fail_commits(0..1, fault);
        store.fail_commits(2..3, fault);
        let batches = ["a", "ä", "c", "d"].map(|path| vec![put(path, "x")]);
        let results = commit_rooms(&store, &batches);
        assert_eq!(written(&results), [1, 0, 1, 1], "{fault:?}");
    }
}

/// A store whose readers hold deleted data for as long as a test wants.
#[derive(Debug)]
struct HeldLog {
    inner: MemoryStore,
    is_held: AtomicBool,
    asked: AtomicU64,
    /// Steps that freeing takes.
    to_free: AtomicU64,
    /// Steps that staging takes.
    to_stage: AtomicU64,
}

impl HeldLog {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            inner: MemoryStore::new(),
            is_held: AtomicBool::new(true),
            asked: AtomicU64::new(0),
            to_free: AtomicU64::new(0),
            to_stage: AtomicU64::new(0),
        })
    }

    fn start(self: &Arc<Self>) -> (Committer, std::thread::JoinHandle<()>) {
        Committer::start(
            Arc::new(Embedded(Arc::clone(self))),
            Arc::new(Metrics::new()),
        )
        .unwrap()
    }
}

impl Store for HeldLog {
    fn take_over(&self, room: &RoomId, from: Option<Epoch>) -> Result<Epoch, StoreError> {
        self.inner.take_over(room, from)
    }

    fn commit_batches(
        &self,
        writes: &[Write],
        batches: &[Batch],
        _staging: Option<&Staging>,
    ) -> Result<Vec<WriteResult>, StoreError> {
        self.inner.commit_batches(writes, batches, None)
    }
    fn stat(&self, room: &RoomId, path: &str) -> Result<Option<Entry>, StoreError> {
        self.inner.stat(room, path)
    }
    fn list(
        &self,
        room: &RoomId,
        folder: &str,
        max: usize,
    ) -> Result<Option<Vec<Entry>>, StoreError> {
        self.inner.list(room, folder, max)
    }
    fn load(&self, room: &RoomId, path: &str) -> Result<Option<StoredDocument>, StoreError> {
        self.inner.load(room, path)
    }
    fn load_by_id(&self, document: DocumentId) -> Result<Option<StoredDocument>, StoreError> {
        self.inner.load_by_id(document)
    }
    fn follow(
        &self,
        document: DocumentId,
        after: Seq,
        limit: usize,
    ) -> Result<Vec<StoredUpdate>, StoreError> {
        self.inner.follow(document, after, limit)
    }
    fn provenance(&self, document: DocumentId) -> Result<Vec<ProvenanceRecord>, StoreError> {
        self.inner.provenance(document)
    }
    fn read_file(&self, room: &RoomId, path: &str) -> Result<Option<StoredFile>, StoreError> {
        self.inner.read_file(room, path)
    }
    fn open_file(&self, room: &RoomId, path: &str) -> Result<Option<FileHead>, StoreError> {
        self.inner.open_file(room, path)
    }
    fn read_file_range(
        &self,
        room: &RoomId,
        path: &str,
        version: FileVersion,
        start: u64,
        length: usize,
    ) -> Result<Option<Bytes>, StoreError> {
        self.inner
            .read_file_range(room, path, version, start, length)
    }
    fn check(&self) -> Result<(), StoreError> {
        self.inner.check()
    }
    fn stats(&self) -> Result<StoreStats, StoreError> {
        self.inner.stats()
    }
    fn stage(&self, _: &[Write], _: &Staging) -> Result<bool, StoreError> {
        let one_less = |steps: u64| steps.checked_sub(1);
        let order = Ordering::Relaxed;
        let is_step = self.to_stage.fetch_update(order, order, one_less).is_ok();
        Ok(!is_step)
    }
    fn free_some(&self) -> Result<bool, StoreError> {
        let one_less = |steps: u64| Some(steps.saturating_sub(1));
        let order = Ordering::Relaxed;
        let before = self.to_free.fetch_update(order, order, one_less).unwrap();
        Ok(before <= 1)
    }
    fn erase(&self) -> Result<bool, StoreError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        Ok(!self.is_held.load(Ordering::Relaxed))
    }
}

fn delete(path: &str) -> Write {
    Write::Delete {
        room: RoomId::new("project", "room"),
        path: path.to_owned(),
        recursive: false,
        reach: Reach::EVERYTHING,
    }
}

fn put_large(path: &str) -> Vec<Write> {
    vec![Write::PutFile {
        room: RoomId::new("project", "groß"),
        path: path.to_owned(),
        data: vec![7; 1 << 20].into(),
        mime_type: String::new(),
        overwrite: false,
        at: Timestamp(0),
    }]
}

#[test]
fn large_batch_is_staged_in_turns_with_small_ones() {
    let store = HeldLog::new();
    store.to_stage.store(3, Ordering::Relaxed);
    let (mut work, metrics) = (Work::default(), Metrics::new());
    let (done, mut large) = oneshot::channel();
    work.add(owner(), put_large("ä"), done);
    for number in 0..4 {
        assert!(large.try_recv().is_err(), "before step {number}");
        let (done, mut small) = oneshot::channel();
        work.add(owner(), vec![put(&number.to_string(), "x")], done);
        for _ in 0..2 {
            let answers = work.commit(&Embedded(store.as_ref()), &metrics, Instant::now());
            work.answer(answers, Instant::now());
        }
        assert_eq!(written(&[small.try_recv().unwrap().0]), [1]);
    }
    assert_eq!(written(&[large.try_recv().unwrap().0]), [1]);
    assert!(!work.is_ready(Instant::now()));
}

#[test]
fn large_batch_that_cannot_be_staged_is_not_committed() {
    let store = FailingStore::new(MemoryStore::new());
    store.fail_stages(0..1, Fault::Full);
    let (mut work, metrics) = (Work::default(), Metrics::new());
    let (done, mut large) = oneshot::channel();
    work.add(owner(), put_large("ä"), done);
    let answers = work.commit(&Embedded(&store), &metrics, Instant::now());
    work.answer(answers, Instant::now());
    let failed = large.try_recv().unwrap().0.unwrap_err();
    assert!(matches!(*failed, StoreError::Full(_)), "{failed:?}");
    assert_eq!(store.commits(), 0);
}

#[tokio::test]
async fn deletion_is_answered_when_nothing_of_it_is_left_and_others_go_on() {
    let store = HeldLog::new();
    let (committer, thread) = store.start();
    let put_ä = committer.submit(&owner(), vec![put("ä", "geheim")]).await;
    assert_eq!(written(&[put_ä.await.unwrap().0]), [1]);
    let mut deleted = committer.submit(&owner(), vec![delete("ä")]).await;
    for number in 0..20 {
        let other = committer
            .submit(&owner(), vec![put(&number.to_string(), "x")])
            .await;
        assert_eq!(written(&[other.await.unwrap().0]), [1]);
    }
    assert!(store.asked.load(Ordering::Relaxed) > 0);
    assert!(deleted.try_recv().is_err(), "answered before it is gone");
    // A stop waits for it too.
    drop(committer);
    assert!(!thread.is_finished());
    store.is_held.store(false, Ordering::Relaxed);
    assert_eq!(written(&[deleted.await.unwrap().0]), [1]);
    thread.join().unwrap();
}

#[tokio::test]
async fn freeing_goes_on_in_turns_with_commits() {
    let store = HeldLog::new();
    store.is_held.store(false, Ordering::Relaxed);
    let (committer, thread) = store.start();
    let put_ä = committer.submit(&owner(), vec![put("ä", "x")]).await;
    assert_eq!(written(&[put_ä.await.unwrap().0]), [1]);
    store.to_free.store(u64::MAX, Ordering::Relaxed);
    let deleted = committer.submit(&owner(), vec![delete("ä")]).await;
    assert_eq!(written(&[deleted.await.unwrap().0]), [1]);
    for number in 0..20 {
        let other = committer
            .submit(&owner(), vec![put(&number.to_string(), "x")])
            .await;
        assert_eq!(written(&[other.await.unwrap().0]), [1]);
    }
    assert!(store.to_free.load(Ordering::Relaxed) < u64::MAX);
    // The rest is freed without further commits.
    store.to_free.store(1_000, Ordering::Relaxed);
    while store.to_free.load(Ordering::Relaxed) > 0 {
        tokio::task::yield_now().await;
    }
    drop(committer);
    thread.join().unwrap();
}

#[tokio::test]
async fn deletion_that_something_holds_is_answered_in_the_end() {
    let store = HeldLog::new();
    let (committer, _thread) = store.start();
    let writes = ["a", "ä", "b"].map(|path| put(path, "x"));
    committer
        .submit(&owner(), writes.into())
        .await
        .await
        .unwrap()
        .0
        .unwrap();
    let first = committer.submit(&owner(), vec![delete("a")]).await;
    assert_eq!(written(&[first.await.unwrap().0]), [1]);
    // Until the reader has ended, further deletions do not wait for it again.
    let before = store.asked.load(Ordering::Relaxed);
    let second = committer.submit(&owner(), vec![delete("ä")]).await;
    assert_eq!(written(&[second.await.unwrap().0]), [1]);
    assert!(store.asked.load(Ordering::Relaxed) <= before + 1);
}

#[test]
fn a_disk_that_is_gone_is_not_asked_once_for_each_room() {
    let store = FailingStore::new(MemoryStore::new());
    store.fail_commits(0..1_000, Fault::Unavailable);
    let batches = (0..500).map(|room| vec![put(&room.to_string(), "x")]);
    let results = commit_rooms(&store, &batches.collect::<Vec<_>>());
    assert_eq!(written(&results), [0; 500]);
    assert_eq!(store.commits(), 1 + MAX_FAILURES as u64);
}

#[test]
fn what_frees_space_comes_first_when_there_is_none() {
    let store = FailingStore::new(MemoryStore::new());
    store.commit(&[put("old", "x")]).unwrap();
    store.fail_commits(1..2, Fault::Full);
    store.fail_commits(3..10, Fault::Full);
    let mut batches: Vec<_> = ["a", "b", "c", "d", "e"]
        .map(|path| vec![put(path, "x")])
        .into();
    batches.push(vec![delete("old")]);
    let results = commit_rooms(&store, &batches);
    assert_eq!(written(&results), [0, 0, 0, 0, 0, 1]);
}

#[tokio::test]
async fn stop_does_not_wait_until_all_is_free() {
    let store = HeldLog::new();
    store.is_held.store(false, Ordering::Relaxed);
    let (committer, thread) = store.start();
    let put_ä = committer.submit(&owner(), vec![put("ä", "x")]).await;
    assert_eq!(written(&[put_ä.await.unwrap().0]), [1]);
    store.to_free.store(u64::MAX, Ordering::Relaxed);
    let deleted = committer.submit(&owner(), vec![delete("ä")]).await;
    assert_eq!(written(&[deleted.await.unwrap().0]), [1]);
    // Submitted before the stop, and committed.
    let last = committer.submit(&owner(), vec![put("b", "x")]).await;
    drop(committer);
    assert_eq!(written(&[last.await.unwrap().0]), [1]);
    let joined = tokio::task::spawn_blocking(move || thread.join().unwrap());
    let joined = tokio::time::timeout(Duration::from_secs(20), joined).await;
    // Ends the test in any case.
    store.to_free.store(0, Ordering::Relaxed);
    assert!(joined.is_ok(), "it goes on freeing");
}
