//! The one thread that writes to the store: it gathers what all rooms have handed in, commits it in
//! one transaction, and tells each room what became of its part.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use meshagent_store::{Store, StoreError, Write, WriteError, Written};
use tokio::sync::{mpsc, oneshot};

use crate::metrics::Metrics;

/// Rooms' batches that may wait for the thread. A room has at most one batch under way, so a full queue
/// only means that many rooms are busy; the next room waits for its turn without blocking others.
const QUEUE: usize = 4096;
/// Writes that one transaction takes at most, so that the first writer in it is not kept waiting.
const MAX_WRITES: usize = 4096;

/// What became of one write.
pub(crate) type WriteResult = Result<Written, WriteError>;
/// What became of a batch: one result for each write, or nothing happened at all.
pub(crate) type BatchResult = Result<Vec<WriteResult>, Arc<StoreError>>;

#[derive(Debug)]
struct Job {
    writes: Vec<Write>,
    done: oneshot::Sender<BatchResult>,
}

/// A handle to the thread. The thread ends when the last handle is gone and its queue is empty.
#[derive(Clone, Debug)]
pub(crate) struct Committer {
    jobs: mpsc::Sender<Job>,
}

impl Committer {
    /// Starts the thread; the join handle belongs to the caller, who waits for it when stopping.
    pub(crate) fn start(
        store: Arc<dyn Store>,
        metrics: Arc<Metrics>,
    ) -> std::io::Result<(Self, std::thread::JoinHandle<()>)> {
        let (jobs, queue) = mpsc::channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("committer".into())
            .spawn(move || run(queue, store.as_ref(), &metrics))?;
        Ok((Self { jobs }, thread))
    }

    /// Hands in a batch. The receiver yields when it is on stable storage, or refused.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, the batch was not handed in.
    pub(crate) async fn submit(&self, writes: Vec<Write>) -> oneshot::Receiver<BatchResult> {
        let (done, result) = oneshot::channel();
        // If the thread is gone, the dropped sender says so to the receiver.
        let _ = self.jobs.send(Job { writes, done }).await;
        result
    }
}

fn run(mut queue: mpsc::Receiver<Job>, store: &dyn Store, metrics: &Metrics) {
    while let Some(first) = queue.blocking_recv() {
        let mut writes = first.writes.len();
        let mut batches = vec![first.writes];
        let mut waiting = vec![first.done];
        while writes < MAX_WRITES {
            let Ok(job) = queue.try_recv() else { break };
            writes += job.writes.len();
            batches.push(job.writes);
            waiting.push(job.done);
        }
        let results = commit(store, batches, metrics);
        for (done, result) in waiting.into_iter().zip(results) {
            // A room that is gone needs no answer.
            let _ = done.send(result);
        }
    }
}

/// Commits rooms' batches in one transaction, and gives each its part of what came of it.
///
/// If there is no space for all of them, each is tried alone: a large one must not cost the small ones.
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
        Err(error) if lengths.len() > 1 && matches!(*error, StoreError::Full(_)) => {
            let mut rest = &writes[..];
            let alone = |length| {
                let (batch, others) = rest.split_at(length);
                rest = others;
                commit_together(store, batch, metrics)
            };
            lengths.into_iter().map(alone).collect()
        }
        Err(error) => lengths.iter().map(|_| Err(Arc::clone(&error))).collect(),
    }
}

fn commit_together(store: &dyn Store, writes: &[Write], metrics: &Metrics) -> BatchResult {
    let started = Instant::now();
    // A store that panics has failed like any other: rooms read again what it has.
    let result = catch_unwind(AssertUnwindSafe(|| store.commit(writes)))
        .unwrap_or_else(|_| Err(StoreError::Unavailable("the store panicked".into())));
    metrics
        .commit_seconds
        .observe(started.elapsed().as_secs_f64());
    metrics.committed_writes.inc_by(writes.len() as u64);
    result.map_err(|error| {
        metrics.commit_failures.inc();
        tracing::error!(error = %with_causes(&error), writes = writes.len(), "the store refused a batch");
        Arc::new(error)
    })
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
    use meshagent_store::{FailingStore, Fault, MemoryStore, RoomId, Timestamp};

    use super::*;

    fn put(path: &str) -> Write {
        Write::PutFile {
            room: RoomId::new("project", "room"),
            path: path.to_owned(),
            data: "data".into(),
            mime_type: String::new(),
            overwrite: false,
            at: Timestamp(0),
        }
    }

    #[test]
    fn a_batch_that_finds_no_space_costs_the_others_nothing() {
        let store = FailingStore::new(MemoryStore::new());
        // All together, then the second of three alone.
        store.fail_commits(0..1, Fault::Full);
        store.fail_commits(2..3, Fault::Full);
        let batches = vec![vec![put("a"), put("b")], vec![put("large")], vec![put("c")]];
        let results = commit(&store, batches, &Metrics::new());
        let written: Vec<_> = results
            .iter()
            .map(|result| result.as_ref().map_or(0, Vec::len))
            .collect();
        assert_eq!(written, [2, 0, 1]);
        assert_eq!(store.stats().unwrap().files, 3);
    }
}
