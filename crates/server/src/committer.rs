//! The one thread that writes to the store: it gathers what all rooms have handed in, commits it in
//! one transaction, and tells each room what became of its part.

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
pub(crate) fn commit(
    store: &dyn Store,
    batches: Vec<Vec<Write>>,
    metrics: &Metrics,
) -> Vec<BatchResult> {
    let lengths: Vec<usize> = batches.iter().map(Vec::len).collect();
    let writes: Vec<Write> = batches.into_iter().flatten().collect();

    let started = Instant::now();
    let result = store.commit(&writes);
    metrics
        .commit_seconds
        .observe(started.elapsed().as_secs_f64());
    metrics.committed_writes.inc_by(writes.len() as u64);

    match result {
        Ok(results) => {
            let mut results = results.into_iter();
            let part = |length| Ok(results.by_ref().take(length).collect());
            lengths.into_iter().map(part).collect()
        }
        Err(error) => {
            metrics.commit_failures.inc();
            tracing::error!(error = %with_causes(&error), writes = writes.len(), "the store refused a batch");
            let error = Arc::new(error);
            lengths.iter().map(|_| Err(Arc::clone(&error))).collect()
        }
    }
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
