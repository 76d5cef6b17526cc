//! The one thread that writes to the store: it gathers what all rooms have handed in, commits it in
//! transactions, and tells each room what became of its part.

mod deletions;
mod held;
mod log;
mod repeats;
mod turns;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use meshagent_store::{Store, StoreError, Write, WriteError, Written};
use tokio::sync::{mpsc, oneshot};

use self::deletions::or_deletions;
use self::held::Held;
use self::log::Log;
use self::repeats::{news, report};
use self::turns::{Large, Turn, Turns};
use crate::health::{Health, Obstacle};
use crate::metrics::Metrics;

/// Rooms' batches that may wait for the thread. A room has at most one batch under way, so a full queue
/// only means that many rooms are busy; the next room waits for its turn without blocking others.
const QUEUE: usize = 4096;
/// Batches of one round that are tried alone and fail, before the others are given up for this round: a disk that is
/// gone is not asked once for each room.
const MAX_FAILURES: usize = 3;
/// How often the store is asked whether what was deleted is gone, while nothing else is to be done.
const ERASE_PAUSE: Duration = Duration::from_millis(2);

/// What became of one write.
pub(crate) type WriteResult = Result<Written, WriteError>;
/// What became of a batch: one result for each write, or nothing happened at all.
pub(crate) type BatchResult = Result<Vec<WriteResult>, Arc<StoreError>>;

#[derive(Debug)]
enum Job {
    Commit {
        writes: Vec<Write>,
        done: oneshot::Sender<BatchResult>,
    },
    /// Finds out whether the store can be used.
    Check,
    /// Has the store do what it put off.
    Tend,
}

/// A handle to the thread. The thread ends when the last handle is gone and its queue is empty.
#[derive(Clone, Debug)]
pub(crate) struct Committer {
    jobs: mpsc::Sender<Job>,
    health: Arc<Health>,
}

impl Committer {
    /// Starts the thread; the join handle belongs to the caller, who waits for it when stopping.
    pub(crate) fn start(
        store: Arc<dyn Store>,
        metrics: Arc<Metrics>,
    ) -> std::io::Result<(Self, std::thread::JoinHandle<()>)> {
        let (jobs, queue) = mpsc::channel(QUEUE);
        let health = Arc::new(Health::new());
        let thread = {
            let health = Arc::clone(&health);
            std::thread::Builder::new()
                .name("committer".into())
                .spawn(move || run(queue, store.as_ref(), &metrics, &health))?
        };
        Ok((Self { jobs, health }, thread))
    }

    /// Hands in a batch. The receiver yields when it is on stable storage, or refused.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, the batch was not handed in.
    pub(crate) async fn submit(&self, writes: Vec<Write>) -> oneshot::Receiver<BatchResult> {
        let (done, result) = oneshot::channel();
        // If the thread is gone, the dropped sender says so to the receiver.
        let _ = self.jobs.send(Job::Commit { writes, done }).await;
        result
    }

    /// Whether the store can be used now, or why not.
    pub(crate) async fn ready(&self) -> Result<(), Obstacle> {
        self.health
            .ready(|| self.jobs.try_send(Job::Check).is_ok())
            .await
    }

    /// Has the store do what it put off. To be called every second; if the thread is busy, the next call does it.
    pub(crate) fn tend(&self) {
        let _ = self.jobs.try_send(Job::Tend);
    }
}

fn run(mut queue: mpsc::Receiver<Job>, store: &dyn Store, metrics: &Metrics, health: &Health) {
    let mut log = Log::default();
    let (mut refusals, mut put_off, mut not_ready) = Default::default();
    let mut work = Work::default();
    loop {
        let mut next = if work.is_ready() {
            queue.try_recv().ok()
        } else if work.is_waiting() {
            queue.try_recv().ok().or_else(|| {
                std::thread::sleep(ERASE_PAUSE);
                queue.try_recv().ok()
            })
        } else {
            match queue.blocking_recv() {
                None => return,
                first => first,
            }
        };
        let (mut check, mut tend) = (false, false);
        while let Some(job) = next {
            match job {
                Job::Commit { writes, done } => work.add(writes, done),
                Job::Check => check = true,
                Job::Tend => tend = true,
            }
            // What does not fit stays in the queue, and those who hand in more wait.
            next = (work.turns.len() < QUEUE)
                .then(|| queue.try_recv().ok())
                .flatten();
        }
        let answers = work.commit(store, metrics);
        for (_, result) in &answers {
            report(result, &mut refusals);
            health.committed(result.as_ref().map(drop).map_err(Arc::as_ref));
        }
        work.answer(answers, Instant::now());
        if tend {
            let tended = guarded(|| store.tend());
            if let Some((error, unreported)) = news(&mut put_off, &tended) {
                tracing::warn!(
                    error,
                    unreported,
                    "the store puts something off; it tries again each second"
                );
            }
            health.tended(tended.as_ref().copied());
            work.tended(Instant::now());
        }
        work.clear_away(store, Instant::now());
        if check {
            let checked = guarded(|| store.check());
            if let Some((error, unreported)) = news(&mut not_ready, &checked) {
                tracing::warn!(error, unreported, "not ready");
            }
            health.checked(checked.as_ref().copied());
        }
        log.measure(store, metrics);
    }
}

/// A batch's result, and who waits for it.
pub(crate) type Answer = (oneshot::Sender<BatchResult>, BatchResult);

/// What the thread has to do, without its queue and its clock. The simulation does the same, step by step.
#[derive(Debug, Default)]
pub(crate) struct Work {
    turns: Turns,
    held: Held,
}

impl Work {
    /// Takes a batch.
    pub(crate) fn add(&mut self, writes: Vec<Write>, done: oneshot::Sender<BatchResult>) {
        self.turns.add(writes, done);
    }

    /// Whether batches wait.
    #[cfg(feature = "simulation")]
    pub(crate) fn has_batches(&self) -> bool {
        !self.turns.is_empty()
    }

    /// Whether there is something to do at once.
    fn is_ready(&self) -> bool {
        !self.turns.is_empty() || self.held.frees()
    }

    /// Whether [`Work::clear_away`] is to be called soon, as answers or the store wait for it.
    pub(crate) fn is_waiting(&self) -> bool {
        self.held.is_waiting()
    }

    /// Commits the batches whose turn it is, or has a step of a large one staged. The answers are for [`Work::answer`].
    pub(crate) fn commit(&mut self, store: &dyn Store, metrics: &Metrics) -> Vec<Answer> {
        match self.turns.next() {
            Turn::Small(batches, _) if batches.is_empty() => Vec::new(),
            Turn::Small(batches, waiting) => {
                let results = commit(store, batches, metrics);
                waiting.into_iter().zip(results).collect()
            }
            Turn::Large(large) => {
                let result = match stage(store, &large, metrics) {
                    Ok(false) => {
                        self.turns.put_back(large);
                        return Vec::new();
                    }
                    Ok(true) => committed(&large.writes, metrics, || {
                        store.commit_staged(&large.writes, &large.staging)
                    }),
                    Err(error) => Err(error),
                };
                let Large {
                    writes,
                    staging,
                    done,
                } = large;
                drop(staging);
                vec![(done, or_deletions(store, &writes, result, metrics))]
            }
        }
    }

    /// Answers batches, but for those that deleted something: these are answered when it is gone.
    pub(crate) fn answer(&mut self, answers: Vec<Answer>, now: Instant) {
        for (done, result) in answers {
            self.held.answer(done, result, now);
        }
    }

    /// The store was tended.
    pub(crate) fn tended(&mut self, now: Instant) {
        self.held.tended(now);
    }

    /// Has the store erase what it can, gives the answers that waited for it, and has some space freed, in turns with
    /// what is committed.
    pub(crate) fn clear_away(&mut self, store: &dyn Store, now: Instant) {
        if self.held.is_waiting() {
            self.held.erase(store, now);
        }
        if self.held.frees() {
            self.held.free_some(store);
        }
    }
}

/// Commits rooms' batches in one transaction, and gives each its part of what came of it.
///
/// If that fails, each is tried alone, so that one costs the others nothing: whether it is too large for the space
/// that is left or makes the store fail in another way.
pub(crate) fn commit(
    store: &dyn Store,
    batches: Vec<Vec<Write>>,
    metrics: &Metrics,
) -> Vec<BatchResult> {
    let lengths: Vec<usize> = batches.iter().map(Vec::len).collect();
    let writes: Vec<Write> = batches.into_iter().flatten().collect();
    match commit_together(store, &writes, metrics) {
        Ok(results) => {
            let mut results = results.into_iter();
            let part = |length| Ok(results.by_ref().take(length).collect());
            lengths.into_iter().map(part).collect()
        }
        Err(error) if lengths.len() > 1 => commit_each(store, &writes, &lengths, &error, metrics),
        Err(_) if lengths.is_empty() => Vec::new(),
        Err(error) => vec![or_deletions(store, &writes, Err(error), metrics)],
    }
}

/// Commits the batches one by one: first what frees space, then from the smallest to the largest. Rooms are
/// independent of each other, so their order is free.
fn commit_each(
    store: &dyn Store,
    writes: &[Write],
    lengths: &[usize],
    error: &Arc<StoreError>,
    metrics: &Metrics,
) -> Vec<BatchResult> {
    let mut rest = writes;
    let mut batches: Vec<(usize, &[Write])> = Vec::with_capacity(lengths.len());
    for (room, length) in lengths.iter().enumerate() {
        let (batch, others) = rest.split_at(*length);
        rest = others;
        batches.push((room, batch));
    }
    batches.sort_by_key(|(_, batch)| {
        let deletes = batch
            .iter()
            .any(|write| matches!(write, Write::Delete { .. }));
        let bytes: usize = batch.iter().map(Write::bytes).sum();
        (!deletes, bytes)
    });
    let mut results: Vec<BatchResult> = lengths.iter().map(|_| Err(Arc::clone(error))).collect();
    let mut last = Arc::clone(error);
    let mut failures = 0;
    for (room, batch) in batches {
        let stop = failures == MAX_FAILURES || matches!(*last, StoreError::Replaced(_));
        results[room] = if stop {
            Err(Arc::clone(&last))
        } else {
            let result = commit_together(store, batch, metrics);
            or_deletions(store, batch, result, metrics)
        };
        if !stop && let Err(error) = &results[room] {
            // Damage is where that batch writes, and says nothing of the others.
            failures += usize::from(!matches!(**error, StoreError::Corrupt { .. }));
            last = Arc::clone(error);
        }
    }
    results
}

/// Has the store write some of a large batch ahead; returns whether it is to be committed now.
fn stage(store: &dyn Store, large: &Large, metrics: &Metrics) -> Result<bool, Arc<StoreError>> {
    let started = Instant::now();
    let result = guarded(|| store.stage(&large.writes, &large.staging));
    if !matches!(result, Ok(true)) {
        observe(started, metrics);
    }
    result.map_err(|error| refused(error, metrics))
}

/// A store that panics has failed like any other: rooms read again what it has.
fn guarded<T>(call: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    catch_unwind(AssertUnwindSafe(call))
        .unwrap_or_else(|_| Err(StoreError::Unavailable("the store panicked".into())))
}

fn commit_together(store: &dyn Store, writes: &[Write], metrics: &Metrics) -> BatchResult {
    committed(writes, metrics, || store.commit(writes))
}

fn committed(
    writes: &[Write],
    metrics: &Metrics,
    commit: impl FnOnce() -> Result<Vec<WriteResult>, StoreError>,
) -> BatchResult {
    let started = Instant::now();
    let result = guarded(commit);
    observe(started, metrics);
    metrics.committed_writes.inc_by(writes.len() as u64);
    result.map_err(|error| refused(error, metrics))
}

/// A transaction ended.
fn observe(started: Instant, metrics: &Metrics) {
    metrics
        .commit_seconds
        .observe(started.elapsed().as_secs_f64());
}

fn refused(error: StoreError, metrics: &Metrics) -> Arc<StoreError> {
    metrics.commit_failures.inc();
    Arc::new(error)
}

/// An error and what led to it, in one line for the log.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    use bytes::Bytes;
    use meshagent_store::{
        DocumentId, Entry, FailingStore, Fault, FileHead, FileVersion, MemoryStore,
        ProvenanceRecord, Reach, RoomId, Seq, Staging, StoreStats, StoredDocument, StoredFile,
        StoredUpdate, Timestamp,
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

    fn written(results: &[BatchResult]) -> Vec<usize> {
        let length = |result: &BatchResult| result.as_ref().map_or(0, Vec::len);
        results.iter().map(length).collect()
    }

    #[test]
    fn a_batch_that_finds_no_space_costs_the_others_nothing() {
        let store = FailingStore::new(MemoryStore::new());
        // All together, then the largest alone.
        store.fail_commits(0..1, Fault::Full);
        store.fail_commits(3..4, Fault::Full);
        let batches = vec![
            vec![put("ä", "1"), put("b", "2")],
            vec![put("large", "größer als die anderen")],
            vec![put("c", "3")],
        ];
        let results = commit(&store, batches, &Metrics::new());
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
            let results = commit(&store, batches.into(), &Metrics::new());
            assert_eq!(written(&results), [1, 0, 1, 1], "{fault:?}");
        }
    }

    /// A store whose readers hold what was deleted, as long as a test wants it.
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
            Committer::start(Arc::clone(self) as Arc<dyn Store>, Arc::new(Metrics::new())).unwrap()
        }
    }

    impl Store for HeldLog {
        fn commit(&self, writes: &[Write]) -> Result<Vec<WriteResult>, StoreError> {
            self.inner.commit(writes)
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
        work.add(put_large("ä"), done);
        for number in 0..4 {
            assert!(large.try_recv().is_err(), "before step {number}");
            let (done, mut small) = oneshot::channel();
            work.add(vec![put(&number.to_string(), "x")], done);
            for _ in 0..2 {
                let answers = work.commit(store.as_ref(), &metrics);
                work.answer(answers, Instant::now());
            }
            assert_eq!(written(&[small.try_recv().unwrap()]), [1]);
        }
        assert_eq!(written(&[large.try_recv().unwrap()]), [1]);
        assert!(!work.is_ready());
    }

    #[test]
    fn large_batch_that_cannot_be_staged_is_not_committed() {
        let store = FailingStore::new(MemoryStore::new());
        store.fail_stages(0..1, Fault::Full);
        let (mut work, metrics) = (Work::default(), Metrics::new());
        let (done, mut large) = oneshot::channel();
        work.add(put_large("ä"), done);
        let answers = work.commit(&store, &metrics);
        work.answer(answers, Instant::now());
        let failed = large.try_recv().unwrap().unwrap_err();
        assert!(matches!(*failed, StoreError::Full(_)), "{failed:?}");
        assert_eq!(store.commits(), 0);
    }

    #[tokio::test]
    async fn deletion_is_answered_when_nothing_of_it_is_left_and_others_go_on() {
        let store = HeldLog::new();
        let (committer, thread) = store.start();
        let put_ä = committer.submit(vec![put("ä", "geheim")]).await;
        assert_eq!(written(&[put_ä.await.unwrap()]), [1]);
        let mut deleted = committer.submit(vec![delete("ä")]).await;
        for number in 0..20 {
            let other = committer.submit(vec![put(&number.to_string(), "x")]).await;
            assert_eq!(written(&[other.await.unwrap()]), [1]);
        }
        assert!(store.asked.load(Ordering::Relaxed) > 0);
        assert!(deleted.try_recv().is_err(), "answered before it is gone");
        // A stop waits for it too.
        drop(committer);
        assert!(!thread.is_finished());
        store.is_held.store(false, Ordering::Relaxed);
        assert_eq!(written(&[deleted.await.unwrap()]), [1]);
        thread.join().unwrap();
    }

    #[tokio::test]
    async fn freeing_goes_on_in_turns_with_commits() {
        let store = HeldLog::new();
        store.is_held.store(false, Ordering::Relaxed);
        let (committer, thread) = store.start();
        let put_ä = committer.submit(vec![put("ä", "x")]).await;
        assert_eq!(written(&[put_ä.await.unwrap()]), [1]);
        store.to_free.store(u64::MAX, Ordering::Relaxed);
        let deleted = committer.submit(vec![delete("ä")]).await;
        assert_eq!(written(&[deleted.await.unwrap()]), [1]);
        for number in 0..20 {
            let other = committer.submit(vec![put(&number.to_string(), "x")]).await;
            assert_eq!(written(&[other.await.unwrap()]), [1]);
        }
        assert!(store.to_free.load(Ordering::Relaxed) < u64::MAX);
        // By itself, up to the end.
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
            .submit(writes.into())
            .await
            .await
            .unwrap()
            .unwrap();
        let first = committer.submit(vec![delete("a")]).await;
        assert_eq!(written(&[first.await.unwrap()]), [1]);
        // What holds it is not waited for once more, until it has ended.
        let before = store.asked.load(Ordering::Relaxed);
        let second = committer.submit(vec![delete("ä")]).await;
        assert_eq!(written(&[second.await.unwrap()]), [1]);
        assert!(store.asked.load(Ordering::Relaxed) <= before + 1);
    }

    #[test]
    fn a_disk_that_is_gone_is_not_asked_once_for_each_room() {
        let store = FailingStore::new(MemoryStore::new());
        store.fail_commits(0..1_000, Fault::Unavailable);
        let batches = (0..500).map(|room| vec![put(&room.to_string(), "x")]);
        let results = commit(&store, batches.collect(), &Metrics::new());
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
        let results = commit(&store, batches, &Metrics::new());
        assert_eq!(written(&results), [0, 0, 0, 0, 0, 1]);
    }
}
