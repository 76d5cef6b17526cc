//! The committer: one thread that commits the batches of all rooms to the store in transactions,
//! and answers each room. For a store whose calls may wait, see `waiting.rs`.

mod deletions;
mod held;
mod log;
mod owner;
mod repeats;
mod turns;
mod unknown;
mod waiting;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use meshagent_store::{
    AsyncStore, Batch, Staging, StoreError, Write, WriteError, Written, block_on,
};
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{mpsc, oneshot};

use self::deletions::or_deletions;
use self::held::Held;
use self::log::Log;
pub(crate) use self::owner::Owner;
use self::repeats::{news, report};
use self::turns::{Large, Turn, Turns};
use self::unknown::Unknown;
#[cfg(test)]
pub(crate) use self::unknown::commit_and_look;
#[cfg(test)]
pub(crate) use self::waiting::tests::Gated;
use crate::health::{Health, Obstacle};
use crate::metrics::Metrics;

/// Batches of rooms that may wait for the thread. A room has at most one batch in flight, so a full
/// queue only means that many rooms are busy. The next room waits without blocking others.
const QUEUE: usize = 4096;
/// Batches of one round that may fail when committed alone. Then the round gives up the others, so
/// that a failing disk is not tried once for each room.
const MAX_FAILURES: usize = 3;
/// Interval at which the idle committer asks the store to erase deleted data.
const ERASE_PAUSE: Duration = Duration::from_millis(2);

/// The result of one write.
pub(crate) type WriteResult = Result<Written, WriteError>;
/// The result of a batch: one result for each write, or an error if nothing was written.
pub(crate) type BatchResult = Result<Vec<WriteResult>, Arc<StoreError>>;
/// A batch's result, and how long the store worked on its transaction. Waiting times of the batch
/// and of its answer do not count.
pub(crate) type Outcome = (BatchResult, Duration);

#[derive(Debug)]
enum Job {
    Commit {
        owner: Arc<Owner>,
        writes: Vec<Write>,
        done: oneshot::Sender<Outcome>,
    },
    /// Gives up a room that has ended.
    Release(Arc<Owner>),
    /// Checks whether the store can be used.
    Check,
    /// Runs the store's maintenance.
    Tend,
}

/// A handle to the thread, which ends when the last handle is dropped and all jobs are answered.
#[derive(Clone, Debug)]
pub(crate) struct Committer {
    jobs: mpsc::Sender<Job>,
    health: Arc<Health>,
}

impl Committer {
    /// Starts the thread. The caller joins it when stopping.
    pub(crate) fn start(
        store: Arc<dyn AsyncStore>,
        metrics: Arc<Metrics>,
    ) -> std::io::Result<(Self, std::thread::JoinHandle<()>)> {
        let (jobs, queue) = mpsc::channel(QUEUE);
        let health = Arc::new(Health::new());
        let thread = {
            let health = Arc::clone(&health);
            let thread = std::thread::Builder::new().name("committer".into());
            if store.blocks() {
                thread.spawn(move || run(queue, store.as_ref(), &metrics, &health))?
            } else {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()?;
                let run = waiting::run(queue, store, metrics, Arc::clone(&health));
                thread.spawn(move || runtime.block_on(run))?
            }
        };
        Ok((Self { jobs, health }, thread))
    }

    /// Submits a batch. The receiver yields when it is durable or refused.
    ///
    /// # Cancel safety
    /// If the future is dropped before it is ready, the batch was not submitted.
    pub(crate) async fn submit(
        &self,
        owner: &Arc<Owner>,
        writes: Vec<Write>,
    ) -> oneshot::Receiver<Outcome> {
        let (done, result) = oneshot::channel();
        let owner = Arc::clone(owner);
        let job = Job::Commit {
            owner,
            writes,
            done,
        };
        // If the thread has ended, the dropped sender reports it to the receiver.
        let _ = self.jobs.send(job).await;
        result
    }

    /// Gives up a room that has ended.
    pub(crate) async fn release(&self, owner: Arc<Owner>) {
        let _ = self.jobs.send(Job::Release(owner)).await;
    }

    /// Whether the store can be used now, or why not.
    pub(crate) async fn ready(&self) -> Result<(), Obstacle> {
        self.health
            .ready(|| self.jobs.try_send(Job::Check).is_ok())
            .await
    }

    /// Runs the store's maintenance. Call it every second; if the thread is busy, the next call
    /// does it.
    pub(crate) fn tend(&self) {
        let _ = self.jobs.try_send(Job::Tend);
    }
}

fn run(mut queue: mpsc::Receiver<Job>, store: &dyn AsyncStore, metrics: &Metrics, health: &Health) {
    let mut log = Log::default();
    let (mut refusals, mut put_off, mut not_ready) = Default::default();
    let mut work = Work::default();
    loop {
        let mut next = if work.is_ready(Instant::now()) || work.is_waiting() {
            match queue.try_recv() {
                // The next process that opens the store frees the remaining space.
                Err(TryRecvError::Disconnected) if !work.is_awaited() => return,
                Err(_) if !work.is_ready(Instant::now()) => {
                    std::thread::sleep(ERASE_PAUSE);
                    queue.try_recv().ok()
                }
                next => next.ok(),
            }
        } else {
            match queue.blocking_recv() {
                None => return,
                first => first,
            }
        };
        let (mut check, mut tend) = (false, false);
        while let Some(job) = next {
            match job {
                Job::Commit {
                    owner,
                    writes,
                    done,
                } => work.add(owner, writes, done),
                Job::Release(owner) => {
                    if let Err(error) = guarded(|| block_on(owner.release(store))) {
                        tracing::warn!(error = with_causes(&error), "a room is not released");
                    }
                }
                Job::Check => check = true,
                Job::Tend => tend = true,
            }
            // Jobs that do not fit stay in the queue, and their senders wait.
            next = (work.turns.len() < QUEUE)
                .then(|| queue.try_recv().ok())
                .flatten();
        }
        let answers = work.commit(store, metrics, Instant::now());
        for (_, (result, _)) in &answers {
            report(result, &mut refusals);
            match result {
                Ok(results) if lacked_space(results) => health.doubt(),
                _ => health.committed(result.as_ref().map(drop).map_err(Arc::as_ref)),
            }
        }
        work.answer(answers, Instant::now());
        if tend {
            let tended = guarded(|| block_on(store.tend()));
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
            let checked = guarded(|| block_on(store.check()));
            if let Some((error, unreported)) = news(&mut not_ready, &checked) {
                tracing::warn!(error, unreported, "not ready");
            }
            health.checked(checked.as_ref().copied());
        }
        log.measure(store, metrics);
    }
}

/// A batch's result, and the channel to its room.
pub(crate) type Answer = (oneshot::Sender<Outcome>, Outcome);

/// Pending work of the thread, without its queue and clock. The simulation drives it step by step.
#[derive(Debug, Default)]
pub(crate) struct Work {
    turns: Turns,
    held: Held,
    unknown: Vec<Unknown>,
    /// Whether the last step was a look: those take turns with the others.
    has_looked: bool,
}

impl Work {
    /// Adds a batch.
    pub(crate) fn add(
        &mut self,
        owner: Arc<Owner>,
        writes: Vec<Write>,
        done: oneshot::Sender<Outcome>,
    ) {
        self.turns.add(owner, writes, done);
    }

    /// Whether batches wait, and can be committed or looked for now.
    pub(crate) fn has_batches(&self, now: Instant) -> bool {
        !self.turns.is_empty() || self.unknown.iter().any(|batch| batch.due <= now)
    }

    /// Whether there is something to do immediately.
    fn is_ready(&self, now: Instant) -> bool {
        self.has_batches(now) || self.held.frees()
    }

    /// Whether a room waits for an answer.
    fn is_awaited(&self) -> bool {
        !self.turns.is_empty() || !self.unknown.is_empty() || self.held.is_awaited()
    }

    /// Whether something is due soon: [`Work::clear_away`], because answers or the store wait for
    /// it, or a look for a batch.
    fn is_waiting(&self) -> bool {
        self.is_clearing() || !self.unknown.is_empty()
    }

    /// Whether [`Work::clear_away`] should run soon, because answers or the store wait for it.
    pub(crate) fn is_clearing(&self) -> bool {
        self.held.is_waiting()
    }

    /// Commits the batches that are next, stages a step of a large one, or looks for one whose
    /// outcome is unknown. Pass the answers to [`Work::answer`].
    pub(crate) fn commit(
        &mut self,
        store: &dyn AsyncStore,
        metrics: &Metrics,
        now: Instant,
    ) -> Vec<Answer> {
        let may_look = !std::mem::take(&mut self.has_looked) || self.turns.is_empty();
        if may_look && let Some(index) = self.unknown.iter().position(|batch| batch.due <= now) {
            self.has_looked = true;
            return self.look(index, store, now);
        }
        match self.turns.next() {
            Turn::Small(batches) if batches.is_empty() => Vec::new(),
            Turn::Small(batches) => {
                let started = Instant::now();
                let (mut writes, mut parts) = (Vec::new(), Vec::with_capacity(batches.len()));
                let mut waiting = Vec::with_capacity(batches.len());
                for mut batch in batches {
                    parts.push((batch.owner, batch.writes.len()));
                    writes.append(&mut batch.writes);
                    waiting.push(batch.done);
                }
                let results = commit(store, &writes, &parts, metrics);
                let took = started.elapsed();
                let mut answers = Vec::with_capacity(parts.len());
                let mut rest = &writes[..];
                for (((owner, length), done), result) in parts.into_iter().zip(waiting).zip(results)
                {
                    let (batch, others) = rest.split_at(length);
                    rest = others;
                    if is_unknown(&result) {
                        let writes = batch.to_vec();
                        let unknown = Unknown::new(owner, writes, done, took, now);
                        self.unknown.push(unknown);
                    } else {
                        answers.push((done, (result, took)));
                    }
                }
                answers
            }
            Turn::Large(mut large) => {
                let started = Instant::now();
                let result = match stage(store, &large, metrics) {
                    Ok(false) => None,
                    Ok(true) => {
                        let parts = [(Arc::clone(&large.owner), large.writes.len())];
                        let staging = Some(&large.staging);
                        Some(commit_parts(store, &large.writes, &parts, staging, metrics))
                    }
                    Err(error) => Some(Err(error)),
                };
                large.took += started.elapsed();
                let Some(result) = result else {
                    self.turns.put_back(large);
                    return Vec::new();
                };
                let Large {
                    owner,
                    writes,
                    staging,
                    done,
                    took,
                } = large;
                drop(staging);
                let result = or_deletions(store, &owner, &writes, result, metrics);
                if is_unknown(&result) {
                    let unknown = Unknown::new(owner, writes, done, took, now);
                    self.unknown.push(unknown);
                    return Vec::new();
                }
                vec![(done, (result, took))]
            }
        }
    }

    fn look(&mut self, index: usize, store: &dyn AsyncStore, now: Instant) -> Vec<Answer> {
        let mut batch = self.unknown.swap_remove(index);
        let result = catch_unwind(AssertUnwindSafe(|| block_on(batch.look(store, now))))
            .unwrap_or_else(|_| Some(Err(Arc::new(panicked()))));
        if let Some(result) = result {
            return vec![(batch.done, (result, batch.took))];
        }
        self.unknown.push(batch);
        Vec::new()
    }

    /// Answers batches, except those that deleted something: these are answered when the data is
    /// erased.
    pub(crate) fn answer(&mut self, answers: Vec<Answer>, now: Instant) {
        for (done, outcome) in answers {
            self.held.answer(done, outcome, now);
        }
    }

    /// Records that the store's maintenance has run.
    pub(crate) fn tended(&mut self, now: Instant) {
        self.held.tended(now);
    }

    /// Erases what the store can erase, sends the answers that waited for it, and frees some space,
    /// in turns with commits.
    pub(crate) fn clear_away(&mut self, store: &dyn AsyncStore, now: Instant) {
        if self.held.is_waiting() {
            self.held.erase(store, now);
        }
        if self.held.frees() {
            self.held.free_some(store);
        }
    }
}

/// The part of some writes that one room made.
pub(crate) type Part = (Arc<Owner>, usize);

/// Commits the batches of several rooms in one transaction, and splits its results.
///
/// If the transaction fails, each batch is committed alone. So one that is too large for the free
/// space, or that makes the store fail in another way, does not affect the others.
pub(crate) fn commit(
    store: &dyn AsyncStore,
    writes: &[Write],
    parts: &[Part],
    metrics: &Metrics,
) -> Vec<BatchResult> {
    match commit_parts(store, writes, parts, None, metrics) {
        Ok(results) => {
            let mut results = results.into_iter();
            let part = |(_, length): &Part| Ok(results.by_ref().take(*length).collect());
            parts.iter().map(part).collect()
        }
        // A batch that may be stored must not be written again.
        Err(error) if matches!(*error, StoreError::Unknown(_)) => {
            parts.iter().map(|_| Err(Arc::clone(&error))).collect()
        }
        Err(error) => match parts {
            [] => Vec::new(),
            [(owner, _)] => vec![or_deletions(store, owner, writes, Err(error), metrics)],
            parts => commit_each(store, writes, parts, &error, metrics),
        },
    }
}

/// Commits the batches one by one: first those that free space, then from the smallest to the
/// largest. Rooms are independent of each other, so their order is free.
fn commit_each(
    store: &dyn AsyncStore,
    writes: &[Write],
    parts: &[Part],
    error: &Arc<StoreError>,
    metrics: &Metrics,
) -> Vec<BatchResult> {
    let mut rest = writes;
    let mut batches: Vec<(usize, &Arc<Owner>, &[Write])> = Vec::with_capacity(parts.len());
    for (room, (owner, length)) in parts.iter().enumerate() {
        let (batch, others) = rest.split_at(*length);
        rest = others;
        batches.push((room, owner, batch));
    }
    batches.sort_by_key(|(_, _, batch)| {
        let deletes = |write: &Write| matches!(write, Write::Delete { .. });
        let bytes: usize = batch.iter().map(Write::bytes).sum();
        (
            !batch.iter().all(deletes),
            !batch.iter().any(deletes),
            bytes,
        )
    });
    let mut results: Vec<BatchResult> = parts.iter().map(|_| Err(Arc::clone(error))).collect();
    let mut last = Arc::clone(error);
    // `failures` counts batches that were tried whole, `refusals` those of which not even the
    // deletions were committed.
    let (mut failures, mut refusals) = (0, 0);
    for (room, owner, batch) in batches {
        if refusals == MAX_FAILURES || matches!(*last, StoreError::Replaced(_)) {
            results[room] = Err(Arc::clone(&last));
            continue;
        }
        let result = if failures == MAX_FAILURES {
            Err(Arc::clone(&last))
        } else {
            commit_alone(store, owner, batch, metrics)
        };
        results[room] = or_deletions(store, owner, batch, result, metrics);
        match &results[room] {
            // The others were not tried, so their outcome is known.
            Err(error) if matches!(**error, StoreError::Unknown(_)) => {}
            Err(error) => {
                // Damage is local to this batch's data and says nothing about the others.
                let counts = usize::from(!matches!(**error, StoreError::Corrupt { .. }));
                failures = MAX_FAILURES.min(failures + counts);
                refusals += counts;
                last = Arc::clone(error);
            }
            Ok(results) => {
                let counts = usize::from(lacked_space(results));
                failures = MAX_FAILURES.min(failures + counts);
            }
        }
    }
    results
}

fn is_unknown(result: &BatchResult) -> bool {
    let error = result.as_ref().err();
    error.is_some_and(|error| matches!(**error, StoreError::Unknown(_)))
}

/// Whether only the deletions of a batch were committed.
fn lacked_space(results: &[WriteResult]) -> bool {
    results.contains(&Err(WriteError::Full))
}

/// Stages a step of a large batch. Returns whether the batch is ready to commit.
fn stage(
    store: &dyn AsyncStore,
    large: &Large,
    metrics: &Metrics,
) -> Result<bool, Arc<StoreError>> {
    let started = Instant::now();
    let result = guarded(|| block_on(store.stage(&large.writes, &large.staging)));
    if !matches!(result, Ok(true)) {
        observe(started, metrics);
    }
    result.map_err(|error| refused(error, metrics))
}

/// A panic of the store counts as a failure like any other.
fn guarded<T>(call: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    catch_unwind(AssertUnwindSafe(call))
        .unwrap_or_else(|_| Err(StoreError::Unavailable("the store panicked".into())))
}

/// The failure of a commit, or of a look, that panicked.
fn panicked() -> StoreError {
    StoreError::Unknown("the store panicked".into())
}

/// Commits the batch of one room.
fn commit_alone(
    store: &dyn AsyncStore,
    owner: &Arc<Owner>,
    writes: &[Write],
    metrics: &Metrics,
) -> BatchResult {
    let part = (Arc::clone(owner), writes.len());
    commit_parts(store, writes, &[part], None, metrics)
}

fn commit_parts(
    store: &dyn AsyncStore,
    writes: &[Write],
    parts: &[Part],
    staging: Option<&Staging>,
    metrics: &Metrics,
) -> BatchResult {
    let started = Instant::now();
    let commit = async {
        let mut batches = Vec::with_capacity(parts.len());
        for (owner, writes) in parts {
            batches.push(Batch {
                room: owner.room().clone(),
                epoch: owner.take(store).await?,
                writes: *writes,
            });
        }
        store.commit_batches(writes, &batches, staging).await
    };
    let result =
        catch_unwind(AssertUnwindSafe(|| block_on(commit))).unwrap_or_else(|_| Err(panicked()));
    observe(started, metrics);
    metrics.committed_writes.inc_by(writes.len() as u64);
    result.map_err(|error| refused(error, metrics))
}

/// Records the duration of a transaction.
fn observe(started: Instant, metrics: &Metrics) {
    metrics
        .commit_seconds
        .observe(started.elapsed().as_secs_f64());
}

fn refused(error: StoreError, metrics: &Metrics) -> Arc<StoreError> {
    metrics.commit_failures.inc();
    Arc::new(error)
}

/// An error and its causes in one line for the log.
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
mod tests;
