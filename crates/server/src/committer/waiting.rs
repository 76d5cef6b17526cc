//! The committer of a store whose calls may wait: the batches of all rooms are in flight at the
//! same time, and none waits for another.
//!
//! A room has one batch in flight, so its batches keep their order. One thread drives all of them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use meshagent_store::{AsyncStore, Batch, Staging, StoreError, Write, WriteError, Written};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::held::{PATIENCE, deletes};
use super::repeats::{Repeats, news, report};
use super::unknown::{PAUSE, Unknown};
use super::{BatchResult, ERASE_PAUSE, Job, Outcome, Owner, QUEUE, observe, refused, with_causes};
use crate::health::Health;
use crate::metrics::Metrics;

/// What all jobs share.
#[derive(Debug)]
struct Shared {
    store: Arc<dyn AsyncStore>,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    warnings: Mutex<Warnings>,
}

#[derive(Debug, Default)]
struct Warnings {
    refusals: Repeats,
    put_off: Repeats,
    not_ready: Repeats,
}

/// Runs the jobs until the last sender is dropped and all of them are done.
pub(super) async fn run(
    mut queue: mpsc::Receiver<Job>,
    store: Arc<dyn AsyncStore>,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
) {
    let shared = Arc::new(Shared {
        store,
        metrics,
        health,
        warnings: Mutex::default(),
    });
    let mut jobs = JoinSet::new();
    loop {
        tokio::select! {
            // Jobs beyond that stay in the queue, and their senders wait.
            job = queue.recv(), if jobs.len() < QUEUE => match job {
                Some(job) => drop(jobs.spawn(Arc::clone(&shared).handle(job))),
                None => break,
            },
            // A job that panics drops its channel, so its room ends.
            Some(_) = jobs.join_next() => {}
        }
    }
    while jobs.join_next().await.is_some() {}
}

impl Shared {
    async fn handle(self: Arc<Self>, job: Job) {
        match job {
            Job::Commit {
                owner,
                writes,
                done,
            } => self.commit(owner, writes, done).await,
            Job::Release(owner) => {
                if let Err(error) = owner.release(self.store.as_ref()).await {
                    tracing::warn!(error = with_causes(&error), "a room is not released");
                }
            }
            Job::Check => {
                let checked = self.store.check().await;
                let news = self.warn(|warnings| news(&mut warnings.not_ready, &checked));
                if let Some((error, unreported)) = news {
                    tracing::warn!(error, unreported, "not ready");
                }
                self.health.checked(checked.as_ref().copied());
            }
            Job::Tend => {
                let tended = self.store.tend().await;
                let news = self.warn(|warnings| news(&mut warnings.put_off, &tended));
                if let Some((error, unreported)) = news {
                    tracing::warn!(error, unreported, "the store puts something off");
                }
                self.health.tended(tended.as_ref().copied());
                // After a failure it is tried again at the next maintenance.
                while let Ok(false) = self.store.free_some().await {}
            }
        }
    }

    fn warn<T>(&self, f: impl FnOnce(&mut Warnings) -> T) -> T {
        f(&mut self.warnings.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn commit(&self, owner: Arc<Owner>, writes: Vec<Write>, done: oneshot::Sender<Outcome>) {
        let started = Instant::now();
        let result = self.write(&owner, &writes).await;
        let took = started.elapsed();
        observe(started, &self.metrics);
        self.metrics.committed_writes.inc_by(writes.len() as u64);
        let result: BatchResult = result.map_err(|error| refused(error, &self.metrics));
        let (done, result) = if super::is_unknown(&result) {
            let mut unknown = Unknown::new(owner, writes, done, took, Instant::now());
            let result = loop {
                let looked = unknown.look(self.store.as_ref(), Instant::now()).await;
                match looked {
                    Some(result) => break result,
                    None => tokio::time::sleep(PAUSE).await,
                }
            };
            (unknown.done, result)
        } else {
            (done, result)
        };
        self.warn(|warnings| report(&result, &mut warnings.refusals));
        let committed = result.as_ref().map(drop).map_err(Arc::as_ref);
        self.health.committed(committed);
        if deletes(&result) {
            self.erase().await;
        }
        // A room that has ended needs no answer.
        let _ = done.send((result, took));
    }

    async fn write(
        &self,
        owner: &Owner,
        writes: &[Write],
    ) -> Result<Vec<Result<Written, WriteError>>, StoreError> {
        let store = self.store.as_ref();
        let epoch = owner.take(store).await?;
        let staging = Staging::default();
        while !store.stage(writes, &staging).await? {}
        let batch = Batch {
            room: owner.room().clone(),
            epoch,
            writes: writes.len(),
        };
        store.commit_batches(writes, &[batch], Some(&staging)).await
    }

    /// Waits until what was deleted can't be read any more, but not for long.
    async fn erase(&self) {
        let until = Instant::now() + PATIENCE;
        while !matches!(self.store.erase().await, Ok(true)) && Instant::now() < until {
            tokio::time::sleep(ERASE_PAUSE).await;
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
